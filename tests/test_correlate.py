"""R² of diversity against performance: published fixtures, closed forms, and input with nothing to say."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxdiv import correlate, published
from jaxdiv.errors import InputError

DIVERSITY = [0.247, 0.271, 0.393, 0.470, 0.533, 0.537, 0.546]
PUBLISHED = {
    "maml_5": ([0.2019, 0.3697, 0.5679, 0.8206, 0.8571, 0.8961, 0.9065], 0.9735),
    "maml_10": ([0.2015, 0.3737, 0.5707, 0.8358, 0.8721, 0.9052, 0.9109], 0.9714),
    "pt": ([0.2002, 0.3776, 0.5712, 0.8167, 0.8964, 0.9253, 0.9825], 0.9797),
}


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
                            "accuracy": accuracy,
                            "accuracy_ci": 0.01,
                            "loss": 2 - accuracy,
                            "loss_ci": 0.02,
                            "train_images": 100,
                            "train_classes": 10,
                        }
                    )
    return rows


@pytest.mark.parametrize("method", PUBLISHED)
def test_printed_points_of_the_one_dimensional_study_give_their_r2_to_four_digits(method):
    accuracy, r2 = PUBLISHED[method]
    assert round(correlate.r_squared(DIVERSITY, accuracy).r2, 4) == r2


def test_line_is_the_degree_one_least_squares_fit():
    found = correlate.r_squared(DIVERSITY, PUBLISHED["pt"][0])
    slope, intercept = np.polyfit(DIVERSITY, PUBLISHED["pt"][0], 1)
    # polyfit solves by SVD, ours by centred sums: equal to rounding in float64.
    np.testing.assert_allclose([found.slope, found.intercept], [slope, intercept], rtol=1e-12)


def test_fisher_interval_of_the_papers_best_r_spans_from_point_eleven_to_point_eighty_nine():
    low, high = correlate.r_interval(0.645, 12)
    assert (round(low, 2), round(high, 2)) == (0.11, 0.89)
    # R² = .416 over 12 benchmarks may thus be anything from .01 to .79.
    assert tuple(round(v, 2) for v in correlate.r2_interval(0.645, 12)) == (0.01, 0.79)


def test_interval_agrees_with_scipy():
    x, y = np.random.default_rng(1).normal(size=(2, 12))
    found = stats.pearsonr(x, y)
    ours = correlate.r_interval(float(found.statistic), 12)
    np.testing.assert_allclose(ours, found.confidence_interval(0.95), rtol=1e-12)


def test_r2_interval_starts_at_zero_where_the_interval_of_r_holds_zero():
    low, high = correlate.r2_interval(-0.2, 12)
    assert low == 0.0
    assert high == max(v * v for v in correlate.r_interval(-0.2, 12))


def test_negative_correlation_keeps_its_sign_and_an_ordered_interval():
    found = correlate.r_squared([1, 2, 3, 4, 5], [5, 4.2, 2.9, 2.1, 1])
    assert found.r < 0 and found.slope < 0
    assert 0 < found.low < found.r2 < found.high < 1


def test_smallest_significant_r2_has_a_p_value_of_five_percent():
    r = math.sqrt(correlate.smallest_significant_r2(12))
    t = r * math.sqrt(10 / (1 - r * r))
    assert 2 * stats.t.sf(t, 10) == pytest.approx(0.05, abs=1e-12)
    assert correlate.smallest_significant_r2(2) is None


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_points_are_undefined_in_words(n):
    found = correlate.r_squared(list(range(n)), list(range(n)))
    assert found[:7] == (None,) * 7
    assert found.n == n and f"{n} point" in found.note


def test_three_points_have_a_value_but_no_knowledge_of_its_interval():
    found = correlate.r_squared([1, 2, 3], [1, 3, 2])
    assert found.r2 == pytest.approx(0.25)
    assert (found.low, found.high) == (0.0, 1.0)
    assert "3 points" in found.note


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_no_variance_is_undefined_in_words_not_nan(constant):
    same, different = [constant] * 4, [1.0, 2.0, 3.0, 5.0]
    assert correlate.r_squared(same, different).r2 is None
    assert "same x" in correlate.r_squared(same, different).note
    flat = correlate.r_squared(different, same)
    assert flat.r2 is None and flat.slope == 0 and "same y" in flat.note


def test_rounding_noise_is_not_variance():
    noisy = [0.3 + 1e-16 * i for i in range(5)]
    assert correlate.r_squared([1, 2, 3, 4, 5], noisy).r2 is None


def test_points_on_a_line_have_a_point_interval():
    found = correlate.r_squared([1, 2, 3, 4], [2, 4, 6, 8])
    assert found.r2 == pytest.approx(1) and found.low == pytest.approx(1) and found.high == pytest.approx(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_input_that_is_not_finite_is_refused(bad):
    with pytest.raises(InputError, match="not finite"):
        correlate.r_squared([1, 2, bad], [1, 2, 3])
    with pytest.raises(InputError, match="equal length"):
        correlate.r_squared([1, 2, 3], [1, 2])


def test_correlations_give_each_method_metric_and_test_set_once():
    rows = correlate.correlations(points(methods=tuple(correlate.METHODS)))
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


def test_band_of_the_trend_equals_the_textbook_interval_of_the_mean():
    x, y = np.random.default_rng(2).normal(size=(2, 9))
    band = correlate.trend_band(x, y, [0.0])
    fit = stats.linregress(x - 0.0, y)
    # At x = 0 the line is its intercept, so the band is the intercept's own t interval.
    half = stats.t.ppf(0.975, 7) * fit.intercept_stderr
    np.testing.assert_allclose([band.value[0], band.low[0], band.high[0]], fit.intercept + np.array([0, -half, half]))


def test_two_points_have_a_line_without_band_and_one_has_none():
    assert correlate.trend_band([1, 2], [1, 2], [3]).low is None
    assert correlate.trend_band([1], [1], [3]) is None
    assert correlate.trend_band([1, 1, 1], [1, 2, 3], [3]) is None


def test_published_values_are_found_under_any_spelling():
    assert published.paper_diversity("cifar_fs", "resnet18") == (0.106, 0.00166)
    assert published.paper_diversity("flowers", "ResNet-34") == (0.117, 0.00234)
    assert published.paper_diversity("my_photos", "resnet18") is None
    assert published.paper_diversity("mio", "resnet50") is None
    assert set(published.PAPER_TABLE2) == set(correlate.METHODS)
