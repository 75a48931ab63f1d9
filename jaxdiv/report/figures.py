"""The five figures: performance against diversity (1, 3), all trend lines (2), effect sizes over pre-training (4), the
controlled experiment (5)."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxdiv.methods.registry import METHODS, family_label
from jaxdiv.report.plotting import (
    GRID,
    INK,
    PAPER,
    Figure,
    PlotData,
    Rendered,
    key_lines,
    number_points,
    render,
    styles,
)
from jaxdiv.report.wording import METRIC_NAMES, distance_text, family_names, listed, method_name, p_text, r2_text, span
from jaxdiv.stats.effect_size import BASELINE, EffectSize
from jaxdiv.stats.paired import PairedEffect
from jaxdiv.stats.regression import trend_band
from jaxdiv.stats.rows import METRICS, TEST_SETS, Averaged, in_order

_UNITS = {"accuracy": "fraction of query images", "loss": "nats per query image"}
_Y = {"accuracy": "test accuracy", "loss": METRIC_NAMES["loss"]}
_SHORT = {"own": "own test split", "fixed": "fixed test set"}
# Levels of the controlled experiment, least diverse first
_LEVELS = (("#0072B2", "o"), ("#E69F00", "s"), ("#D55E00", "^"), ("#CC79A7", "D"), ("#009E73", "v"))
_KINDS = (*_LEVELS, ("#56B4E9", "P"), ("#882255", "X"), ("#999999", "*"))  # of tasks or classes
_AREA = {"^": 38, "v": 38}  # a triangle as small as a square looks like a star on its error bars
_SIZE, _BELOW = (3.4, 3.1), 0.62


def _labels(data: PlotData, metric: str) -> tuple[str, str]:
    """The names of both axes."""
    return (
        f"Task2Vec diversity coefficient\n({distance_text(data.distance or 'mean distance of two tasks')})",
        f"{_Y[metric]}\n({_UNITS[metric]})",
    )


def _methods(data: PlotData) -> list[str]:
    return in_order((row.method for row in data.points), METHODS)


def _group(data: PlotData, method: str, metric: str, test_set: str) -> list[Averaged]:
    mine = [row for row in data.points if (row.method, row.test_set) == (method, test_set)]
    return [row for row in mine if row.value(metric) is not None and row.value("diversity") is not None]


def _values(rows: Sequence[Averaged], name: str) -> list[float]:
    return [row.value(name) or 0.0 for row in rows]


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = share * (high - low) or 0.1 * abs(high) or 0.1
    return low - margin, high + margin


def _set_limits(ax: Any, data: PlotData, metric: str, test_set: str) -> None:
    """Axis limits that hold every point and interval of a test set, the same for all its panels."""
    rows = [row for row in data.points if row.value(metric) is not None and row.value("diversity") is not None]
    xs = [v for row in rows for v in (*_values([row], "diversity"), *data.bars.get(row.benchmark, ()))]
    mine = [row for row in rows if row.test_set == test_set]
    ys = [v for row in mine for v in (*_ends(row, metric), *row.measured[metric].seeds)]
    ax.set_xlim(*_padded(xs, 0.09))
    ax.set_ylim(*_padded(ys, 0.11))


def _ends(row: Averaged, metric: str) -> tuple[float, float]:
    """The ends of the interval of performance; the value twice where it has none."""
    value, half = row.value(metric) or 0.0, row.measured[metric].half_width or 0.0
    return value - half, value + half


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


def _markers(ax: Any, xs: Sequence[float], ys: Sequence[float], colour: str, marker: str, label: str = "") -> None:
    look: dict[str, Any] = {"s": _AREA.get(marker, 24), "marker": marker, "color": colour, "edgecolor": PAPER}
    ax.scatter(xs, ys, **look, linewidth=0.6, zorder=5, label=label or None)


def _points(ax: Any, data: PlotData, rows: Sequence[Averaged], metric: str, look: tuple[str, str], label="") -> None:
    """Benchmarks with both intervals, and their single seeds as dots. look: colour and marker."""
    xs, ys = _values(rows, "diversity"), _values(rows, metric)
    bars = [data.bars.get(row.benchmark, (x, x)) for row, x in zip(rows, xs, strict=True)]
    crosses = [(x, y, *bar, *_ends(row, metric)) for row, x, y, bar in zip(rows, xs, ys, bars, strict=True)]
    _crosses(ax, crosses, look[0])
    seeds = [(x, v) for row, x in zip(rows, xs, strict=True) if row.seeds > 1 for v in row.measured[metric].seeds]
    if seeds:
        ax.scatter(*zip(*seeds, strict=True), s=5, color=look[0], alpha=0.45, linewidth=0, zorder=4)
    _markers(ax, xs, ys, *look, label)


def _head(ax: Any, method: str, test_set: str, text: str) -> None:
    title = f"{method_name(method)} · {_SHORT.get(test_set, test_set)}"
    ax.set_title(title, loc="left", y=1.0, pad=16, weight="bold", size=8.5)
    ax.text(0, 1.02, text, transform=ax.transAxes, fontsize=7.6, va="bottom")


def _scatter_panel(ax: Any, data: PlotData, method: str, metric: str, test_set: str) -> None:
    """One method on one test set: points with both intervals, the trend line with its band, R² above."""
    colour, marker, line_style = styles(_methods(data))[method]
    rows = _group(data, method, metric, test_set)
    _set_limits(ax, data, metric, test_set)
    xs, ys = _values(rows, "diversity"), _values(rows, metric)
    _trend(ax, xs, ys, colour, line_style)
    _points(ax, data, rows, metric, (colour, marker))
    number_points(ax, xs, ys, [str(data.numbers[row.benchmark]) for row in rows])
    _head(ax, method, test_set, r2_text(data.lines.get((method, metric, test_set))))


def _lines_panel(ax: Any, data: PlotData, test_set: str) -> None:
    """All methods' trend lines on one test set, over their points."""
    _set_limits(ax, data, "accuracy", test_set)
    looks = styles(_methods(data))
    for method in _methods(data):
        colour, marker, line_style = looks[method]
        rows = _group(data, method, "accuracy", test_set)
        if not rows:
            continue
        xs, ys = _values(rows, "diversity"), _values(rows, "accuracy")
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
    """Cohen's d of one method over PT against diversity, with the d of a 1% difference in grey behind it."""
    colour, marker, line_style = styles(_methods(data))[method]
    shown = [row for row in data.effects if row.test_set == test_set]
    rows = [row for row in shown if row.method == method]
    xs, ys = [row.diversity or 0.0 for row in rows], [row.d or 0.0 for row in rows]
    everywhere = [v for row in data.effects for v in (row.diversity or 0.0, *data.bars.get(row.benchmark, ()))]
    ax.set_xlim(*_padded(everywhere, 0.09))
    ax.set_ylim(*_padded([0.0, *(value for row in shown for value in (row.d or 0.0, *_d_ends(row)))], 0.11))
    ax.axhline(0, color=INK, linewidth=0.8, zorder=1)
    if limits := [(row.diversity, row.threshold) for row in rows if row.threshold is not None]:
        at, half = np.array(limits).T
        ax.vlines(at, -np.abs(half), np.abs(half), color=GRID, linewidth=6, zorder=0.5)
    _trend(ax, xs, ys, colour, line_style)
    bars = [data.bars.get(row.benchmark, (x, x)) for row, x in zip(rows, xs, strict=True)]
    _crosses(ax, [(x, y, *bar, *_d_ends(row)) for x, y, bar, row in zip(xs, ys, bars, rows, strict=True)], colour)
    _markers(ax, xs, ys, colour, marker)
    number_points(ax, xs, ys, [str(data.numbers.get(row.benchmark, "")) for row in rows])
    _head(ax, method, test_set, r2_text(data.trends.get((method, test_set))))


