"""Diversity against performance over benchmarks: R², and all that is uncertain about it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from jaxdiv.stats.intervals import corrected, r_interval, reliability, spearman_interval, squared
from jaxdiv.stats.regression import r_squared
from jaxdiv.stats.resampling import (
    leave_one_out,
    percentile_interval,
    permutation_p,
    resample,
    row_pearson,
    row_slope,
    row_spearman,
)
from jaxdiv.stats.rows import METRICS, Averaged, Group, Note, Point, Reason, groups, with_holm


@dataclass(frozen=True)
class Fit:
    """R² of a degree-1 fit over `n` benchmarks, with its 95% interval and test. What is undefined is None.

    Attributes:
      metric: one of METRICS, or what else is fitted.
      r2, ci_low, ci_high, p_value, slope: of `r_squared`.
      p_holm: p_value after Holm's correction over the rows of its table.
      notes: why numbers are undefined, and what was left out.
    """

    method: str
    metric: str
    test_set: str
    n: int
    r2: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    slope: float | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Correlation(Fit):
    """One correlation, looked at in every way. All intervals are of 95%.

    Attributes:
      intercept, slope_low, slope_high: of the line; the slope's interval is Student's t.
      p_permutation, spearman_p: `permutation_p`, of values and of ranks.
      r, r_low, r_high: Pearson's, with `r_interval`.
      spearman, spearman_low, spearman_high: of ranks, with `spearman_interval`.
      boot_*: percentiles over resamples of benchmarks in which each value is also redrawn within its own error
        (`resample`; an error that is unknown counts as 0). The values hold their error already: redrawing pulls R²
        down by the reliability once more, and errs to the low side. boot_dropped resamples said nothing.
      loo_low, loo_high: the range of R² with one benchmark left out. influential: the benchmark whose removal moves R²
        most, to influential_r2.
      reliability: of diversity times of performance.
      r2_true, true_low, true_high: R² and interval over that, the estimate for values without noise (Spearman 1904);
        the reliability's own error does not count.
    """

    p_permutation: float | None = None
    boot_low: float | None = None
    boot_high: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None
    intercept: float | None = None
    boot_slope_low: float | None = None
    boot_slope_high: float | None = None
    r: float | None = None
    r_low: float | None = None
    r_high: float | None = None
    spearman: float | None = None
    spearman_low: float | None = None
    spearman_high: float | None = None
    spearman_p: float | None = None
    boot_spearman_low: float | None = None
    boot_spearman_high: float | None = None
    boot_dropped: int | None = None
    loo_low: float | None = None
    loo_high: float | None = None
    influential: str | None = None
    influential_r2: float | None = None
    reliability: float | None = None
    r2_true: float | None = None
    true_low: float | None = None
    true_high: float | None = None


def fit(what: Mapping[str, Any], x: ArrayLike, y: ArrayLike) -> Fit:
    """The fit of y on x. what: the row's method, metric and test_set."""
    found = r_squared(x, y)
    numbers = {"n": found.n, "r2": found.r2, "ci_low": found.low, "ci_high": found.high, "p_value": found.p_value}
    notes = () if found.reason is None else (Note(found.reason),)
    return Fit(**{**what, **numbers}, slope=found.slope, notes=notes)


def correlations(points: Sequence[Point], draws: int = 9999, seed: int = 0) -> list[Correlation]:
    """Table 2: per method, metric and test set, performance on diversity over the benchmarks.

    Seeds are averaged first, since a benchmark is one point. A benchmark whose value is missing or not finite is left
    out and named in a note.

    Args:
      draws, seed: of the bootstrap and the permutations.
    """
    return with_holm([_correlation(group, draws, seed) for group in groups(points)])


def _correlation(group: Group, draws: int, seed: int) -> Correlation:
    x, y = group.values("diversity"), group.values(group.metric)
    n, found = len(x), r_squared(x, y)
    notes = [] if found.reason is None else [Note(found.reason)]
    if group.lost:
        notes.append(Note(Reason.LEFT_OUT, group.lost))
    row: dict[str, Any] = {**group.what, "slope": found.slope, "intercept": found.intercept}
    if found.r is None or found.slope is None or found.r2 is None:
        return Correlation(**row, notes=tuple(notes))
    from scipy import stats

    half = float(special.stdtrit(n - 2, 0.975) * stats.linregress(x, y).stderr)
    ranks = stats.rankdata(x), stats.rankdata(y)
    row |= {"r2": found.r2, "ci_low": found.low, "ci_high": found.high, "p_value": found.p_value}
    row |= {"p_permutation": permutation_p(x, y, draws, seed), "spearman_p": permutation_p(*ranks, draws, seed)}
    row |= {"slope_low": found.slope - half, "slope_high": found.slope + half, "r": found.r}
    row["r_low"], row["r_high"] = r_interval(found.r, n)
    row["spearman"] = float(row_pearson(*ranks))
    row["spearman_low"], row["spearman_high"] = spearman_interval(row["spearman"], n)
    errors = standard_errors(group.rows, "diversity"), standard_errors(group.rows, group.metric)
    samples = resample(np.stack([x, y]), known_errors(errors, n), draws, seed)
    row["boot_dropped"] = draws - samples.shape[1]
    boot_r = percentile_interval(row_pearson(*samples), n)
    # By way of r: the percentiles of r² itself never hold 0.
    row["boot_low"], row["boot_high"] = boot_r if boot_r[0] is None else squared(*boot_r)
    row["boot_slope_low"], row["boot_slope_high"] = percentile_interval(row_slope(*samples), n)
    # Not expanded: the ties of a resample already spread rank correlations enough (bench/correlations.py).
    row["boot_spearman_low"], row["boot_spearman_high"] = percentile_interval(row_spearman(*samples))
    without = leave_one_out(x, y)
    if n > 3 and np.isfinite(without).any():
        moved = int(np.nanargmax(np.abs(without - found.r2)))
        row |= {"loo_low": float(np.nanmin(without)), "loo_high": float(np.nanmax(without))}
        row |= {"influential": group.names[moved], "influential_r2": float(without[moved])}
    if errors[0] is not None and errors[1] is not None:
        row["reliability"] = share = reliability(x, errors[0]) * reliability(y, errors[1])
        if share > 0:
            row["r2_true"], row["true_low"], row["true_high"] = corrected(found.r, n, share)
        else:
            notes.append(Note(Reason.NOISE_IS_ALL))
    return Correlation(**row, notes=tuple(notes))


def standard_errors(rows: Sequence[Averaged], name: str) -> np.ndarray | None:
    """The standard errors of averaged rows, or None where one is unknown.

    Over tasks, and over seeds where there are several, since these also differ by their training. On the fixed test
    set every benchmark's learner meets the same tasks, whose draw moves all of them alike: there the error of
    performance is that between seeds, and unknown of a single one.
    """
    found = []
    for row in rows:
        measured = row.measured[name]
        seeds, half = measured.seeds, measured.half_width
        same_tasks = name in METRICS and row.test_set == "fixed"
        if (same_tasks and len(seeds) < 2) or half is None:
            return None
        between = np.var(seeds, ddof=1) / len(seeds) if len(seeds) > 1 else 0.0
        quantile = special.stdtrit(measured.tasks - 1, 0.975) if measured.tasks else special.ndtri(0.975)
        found.append(math.sqrt((0.0 if same_tasks else (half / quantile) ** 2) + between))
    return np.array(found)


def known_errors(errors: Sequence[np.ndarray | None], n: int) -> np.ndarray:
    """Errors of `n` benchmarks with 0 for those that are unknown."""
    return np.stack([np.zeros(n) if e is None else e for e in errors])
