"""Whether one method's R² is above another's; and what published R² support without their points."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from jaxdiv.errors import InputError
from jaxdiv.methods.registry import METHODS
from jaxdiv.stats.correlation import Correlation, known_errors, standard_errors
from jaxdiv.stats.intervals import (
    difference_interval,
    fisher_difference,
    holm,
    overlap,
    p_of_r,
    r2_interval,
    r_interval,
    squared,
    williams,
)
from jaxdiv.stats.regression import r_squared
from jaxdiv.stats.resampling import percentile_interval, resample, row_pearson
from jaxdiv.stats.rows import (
    LEVEL,
    METRICS,
    TEST_SETS,
    Group,
    Note,
    Point,
    Reason,
    average_seeds,
    group_of,
    in_order,
    with_holm,
)


@dataclass(frozen=True)
class Difference:
    """R² of `method` minus R² of `other` over the `n` benchmarks that both have. What is undefined is None.

    Attributes:
      low, high: `difference_interval` of the two r's intervals, squared, which knows that the methods share benchmarks
        and their diversity.
      boot_low, boot_high: percentiles over resamples, both methods' values of a benchmark together.
      statistic, p_value: `williams`, of the two |r|, since R² does not know their signs.
      p_holm: over the rows of a metric and test set.
      decided: p_holm is below .05 and the interval holds no zero. Where two methods' values hardly differ the test is
        sharper than the interval.
    """

    method: str
    other: str
    metric: str
    test_set: str
    n: int
    r2: float | None = None
    other_r2: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    boot_low: float | None = None
    boot_high: float | None = None
    statistic: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    decided: bool = False
    notes: tuple[Note, ...] = ()


def differences(points: Sequence[Point], draws: int = 9999, seed: int = 0) -> list[Difference]:
    """Whether two methods' R² differ, per pair of methods, metric and test set, over the benchmarks that both have.

    Args:
      draws, seed: of the bootstrap.
    """
    averaged = average_seeds(points)
    rows = []
    for other, method in combinations(in_order((row.method for row in averaged), METHODS), 2):
        for metric in METRICS:
            tests = in_order((row.test_set for row in averaged if row.method in (method, other)), TEST_SETS)
            for test_set in tests:
                first, second = (group_of(averaged, which, metric, test_set) for which in (method, other))
                both = set(first.names) & set(second.names)
                lost = {row.benchmark for row in averaged if row.test_set == test_set} - both
                first, second = _restricted(first, both), _restricted(second, both)
                rows.append(_difference(first, second, tuple(sorted(lost)), draws, seed))
    return _decided(rows)


def _restricted(group: Group, benchmarks: set[str]) -> Group:
    return replace(group, rows=tuple(row for row in group.rows if row.benchmark in benchmarks))


def _difference(first: Group, second: Group, lost: tuple[str, ...], draws: int, seed: int) -> Difference:
    """The row of two methods over the same benchmarks."""
    x, ys = first.values("diversity"), [group.values(group.metric) for group in (first, second)]
    n, found = len(x), [r_squared(x, y) for y in ys]
    notes = [Note(reason) for reason in dict.fromkeys(f.reason for f in found if f.reason is not None)]
    if lost:
        notes.append(Note(Reason.NOT_IN_BOTH, lost))
    row: dict[str, Any] = {**first.what, "other": second.method, "r2": found[0].r2, "other_r2": found[1].r2}
    if found[0].r is None or found[1].r is None:
        return Difference(**row, notes=tuple(notes))
    # R² does not know the sign: turn a falling series over, so that equal R² means equal r.
    r1, r2 = abs(found[0].r), abs(found[1].r)
    r12 = float(row_pearson(*ys)) * math.copysign(1, found[0].r * found[1].r)
    low, high = difference_interval(_estimate(r1, n), _estimate(r2, n), overlap(r1, r2, r12))
    row["statistic"], row["p_value"] = williams(r1, r2, r12, n)
    if row["p_value"] is None and n > 3:
        notes.append(Note(Reason.NOTHING_TO_TEST))
    errors = [
        standard_errors(first.rows, "diversity"),
        *(standard_errors(group.rows, group.metric) for group in (first, second)),
    ]
    samples = resample(np.stack([x, *ys]), known_errors(errors, n), draws, seed)
    r2s = [row_pearson(samples[0], sample) ** 2 for sample in samples[1:]]
    row["boot_low"], row["boot_high"] = percentile_interval(r2s[0] - r2s[1], n)
    row |= {"difference": r1 * r1 - r2 * r2, "low": max(-1.0, low), "high": min(1.0, high)}
    return Difference(**row, notes=tuple(notes))


def _estimate(r: float, n: int) -> tuple[float, float, float]:
    """R² and the square of r's interval, which has 2.5% beyond either end. `difference_interval` rests on that: with
    `r2_interval` it covers down to 92.8%."""
    return (r * r, *squared(*r_interval(r, n)))


def _decided(rows: Sequence[Difference]) -> list[Difference]:
    """The rows with p_holm and decided, by metric and test set."""
    found = list(rows)
    for metric, test_set in {(row.metric, row.test_set) for row in rows}:
        mine = [i for i, row in enumerate(rows) if (row.metric, row.test_set) == (metric, test_set)]
        for i, adjusted in zip(mine, holm([rows[i].p_value for i in mine]), strict=True):
            low, high = rows[i].low, rows[i].high
            apart = low is not None and high is not None and not low <= 0 <= high
            found[i] = replace(rows[i], p_holm=adjusted, decided=apart and adjusted is not None and adjusted < LEVEL)
    return found


def from_summaries(r2: Mapping[str, Mapping[str, float]], n: int) -> tuple[list[Correlation], list[Difference]]:
    """What published R², by method and metric over `n` benchmarks, support without their points.

    Returns:
      Rows as of `correlations` and of `differences`, test_set "published"; what needs points is None. The sign of r is
      unknown and taken as positive. That two methods share benchmarks cannot be used: their difference is Fisher's z of
      independent samples (`fisher_difference`).

    Raises:
      InputError: an R² is outside [0, 1].
    """
    few = (Note(Reason.NO_INTERVAL),) if n <= 3 else ()
    rows = []
    for method in in_order(r2, METHODS):
        for metric in in_order(r2[method], METRICS):
            value = r2[method][metric]
            if not 0 <= value <= 1:
                raise InputError(f"R² of {method}, {metric} is {value}; it must lie between 0 and 1")
            r = math.sqrt(value)
            (r_low, r_high), (low, high) = r_interval(r, n), r2_interval(r, n)
            limits: dict[str, Any] = {"ci_low": low, "ci_high": high, "r_low": r_low, "r_high": r_high}
            limits["p_value"] = p_of_r(r, n)
            notes = (Note(Reason.FROM_SUMMARY), *few)
            rows.append(Correlation(method, metric, "published", n, r=r, r2=value, **limits, notes=notes))
    pairs = []
    for second, first in combinations(rows, 2):
        if first.metric != second.metric:
            continue
        a, b = math.sqrt(first.r2 or 0.0), math.sqrt(second.r2 or 0.0)
        low, high = difference_interval(_estimate(a, n), _estimate(b, n), 0.0)
        statistic, p_value = fisher_difference(a, b, n, n)
        gap = (first.r2 or 0.0) - (second.r2 or 0.0)
        numbers: dict[str, Any] = {"difference": gap, "low": max(-1.0, low), "high": min(1.0, high)}
        numbers |= {"r2": first.r2, "other_r2": second.r2, "statistic": statistic, "p_value": p_value}
        what = (first.method, second.method, first.metric, "published", n)
        pairs.append(Difference(*what, **numbers, notes=(Note(Reason.AS_INDEPENDENT), *few)))
    return with_holm(rows), _decided(pairs)
