"""A benchmark's tasks as pictures: the heat map of their distances, a map in the plane, a histogram.

`heat_map` and `task_map` draw on any axes of matplotlib; `draw_tasks` is the report's figure of all three.
"""

from typing import Any

import numpy as np
import scipy  # its packages load when they are first used
from jaxtyping import Float
from numpy.typing import ArrayLike

from jaxdiv.errors import InputError, unknown
from jaxdiv.report.plotting import INK, Figure, Rendered, render
from jaxdiv.report.wording import distance_name, distance_text, short
from jaxdiv.task2vec.coefficient import DISTANCES, Estimate

_BLUE, _ORANGE = "#0072B2", "#D55E00"
_FARNESS = "mean distance from the other tasks"


def heat_map(
    ax: Any,
    distances: ArrayLike,
    *,
    distance: str = "task2vec_scale_free",
    limit: float | None = None,
    colorbar: bool = True,
) -> Any:
    """The distances of every two tasks as colours, similar tasks side by side.

    Args:
      ax: the matplotlib axes to draw on.
      distances: of every two tasks, as `pairwise_distances` gives them: [tasks, tasks].
      distance: which one it is, a key of `DISTANCES`, for the colour bar's label and range.
      limit: the largest value of the colours, which start at 0. By default it is that of the distance's range, so that
        two heat maps compare; or the largest distance, where the range has no end.
      colorbar: whether the figure gets a colour bar beside `ax`.

    Returns:
      The image, for a colour bar of the caller's own.

    Raises:
      InputError: `distances` is not a square of at least 2 tasks, or the distance is unknown.
    """
    square, high = _square(distances), _range_of(distance)
    order = cluster_order(square)
    if limit is None and np.isfinite(high):
        limit = high
    image = ax.imshow(square[np.ix_(order, order)], cmap="viridis", vmin=0, vmax=limit)
    ax.grid(visible=False)
    ax.locator_params(integer=True)
    ax.set(xlabel="task (clustered order)", ylabel="task (clustered order)")
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label=distance_text(distance))
    return image


def task_map(
    ax: Any,
    distances: ArrayLike,
    *,
    distance: str = "task2vec_scale_free",
    colorbar: bool = True,
) -> Any:
    """The tasks as points in a plane that keeps their distances as well as a plane can (`classical_mds`).

    The colour of a point is its mean distance from the other tasks; the title says which share of the squared
    distances the plane keeps.

    Args:
      ax: the matplotlib axes to draw on.
      distances: of every two tasks, as `pairwise_distances` gives them: [tasks, tasks].
      distance: which one it is, a key of `DISTANCES`, for the axes' names.
      colorbar: whether the figure gets a colour bar beside `ax`.

    Returns:
      The points, for a colour bar of the caller's own.

    Raises:
      InputError: `distances` is not a square of at least 2 tasks, or the distance is unknown.
    """
    square, _ = _square(distances), _range_of(distance)
    at, share = classical_mds(square)
    others = square.sum(1) / (len(square) - 1)
    points = ax.scatter(*at.T, c=others, cmap="viridis", s=26, edgecolors=INK, linewidths=0.4)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_title(f"a map of the tasks ({share:.0%} of squared distances)")
    ax.set(xlabel=f"first axis ({distance_name(distance)})", ylabel=f"second axis\n({distance_name(distance)})")
    if colorbar:
        ax.figure.colorbar(points, ax=ax, label=_FARNESS)
    return points


def _range_of(distance: str) -> float:
    """The largest value that a distance can have."""
    if distance not in DISTANCES:
        raise unknown("distance", distance, DISTANCES)
    return DISTANCES[distance].high


def _square(distances: ArrayLike) -> np.ndarray:
    found = np.asarray(distances, float)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or len(found) < 2:
        raise InputError(
            f"`distances` has shape {found.shape}: it must be [tasks, tasks] with 2 tasks or more, as "
            "`pairwise_distances` gives it"
        )
    return found


