"""Meta-learning against pre-training on the same test tasks: Cohen's d, the group's 1% rule, and d on diversity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from jaxtyping import Float
from scipy import special

from jaxdiv.methods.registry import METHODS, family
from jaxdiv.stats.correlation import Fit, fit
from jaxdiv.stats.rows import TEST_SETS, Note, Point, Reason, in_order, with_holm

ONE_PERCENT = 0.01  # of accuracy: the group's smallest difference of interest
BASELINE = "pretraining"  # the family that the other ones are compared with


class Comparison(StrEnum):
    """How a method does against its baseline."""

    BETTER = "better"
    WORSE = "worse"
    ALIKE = "alike"  # within 1% of accuracy
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class EffectSize:
    """A method's accuracy minus its baseline's on the same `tasks` test tasks of a benchmark. None where undefined.

    Attributes:
      method, baseline: of another family, and of pre-training.
      difference, low, high: the mean difference and its paired 95% t interval, which is over tasks: of these networks.
      d, d_low, d_high: Cohen's d by the pooled standard deviation; delta method, with the pairs' correlation.
      d_paired: by the standard deviation of the differences.
      threshold: the d of a 1% difference.
      rule: whether |d| passes the threshold, the group's rule, which looks at no interval.
      verdict: what the interval supports.
    """

    benchmark: str
    method: str
    baseline: str
    test_set: str
    diversity: float | None
    tasks: int
    difference: float
    low: float | None = None
    high: float | None = None
    d: float | None = None
    d_low: float | None = None
    d_high: float | None = None
    d_paired: float | None = None
    threshold: float | None = None
    rule: Comparison | None = None
    verdict: Comparison | None = None
    notes: tuple[Note, ...] = ()


def effect_sizes(
    points: Sequence[Point], per_task: Mapping[tuple[str, str, str], Float[np.ndarray, " tasks"]]
) -> list[EffectSize]:
    """Every method of another family against pre-training, per test set and benchmark, least diverse first.

    Args:
      per_task: each task's accuracy by (benchmark, method, test set), seeds averaged.
    """
    diversity = {point.benchmark: point.diversity for point in points}
    methods = in_order({method for _, method, _ in per_task}, METHODS)
    baseline = next((method for method in methods if family(method) == BASELINE), None)
    if baseline is None:
        return []
    benchmarks = {name for name, _, _ in per_task if name in diversity}
    rows = []
    for test_set in in_order({test for _, _, test in per_task}, TEST_SETS):
        for method in (method for method in methods if family(method) != BASELINE):
            for benchmark in sorted(benchmarks, key=lambda name: (diversity[name] or 0.0, name)):
                ours, theirs = (per_task.get((benchmark, which, test_set)) for which in (method, baseline))
                if ours is None or theirs is None or len(ours) != len(theirs):
                    continue
                what = EffectSize(benchmark, method, baseline, test_set, diversity[benchmark], len(ours), 0.0)
                rows.append(_compared(what, np.asarray(ours, float), np.asarray(theirs, float)))
    return rows


def _compared(row: EffectSize, ours: np.ndarray, theirs: np.ndarray) -> EffectSize:
    """The row with everything that the tasks' accuracies of both methods say."""
    n, gaps = len(ours), ours - theirs
    mean = float(gaps.mean())
    row = replace(row, difference=mean)
    if n < 3:
        return replace(row, notes=(Note(Reason.TOO_FEW_TASKS),))
    half = float(special.stdtrit(n - 1, 0.975)) * gaps.std(ddof=1) / math.sqrt(n)
    low, high = mean - half, mean + half
    row = replace(row, low=low, high=high, verdict=_verdict(low, high))
    pooled = math.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2)
    rounding = 1e-9 * float(np.abs([ours, theirs]).max())
    if pooled <= rounding:
        return replace(row, notes=(Note(Reason.SAME_TASKS),))
    d, threshold = mean / pooled, ONE_PERCENT / pooled
    # Of pairs that vary together: the variance of the difference, and that of the pooled standard deviation.
    r = float(np.cov(ours, theirs)[0, 1]) / pooled**2
    reach = float(special.ndtri(0.975)) * math.sqrt(max(2 * (1 - r) / n + d**2 * (1 + r**2) / (4 * n), 0))
    paired = float(gaps.mean() / gaps.std(ddof=1)) if gaps.std() > rounding else None
    rule = Comparison.ALIKE if abs(d) <= threshold else Comparison.BETTER if d > 0 else Comparison.WORSE
    return replace(row, d=d, d_low=d - reach, d_high=d + reach, d_paired=paired, threshold=threshold, rule=rule)


def _verdict(low: float, high: float) -> Comparison:
    if low > ONE_PERCENT:
        return Comparison.BETTER
    if high < -ONE_PERCENT:
        return Comparison.WORSE
    return Comparison.ALIKE if low >= -ONE_PERCENT and high <= ONE_PERCENT else Comparison.UNDECIDED


def effect_size_trends(rows: Sequence[EffectSize]) -> list[Fit]:
    """R² of Cohen's d on diversity, per method and test set: does a method gain on its baseline as diversity grows?

    The rows' `metric` is "d".
    """
    found = []
    for test_set in in_order({row.test_set for row in rows}, TEST_SETS):
        for method in in_order({row.method for row in rows if row.test_set == test_set}, METHODS):
            mine = [row for row in rows if (row.method, row.test_set) == (method, test_set)]
            known = [(r.diversity, r.d) for r in mine if r.diversity is not None and r.d is not None]
            x, y = np.array(known, float).reshape(-1, 2).T
            found.append(fit({"method": method, "metric": "d", "test_set": test_set}, x, y))
    return with_holm(found)
