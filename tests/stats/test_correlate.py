"""R² of diversity against performance: published fixtures, closed forms, and input with nothing to say."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from jaxdiv.errors import InputError
from jaxdiv.methods.registry import METHODS
from jaxdiv.report import published
from jaxdiv.stats import correlate, inference


def points(benchmarks=6, methods=("pt", "ho_maml_10"), test_sets=("own", "fixed"), seeds=1):
    """Made-up rows of points.csv with a positive slope and a little scatter."""
    rng = np.random.default_rng(0)
    rows = []
    for method in methods:
        for test_set in test_sets:
            for b in range(benchmarks):
                for seed in range(seeds):
                    accuracy = 0.4 + 0.5 * b / benchmarks + 0.05 * rng.normal()
                    rows.append(
                        {
                            "benchmark": f"bench{b}",
                            "method": method,
                            "seed": seed,
                            "test_set": test_set,
                            "diversity": 0.1 + 0.01 * b,
                            "diversity_ci": 0.002,
                            "accuracy": accuracy,
                            "accuracy_ci": 0.01,
                            "loss": 2 - accuracy,
                            "loss_ci": 0.02,
                            "train_images": 100,
                            "train_classes": 10,
                        }
                    )
    return rows


def test_correlations_give_each_method_metric_and_test_set_once():
    rows = correlate.correlations(points(methods=tuple(METHODS)))
    assert len(rows) == 5 * 2 * 2
    assert len({(r["method"], r["metric"], r["test_set"]) for r in rows}) == 20
    assert all(r["n"] == 6 and r["note"] == "" for r in rows)


def test_seeds_of_a_benchmark_are_averaged_before_correlating():
    rows = points(seeds=3, methods=("pt",), test_sets=("own",))
    found = correlate.correlations(rows)[0]
    by_benchmark = np.array([r["accuracy"] for r in rows]).reshape(6, 3).mean(axis=1)
    expected = np.corrcoef(0.1 + 0.01 * np.arange(6), by_benchmark)[0, 1] ** 2
    assert found["n"] == 6
    assert found["r2"] == pytest.approx(expected, rel=1e-12)


def test_order_of_the_points_changes_nothing():
    rows = points(seeds=3)
    for a, b in zip(correlate.correlations(rows), correlate.correlations(rows[::-1]), strict=True):
        assert (a["method"], a["metric"], a["test_set"]) == (b["method"], b["metric"], b["test_set"])
        assert a["r2"] == pytest.approx(b["r2"], rel=1e-12)


def test_a_diverged_benchmark_is_left_out_by_name_and_the_rest_is_kept():
    rows = points(methods=("pt",), test_sets=("own",), seeds=2)
    rows[0]["loss"] = math.inf
    accuracy, loss = correlate.correlations(rows)
    assert (accuracy["n"], accuracy["note"]) == (6, "")
    assert loss["n"] == 5 and "bench0" in loss["note"]


def test_equal_diversities_are_said_in_the_studys_words():
    rows = [r | {"diversity": 0.1} for r in points(methods=("pt",), test_sets=("own",))]
    assert "same diversity" in correlate.correlations(rows)[0]["note"]
    assert correlate.correlations([]) == []


def test_published_values_are_found_under_any_spelling():
    assert published.paper_diversity("cifar_fs", "resnet18") == (0.106, 0.00166)
    assert published.paper_diversity("flowers", "ResNet-34") == (0.117, 0.00234)
    assert published.paper_diversity("my_photos", "resnet18") is None
    assert published.paper_diversity("mio", "resnet50") is None
    assert set(published.PAPER_TABLE2) == set(METHODS)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({}, ""),
        ({"probe": "resnet34"}, ""),
        ({"weights": "/somewhere/resnet18-f37072fd.pth"}, ""),  # its hash is checked where it is read
        ({"estimator": "exact"}, "estimator reference (here exact)"),
        ({"augment": False}, "augmented tasks (here not)"),
        ({"interval": None}, "interval iid_pairs (here unknown)"),
        ({"pixels": 64}, "84 px (here 64)"),
        ({"shots": 1}, "shots 5 (here 1)"),
        ({"probe": "resnet50"}, "probe resnet18 or resnet34 (here resnet50)"),
        ({"weights": ""}, "here random"),
        ({"weights": "mine.safetensors"}, "here mine.safetensors"),
        ({"probe": "resnet34", "weights": "resnet18-f37072fd.pth"}, "resnet34-b627a593.pth"),
    ],
)
def test_a_diversity_is_measured_as_the_papers_only_with_every_setting_of_it(other, reason):
    row = {"estimator": "reference", "head": "adam", "distance": "task2vec", "interval": "iid_pairs"}
    row |= {"augment": True, "weights": "imagenet", "probe": "resnet18", "pixels": 84}
    row |= {"ways": 5, "shots": 5, "queries": 15}
    found = published.unlike(row | other)
    assert published.measured_alike(row | other) == (not reason) == (not found)
    assert len(found) <= 1 and reason in "".join(found)
    assert not published.measured_alike(row | {"own": True})  # a user's own "flowers" are not the paper's
    assert not published.measured_alike({"benchmark": "dtd", "probe": "resnet18", "diversity": 0.1})


DRAWS = 400  # of the bootstrap, where its ends are not what is tested


def made_up(benchmarks=12, **given):
    return correlate.correlations(points(benchmarks, methods=("pt",), test_sets=("own",), **given), DRAWS)[0]


def test_a_row_has_every_column_and_only_what_json_can_hold():
    rows, pairs = (f(points(8, seeds=2), DRAWS) for f in (correlate.correlations, correlate.differences))
    assert all(tuple(row) == correlate.CORRELATION_COLUMNS and None not in row.values() for row in rows)
    assert all(tuple(row) == correlate.DIFFERENCE_COLUMNS and None not in row.values() for row in pairs)
    json.dumps([rows, pairs], allow_nan=False)


def test_a_half_width_over_few_tasks_is_students_and_so_a_smaller_error():
    rows = [r | {"diversity_ci": 0.03, "diversity_tasks": 6, "tasks": 4} for r in points(12, ("pt",), ("own",))]
    x, y = (np.array([r[key] for r in rows]) for key in ("diversity", "accuracy"))
    by_hand = [(half / stats.t.ppf(0.975, n - 1)) ** 2 / v.var(ddof=1) for half, n, v in ((0.03, 6, x), (0.01, 4, y))]
    found = correlate.correlations(rows, DRAWS)[0]["reliability"]
    assert found == pytest.approx((1 - by_hand[0]) * (1 - by_hand[1]))


def test_a_benchmark_that_lost_a_seed_is_left_out_by_name():
    rows = points(6, ("pt",), ("own",), seeds=2)
    row = correlate.correlations([r for r in rows if (r["benchmark"], r["seed"]) != ("bench2", 1)], DRAWS)[0]
    assert row["n"] == 5 and "bench2" in row["note"]


def test_on_the_fixed_test_set_only_the_seeds_spread_is_noise():
    """All benchmarks meet the same tasks there: how wide accuracy's interval over tasks is changes nothing."""
    rows = [r | {"diversity_ci": 0.001} for r in points(8, ("pt",), ("fixed",), seeds=3)]
    usual, wide = (correlate.correlations([r | {"accuracy_ci": ci} for r in rows], DRAWS)[0] for ci in (0.01, 0.5))
    assert usual["reliability"] == wide["reliability"] and 0 < usual["reliability"] < 1
    single = correlate.correlations([r for r in rows if r["seed"] == 0], DRAWS)[0]
    assert single["reliability"] is None and single["boot_low"] is not None


