"""Whether one method's R² is above another's, and what published R² support without their points."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from made_up import points

from jaxdiv.errors import InputError
from jaxdiv.methods.registry import METHODS
from jaxdiv.report import published
from jaxdiv.stats import intervals
from jaxdiv.stats.correlation import correlations
from jaxdiv.stats.differences import differences, from_summaries
from jaxdiv.stats.rows import Note, Point, Reason

DRAWS = 400  # of the bootstrap, where its ends are not what is tested


def two_methods(first, second, n=12):
    """Points of two methods whose accuracies are functions of the benchmark's number and noise of their own."""
    noise = np.random.default_rng(5).normal(size=(2, n))
    rows = []
    for method, performance, e in zip(("pt", "ho_maml_10"), (first, second), noise, strict=True):
        for b in range(n):
            point = Point(f"b{b:02}", method, "own", 0.01 * b, accuracy=performance(b, e[b]), accuracy_ci=0.01)
            rows.append(replace(point, diversity_ci=0.002))
    return rows


def test_a_method_that_follows_diversity_is_told_from_one_that_does_not():
    row = differences(two_methods(lambda b, e: e, lambda b, e: b + 0.5 * e), DRAWS)[0]
    assert (row.method, row.other, row.metric) == ("ho_maml_10", "pt", "accuracy")
    assert row.difference == pytest.approx(row.r2 - row.other_r2) and row.decided
    assert 0 < row.low < row.difference < row.high <= 1 and row.boot_low > 0 and row.p_holm < 0.01


def test_a_difference_whose_interval_holds_zero_is_undecided_whatever_its_p_value():
    # Williams' test is sharp where two methods' values hardly differ; the interval of the difference is not.
    shared = np.random.default_rng(1).normal(size=8)
    first, second = (lambda b, e: b + shared[b] + 1e-3 * e), (lambda b, e: b + 1.3 * shared[b] + 1e-3 * e)
    row = differences(two_methods(first, second, n=8), DRAWS)[0]
    assert row.p_holm < 0.001 and row.low < 0 < row.high
    assert not row.decided


def test_equal_r2_of_opposite_sign_do_not_differ():
    row = differences(two_methods(lambda b, e: b + e, lambda b, e: -b + e), DRAWS)[0]
    assert row.low < 0 < row.high and row.p_value > 0.05 and not row.decided
    # Against the signed test, which would call r = .9 and r = -.9 different.
    assert intervals.williams(math.sqrt(row.r2), -math.sqrt(row.other_r2), -0.9, 12)[1] < 0.001


def test_two_equal_methods_leave_nothing_to_test():
    row = differences(two_methods(lambda b, e: b % 5, lambda b, e: b % 5), DRAWS)[0]
    assert row.difference == 0 and row.low < 0 < row.high
    assert row.p_value is None and not row.decided and row.notes == (Note(Reason.NOTHING_TO_TEST),)


def test_differences_are_over_the_benchmarks_that_both_methods_have():
    rows = points(8, test_sets=("own",))
    rows = [r for r in rows if (r.method, r.benchmark) not in {("pt", "bench0"), ("ho_maml_10", "bench7")}]
    row = differences(rows, DRAWS)[0]
    assert row.n == 6 and row.notes == (Note(Reason.NOT_IN_BOTH, ("bench0", "bench7")),)
    both = [r for r in rows if r.benchmark not in ("bench0", "bench7")]
    alone = {r.method: r.r2 for r in correlations(both, DRAWS) if r.metric == "accuracy"}
    assert (row.r2, row.other_r2) == pytest.approx((alone["ho_maml_10"], alone["pt"]))


def test_differences_are_corrected_within_a_metric_and_test_set():
    rows = differences(points(6, methods=tuple(METHODS)), DRAWS)
    assert len(rows) == math.comb(len(METHODS), 2) * 2 * 2
    for metric, test_set in {(r.metric, r.test_set) for r in rows}:
        mine = [r for r in rows if (r.metric, r.test_set) == (metric, test_set)]
        assert [r.p_holm for r in mine] == intervals.holm([r.p_value for r in mine])
        assert all(r.decided == (r.p_holm < 0.05 and not r.low <= 0 <= r.high) for r in mine)


def test_a_method_without_a_test_set_is_compared_to_nothing():
    rows = [r for r in points(5) if (r.method, r.test_set) != ("pt", "fixed")]
    fixed = [r for r in differences(rows, DRAWS) if r.test_set == "fixed"]
    assert len(fixed) == 2 and all(r.n == 0 and r.notes[0] == Note(Reason.TOO_FEW_POINTS) for r in fixed)


def test_the_papers_table_differs_from_zero_twice_and_never_once_corrected():
    rows, _ = from_summaries(published.PAPER_TABLE2, published.PAPER_BENCHMARKS)
    assert len(rows) == 10
    found = {(row.method, row.metric) for row in rows if row.p_value < 0.05}
    assert found == {("ho_maml_5", "accuracy"), ("ho_maml_10", "accuracy")}
    assert not any(row.p_holm < 0.05 for row in rows)
    by_name = {(row.method, row.metric): row for row in rows}
    assert round(by_name["pt", "accuracy"].p_value, 2) == 0.22
    best = by_name["ho_maml_10", "accuracy"]
    assert [round(getattr(best, name), 2) for name in ("r_low", "r_high", "ci_low", "ci_high")] == [
        0.11,
        0.89,
        0.04,
        0.79,
    ]
    assert best.boot_low is best.slope is best.influential is None


def test_the_papers_best_against_pre_training_is_undecided():
    _, pairs = from_summaries(published.PAPER_TABLE2, published.PAPER_BENCHMARKS)
    row = next(p for p in pairs if (p.method, p.other, p.metric) == ("ho_maml_10", "pt", "accuracy"))
    assert (round(row.statistic, 2), round(row.p_value, 2)) == (0.76, 0.45)
    assert row.difference == pytest.approx(0.416 - 0.149) and row.low < 0 < row.difference < row.high
    assert len(pairs) == 20 and not any(p.decided for p in pairs)


def test_summaries_of_few_benchmarks_or_of_no_r2_are_said():
    rows, pairs = from_summaries({"pt": {"accuracy": 1.0}, "fo_maml_5": {"accuracy": 0.2}}, 3)
    json.dumps([asdict(row) for row in (*rows, *pairs)], allow_nan=False)
    assert (rows[1].ci_low, rows[1].ci_high) == (0.0, 1.0) and Note(Reason.NO_INTERVAL) in rows[1].notes
    assert pairs[0].p_value is None and not pairs[0].decided
    with pytest.raises(InputError, match="between 0 and 1"):
        from_summaries({"pt": {"accuracy": 1.2}}, 12)
