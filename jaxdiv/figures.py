"""The study's figures: performance against diversity with intervals, trend lines and numbered benchmarks.

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
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdiv.correlate import METHODS, average_seeds, in_order, trend_band
from jaxdiv.wording import method_name, r2_text, test_set_names

# Okabe & Ito's colour-blind-safe palette: one hue a family, darker with more steps; markers and lines differ
STYLES = {
    "pt": ("#009E73", "s", (0, ())),
    "fo_maml_5": ("#56B4E9", "o", (0, (5, 1.5))),
    "fo_maml_10": ("#0072B2", "^", (0, (1.2, 1.2))),
    "ho_maml_5": ("#E69F00", "D", (0, (6, 1.5, 1.2, 1.5))),
    "ho_maml_10": ("#D55E00", "v", (0, (8, 2))),
}
_OTHER_STYLES = [("#CC79A7", "P", (0, (3, 1, 1, 1, 1, 1))), ("#999999", "X", (0, (1, 3)))]
X_LABEL = "Task2Vec diversity coefficient\n(cosine distance, 0–1)"
Y_LABELS = {
    "accuracy": "test accuracy\n(fraction of query images)",
    "loss": "cross-entropy\n(nats per query image)",
}
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


class PlotData(NamedTuple):
    """All that the figures show.

    points: rows of `average_seeds`. lines: Table 2's row by (method, metric, test_set). numbers: each
    benchmark's number. bars: each benchmark's diversity interval, where there is one. test_sets: display name
    by test set.
    """

    points: list[dict[str, Any]]
    lines: dict[tuple[str, str, str], Mapping[str, Any]]
    numbers: dict[str, int]
    bars: dict[str, tuple[float, float]]
    test_sets: dict[str, str]


def plot_data(
    diversity_rows: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, Any]],
    correlations: Sequence[Mapping[str, Any]],
    fixed_test_set_name: str | None = None,
) -> PlotData:
    """Gathers rows of Table 1, of points.csv and of Table 2 into what the figures need."""
    averaged = average_seeds(points)
    diversity = {p["benchmark"]: p["diversity"] for p in averaged if p["diversity"] is not None}
    bars = {}
    for row in diversity_rows:
        name, low, high = row["benchmark"], row.get("ci_low"), row.get("ci_high")
        # Table 1 may hold several probes; the interval drawn is that of the value the points carry.
        if name in diversity and math.isclose(row["diversity"], diversity[name], rel_tol=1e-6):
            if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
                bars[name] = (low, high)
        elif name not in {p["benchmark"] for p in averaged}:
            diversity.setdefault(name, row["diversity"])
    ordered = sorted(diversity, key=lambda name: (diversity[name], name))
    return PlotData(
        points=averaged,
        lines={(c["method"], c["metric"], c["test_set"]): c for c in correlations},
        numbers={name: i + 1 for i, name in enumerate(ordered)},
        bars=bars,
        test_sets=test_set_names(averaged, fixed_test_set_name),
    )


def _methods(data: PlotData) -> list[str]:
    return in_order((p["method"] for p in data.points), METHODS)


def _style(method: str, methods: Sequence[str]) -> tuple[str, str, Any]:
    others = [m for m in methods if m not in STYLES]
    return STYLES.get(method) or _OTHER_STYLES[others.index(method) % len(_OTHER_STYLES)]


def _group(data: PlotData, method: str, metric: str, test_set: str) -> list[dict[str, Any]]:
    return [
        p
        for p in data.points
        if p["method"] == method and p["test_set"] == test_set and p[metric] is not None and p["diversity"] is not None
    ]


def _limits(data: PlotData, metric: str, test_set: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Axis limits that hold every point and interval of a test set, the same for all its panels."""
    rows = [p for p in data.points if p[metric] is not None and p["diversity"] is not None]
    xs = [v for p in rows for v in (p["diversity"], *data.bars.get(p["benchmark"], ()))]
    rows = [p for p in rows if p["test_set"] == test_set]
    halves = [(p, p[f"{metric}_ci"] or 0.0) for p in rows]
    ys = [v for p, half in halves for v in (p[metric] - half, p[metric] + half, *p[f"{metric}_seeds"])]

    def padded(values: list[float], share: float) -> tuple[float, float]:
        if not values:
            return 0.0, 1.0
        low, high = min(values), max(values)
        margin = share * (high - low) or 0.1 * abs(high) or 0.1
        return low - margin, high + margin

    return padded(xs, 0.09), padded(ys, 0.11)


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


