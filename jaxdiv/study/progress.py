"""What a person sees while units run: bars in a terminal, a line per unit in a log."""

import time
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from jaxdiv.study.unit import ProgressFn, Unit


class Watch:
    """Shows the whole study's progress and the present unit's; `with Watch(...) as watch: watch.start(unit)`."""

    def __init__(self, console: Console, units: Sequence[Unit]):
        self._console = console
        self._count = len(units)
        self._number = 0
        self._spent = 0.0
        self._left: dict[str, float] = defaultdict(float)  # by kind of unit: the costs of what is to be done,
        for unit in units:
            self._left[_kind(unit)] += unit.cost
        self._paces: dict[str, list[float]] = defaultdict(list)  # and the seconds per cost of each that is done
        self._unit_began = time.monotonic()
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
        """Show `unit` as the present one; the result reports its share done."""
        self._number += 1
        self._unit_began = time.monotonic()
        self._bar = self._bars.add_task(unit.name, total=1.0, note="")

        def report(share: float, note: str = "") -> None:
            # Most of a unit's first seconds are compilation: a share says nothing of the time left before a tenth.
            spent = time.monotonic() - self._unit_began
            own = spent * (1 / share - 1) if share >= 0.1 else None
            left = f"{_minutes(own)} left  " if own is not None else ""
            self._bars.update(self._bar, completed=share, note=left + note)
            expected = max(self._pace(unit) * unit.cost - spent, 0.0) if own is None else own
            total = self._seconds_left() - self._pace(unit) * unit.cost + expected
            count = f"{self._number} of {self._count} units"
            self._bars.update(
                self._all, completed=self._spent + share * unit.cost, note=f"{_minutes(total)} left  {count}"
            )

        report(0.0)
        return report

    def end(self, unit: Unit, outcome: str) -> None:
        """`unit` is over; `outcome` says in a few words how it went."""
        seconds = time.monotonic() - self._unit_began
        self._spent += unit.cost
        self._left[_kind(unit)] -= unit.cost
        self._paces[_kind(unit)].append(seconds / unit.cost)
        self._bars.remove_task(self._bar)
        if not self._console.is_terminal:
            self._console.print(
                f"[{self._number}/{self._count}] {unit.name}: {outcome}, {seconds:.1f} s; "
                f"about {_minutes(self._seconds_left())} left",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _pace(self, unit: Unit) -> float:
        return self._pace_of(_kind(unit))

    def _pace_of(self, kind: str) -> float:
        # Costs are rough guesses of seconds, which the kind's own pace corrects. Its first unit also compiles.
        paces = self._paces[kind][1:]
        return sum(paces) / len(paces) if paces else 1.0

    def _seconds_left(self) -> float:
        return sum(self._pace_of(kind) * max(cost, 0.0) for kind, cost in self._left.items())


def _kind(unit: Unit) -> str:
    """What units of other benchmarks share: stage, method, seed, test set."""
    stage, _, *rest = unit.name.split("/")
    return "/".join((stage, *rest))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