def draw_tasks(
    name: str,
    distances: Float[np.ndarray, "tasks tasks"],
    diversity: Estimate,
    noise_floor: float | None = None,
    *,
    distance: str = "task2vec_scale_free",
    limit: float | None = None,
    prefix: str = "tasks",
) -> Rendered:
    """A benchmark's tasks: a histogram of their distances, a clustered heat map and a map in 2-D.

    Args:
      distance, limit: of `heat_map`; several benchmarks side by side share a limit.
      prefix: of the identifiers in its SVG, so that one page can hold several.
    """
    unit = distance_text(distance)
    limit = float(np.max(distances)) if limit is None else limit

    def heat_panel(ax: Any) -> None:
        image = heat_map(ax, distances, distance=distance, limit=limit, colorbar=False)
        ax.set_title("the same, similar tasks together")
        _colour_bar(ax, image, unit)

    grid = [
        [
            lambda ax: _histogram(ax, distances, diversity, noise_floor, unit),
            heat_panel,
            lambda ax: _colour_bar(ax, task_map(ax, distances, distance=distance, colorbar=False), _FARNESS),
        ]
    ]
    return render(Figure(prefix, grid, (4.2, 3.7), 0.5, [("", "")], [f"{name}: {len(distances)} tasks"]))


def _histogram(ax, distances, diversity, noise_floor, unit):
    pairs = distances[np.triu_indices(len(distances), 1)]
    # Distances that differ by rounding alone leave no room for bins between them.
    half = max((pairs.max() - pairs.min()) / 2, 1e-6 * abs(pairs.max())) or 0.5
    middle = (pairs.max() + pairs.min()) / 2
    bins = np.linspace(middle - half, middle + half, min(40, max(8, round(len(pairs) ** 0.5))) + 1)
    ax.hist(pairs, bins=bins, color=_BLUE, alpha=0.6, label="pairs of tasks")
    ax.axvline(diversity.value, color=INK, lw=1.4, label=f"coefficient {short(diversity.value, 3)}")
    if np.isfinite([diversity.low, diversity.high]).all():
        interval = f"95% interval [{short(diversity.low, 3)}, {short(diversity.high, 3)}]"
        ax.axvspan(diversity.low, diversity.high, color=INK, alpha=0.15, lw=0, label=interval)
    if noise_floor is not None:
        ax.axvline(noise_floor, color=_ORANGE, lw=1.4, ls="--", label=f"noise floor {short(noise_floor, 3)}")
    ax.set_xlim(left=0)
    ax.margins(y=0.45)  # room for the legend above the bars
    ax.set(title="distances between tasks", xlabel=unit, ylabel="pairs of tasks (count)")
    ax.legend(loc="upper left", fontsize=7.5, framealpha=0.92, edgecolor="none")


def _colour_bar(ax, shown, label):
    """Inside the panel, of which it takes the right, so that it stays with it on the page."""
    place = ax.get_position()
    wide = 0.7 / ax.figure.get_figwidth()
    ax.set_position([place.x0, place.y0, place.width - wide, place.height])
    bar = ax.figure.colorbar(shown, cax=ax.inset_axes([1.04, 0.05, 0.05, 0.9]), label=label)
    bar.solids.set_rasterized(True)  # else hundreds of paths
    bar.outline.set_visible(False)


def cluster_order(distances: Float[np.ndarray, "tasks tasks"]) -> np.ndarray:
    """The order of tasks in which like ones (average linkage) stand side by side."""
    condensed = scipy.spatial.distance.squareform(distances, checks=False).clip(min=0)
    return scipy.cluster.hierarchy.leaves_list(
        scipy.cluster.hierarchy.linkage(condensed, "average", optimal_ordering=True)
    )


def classical_mds(distances: Float[np.ndarray, "tasks tasks"]) -> tuple[Float[np.ndarray, "tasks 2"], float]:
    """Points in the plane whose distances come nearest, and the share of the squared ones kept (Torgerson 1952)."""
    n = len(distances)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    kept = np.clip(values[-2:][::-1], 0, None)
    total = np.clip(values, 0, None).sum()
    return vectors[:, -2:][:, ::-1] * np.sqrt(kept), float(kept.sum() / total) if total > 0 else 1.0
