"""Diversity against performance over benchmarks that share data sets, for each method and against pre-training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdiv.methods.registry import METHODS, family
from jaxdiv.stats.effect_size import BASELINE
from jaxdiv.stats.intervals import difference_interval, overlap, squared
from jaxdiv.stats.mixed_model import MixedLine, mixed_line
from jaxdiv.stats.resampling import row_pearson
from jaxdiv.stats.rows import (
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

FEWEST_SETS = 3


@dataclass(frozen=True)
class SharedSetsLine:
    """What diversity does to a method's performance, where benchmarks share data sets. What is undefined is None.

    Attributes:
      minus: the method whose performance is subtracted, benchmark by benchmark; mostly none.
      n, sets: how many benchmarks and data sets.
      effect, low, high, df: the change of performance per .1 of diversity, its 95% interval and the degrees of freedom
        of that (Student's t), of `mixed_line`.
      p_value: of no effect. p_holm: over the rows of a metric and test set that are of one kind, differences or not.
      r2, r2_low, r2_high: the share of the variance over benchmarks that the line explains, with its 95% interval; with
        `minus` that of the method less the other's, by `difference_interval`.
      sets_share: the share of the variance around the line that the data sets have.
    """

    method: str
    metric: str
    test_set: str
    n: int
    sets: int
    minus: str | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    df: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    r2: float | None = None
    r2_low: float | None = None
    r2_high: float | None = None
    sets_share: float | None = None
    notes: tuple[Note, ...] = ()


def shared_sets(points: Sequence[Point]) -> list[SharedSetsLine]:
    """Per method, metric and test set the line of performance, and that of the difference from pre-training.

    Nothing where no two benchmarks share a set, where all have the same shares of them, or where there are fewer than 3
    sets: nothing can be learned there of how much a set matters.
    """
    share = {point.benchmark: point.share or {} for point in points}
    if not told_apart(share_matrix(sorted(share), share)):
        return []
    averaged = average_seeds(points)
    methods = in_order((row.method for row in averaged), METHODS)
    baseline = next((method for method in methods if family(method) == BASELINE), None)
    rows: list[SharedSetsLine] = []
    for test_set in in_order((row.test_set for row in averaged), TEST_SETS):
        for metric in METRICS:
            of = {method: group_of(averaged, method, metric, test_set) for method in methods}
            rows += with_holm([_line(of[method], share) for method in methods])
            if baseline:
                others = [method for method in methods if method != baseline]
                rows += with_holm([_difference(of[method], of[baseline], share) for method in others])
    return rows


def share_matrix(
    benchmarks: Sequence[str], share: Mapping[str, Mapping[str, float]]
) -> Float[np.ndarray, "benchmarks sets"]:
    """What each data set has of each benchmark; sets that none of them has are left out."""
    sets = sorted({name for benchmark in benchmarks for name in share[benchmark]})
    rows = [[share[benchmark].get(name, 0.0) for name in sets] for benchmark in benchmarks]
    return np.array(rows, float).reshape(len(benchmarks), len(sets))


def told_apart(shares: Float[np.ndarray, "n sets"]) -> bool:
    """Whether benchmarks share sets, and differ in their shares, so that a set's effect shows."""
    if shares.shape[1] < FEWEST_SETS:
        return False
    common = shares @ shares.T
    np.fill_diagonal(common, 0.0)
    return bool(common.any() and np.ptp(shares, axis=0).any())


def _line(group: Group, share: Mapping[str, Mapping[str, float]]) -> SharedSetsLine:
    """The line of one method."""
    shares = share_matrix(group.names, share)
    row = SharedSetsLine(**group.what, sets=shares.shape[1], notes=_left_out(group.lost))
    found = _fit(group.values("diversity"), group.values(group.metric), shares)
    if found is None:
        return replace(row, notes=(*row.notes, Note(Reason.SETS_NOT_TOLD_APART)))
    r2_low, r2_high = squared(found.r_low, found.r_high)
    return replace(row, **_numbers(found), r2=found.r**2, r2_low=r2_low, r2_high=r2_high)


def _difference(method: Group, other: Group, share: Mapping[str, Mapping[str, float]]) -> SharedSetsLine:
    """The line of one method's performance less another's, over the benchmarks that both have."""
    both = set(method.names) & set(other.names)
    lost = tuple(sorted({*method.names, *method.lost, *other.names, *other.lost} - both))
    first, second = (replace(g, rows=tuple(r for r in g.rows if r.benchmark in both)) for g in (method, other))
    shares = share_matrix(first.names, share)
    row = SharedSetsLine(**first.what, sets=shares.shape[1], minus=other.method, notes=_left_out(lost))
    x, ys = first.values("diversity"), [group.values(group.metric) for group in (first, second)]
    found, *each = (_fit(x, y, shares) for y in (ys[0] - ys[1], *ys))
    if found is None or each[0] is None or each[1] is None:
        return replace(row, notes=(*row.notes, Note(Reason.SETS_NOT_TOLD_APART)))
    gap, low, high = r2_difference(each[0], each[1], float(row_pearson(*ys)))
    return replace(row, **_numbers(found), r2=gap, r2_low=low, r2_high=high)


def r2_difference(first: MixedLine, second: MixedLine, between: float) -> tuple[float, float, float]:
    """R² of the first line less that of the second, with its 95% interval. between: r of the two series."""
    # R² does not know the sign: turn a falling series over, so that equal R² means equal r.
    between *= np.sign(first.r) * np.sign(second.r)
    ends = [(line.r**2, *squared(line.r_low, line.r_high)) for line in (first, second)]
    low, high = difference_interval(ends[0], ends[1], overlap(abs(first.r), abs(second.r), float(between)))
    return ends[0][0] - ends[1][0], max(-1.0, low), min(1.0, high)


def _fit(x: np.ndarray, y: np.ndarray, shares: np.ndarray) -> MixedLine | None:
    return mixed_line(x, y, shares) if told_apart(shares) else None


def _numbers(found: MixedLine) -> dict[str, Any]:
    """A line's numbers, per .1 of diversity."""
    numbers = {"effect": found.slope / 10, "low": found.low / 10, "high": found.high / 10, "df": found.df}
    return {**numbers, "p_value": found.p_value, "sets_share": found.sets_share}


def _left_out(names: Sequence[str]) -> tuple[Note, ...]:
    return (Note(Reason.LEFT_OUT, tuple(names)),) if names else ()
