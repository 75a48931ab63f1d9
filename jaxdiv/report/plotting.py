"""What every figure shares: its data, styles and axes, numbers beside points, and the page's copy of it.

Benchmarks carry numbers, least diverse first, because up to 20 names cannot be set beside 20 points; each
number is placed where it covers nothing (`place_labels`), and a key gives the names. A figure is drawn whole,
for its files, and its SVG is then cut into panels, so that a page can flow them on a phone.

Matplotlib is imported where it is used, and only through its object API: importing this module is quick,
needs no display, and touches no global state of a caller.
"""

import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxdiv.methods.registry import METHODS, family
from jaxdiv.report.wording import distance_of, plain, test_set_names
from jaxdiv.stats.analysis import Analysis
from jaxdiv.stats.controlled import ControlledEffect
from jaxdiv.stats.correlation import Correlation, Fit
from jaxdiv.stats.effect_size import EffectSize
from jaxdiv.stats.paired import PairedEffect
from jaxdiv.stats.rows import Averaged, average_seeds, in_order

Style = tuple[str, str, Any]  # colour, marker, dashes of the line
# Okabe & Ito's colour-blind-safe palette. A family's methods take its styles in their order; a family that has none
# here, or more methods than styles, takes the spare ones.
_FAMILY_STYLES: dict[str, list[Style]] = {
    "pretraining": [("#009E73", "s", (0, ()))],
    "maml": [
        ("#56B4E9", "o", (0, (5, 1.5))),
        ("#0072B2", "^", (0, (1.2, 1.2))),
        ("#E69F00", "D", (0, (6, 1.5, 1.2, 1.5))),
        ("#D55E00", "v", (0, (8, 2))),
    ],
}
_SPARE_STYLES: list[Style] = [
    ("#CC79A7", "P", (0, (3, 1, 1, 1, 1, 1))),
    ("#999999", "X", (0, (1, 3))),
    ("#882255", "*", (0, (4, 1, 1, 1))),
    ("#117733", "p", (0, (2, 2))),
    ("#332288", "h", (0, (10, 2, 2, 2))),
]
# Ink and paper are colours that nothing else has, so that a page can exchange them for its own (dark mode).
INK, PAPER, GRID = "#010203", "#fefdfc", "#dcdddf"
RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a user's benchmark may be called "a_$b$"
    "svg.fonttype": "path",
    "svg.hashsalt": "jaxdiv",
}


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """A colour, a marker and a line of its own for each method, by its family and its order in it.

    A method of the registry looks the same whichever others are shown.
    """
    spare = itertools.cycle(_SPARE_STYLES)
    left = {name: list(of) for name, of in _FAMILY_STYLES.items()}
    known = list(METHODS)
    names = [*known, *(method for method in in_order(methods, METHODS) if method not in METHODS)]
    return {name: of.pop(0) if (of := left.get(family(name))) else next(spare) for name in names}


@dataclass(frozen=True)
class PlotData:
    """All that the figures show.

    Attributes:
      distance: the name of the one that diversity was measured with, where it is known and one.
      points: rows of `average_seeds`.
      lines: Table 2's row by (method, metric, test_set).
      numbers: each benchmark's number, least diverse first.
      bars: each benchmark's diversity interval, where there is one.
      test_sets: display name by test set.
      effects, trends: rows of effect sizes, and their trend by (method, test_set).
      controlled: the controlled experiment's row by (method, metric, test_set), of single methods.
      paired: rows of kinds against their counterparts that have a difference, of performance and of diversity.
    """

    distance: str | None
    points: list[Averaged]
    lines: dict[tuple[str, str, str], Correlation]
    numbers: dict[str, int]
    bars: dict[str, tuple[float, float]]
    test_sets: dict[str, str]
    effects: list[EffectSize]
    trends: dict[tuple[str, str], Fit]
    controlled: dict[tuple[str, str, str], ControlledEffect]
    paired: list[PairedEffect]