def test_estimates_and_their_tests_are_scipys():
    found, x = made_up(), 0.1 + 0.01 * np.arange(12)
    y = np.array([row["accuracy"] for row in points(12, ("pt",), ("own",))])
    fit, rank = stats.linregress(x, y), stats.spearmanr(x, y)
    half = stats.t.ppf(0.975, 10) * fit.stderr
    expected = [fit.rvalue, fit.slope, fit.slope - half, fit.slope + half, rank.statistic]
    names = ("r", "slope", "slope_low", "slope_high", "spearman")
    np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-10)
    assert found["p_value"] == pytest.approx(stats.pearsonr(x, y).pvalue)
    # Of 400 random orders none is as good as rank and r here: the observed one alone counts.
    assert found["p_permutation"] == found["spearman_p"] == pytest.approx(1 / (DRAWS + 1))


def test_every_interval_holds_its_estimate_and_is_no_point():
    row = made_up()
    ends = {"r2": ("ci", "boot", "loo"), "slope": ("slope", "boot_slope"), "r": ("r",)}
    ends |= {"spearman": ("spearman", "boot_spearman"), "r2_true": ("true",)}
    for name, intervals in ends.items():
        for interval in intervals:
            assert row[f"{interval}_low"] < row[name] < row[f"{interval}_high"], interval


