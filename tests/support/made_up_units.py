"""Units that take no time, and a launcher whose processes die as a test says."""

from dataclasses import dataclass

from jaxdiv.study import worker
from jaxdiv.study.unit import Unit


@dataclass(frozen=True)
class Spec:
    """A unit of `steps`; anything else that it depends on is `what`."""

    what: str = ""
    steps: int = 10


@dataclass(frozen=True)
class Result:
    """What a made-up unit finds."""

    found: str


def unit(root, name, *inputs, what="", fails=None, cost=1.0, made=None):
    """A unit whose work takes no time, or raises `fails`. made: gets its name each time."""

    def work(unit, progress):
        progress(0.5, "half of it")
        if fails:
            raise fails
        if made is not None:
            made.append(name)
        return Result(name)

    return Unit(name, Spec(what), work, root / "units", inputs, cost)


class Dying:
    """Runs a unit at the second look; its process dies before that as often as `deaths` says for the unit's name.

    Attributes:
      order: the names in the order in which they were handed out.
      most: how many it had at the same time.
    """

    def __init__(self, at_once=2, retries=3, **deaths):
        self.at_once, self.retries, self.deaths = at_once, retries, deaths
        self.order, self.most, self._running, self.closed = [], 0, 0, False

    def room(self):
        return self.at_once - self._running

    def submit(self, units):
        self._running += len(units)
        self.most = max(self.most, self._running)
        self.order += [unit.name for unit, _ in units]
        return [_Handle(self, unit) for unit, _ in units]

    def close(self):
        self.closed = True


class _Handle:
    def __init__(self, launcher, unit):
        self._launcher, self._unit, self._looks = launcher, unit, 0

    def outcome(self):
        self._looks += 1
        if self._looks < 2:
            return None
        self._launcher._running -= 1
        if self._launcher.deaths.get(self._unit.name, 0):
            self._launcher.deaths[self._unit.name] -= 1
            return worker.Outcome("its process ended by SIGKILL", died=True)
        try:
            return worker.Outcome(worker.perform(self._unit, lambda share, note: None))
        except worker.InputError as error:
            return worker.Outcome(str(error))
