"""Diversity without a study: the coefficients as tables, and each benchmark's tasks as a figure."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from jaxdiv.diversity import Estimate
from jaxdiv.figures import INK, RC
from jaxdiv.formats import to_csv
from jaxdiv.published import PAPER_TABLE1
from jaxdiv.tables import table1
from jaxdiv.units import replacing
from jaxdiv.wording import short

Row = Mapping[str, Any]
_BLUE, _ORANGE = "#0072B2", "#D55E00"
_UNIT = "Task2Vec distance (cosine, 0–1)"


def write_survey(
    folder: Path, rows: Sequence[Row], distances: Mapping[str, Float[np.ndarray, "tasks tasks"]]
) -> list[Path]:
    """Writes table1.csv and, per benchmark, tasks-NAME.png and .svg and distances-NAME.csv; returns the PNGs' paths.

    Args:
      rows: Table 1's, one a benchmark.
      distances: of every pair of tasks, by benchmark.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = table1(rows)
    _write(folder / "table1.csv", to_csv(table.records, table.keys).encode())
    drawn = []
    for row in rows:
        name = row["benchmark"]
        value = Estimate(row["diversity"], row["ci_low"], row["ci_high"])
        for kind, content in draw_tasks(name, distances[name], value, row.get("noise_floor")).items():
            _write(folder / f"tasks-{name}.{kind}", content)
        lines = [",".join(f"{d:.6g}" for d in line) for line in distances[name]]
        _write(folder / f"distances-{name}.csv", "\n".join([*lines, ""]).encode())
        drawn.append(folder / f"tasks-{name}.png")
    return drawn


def paper_table() -> Any:
    """The study's own Table 1 as a rich table, to stand beside a user's coefficient."""
    from rich import box
    from rich.table import Table

    title = "For comparison, the paper's Table 1 (84 px or less, the reference's estimator: noise included)"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("benchmark", no_wrap=True)
    probes = list(dict.fromkeys(probe for values in PAPER_TABLE1.values() for probe in values))
    for probe in probes:
        table.add_column(probe, justify="right", no_wrap=True)
    for benchmark, values in PAPER_TABLE1.items():
        cells = [f"{short(values[p][0], 4)} ± {short(values[p][1], 4)}" if p in values else "" for p in probes]
        table.add_row(benchmark, *cells)
    return table


def draw_tasks(
    name: str, distances: Float[np.ndarray, "tasks tasks"], diversity: Estimate, noise_floor: float | None = None
) -> dict[str, bytes]:
    """PNG and SVG of a benchmark's tasks: a histogram of their distances, a clustered heat map and a map in 2-D."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(["default", RC]):
        figure = Figure(figsize=(13.2, 4.1), dpi=150)
        figure.set_layout_engine("constrained", w_pad=0.12)
        FigureCanvasAgg(figure)
        figure.suptitle(f"{name}: {len(distances)} tasks", fontsize=10)
        left, middle, right = figure.subplots(1, 3)
        _histogram(left, distances, diversity, noise_floor)
        _heat_map(figure, middle, distances)
        _map(figure, right, distances)
        files = {kind: io.BytesIO() for kind in ("png", "svg")}
        figure.savefig(files["png"], format="png", metadata={"Software": None})
        figure.savefig(files["svg"], format="svg", metadata={"Date": None, "Creator": None})
    return {kind: file.getvalue() for kind, file in files.items()}


def _histogram(ax, distances, diversity, noise_floor):
    pairs = distances[np.triu_indices(len(distances), 1)]
    ax.hist(pairs, bins=min(40, max(8, round(len(pairs) ** 0.5))), color=_BLUE, alpha=0.6, label="pairs of tasks")
    ax.axvline(diversity.value, color=INK, lw=1.4, label=f"coefficient {short(diversity.value, 3)}")
    if np.isfinite([diversity.low, diversity.high]).all():
        interval = f"95% interval [{short(diversity.low, 3)}, {short(diversity.high, 3)}]"
        ax.axvspan(diversity.low, diversity.high, color=INK, alpha=0.15, lw=0, label=interval)
    if noise_floor is not None:
        ax.axvline(noise_floor, color=_ORANGE, lw=1.4, ls="--", label=f"noise floor {short(noise_floor, 3)}")
    ax.set_xlim(left=0)
    ax.margins(y=0.35)  # room for the legend above the bars
    ax.set(title="distances between tasks", xlabel=_UNIT, ylabel="pairs of tasks (count)")
    ax.legend(loc="upper left", fontsize=7.5, framealpha=0.92, edgecolor="none")


def _heat_map(figure, ax, distances):
    order = cluster_order(distances)
    image = ax.imshow(distances[np.ix_(order, order)], cmap="viridis", vmin=0)
    ax.grid(visible=False)
    ax.locator_params(integer=True)
    ax.set(title="the same, like tasks together", xlabel="task (clustered order)", ylabel="task (clustered order)")
    figure.colorbar(image, ax=ax, label=_UNIT, shrink=0.85)


def _map(figure, ax, distances):
    at, share = classical_mds(distances)
    others = distances.sum(1) / (len(distances) - 1)
    points = ax.scatter(*at.T, c=others, cmap="viridis", s=26, edgecolors=INK, linewidths=0.4)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(title=f"a map of the tasks ({share:.0%} of the squared distances)", xlabel="first axis (distance)")
    ax.set_ylabel("second axis (distance)")
    figure.colorbar(points, ax=ax, label="mean distance from the other tasks", shrink=0.85)


def cluster_order(distances: Float[np.ndarray, "tasks tasks"]) -> np.ndarray:
    """The order of tasks in which like ones (average linkage) stand side by side."""
    condensed = squareform(distances, checks=False)
    return hierarchy.leaves_list(hierarchy.linkage(condensed, "average", optimal_ordering=True))


def classical_mds(distances: Float[np.ndarray, "tasks tasks"]) -> tuple[Float[np.ndarray, "tasks 2"], float]:
    """Points in the plane whose distances come nearest, and the share of the squared ones kept (Torgerson 1952)."""
    n = len(distances)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    kept = np.clip(values[-2:][::-1], 0, None)
    total = np.clip(values, 0, None).sum()
    return vectors[:, -2:][:, ::-1] * np.sqrt(kept), float(kept.sum() / total) if total > 0 else 1.0


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
