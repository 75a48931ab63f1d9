"""R² of diversity against performance: closed forms, and input with nothing to say."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from made_up import points
from scipy import stats

from jaxdiv.methods.registry import METHODS
from jaxdiv.stats import intervals
from jaxdiv.stats.correlation import correlations
from jaxdiv.stats.differences import differences
from jaxdiv.stats.rows import Note, Reason, from_json


def test_correlations_give_each_method_metric_and_test_set_once():
    rows = correlations(points(methods=tuple(METHODS)))
    assert len({(r.method, r.metric, r.test_set) for r in rows}) == len(rows) == len(METHODS) * 2 * 2
    assert all(r.n == 6 and not r.notes for r in rows)


def test_seeds_of_a_benchmark_are_averaged_before_correlating():
    rows = points(seeds=3, methods=("pt",), test_sets=("own",))
    found = correlations(rows)[0]
    by_benchmark = np.array([r.accuracy for r in rows]).reshape(6, 3).mean(axis=1)
    expected = np.corrcoef(0.1 + 0.01 * np.arange(6), by_benchmark)[0, 1] ** 2
    assert found.n == 6
    assert found.r2 == pytest.approx(expected, rel=1e-12)


def test_order_of_the_points_changes_nothing():
    rows = points(seeds=3)
    for a, b in zip(correlations(rows), correlations(rows[::-1]), strict=True):
        assert (a.method, a.metric, a.test_set) == (b.method, b.metric, b.test_set)
        assert a.r2 == pytest.approx(b.r2, rel=1e-12)


def test_a_diverged_benchmark_is_left_out_by_name_and_the_rest_is_kept():
    rows = points(methods=("pt",), test_sets=("own",), seeds=2)
    rows[0] = replace(rows[0], loss=math.inf)
    accuracy, loss = correlations(rows)
    assert (accuracy.n, accuracy.notes) == (6, ())
    assert loss.n == 5 and loss.notes == (Note(Reason.LEFT_OUT, ("bench0",)),)


def test_equal_diversities_are_the_reason_for_no_r2():
    rows = [replace(r, diversity=0.1) for r in points(methods=("pt",), test_sets=("own",))]
    assert correlations(rows)[0].notes == (Note(Reason.SAME_X),)
    assert correlations([]) == []


DRAWS = 400  # of the bootstrap, where its ends are not what is tested


def made_up(benchmarks=12, **given):
    return correlations(points(benchmarks, methods=("pt",), test_sets=("own",), **given), DRAWS)[0]


def test_a_usual_row_has_every_number_and_comes_back_from_json():
    rows, pairs = (f(points(8, seeds=2), DRAWS) for f in (correlations, differences))
    assert all(None not in asdict(row).values() for row in [*rows, *pairs])
    for row in [*rows, *pairs]:
        assert from_json(type(row), json.loads(json.dumps(asdict(row), allow_nan=False))) == row


def test_a_half_width_over_few_tasks_is_students_and_so_a_smaller_error():
    rows = [replace(r, diversity_ci=0.03, diversity_tasks=6, tasks=4) for r in points(12, ("pt",), ("own",))]
    x, y = (np.array([getattr(r, key) for r in rows]) for key in ("diversity", "accuracy"))
    by_hand = [(half / stats.t.ppf(0.975, n - 1)) ** 2 / v.var(ddof=1) for half, n, v in ((0.03, 6, x), (0.01, 4, y))]
    found = correlations(rows, DRAWS)[0].reliability
    assert found == pytest.approx((1 - by_hand[0]) * (1 - by_hand[1]))


def test_a_benchmark_that_lost_a_seed_is_left_out_by_name():
    rows = points(6, ("pt",), ("own",), seeds=2)
    row = correlations([r for r in rows if (r.benchmark, r.seed) != ("bench2", 1)], DRAWS)[0]
    assert row.n == 5 and row.notes == (Note(Reason.LEFT_OUT, ("bench2",)),)


def test_on_the_fixed_test_set_only_the_seeds_spread_is_noise():
    """All benchmarks meet the same tasks there: how wide accuracy's interval over tasks is changes nothing."""
    rows = [replace(r, diversity_ci=0.001) for r in points(8, ("pt",), ("fixed",), seeds=3)]
    usual, wide = (correlations([replace(r, accuracy_ci=ci) for r in rows], DRAWS)[0] for ci in (0.01, 0.5))
    assert usual.reliability == wide.reliability and 0 < usual.reliability < 1
    single = correlations([r for r in rows if r.seed == 0], DRAWS)[0]
    assert single.reliability is None and single.boot_low is not None


def test_estimates_and_their_tests_are_scipys():
    found, x = made_up(), 0.1 + 0.01 * np.arange(12)
    y = np.array([row.accuracy for row in points(12, ("pt",), ("own",))])
    fit, rank = stats.linregress(x, y), stats.spearmanr(x, y)
    half = stats.t.ppf(0.975, 10) * fit.stderr
    expected = [fit.rvalue, fit.slope, fit.slope - half, fit.slope + half, rank.statistic]
    names = ("r", "slope", "slope_low", "slope_high", "spearman")
    np.testing.assert_allclose([getattr(found, name) for name in names], expected, rtol=1e-10)
    assert found.p_value == pytest.approx(stats.pearsonr(x, y).pvalue)
    # Of 400 random orders none is as good as rank and r here: the observed one alone counts.
    assert found.p_permutation == found.spearman_p == pytest.approx(1 / (DRAWS + 1))


