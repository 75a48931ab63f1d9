"""What a person sees while units run: bars in a terminal, a line per unit in a log."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jaxdiv.units import Report, Unit


class Watch:
    """Shows the whole study's progress and the present unit's; `with Watch(...) as watch: watch.start(unit)`."""

    def __init__(self, console: Console, units: Sequence[Unit]):
        self._console = console
        self._count = len(units)
        self._cost = sum(unit.cost for unit in units) or 1.0
        self._spent = self._number = 0.0
        self._began = self._unit_began = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=120,
        )

    def __enter__(self) -> "Watch":
        self._bars.start()
        self._all = self._bars.add_task("study", total=self._cost, note="")
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def start(self, unit: Unit) -> Report:
        """Show `unit` as the present one; the result reports its share done."""
        self._number += 1
        self._unit_began = time.monotonic()
        self._bar = self._bars.add_task(unit.name, total=1.0, note="")

        def report(share: float, note: str = "") -> None:
            self._bars.update(self._bar, completed=share, note=note)
            self._bars.update(
                self._all,
                completed=self._spent + share * unit.cost,
                note=f"{self._number:.0f} of {self._count} units",
            )

        report(0.0)
        return report

    def end(self, unit: Unit, outcome: str) -> None:
        """`unit` is over; `outcome` says in a few words how it went."""
        self._spent += unit.cost
        self._bars.remove_task(self._bar)
        if not self._console.is_terminal:
            now = time.monotonic()
            left = (now - self._began) * (self._cost / self._spent - 1)
            self._console.print(
                f"[{self._number:.0f}/{self._count}] {unit.name}: {outcome}, {now - self._unit_began:.1f} s; "
                f"about {left / 60:.1f} min left",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