def plot_data(found: Analysis, fixed_test_set_name: str | None = None) -> PlotData:
    """Gathers the rows of an analysis into what the figures need."""
    averaged = average_seeds(found.points)
    diversity = {row.benchmark: value for row in averaged if (value := row.value("diversity")) is not None}
    bars = {}
    for row in found.diversity:
        name, low, high = row["benchmark"], plain(row.get("ci_low")), plain(row.get("ci_high"))
        # Table 1 may hold several probes; the interval drawn is that of the value the points carry.
        if name in diversity and math.isclose(row["diversity"], diversity[name], rel_tol=1e-6):
            if low is not None and high is not None:
                bars[name] = (low, high)
        elif name not in {p.benchmark for p in averaged}:
            diversity.setdefault(name, row["diversity"])
    ordered = sorted(diversity, key=lambda name: (diversity[name], name))
    return PlotData(
        distance=distance_of(found.diversity),
        points=averaged,
        lines={(row.method, row.metric, row.test_set): row for row in found.correlations},
        numbers={name: i + 1 for i, name in enumerate(ordered)},
        bars=bars,
        test_sets=test_set_names((row.test_set for row in averaged), fixed_test_set_name),
        effects=[row for row in found.effect_sizes if row.d is not None and row.diversity is not None],
        trends={(row.method, row.test_set): row for row in found.effect_size_trends},
        controlled={(row.method, row.metric, row.test_set): row for row in found.controlled if row.method},
        paired=[row for row in found.paired if row.difference is not None and row.diversity is not None],
    )


def place_labels(
    anchors: np.ndarray, sizes: np.ndarray, box: tuple[float, float, float, float], strokes: np.ndarray
) -> np.ndarray:
    """Where to centre each label: near its anchor, inside the box, over no other label, marker or stroke.

    anchors: [labels, 2] points to label. sizes: [labels, 2] width and height. box: left, bottom, right, top.
    strokes: [strokes, 2] places that a label should rather not cover (samples of lines and error bars). All
    in points (1/72 inch). Greedy, most crowded anchor first; nothing is random. Returns [labels, 2].
    """
    centres = np.zeros_like(anchors)
    if not len(anchors):
        return centres
    gaps = np.linalg.norm(anchors[:, None] - anchors[None], axis=-1)
    order = np.argsort((gaps < 20).sum(axis=0), kind="stable")[::-1]
    angles = np.deg2rad([45, 135, 315, 225, 90, 270, 0, 180, 22, 68, 112, 158, 202, 248, 292, 338])
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    radii = np.array([9, 11, 14, 18, 23, 29, 36, 44, 53, 63, 74])
    offsets = (radii[:, None, None] * turns).reshape(-1, 2)
    price = np.repeat(radii * 1.0, len(turns)) + np.tile(np.arange(len(turns)) * 0.1, len(radii))
    placed: list[int] = []
    for i in order:
        at = anchors[i] + offsets
        half = sizes[i] / 2
        cost = price.copy()
        low, high = at - half, at + half
        out = (low < np.array(box[:2])).any(1) | (high > np.array(box[2:])).any(1)
        cost += 1000.0 * out
        if placed:
            reach = (sizes[placed] / 2 + half + 1.0)[None]
            cost += 400.0 * (np.abs(at[:, None] - centres[placed][None]) < reach).all(-1).sum(1)
        cost += 60.0 * (np.abs(at[:, None] - anchors[None]) < half + 3.2).all(-1).sum(1)
        if len(strokes):
            cost += 2.0 * (np.abs(at[:, None] - strokes[None]) < half + 0.5).all(-1).sum(1)
        centres[i] = at[np.argmin(cost)]
        placed.append(int(i))
    return centres


def number_points(ax: Any, xs: Sequence[float], ys: Sequence[float], texts: Sequence[str]) -> None:
    """Sets each point's number beside it; a hairline leads back to the point where the number is far off."""
    if not len(texts):
        return
    scale = 72 / ax.figure.dpi
    to_points = lambda xy: ax.transData.transform(np.asarray(xy, float)) * scale
    anchors = to_points(np.stack([xs, ys], axis=1))
    sizes = np.array([(4.7 * len(text), 6.2) for text in texts])
    strokes: list[np.ndarray] = []
    for line in ax.lines:
        path = to_points(np.stack(line.get_data(), axis=1).astype(float))
        for a, b in itertools.pairwise(path):
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                continue
            # A bar that ends far outside the axes is not followed there point by point.
            steps = int(np.clip(np.linalg.norm(b - a) / 3, 2, 1000))
            strokes.extend(a + (b - a) * t for t in np.linspace(0, 1, steps))
    window = ax.get_window_extent()
    box = tuple(v * scale for v in (window.x0 + 2, window.y0 + 2, window.x1 - 2, window.y1 - 2))
    centres = place_labels(anchors, sizes, box, np.array(strokes).reshape(-1, 2))
    to_data = ax.transData.inverted()
    for text, anchor, centre in zip(texts, anchors, centres, strict=True):
        x, y = to_data.transform(centre / scale)
        if np.linalg.norm(centre - anchor) > 12:
            ends = to_data.transform(np.stack([anchor, centre + (anchor - centre) * 0.15]) / scale)
            ax.plot(ends[:, 0], ends[:, 1], color=INK, linewidth=0.4, zorder=2, scalex=False, scaley=False)
        ax.text(x, y, text, fontsize=7.2, ha="center", va="center_baseline", zorder=6)


