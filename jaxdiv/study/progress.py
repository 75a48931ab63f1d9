"""What a person sees while units run: bars in a terminal, a line per unit in a log."""

import time
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jaxdiv.study.unit import ProgressFn, Unit


class Watch:
    """Shows the whole study's progress and that of the units that run; `with Watch(...) as watch: watch.start(unit)`.

    Args:
      at_once: how many units run at the same time.
    """

    def __init__(self, console: Console, units: Sequence[Unit], at_once: int = 1):
        self._console = console
        self._count, self._at_once = len(units), at_once
        self._number = 0
        self._spent = 0.0
        self._left: dict[str, float] = defaultdict(float)  # by kind of unit: the costs of what is to be done,
        for unit in units:
            self._left[kind(unit)] += unit.cost
        self._paces: dict[str, list[float]] = defaultdict(list)  # and the seconds per cost of each that is done
        self._running: dict[str, tuple[Unit, float, TaskID]] = {}  # by name: when each began, and its bar
        self._shares: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Watch":
        self._bars.start()
        self._all = self._bars.add_task("study", total=sum(self._left.values()) or 1.0, note="")
        return self

    def __exit__(self, *_) -> None:
        if not self._bars.disable:  # rich before 14.3 would print an empty line
            self._bars.stop()

    def start(self, unit: Unit) -> ProgressFn:
        """Show `unit` as one that runs; the result reports its share done."""
        self._running[unit.name] = unit, time.monotonic(), self._bars.add_task(unit.name, total=1.0, note="")

        def report(share: float, note: str = "") -> None:
            self.report(unit, share, note)

        report(0.0)
        return report

    def report(self, unit: Unit, share: float, note: str = "") -> None:
        """`share` of a unit that runs is done."""
        _, began, bar = self._running[unit.name]
        self._shares[unit.name] = share
        # Most of a unit's first seconds are compilation: a share says nothing of the time left before a tenth.
        spent = time.monotonic() - began
        own = spent * (1 / share - 1) if share >= 0.1 else None
        left = f"{minutes(own)} left  " if own is not None else ""
        self._bars.update(bar, completed=share, note=left + note)
        expected = max(self._pace(kind(unit)) * unit.cost - spent, 0.0) if own is None else own
        total = self._seconds_left() + (expected - self._pace(kind(unit)) * unit.cost) / self._at_once
        numbers = range(self._number + 1, self._number + len(self._running) + 1)
        which = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        done = self._spent + sum(self._shares[name] * each.cost for name, (each, *_) in self._running.items())
        note = f"{minutes(total)} left  {which} of {self._count} units"
        self._bars.update(self._all, completed=done, note=note)

    def end(self, unit: Unit, outcome: str) -> None:
        """`unit` is over; `outcome` says in a few words how it went."""
        _, began, bar = self._running.pop(unit.name)
        self._number += 1
        seconds = time.monotonic() - began
        self._spent += unit.cost
        self._left[kind(unit)] -= unit.cost
        self._paces[kind(unit)].append(seconds / unit.cost)
        self._shares.pop(unit.name, None)
        self._bars.remove_task(bar)
        if not self._console.is_terminal:
            self._console.print(
                f"[{self._number}/{self._count}] {unit.name}: {outcome}, {seconds:.1f} s; "
                f"about {minutes(self._seconds_left())} left",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def stop(self, unit: Unit) -> None:
        """`unit` no longer runs, and is not over."""
        self._shares.pop(unit.name, None)
        self._bars.remove_task(self._running.pop(unit.name)[2])

    def _pace(self, kind: str) -> float:
        # Costs are rough guesses of seconds, which the kind's own pace corrects. Its first unit also compiles.
        paces = self._paces[kind][1:]
        return sum(paces) / len(paces) if paces else 1.0

    def _seconds_left(self) -> float:
        return sum(self._pace(kind) * max(cost, 0.0) for kind, cost in self._left.items()) / self._at_once


def kind(unit: Unit) -> str:
    """What units of other benchmarks share: stage, method, seed, test set."""
    stage, _, *rest = unit.name.split("/")
    return "/".join((stage, *rest))


def minutes(seconds: float) -> str:
    """A length of time as a person says it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 100 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days" if seconds < 1000 * 86400 else f"{seconds / 86400 / 365:.0f} years"