def test_every_interval_holds_its_estimate_and_is_no_point():
    row = made_up()
    ends = {"r2": ("ci", "boot", "loo"), "slope": ("slope", "boot_slope"), "r": ("r",)}
    ends |= {"spearman": ("spearman", "boot_spearman"), "r2_true": ("true",)}
    for name, of in ends.items():
        for interval in of:
            low, high = (getattr(row, f"{interval}_{end}") for end in ("low", "high"))
            assert low < getattr(row, name) < high, interval


def test_the_benchmark_that_moves_r2_most_is_named():
    rows = points(12, ("pt",), ("own",))
    rows[11] = replace(rows[11], accuracy=0.0)  # the most diverse benchmark, far below the line
    found = correlations(rows, DRAWS)[0]
    rest = correlations(rows[:11], DRAWS)[0]
    assert found.influential == "bench11"
    assert found.influential_r2 == found.loo_high == pytest.approx(rest.r2) and rest.r2 > found.r2 + 0.3


def test_errors_of_a_point_widen_the_bootstrap_and_raise_the_corrected_r2():
    rows = points(12, ("pt",), ("own",))
    noisy = [replace(row, accuracy_ci=0.15, diversity_ci=0.03) for row in rows]
    a, b = (correlations(given, 2000)[0] for given in (rows, noisy))
    assert (a.r2, a.ci_low, a.ci_high) == (b.r2, b.ci_low, b.ci_high)
    assert b.boot_high - b.boot_low > a.boot_high - a.boot_low
    x, y = (np.array([getattr(row, name) for row in rows]) for name in ("diversity", "accuracy"))
    z = stats.norm.ppf(0.975)
    share = (1 - (0.03 / z) ** 2 / x.var(ddof=1)) * (1 - (0.15 / z) ** 2 / y.var(ddof=1))
    assert b.reliability == pytest.approx(share)
    assert b.r2_true == pytest.approx(min(1, b.r2 / share)) and b.r2_true > a.r2_true


def test_seeds_that_disagree_make_performance_less_reliable():
    rows = points(12, ("pt",), ("own",), seeds=2)
    agreed = [replace(row, accuracy=rows[i - i % 2].accuracy) for i, row in enumerate(rows)]
    a, b = (correlations(given, DRAWS)[0].reliability for given in (agreed, rows))
    assert b < a < 1


def test_unknown_errors_leave_the_correction_undefined_and_the_rest_whole():
    rows = [replace(row, diversity_ci=None) for row in points(8, ("pt",), ("own",))]
    found = correlations(rows, DRAWS)[0]
    assert found.reliability is found.r2_true is found.true_low is None
    assert found.boot_low is not None


def test_errors_as_large_as_the_spread_are_said_and_not_divided_by():
    rows = [replace(row, diversity_ci=0.5) for row in points(8, ("pt",), ("own",))]
    found = correlations(rows, DRAWS)[0]
    assert (found.reliability, found.r2_true) == (0.0, None) and found.notes == (Note(Reason.NOISE_IS_ALL),)


def test_p_values_are_corrected_over_all_rows_at_once():
    rows = correlations(points(6), DRAWS)
    assert [row.p_holm for row in rows] == intervals.holm([row.p_value for row in rows])
    assert max(row.p_holm / row.p_value for row in rows) == pytest.approx(8)


def test_the_same_seed_gives_the_same_rows_in_whatever_order_the_points_come():
    rows = points(7)
    for f in (correlations, differences):
        assert f(rows, DRAWS, 1) == f(rows[::-1], DRAWS, 1) != f(rows, DRAWS, 2)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("flaw", ["none", "equal diversities", "equal accuracies", "infinite loss", "missing value"])
def test_points_with_nothing_to_say_give_reasons_and_no_number(n, flaw):
    everywhere = {"equal diversities": {"diversity": 0.1}, "equal accuracies": {"accuracy": 0.5, "loss": 1.5}}
    in_one = {"infinite loss": {"loss": math.inf}, "missing value": {"diversity": None}}
    rows = [replace(row, **everywhere.get(flaw, {})) for row in points(n)]
    rows = [replace(row, **in_one.get(flaw, {})) if row.benchmark == "bench0" else row for row in rows]
    found, pairs = (f(rows, DRAWS) for f in (correlations, differences))
    json.dumps([asdict(row) for row in (*found, *pairs)], allow_nan=False)
    assert (len(found), len(pairs)) == ((8, 4) if n else (0, 0))
    for row in [*found, *pairs]:
        undefined = row.n < 3 or flaw.startswith("equal")
        assert (row.r2 is None) == undefined and (row.p_value is None) >= undefined
        assert row.notes or row.n > 3
        assert not undefined or all(getattr(row, name) is None for name in ("boot_low", "boot_high", "p_holm"))
    assert not any(row.decided for row in pairs)
