"""The five figures: performance against diversity (1, 3), all trend lines (2), MAML over PT (4), the controlled
experiment (5)."""

import math
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxdiv.methods.registry import METHODS
from jaxdiv.report.plotting import (
    GRID,
    INK,
    OTHER_STYLES,
    PAPER,
    STYLES,
    Figure,
    PlotData,
    Rendered,
    key_lines,
    number_points,
    render,
)
from jaxdiv.report.wording import method_name, p_text, plain, r2_text, span
from jaxdiv.stats.correlate import METRICS, TEST_SETS, in_order
from jaxdiv.stats.regression import trend_band

_X = "Task2Vec diversity coefficient\n(cosine distance, 0–1)"
_Y = {
    "accuracy": "test accuracy\n(fraction of query images)",
    "loss": "cross-entropy\n(nats per query image)",
    "effect": "Cohen's d, MAML over PT\n(pooled sds of task accuracy)",
}
_SHORT = {"own": "own test split", "fixed": "fixed test set"}
# Levels of the controlled experiment, least diverse first
_LEVELS = (("#0072B2", "o"), ("#E69F00", "s"), ("#D55E00", "^"), ("#CC79A7", "D"), ("#009E73", "v"))
_AREA = {"^": 38, "v": 38}  # a triangle as small as a square looks like a star on its error bars
_SIZE, _BELOW = (3.4, 3.1), 0.62


def _methods(data: PlotData) -> list[str]:
    return in_order((p["method"] for p in data.points), METHODS)


def _style(method: str, methods: Sequence[str]) -> tuple[str, str, Any]:
    others = [m for m in methods if m not in STYLES]
    return STYLES.get(method) or OTHER_STYLES[others.index(method) % len(OTHER_STYLES)]


def _group(data: PlotData, method: str, metric: str, test_set: str) -> list[dict[str, Any]]:
    return [
        p
        for p in data.points
        if p["method"] == method and p["test_set"] == test_set and p[metric] is not None and p["diversity"] is not None
    ]


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = share * (high - low) or 0.1 * abs(high) or 0.1
    return low - margin, high + margin


