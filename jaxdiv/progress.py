"""What a person sees while units run: bars in a terminal, a line per unit in a log."""

import time
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from jaxdiv.units import Report, Unit


class Watch:
    """Shows the whole study's progress and the present unit's; `with Watch(...) as watch: watch.start(unit)`."""

    def __init__(self, console: Console, units: Sequence[Unit]):
        self._console = console
        self._count = len(units)
        self._number = 0
        self._left: dict[str, float] = defaultdict(float)  # by stage: the costs of what is to be done,
        for unit in units:
            self._left[unit.stage] += unit.cost
        self._done: dict[str, float] = defaultdict(float)  # of what is done,
        self._took: dict[str, float] = defaultdict(float)  # and the seconds that it took
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
        self._bars.stop()

    def start(self, unit: Unit) -> Report:
        """Show `unit` as the present one; the result reports its share done."""
        self._number += 1
        self._unit_began = time.monotonic()
        self._bar = self._bars.add_task(unit.name, total=1.0, note="")

        def report(share: float, note: str = "") -> None:
            # Most of a unit's first seconds are compilation: a share says nothing of the time left before a tenth.
            spent = time.monotonic() - self._unit_began
            left = f"{_minutes(spent * (1 / share - 1))} left" if share >= 0.1 else ""
            self._bars.update(self._bar, completed=share, note="  ".join(part for part in (left, note) if part))
            self._bars.update(
                self._all,
                completed=sum(self._done.values()) + share * unit.cost,
                note=f"{_minutes(max(self._seconds_left() - spent, 0.0))} left  {self._number} of {self._count} units",
            )

        report(0.0)
        return report

    def end(self, unit: Unit, outcome: str) -> None:
        """`unit` is over; `outcome` says in a few words how it went."""
        seconds = time.monotonic() - self._unit_began
        self._left[unit.stage] -= unit.cost
        self._done[unit.stage] += unit.cost
        self._took[unit.stage] += seconds
        self._bars.remove_task(self._bar)
        if not self._console.is_terminal:
            self._console.print(
                f"[{self._number}/{self._count}] {unit.name}: {outcome}, {seconds:.1f} s; "
                f"about {_minutes(self._seconds_left())} left",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _seconds_left(self) -> float:
        """Costs are rough guesses of seconds: each stage's own pace corrects them from its first unit on."""
        pace = {stage: self._took[stage] / self._done[stage] for stage in self._took}
        return sum(pace.get(stage, 1.0) * cost for stage, cost in self._left.items())


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
