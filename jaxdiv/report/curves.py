"""How training went: validation accuracy against outer steps, one panel per benchmark, one line per run."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxdiv.files import replacing
from jaxdiv.methods.metrics import read_lines
from jaxdiv.methods.registry import METHODS
from jaxdiv.report.plotting import RC, styles
from jaxdiv.report.wording import method_name
from jaxdiv.stats.rows import in_order

_WIDE, _TALL, _COLUMNS = 4.2, 3.2, 3  # inches a panel, panels a row


class Curve(NamedTuple):
    """One run's validations: outer steps, and accuracies as shares of query images."""

    benchmark: str
    method: str
    steps: list[int]
    accuracies: list[float]


def read_curve(benchmark: str, method: str, metrics: Path) -> Curve:
    """The validations in a run's `metrics.jsonl`; empty where it was not validated."""
    lines = [line for line in read_lines(metrics) if isinstance(line.get("validation"), dict)]
    found = [(line["step"], line["validation"].get("accuracy", math.nan)) for line in lines]
    return Curve(benchmark, method, [step for step, _ in found], [share for _, share in found])


def write_curves(folder: Path, curves: Iterable[Curve]) -> Path | None:
    """`training.png` and `training.svg` in `folder`; None, and nothing written, where no run was validated."""
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        if curve.steps:
            panels.setdefault(curve.benchmark, []).append(curve)
    if not panels:
        return None
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    folder.mkdir(parents=True, exist_ok=True)
    with style.context(["default", RC]):
        figure = Figure(figsize=(_WIDE * columns, _TALL * rows), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax, (benchmark, runs) in zip(grid, panels.items(), strict=False):
            _panel(ax, benchmark, runs)
        for ax in grid[len(panels) :]:
            ax.set_axis_off()
        for kind in ("png", "svg"):
            metadata: Mapping[str, None] = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
            with replacing(folder / f"training.{kind}") as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)
    return folder / "training.png"


def _panel(ax, benchmark: str, runs: list[Curve]) -> None:
    methods = in_order({run.method for run in runs}, METHODS)
    looks = styles(methods)
    for method in methods:
        colour, marker, dashes = looks[method]
        for number, run in enumerate(run for run in runs if run.method == method):
            label = method_name(method) if number == 0 else None
            ax.plot(
                run.steps, run.accuracies, color=colour, linestyle=dashes, marker=marker, markersize=3.5, label=label
            )
    ax.set_title(benchmark)
    ax.set_xlabel("outer steps")
    ax.set_ylabel("validation accuracy\n(fraction of query images)")
    ax.legend(frameon=False)