def _number_points(ax: Any, rows: list[dict[str, Any]], metric: str, numbers: Mapping[str, int]) -> None:
    """Sets each point's number beside it; a hairline leads back to the point where the number is far off."""
    if not rows:
        return
    scale = 72 / ax.figure.dpi
    to_points = lambda xy: ax.transData.transform(np.asarray(xy, float)) * scale
    anchors = to_points([(p["diversity"], p[metric]) for p in rows])
    texts = [str(numbers[p["benchmark"]]) for p in rows]
    sizes = np.array([(4.7 * len(text), 6.2) for text in texts])
    strokes: list[np.ndarray] = []
    for line in ax.lines:
        path = to_points(np.stack(line.get_data(), axis=1).astype(float))
        for a, b in itertools.pairwise(path):
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                continue
            steps = max(2, int(np.linalg.norm(b - a) / 3))
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


def _scatter_panel(ax: Any, data: PlotData, method: str, metric: str, test_set: str) -> None:
    """One method on one test set: points with both intervals, the trend line with its band, R² above."""
    colour, marker, line_style = _style(method, _methods(data))
    rows = _group(data, method, metric, test_set)
    x_limits, y_limits = _limits(data, metric, test_set)
    ax.set_xlim(*x_limits)
    ax.set_ylim(*y_limits)
    xs, ys = [p["diversity"] for p in rows], [p[metric] for p in rows]
    if rows:
        places = np.linspace(min(xs), max(xs), 60)
        band = trend_band(xs, ys, places)
        if band:
            if band.low is not None:
                ax.fill_between(places, band.low, band.high, color=colour, alpha=0.16, linewidth=0, zorder=1)
            ax.plot(places, band.value, color=colour, linestyle=line_style, linewidth=1.6, zorder=3)
    bars: list[tuple[float, float]] = []
    for p in rows:
        (x, y), half = (p["diversity"], p[metric]), p[f"{metric}_ci"] or 0.0
        low, high = data.bars.get(p["benchmark"], (x, x))
        # One broken line for all bars: matplotlib's time goes by the number of artists.
        bars += [(low, y), (high, y), (math.nan, y), (x, y - half), (x, y + half), (math.nan, y)]
    if bars:
        ax.plot(*zip(*bars, strict=True), color=colour, linewidth=0.9, zorder=4)
    seeds = [(p["diversity"], value) for p in rows if p["seeds"] > 1 for value in p[f"{metric}_seeds"]]
    if seeds:
        ax.scatter(*zip(*seeds, strict=True), s=5, color=colour, alpha=0.45, linewidth=0, zorder=4)
    ax.scatter(xs, ys, s=24, marker=marker, color=colour, edgecolor=PAPER, linewidth=0.6, zorder=5)
    _number_points(ax, rows, metric, data.numbers)
    row = data.lines.get((method, metric, test_set))
    short_test = {"own": "own test split", "fixed": "fixed test set"}.get(test_set, test_set)
    ax.set_title(f"{method_name(method)} · {short_test}", loc="left", pad=16, weight="bold", size=8.5)
    ax.text(0, 1.02, r2_text(row), transform=ax.transAxes, fontsize=7.6, va="bottom")


def _lines_panel(ax: Any, data: PlotData, test_set: str) -> None:
    """All methods' trend lines on one test set, over their points."""
    methods = _methods(data)
    x_limits, y_limits = _limits(data, "accuracy", test_set)
    ax.set_xlim(*x_limits)
    ax.set_ylim(*y_limits)
    for method in methods:
        colour, marker, line_style = _style(method, methods)
        rows = _group(data, method, "accuracy", test_set)
        if not rows:
            continue
        xs, ys = [p["diversity"] for p in rows], [p["accuracy"] for p in rows]
        ax.scatter(xs, ys, s=15, marker=marker, color=colour, alpha=0.7, linewidth=0, zorder=2)
        ends = np.array([min(xs), max(xs)])
        band = trend_band(xs, ys, ends)
        if band:
            ax.plot(ends, band.value, color=colour, linestyle=line_style, linewidth=1.8, zorder=3)
        # For the legend only, which shows line and marker together: markers at a line's ends look like data.
        look = {"linestyle": line_style if band else "", "marker": marker, "markersize": 4.5}
        label = f"{method_name(method)}: {r2_text(data.lines.get((method, 'accuracy', test_set)))}"
        ax.plot([], [], color=colour, label=label, **look)
    ax.set_title(f"All trend lines, {data.test_sets[test_set]}", loc="left", weight="bold", size=8.5)
    if ax.get_legend_handles_labels()[0]:
        _, _, wide, tall = (v / ax.figure.dpi for v in ax.get_window_extent().bounds)
        ax.legend(
            loc="upper left", bbox_to_anchor=(-0.6 / wide, -0.64 / tall), fontsize=7, frameon=False,
            handlelength=3.6, borderaxespad=0, borderpad=0, labelspacing=0.45,
        )  # fmt: skip