def _d_ends(row: EffectSize) -> tuple[float, float]:
    d = row.d or 0.0
    return d if row.d_low is None else row.d_low, d if row.d_high is None else row.d_high


def _level(benchmark: str) -> str:
    """The level of a subset: "low" of "low-1"."""
    return benchmark.rpartition("-")[0] or benchmark


def _controlled_panel(ax: Any, data: PlotData, method: str, metric: str, test_set: str) -> None:
    """Performance against the measured diversity of the subsets, each level with its own colour and marker."""
    rows = _group(data, method, metric, test_set)
    _set_limits(ax, data, metric, test_set)
    xs, ys = _values(rows, "diversity"), _values(rows, metric)
    _trend(ax, xs, ys, "#666666", "solid")
    # Numbers are given by diversity, so the first of a level tells how diverse the level is.
    levels = list(dict.fromkeys(_level(name) for name in sorted(data.numbers, key=lambda name: data.numbers[name])))
    for level, look in zip(levels, _LEVELS * len(levels), strict=False):
        _points(ax, data, [row for row in rows if _level(row.benchmark) == level], metric, look, level)
    number_points(ax, xs, ys, [str(data.numbers[row.benchmark]) for row in rows])
    found = data.controlled[method, metric, test_set]
    text = f"+.1 of diversity: {span(found.effect, found.low, found.high, 3)}"
    _head(ax, method, test_set, f"{text}, p {p_text(found.p_value)}")
    _legend_below(ax, "level of the subset:")