def _limits(data: PlotData, metric: str, test_set: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Axis limits that hold every point and interval of a test set, the same for all its panels."""
    rows = [p for p in data.points if p[metric] is not None and p["diversity"] is not None]
    xs = [v for p in rows for v in (p["diversity"], *data.bars.get(p["benchmark"], ()))]
    rows = [p for p in rows if p["test_set"] == test_set]
    halves = [(p, p[f"{metric}_ci"] or 0.0) for p in rows]
    ys = [v for p, half in halves for v in (p[metric] - half, p[metric] + half, *p[f"{metric}_seeds"])]
    return _padded(xs, 0.09), _padded(ys, 0.11)


def _trend(ax: Any, xs: Sequence[float], ys: Sequence[float], colour: str, line_style: Any) -> None:
    """The least-squares line over the points' range, with its band."""
    if not xs:
        return
    places = np.linspace(min(xs), max(xs), 60)
    band = trend_band(xs, ys, places)
    if band:
        if band.low is not None:
            ax.fill_between(places, band.low, band.high, color=colour, alpha=0.16, linewidth=0, zorder=1)
        ax.plot(places, band.value, color=colour, linestyle=line_style, linewidth=1.6, zorder=3)


def _crosses(ax: Any, places: Sequence[tuple], colour: str) -> None:
    """Error bars, each (x, y, low x, high x, low y, high y), as one broken line: time goes by the number of artists."""
    gap = math.nan
    line = [
        point
        for x, y, left, right, low, high in places
        for point in ((left, y), (right, y), (gap, y), (x, low), (x, high), (gap, y))
    ]
    if line:
        ax.plot(*zip(*line, strict=True), color=colour, linewidth=0.9, zorder=4)


def _head(ax: Any, method: str, test_set: str, text: str) -> None:
    title = f"{method_name(method)} · {_SHORT.get(test_set, test_set)}"
    ax.set_title(title, loc="left", y=1.0, pad=16, weight="bold", size=8.5)
    ax.text(0, 1.02, text, transform=ax.transAxes, fontsize=7.6, va="bottom")


def _scatter_panel(ax: Any, data: PlotData, method: str, metric: str, test_set: str) -> None:
    """One method on one test set: points with both intervals, the trend line with its band, R² above."""
    colour, marker, line_style = _style(method, _methods(data))
    rows = _group(data, method, metric, test_set)
    x_limits, y_limits = _limits(data, metric, test_set)
    ax.set_xlim(*x_limits)
    ax.set_ylim(*y_limits)
    xs, ys = [p["diversity"] for p in rows], [p[metric] for p in rows]
    _trend(ax, xs, ys, colour, line_style)
    halves = [p[f"{metric}_ci"] or 0.0 for p in rows]
    crosses = [
        (x, y, *data.bars.get(p["benchmark"], (x, x)), y - half, y + half)
        for p, x, y, half in zip(rows, xs, ys, halves, strict=True)
    ]
    _crosses(ax, crosses, colour)
    seeds = [(p["diversity"], value) for p in rows if p["seeds"] > 1 for value in p[f"{metric}_seeds"]]
    if seeds:
        ax.scatter(*zip(*seeds, strict=True), s=5, color=colour, alpha=0.45, linewidth=0, zorder=4)
    ax.scatter(xs, ys, s=_AREA.get(marker, 24), marker=marker, color=colour, edgecolor=PAPER, linewidth=0.6, zorder=5)
    number_points(ax, xs, ys, [str(data.numbers[p["benchmark"]]) for p in rows])
    _head(ax, method, test_set, r2_text(data.lines.get((method, metric, test_set))))


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
    ax.set_title(f"All trend lines · {_SHORT.get(test_set, test_set)}", loc="left", y=1.0, weight="bold", size=8.5)
    if ax.get_legend_handles_labels()[0]:
        _, _, wide, tall = (v / ax.figure.dpi for v in ax.get_window_extent().bounds)
        ax.legend(
            loc="upper left", bbox_to_anchor=(-0.6 / wide, -0.64 / tall), fontsize=7, frameon=False,
            handlelength=3.6, borderaxespad=0, borderpad=0, labelspacing=0.45,
        )  # fmt: skip


def _effect_panel(ax: Any, data: PlotData, method: str, test_set: str) -> None:
    """Cohen's d of one MAML method over PT against diversity, with the d of a 1% difference in grey behind it."""
    colour, marker, line_style = _style(method, _methods(data))
    all_rows = [row for row in data.effects if row["test_set"] == test_set]
    rows = [row for row in all_rows if row["method"] == method]
    ends = lambda row: [row["d"] if plain(row.get(key)) is None else row[key] for key in ("d_low", "d_high")]
    ax.set_xlim(*_padded([v for r in data.effects for v in (r["diversity"], *data.bars.get(r["benchmark"], ()))], 0.09))
    ax.set_ylim(*_padded([0.0, *(value for row in all_rows for value in (row["d"], *ends(row)))], 0.11))
    ax.axhline(0, color=INK, linewidth=0.8, zorder=1)
    xs, ys = [row["diversity"] for row in rows], [row["d"] for row in rows]
    limits = [(row["diversity"], row["threshold"]) for row in rows if plain(row.get("threshold")) is not None]
    if limits:
        at, half = np.array(limits).T
        ax.vlines(at, -np.abs(half), np.abs(half), color=GRID, linewidth=6, zorder=0.5)
    _trend(ax, xs, ys, colour, line_style)
    bars = [data.bars.get(row["benchmark"], (row["diversity"], row["diversity"])) for row in rows]
    _crosses(ax, [(x, y, *bar, *ends(row)) for x, y, bar, row in zip(xs, ys, bars, rows, strict=True)], colour)
    ax.scatter(xs, ys, s=_AREA.get(marker, 24), marker=marker, color=colour, edgecolor=PAPER, linewidth=0.6, zorder=5)
    number_points(ax, xs, ys, [str(data.numbers.get(row["benchmark"], "")) for row in rows])
    _head(ax, method, test_set, r2_text(data.trends.get((method, test_set))))


def _level(benchmark: str) -> str:
    """The level of a subset: "low" of "low-1"."""
    return benchmark.rpartition("-")[0] or benchmark


def _controlled_panel(ax: Any, data: PlotData, method: str, metric: str, test_set: str) -> None:
    """Performance against the measured diversity of the subsets, each level with its own colour and marker."""
    rows = _group(data, method, metric, test_set)
    x_limits, y_limits = _limits(data, metric, test_set)
    ax.set_xlim(*x_limits)
    ax.set_ylim(*y_limits)
    _trend(ax, [p["diversity"] for p in rows], [p[metric] for p in rows], "#666666", "solid")
    # Numbers are given by diversity, so the first of a level tells how diverse the level is.
    levels = list(dict.fromkeys(_level(name) for name in sorted(data.numbers, key=lambda name: data.numbers[name])))
    for level, (colour, marker) in zip(levels, _LEVELS * len(levels), strict=False):
        mine = [p for p in rows if _level(p["benchmark"]) == level]
        xs, ys = [p["diversity"] for p in mine], [p[metric] for p in mine]
        halves = [p[f"{metric}_ci"] or 0.0 for p in mine]
        crosses = [
            (x, y, *data.bars.get(p["benchmark"], (x, x)), y - half, y + half)
            for p, x, y, half in zip(mine, xs, ys, halves, strict=True)
        ]
        _crosses(ax, crosses, colour)
        ax.scatter(
            xs,
            ys,
            s=_AREA.get(marker, 24),
            marker=marker,
            color=colour,
            edgecolor=PAPER,
            linewidth=0.6,
            zorder=5,
            label=level,
        )
        seeds = [(p["diversity"], value) for p in mine if p["seeds"] > 1 for value in p[f"{metric}_seeds"]]
        if seeds:
            ax.scatter(*zip(*seeds, strict=True), s=5, color=colour, alpha=0.45, linewidth=0, zorder=4)
    texts = [str(data.numbers[p["benchmark"]]) for p in rows]
    number_points(ax, [p["diversity"] for p in rows], [p[metric] for p in rows], texts)
    found = data.controlled[method, metric, test_set]
    text = f"+.1 of diversity: {span(found.get('effect'), found.get('low'), found.get('high'), 3)}"
    _head(ax, method, test_set, f"{text}, p {p_text(found.get('p_value'))}")
    wide, tall = (v / ax.figure.dpi for v in ax.get_window_extent().bounds[2:])
    ax.legend(
        loc="upper left", bbox_to_anchor=(-0.6 / wide, -0.6 / tall), fontsize=7, frameon=False, ncols=3,
        borderaxespad=0, borderpad=0, handletextpad=0.2, columnspacing=1.2, title="level of the subset:",
        title_fontsize=7, alignment="left",
    )  # fmt: skip


def _foot(data: PlotData, inches: float, key: bool = True) -> list[str]:
    """The key of the numbers, and what the test sets are, in lines that fit so many inches."""
    foot = key_lines(data.numbers, int(inches * 14)) if key else []
    if data.numbers and "fixed" in data.test_sets:
        text = f"own test split: the benchmark's own; {data.test_sets['fixed']}: the same for every learner"
        foot += textwrap.wrap(text, int(inches * 14))
    return foot


def _performance(name: str, metric: str, data: PlotData) -> Figure:
    grid = [
        [
            partial(_scatter_panel, data=data, method=m, metric=metric, test_set=t)
            for m in _methods(data)
            if _group(data, m, metric, t)
        ]
        for t in data.test_sets
    ]
    grid = [row for row in grid if row]
    foot = _foot(data, _SIZE[0] * max(map(len, grid), default=1))
    return Figure(name, grid, _SIZE, _BELOW, [(_X, _Y[metric])] * len(grid), foot)


def _lines(data: PlotData) -> Figure:
    shown = [t for t in data.test_sets if any(_group(data, m, "accuracy", t) for m in _methods(data))]
    grid = [[partial(_lines_panel, data=data, test_set=test_set) for test_set in shown]] if shown else []
    return Figure(
        "figure2",
        grid,
        (4.1, 4.1),
        0.76 + 0.16 * len(_methods(data)),
        [(_X, _Y["accuracy"])],
        _foot(data, 4.1 * max(len(shown), 1), key=False),
    )


def _effects(data: PlotData) -> Figure | None:
    methods = in_order((row["method"] for row in data.effects), METHODS)
    tests = in_order((row["test_set"] for row in data.effects), TEST_SETS)
    if not methods:
        return None
    grid = [
        [
            partial(_effect_panel, data=data, method=m, test_set=t)
            for m in methods
            if any((row["method"], row["test_set"]) == (m, t) for row in data.effects)
        ]
        for t in tests
    ]
    return Figure(
        "figure4", grid, _SIZE, _BELOW, [(_X, _Y["effect"])] * len(grid), _foot(data, _SIZE[0] * len(methods))
    )


def _controlled(data: PlotData) -> Figure | None:
    methods = in_order((method for method, _, _ in data.controlled), METHODS)
    tests = in_order((test_set for _, _, test_set in data.controlled), TEST_SETS)
    if not methods:
        return None

    grid, labels = [], []
    for test_set in tests:
        for metric in METRICS:
            shown = [m for m in methods if (m, metric, test_set) in data.controlled]
            if any(_group(data, m, metric, test_set) for m in shown):
                draw = partial(_controlled_panel, data=data, metric=metric, test_set=test_set)
                grid.append([partial(draw, method=m) for m in shown])
                labels.append((_X, _Y[metric]))
    return Figure("figure5", grid, (3.4, 3.5), _BELOW + 0.4, labels, _foot(data, _SIZE[0] * len(methods)))


def draw_all(data: PlotData) -> dict[str, Rendered]:
    """Every figure that the data have anything for, by name; 1 to 3 always."""
    plans = [
        *(_performance("figure1", "accuracy", data), _lines(data), _performance("figure3", "loss", data)),
        *(_effects(data), _controlled(data)),
    ]
    return {plan.name: render(plan) for plan in plans if plan}