def test_the_benchmark_that_moves_r2_most_is_named():
    rows = points(12, ("pt",), ("own",))
    rows[11]["accuracy"] = 0.0  # the most diverse benchmark, far below the line
    found = correlate.correlations(rows, DRAWS)[0]
    rest = correlate.correlations(rows[:11], DRAWS)[0]
    assert found["influential"] == "bench11"
    assert found["influential_r2"] == found["loo_high"] == pytest.approx(rest["r2"]) and rest["r2"] > found["r2"] + 0.3


def test_errors_of_a_point_widen_the_bootstrap_and_raise_the_corrected_r2():
    rows = points(12, ("pt",), ("own",))
    noisy = [row | {"accuracy_ci": 0.15, "diversity_ci": 0.03} for row in rows]
    a, b = (correlate.correlations(given, 2000)[0] for given in (rows, noisy))
    assert (a["r2"], a["ci_low"], a["ci_high"]) == (b["r2"], b["ci_low"], b["ci_high"])
    assert b["boot_high"] - b["boot_low"] > a["boot_high"] - a["boot_low"]
    x, y = (np.array([row[name] for row in rows]) for name in ("diversity", "accuracy"))
    z = stats.norm.ppf(0.975)
    share = (1 - (0.03 / z) ** 2 / x.var(ddof=1)) * (1 - (0.15 / z) ** 2 / y.var(ddof=1))
    assert b["reliability"] == pytest.approx(share)
    assert b["r2_true"] == pytest.approx(min(1, b["r2"] / share)) and b["r2_true"] > a["r2_true"]


def test_seeds_that_disagree_make_performance_less_reliable():
    rows = points(12, ("pt",), ("own",), seeds=2)
    agreed = [row | {"accuracy": rows[i - i % 2]["accuracy"]} for i, row in enumerate(rows)]
    a, b = (correlate.correlations(given, DRAWS)[0]["reliability"] for given in (agreed, rows))
    assert b < a < 1


def test_unknown_errors_leave_the_correction_undefined_and_the_rest_whole():
    rows = [row | {"diversity_ci": None} for row in points(8, ("pt",), ("own",))]
    found = correlate.correlations(rows, DRAWS)[0]
    assert found["reliability"] is found["r2_true"] is found["true_low"] is None
    assert found["boot_low"] is not None


def test_errors_as_large_as_the_spread_are_said_and_not_divided_by():
    rows = [row | {"diversity_ci": 0.5} for row in points(8, ("pt",), ("own",))]
    found = correlate.correlations(rows, DRAWS)[0]
    assert (found["reliability"], found["r2_true"]) == (0.0, None) and "as large as their spread" in found["note"]


def test_p_values_are_corrected_over_all_rows_at_once():
    rows = correlate.correlations(points(6), DRAWS)
    assert [row["p_holm"] for row in rows] == inference.holm([row["p_value"] for row in rows])
    assert max(row["p_holm"] / row["p_value"] for row in rows) == pytest.approx(8)


def test_the_same_seed_gives_the_same_rows_in_whatever_order_the_points_come():
    rows = points(7)
    for f in (correlate.correlations, correlate.differences):
        assert f(rows, DRAWS, 1) == f(rows[::-1], DRAWS, 1) != f(rows, DRAWS, 2)