def key_lines(numbers: Mapping[str, int], characters: int) -> list[str]:
    """ "1 omniglot   2 flower ..." in lines of at most so many characters."""
    lines: list[str] = []
    for name, number in sorted(numbers.items(), key=lambda item: item[1]):
        entry = f"{number} {name}"
        if lines and len(lines[-1]) + len(entry) + 3 <= characters:
            lines[-1] += f"   {entry}"
        else:
            lines.append(entry)
    return lines


class Figure(NamedTuple):
    """One figure before it is drawn.

    grid: rows of panels, each drawn by a function of its axes; one row may be shorter than another. size: inches of a
    panel. below: inches under its axes, for ticks, the axis's name and a legend. labels: the axes' names by row. foot:
    lines under all panels.
    """

    name: str
    grid: Sequence[Sequence[Callable[[Any], None]]]
    size: tuple[float, float]
    below: float
    labels: list[tuple[str, str]]
    foot: list[str]


class Rendered(NamedTuple):
    """One figure: the bytes of its PNG and of its SVG, and its panels as SVG elements (rows of them)."""

    png: bytes
    svg: bytes
    panels: list[list[str]]


def _draw(plan: Figure) -> Any:
    """The matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    (wide, tall), columns = plan.size, max(map(len, plan.grid), default=1)
    footer = 0.17 * len(plan.foot) + 0.2 if plan.foot else 0.0
    width, height = wide * columns, tall * max(len(plan.grid), 1) + footer
    figure = Canvas(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    for r, row in enumerate(plan.grid):
        for c, panel in enumerate(row):
            left, base = c * wide + 0.78, height - (r + 1) * tall + plan.below
            box = left / width, base / height, (wide - 1.00) / width, (tall - plan.below - 0.50) / height
            ax = figure.add_axes(box)  # fixed places: numbers are set beside points as they will be printed
            ax.locator_params(nbins=6)
            ax.set_xlabel(plan.labels[r][0])
            ax.set_ylabel(plan.labels[r][1])
            panel(ax)
    if not plan.grid:
        figure.text(0.5, 0.5, "no points to show", ha="center", va="center")
    for i, line in enumerate(plan.foot):
        figure.text(0.3 / width, (footer - 0.05 - 0.17 * i) / height, line, fontsize=8, va="top")
    return figure


def render(plan: Figure) -> Rendered:
    """Draws a figure."""
    from matplotlib import style

    with style.context(["default", RC]):
        figure = _draw(plan)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Rendered(png.getvalue(), svg.getvalue(), _cut(svg.getvalue().decode(), plan))


def _cut(svg: str, plan: Figure) -> list[list[str]]:
    """Cuts matplotlib's SVG into one element a panel, for one page that shows them all.

    Ink and paper become `currentColor` and `var(--paper)`, so that the page's own colours apply, light or
    dark. Identifiers get the figure's name, for several figures share the page; glyphs and clip paths defined
    in one panel serve the others.
    """
    name = plan.name
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-").replace("xlink:href", "href")
    svg = svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)").replace(GRID, "var(--grid)")
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    found = re.findall(r'\n  <g id="[\w-]*-axes_\d+">.*?\n  </g>', svg, flags=re.DOTALL)
    clips = "".join(re.findall(r"<clipPath.*?</clipPath>", svg, flags=re.DOTALL))
    base = "".join(re.findall(r"<style.*?</style>", svg, flags=re.DOTALL))
    wide, tall = (round(72 * inches, 2) for inches in plan.size)
    panels: list[list[str]] = [[] for _ in plan.grid]
    places = [(r, c) for r, row in enumerate(plan.grid) for c in range(len(row))]
    for (r, c), body in zip(places, found, strict=True):
        defs = f"<defs>{base}{clips}</defs>" if (r, c) == (0, 0) else ""
        body = re.sub(r"\s*\n\s*", "\n", body)
        panels[r].append(f'<svg viewBox="{wide * c:g} {tall * r:g} {wide:g} {tall:g}" role="img">{defs}{body}</svg>')
    return panels