def _key_lines(numbers: Mapping[str, int], characters: int) -> list[str]:
    lines: list[str] = []
    for name, number in sorted(numbers.items(), key=lambda item: item[1]):
        entry = f"{number} {name}"
        if lines and len(lines[-1]) + len(entry) + 3 <= characters:
            lines[-1] += f"   {entry}"
        else:
            lines.append(entry)
    return lines


_SIZES = {"figure1": (3.4, 3.1), "figure2": (4.1, 4.1), "figure3": (3.4, 3.1)}


class Rendered(NamedTuple):
    """One figure: the bytes of its PNG and of its SVG, and its panels as SVG elements (a row a test set)."""

    png: bytes
    svg: bytes
    panels: list[list[str]]


def _draw(data: PlotData, name: str) -> tuple[Any, int, int]:
    """The matplotlib Figure called `name`, and its rows and columns of panels (of the size in _SIZES)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = "loss" if name == "figure3" else "accuracy"
    tests = list(data.test_sets)
    if name == "figure2":
        grid = [[(test_set, "") for test_set in tests]] if tests else []
    else:
        grid = [[(test_set, method) for method in _methods(data)] for test_set in tests]
    columns, wide, tall = max(map(len, grid), default=1), *_SIZES[name]
    width = wide * columns
    below = 0.76 + 0.16 * len(_methods(data)) if name == "figure2" else 0.62  # ticks, axis name, legend
    foot = [] if name == "figure2" else _key_lines(data.numbers, int(width * 14))
    if foot and "fixed" in tests:
        foot.append(f"own test split: the benchmark's own; {data.test_sets['fixed']}: the same for every learner")
    footer = 0.17 * len(foot) + 0.2 if foot else 0.0
    height = tall * max(len(grid), 1) + footer
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    for r, row in enumerate(grid):
        for c, (test_set, method) in enumerate(row):
            left, base = c * wide + 0.78, height - (r + 1) * tall + below
            box = left / width, base / height, (wide - 1.00) / width, (tall - below - 0.50) / height
            ax = figure.add_axes(box)  # fixed places: numbers are set beside points as they will be printed
            ax.locator_params(nbins=6)
            ax.set_xlabel(X_LABEL)
            ax.set_ylabel(Y_LABELS[metric])
            if method:
                _scatter_panel(ax, data, method, metric, test_set)
            else:
                _lines_panel(ax, data, test_set)
    if not grid:
        figure.text(0.5, 0.5, "no points to show", ha="center", va="center")
    for i, line in enumerate(foot):
        figure.text(0.3 / width, (footer - 0.05 - 0.17 * i) / height, line, fontsize=8, va="top")
    return figure, len(grid), columns


def render(name: str, data: PlotData) -> Rendered:
    """Draws "figure1" (accuracy), "figure2" (all trend lines) or "figure3" (cross-entropy)."""
    from matplotlib import style

    with style.context(["default", RC]):
        figure, rows, columns = _draw(data, name)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    text = svg.getvalue().decode()
    return Rendered(png.getvalue(), svg.getvalue(), _cut(text, name, rows, columns))


def _cut(svg: str, name: str, rows: int, columns: int) -> list[list[str]]:
    """Cuts matplotlib's SVG into one element a panel, for one page that shows them all.

    Ink and paper become `currentColor` and `var(--paper)`, so that the page's own colours apply, light or
    dark. Identifiers get the figure's name, for several figures share the page; glyphs and clip paths defined
    in one panel serve the others.
    """
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-").replace("xlink:href", "href")
    svg = svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)").replace(GRID, "var(--grid)")
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    found = re.findall(r'\n  <g id="[\w-]*-axes_\d+">.*?\n  </g>', svg, flags=re.DOTALL)
    clips = "".join(re.findall(r"<clipPath.*?</clipPath>", svg, flags=re.DOTALL))
    base = "".join(re.findall(r"<style.*?</style>", svg, flags=re.DOTALL))
    wide, tall = (round(72 * inches, 2) for inches in _SIZES[name])
    panels = []
    for i, body in enumerate(found):
        view = f"{wide * (i % columns):g} {tall * (i // columns):g} {wide:g} {tall:g}"
        defs = f"<defs>{base}{clips}</defs>" if i == 0 else ""
        body = re.sub(r"\s*\n\s*", "\n", body)
        panels.append(f'<svg viewBox="{view}" role="img">{defs}{body}</svg>')
    return [panels[r * columns : (r + 1) * columns] for r in range(rows)]