def two_methods(first, second, n=12):
    """Points of two methods whose accuracies are functions of the benchmark's number and noise of their own."""
    noise = np.random.default_rng(5).normal(size=(2, n))
    rows = []
    for method, performance, e in zip(("pt", "ho_maml_10"), (first, second), noise, strict=True):
        for b in range(n):
            point = {"benchmark": f"b{b:02}", "method": method, "seed": 0, "test_set": "own", "diversity": 0.01 * b}
            rows.append(point | {"accuracy": performance(b, e[b]), "accuracy_ci": 0.01, "diversity_ci": 0.002})
    return rows


def test_a_method_that_follows_diversity_is_told_from_one_that_does_not():
    row = correlate.differences(two_methods(lambda b, e: e, lambda b, e: b + 0.5 * e), DRAWS)[0]
    assert (row["method"], row["other"], row["metric"]) == ("ho_maml_10", "pt", "accuracy")
    assert row["difference"] == pytest.approx(row["r2"] - row["other_r2"]) and row["decided"]
    assert 0 < row["low"] < row["difference"] < row["high"] <= 1 and row["boot_low"] > 0 and row["p_holm"] < 0.01


def test_a_difference_whose_interval_holds_zero_is_undecided_whatever_its_p_value():
    # Williams' test is sharp where two methods' values hardly differ; the interval of the difference is not.
    shared = np.random.default_rng(1).normal(size=8)
    first, second = (lambda b, e: b + shared[b] + 1e-3 * e), (lambda b, e: b + 1.3 * shared[b] + 1e-3 * e)
    row = correlate.differences(two_methods(first, second, n=8), DRAWS)[0]
    assert row["p_holm"] < 0.001 and row["low"] < 0 < row["high"]
    assert not row["decided"]


def test_equal_r2_of_opposite_sign_do_not_differ():
    row = correlate.differences(two_methods(lambda b, e: b + e, lambda b, e: -b + e), DRAWS)[0]
    assert row["low"] < 0 < row["high"] and row["p_value"] > 0.05 and not row["decided"]
    # Against the signed test, which would call r = .9 and r = -.9 different.
    assert inference.williams(math.sqrt(row["r2"]), -math.sqrt(row["other_r2"]), -0.9, 12)[1] < 0.001


def test_two_equal_methods_have_a_difference_of_nothing_in_words():
    row = correlate.differences(two_methods(lambda b, e: b % 5, lambda b, e: b % 5), DRAWS)[0]
    assert row["difference"] == 0 and row["low"] < 0 < row["high"]
    assert row["p_value"] is None and not row["decided"] and "nothing to test" in row["note"]


def test_differences_are_over_the_benchmarks_that_both_methods_have():
    rows = points(8, test_sets=("own",))
    rows = [r for r in rows if (r["method"], r["benchmark"]) not in {("pt", "bench0"), ("ho_maml_10", "bench7")}]
    row = correlate.differences(rows, DRAWS)[0]
    assert row["n"] == 6 and "bench0, bench7" in row["note"]
    both = [r for r in rows if r["benchmark"] not in ("bench0", "bench7")]
    alone = {r["method"]: r["r2"] for r in correlate.correlations(both, DRAWS) if r["metric"] == "accuracy"}
    assert (row["r2"], row["other_r2"]) == pytest.approx((alone["ho_maml_10"], alone["pt"]))


def test_differences_are_corrected_within_a_metric_and_test_set():
    rows = correlate.differences(points(6, methods=tuple(METHODS)), DRAWS)
    assert len(rows) == 10 * 2 * 2
    for metric, test_set in {(r["metric"], r["test_set"]) for r in rows}:
        mine = [r for r in rows if (r["metric"], r["test_set"]) == (metric, test_set)]
        assert [r["p_holm"] for r in mine] == inference.holm([r["p_value"] for r in mine])
        assert all(r["decided"] == (r["p_holm"] < 0.05 and not r["low"] <= 0 <= r["high"]) for r in mine)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("flaw", ["none", "equal diversities", "equal accuracies", "infinite loss", "missing value"])