def _legend_below(ax: Any, title: str) -> None:
    wide, tall = (v / ax.figure.dpi for v in ax.get_window_extent().bounds[2:])
    ax.legend(
        loc="upper left", bbox_to_anchor=(-0.6 / wide, -0.6 / tall), fontsize=7, frameon=False, ncols=3,
        borderaxespad=0, borderpad=0, handletextpad=0.2, columnspacing=1.2, title=title, title_fontsize=7,
        alignment="left",
    )  # fmt: skip


def _paired_panel(ax: Any, rows: Sequence[PairedEffect]) -> None:
    """What each kind changes in diversity and in performance; all rows are of one method and test set."""
    method, test_set = rows[0].method, rows[0].test_set
    ax.axhline(0, color="#666666", linewidth=0.8)
    ax.axvline(0, color="#666666", linewidth=0.8)
    for row, (colour, marker) in zip(rows, itertools.cycle(_KINDS), strict=False):
        x = (row.diversity or 0.0) - (row.other_diversity or 0.0)
        ax.plot([x, x], [row.low, row.high], color=colour, linewidth=0.9)
        _markers(ax, [x], [row.difference or 0.0], colour, marker, row.kind)
    ax.margins(0.12)
    _legend_below(ax, "tasks or classes:")
    _head(ax, method, test_set, "same test tasks as the counterpart")


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
    return Figure(name, grid, _SIZE, _BELOW, [_labels(data, metric)] * len(grid), foot)


def _lines(data: PlotData) -> Figure:
    shown = [t for t in data.test_sets if any(_group(data, m, "accuracy", t) for m in _methods(data))]
    grid = [[partial(_lines_panel, data=data, test_set=test_set) for test_set in shown]] if shown else []
    return Figure(
        "figure2",
        grid,
        (4.1, 4.1),
        0.76 + 0.16 * len(_methods(data)),
        [_labels(data, "accuracy")],
        _foot(data, 4.1 * max(len(shown), 1), key=False),
    )


def _effects(data: PlotData) -> Figure | None:
    methods = in_order((row.method for row in data.effects), METHODS)
    if not methods:
        return None
    shown = {(row.method, row.test_set) for row in data.effects}
    grid = [
        [partial(_effect_panel, data=data, method=m, test_set=t) for m in methods if (m, t) in shown]
        for t in in_order((row.test_set for row in data.effects), TEST_SETS)
    ]
    who = f"{listed(family_names(methods))} over {family_label(BASELINE)}"
    labels = (_labels(data, "accuracy")[0], f"Cohen's d, {who}\n(pooled sds of task accuracy)")
    return Figure("figure4", grid, _SIZE, _BELOW, [labels] * len(grid), _foot(data, _SIZE[0] * len(methods)))


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
                labels.append(_labels(data, metric))
    return Figure("figure5", grid, (3.4, 3.5), _BELOW + 0.4, labels, _foot(data, _SIZE[0] * len(methods)))


def _paired(data: PlotData) -> Figure | None:
    shown: dict[tuple[str, str], dict[str, list[PairedEffect]]] = {}  # by row of panels and by method
    for row in data.paired:
        shown.setdefault((row.test_set, row.metric), {}).setdefault(row.method, []).append(row)
    grid = [[partial(_paired_panel, rows=rows) for rows in methods.values()] for methods in shown.values()]
    labels = [("diversity less the counterpart's", f"{_Y[metric]} less the counterpart's") for _, metric in shown]
    return Figure("figure6", grid, (3.4, 3.7), _BELOW + 0.6, labels, []) if grid else None


def draw_all(data: PlotData) -> dict[str, Rendered]:
    """Every figure that the data have anything for, by name; 1 to 3 always."""
    plans = [
        *(_performance("figure1", "accuracy", data), _lines(data), _performance("figure3", "loss", data)),
        *(_effects(data), _controlled(data), _paired(data)),
    ]
    return {plan.name: render(plan) for plan in plans if plan}