def test_points_with_nothing_to_say_give_words_and_no_number_that_is_none(n, flaw):
    rows = points(n, seeds=1)
    for row in rows:
        if flaw == "equal diversities":
            row["diversity"] = 0.1
        if flaw == "equal accuracies":
            row |= {"accuracy": 0.5, "loss": 1.5}
        if row["benchmark"] == "bench0" and flaw == "infinite loss":
            row["loss"] = math.inf
        if row["benchmark"] == "bench0" and flaw == "missing value":
            row["diversity"] = None
    found, pairs = (f(rows, DRAWS) for f in (correlate.correlations, correlate.differences))
    json.dumps([found, pairs], allow_nan=False)
    assert (len(found), len(pairs)) == ((8, 4) if n else (0, 0))
    for row in [*found, *pairs]:
        undefined = row["n"] < 3 or flaw.startswith("equal")
        assert (row["r2"] is None) == undefined and (row["p_value"] is None) >= undefined
        assert row["note"] or row["n"] > 3
        assert not undefined or all(row[name] is None for name in ("boot_low", "boot_high", "p_holm"))
    assert not any(row["decided"] for row in pairs)


def test_a_method_without_a_test_set_is_compared_to_nothing_in_words():
    rows = [r for r in points(5) if (r["method"], r["test_set"]) != ("pt", "fixed")]
    fixed = [r for r in correlate.differences(rows, DRAWS) if r["test_set"] == "fixed"]
    assert len(fixed) == 2 and all(r["n"] == 0 and "0 benchmarks" in r["note"] for r in fixed)


def test_the_papers_table_differs_from_zero_twice_and_never_once_corrected():
    rows, _ = correlate.from_summaries(published.PAPER_TABLE2, published.PAPER_BENCHMARKS)
    assert len(rows) == 10 and all(tuple(row) == correlate.CORRELATION_COLUMNS for row in rows)
    found = {(row["method"], row["metric"]) for row in rows if row["p_value"] < 0.05}
    assert found == {("ho_maml_5", "accuracy"), ("ho_maml_10", "accuracy")}
    assert not any(row["p_holm"] < 0.05 for row in rows)
    by_name = {(row["method"], row["metric"]): row for row in rows}
    assert round(by_name["pt", "accuracy"]["p_value"], 2) == 0.22
    best = by_name["ho_maml_10", "accuracy"]
    assert [round(best[name], 2) for name in ("r_low", "r_high", "ci_low", "ci_high")] == [0.11, 0.89, 0.04, 0.79]
    assert best["boot_low"] is best["slope"] is best["influential"] is None


def test_the_papers_best_against_pre_training_is_undecided():
    _, pairs = correlate.from_summaries(published.PAPER_TABLE2, published.PAPER_BENCHMARKS)
    row = next(p for p in pairs if (p["method"], p["other"], p["metric"]) == ("ho_maml_10", "pt", "accuracy"))
    assert (round(row["statistic"], 2), round(row["p_value"], 2)) == (0.76, 0.45)
    assert row["difference"] == pytest.approx(0.416 - 0.149) and row["low"] < 0 < row["difference"] < row["high"]
    assert len(pairs) == 20 and not any(p["decided"] for p in pairs)


def test_summaries_of_few_benchmarks_or_of_no_r2_are_said():
    rows, pairs = correlate.from_summaries({"pt": {"accuracy": 1.0}, "fo_maml_5": {"accuracy": 0.2}}, 3)
    json.dumps([rows, pairs], allow_nan=False)
    assert (rows[1]["ci_low"], rows[1]["ci_high"]) == (0.0, 1.0) and "say nothing" in rows[1]["note"]
    assert pairs[0]["p_value"] is None and not pairs[0]["decided"]
    with pytest.raises(InputError, match="between 0 and 1"):
        correlate.from_summaries({"pt": {"accuracy": 1.2}}, 12)
