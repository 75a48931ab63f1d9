"""The bootstrap, the permutations and the leaving out against slow loops, SciPy, and simulated studies."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxdiv.stats import resampling
from jaxdiv.stats.intervals import squared


def series(n=12, r=0.6, seed=0):
    x, e = np.random.default_rng(seed).standard_normal((2, n))
    return np.stack([x, r * x + math.sqrt(1 - r * r) * e])


def test_row_statistics_are_those_of_scipy_row_by_row():
    x, y = np.random.default_rng(0).integers(0, 6, (2, 5, 9)).astype(float)  # with ties
    for i in range(5):
        fit = stats.linregress(x[i], y[i])
        assert resampling.row_pearson(x, y)[i] == pytest.approx(fit.rvalue, abs=1e-12)
        assert resampling.row_slope(x, y)[i] == pytest.approx(fit.slope, abs=1e-12)
        assert resampling.row_spearman(x, y)[i] == pytest.approx(stats.spearmanr(x[i], y[i]).statistic, abs=1e-12)


def test_resampling_keeps_a_benchmarks_values_together():
    values = series()
    sample = resampling.resample(values, np.zeros_like(values), 200, 0)
    pairs = {(float(x), float(y)) for x, y in values.T}
    assert sample.shape == (2, 200, 12)
    assert {(float(x), float(y)) for x, y in sample.reshape(2, -1).T} == pairs


def test_redrawing_adds_each_values_own_error():
    values, errors = np.zeros((2, 3)) + [[0.0, 10.0, 20.0]] * 2, np.array([[0.1, 0.2, 0.4], [0.0, 0.0, 0.0]])
    x, y = resampling.resample(values, errors, 20_000, 0)
    for value, error in zip(values[0], errors[0], strict=True):
        noise = x[np.round(x, -1) == value] - value
        # A standard deviation over about 20,000 has a relative error of .5%.
        assert noise.std() == pytest.approx(error, rel=0.02) and abs(noise.mean()) < 0.02 * error
    assert set(np.unique(y)) == set(values[1])


def test_the_same_seed_gives_the_same_draws_and_another_does_not():
    values = series()
    first, again, other = (resampling.resample(values, np.ones_like(values), 50, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_resamples_of_one_value_are_dropped_whatever_their_error():
    values = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 2.0]])
    kept = resampling.resample(values, np.full_like(values, 0.1), 30_000, 0).shape[1]
    # y varies where the third benchmark and another are drawn: 1 - 8/27 - 1/27 of the resamples.
    assert kept / 30_000 == pytest.approx(18 / 27, abs=0.01)
    assert resampling.resample(np.ones((2, 4)), np.ones((2, 4)), 100, 0).shape == (2, 0, 4)
    assert resampling.percentile_interval(np.array([])) == (None, None)


def test_percentiles_are_scipys_bootstrap():
    x, y = values = series(30)
    drawn = resampling.row_pearson(*resampling.resample(values, np.zeros_like(values), 20_000, 0))
    found = stats.bootstrap(
        (x, y),
        lambda a, b, axis: resampling.row_pearson(a, b),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        random_state=1,
    ).confidence_interval
    # Two independent draws of 20,000: the ends' own standard errors are about .003.
    assert resampling.percentile_interval(drawn) == pytest.approx((found.low, found.high), abs=0.015)


def test_expanded_percentiles_are_wider_by_students_quantile_and_the_root_of_n():
    grid = stats.norm.ppf(np.linspace(0, 1, 200_003)[1:-1])  # a bootstrap distribution that is exactly normal
    low, high = resampling.percentile_interval(grid, 12)
    assert high == pytest.approx(math.sqrt(12 / 11) * stats.t.ppf(0.975, 11), rel=1e-3) and low == pytest.approx(-high)


@pytest.mark.parametrize("n", [4, 7])
def test_permutation_p_of_few_benchmarks_counts_every_order(n):
    from itertools import permutations

    x, y = series(n, 0.7, seed=3)
    observed = abs(np.corrcoef(x, y)[0, 1])
    hits = [abs(np.corrcoef(order, y)[0, 1]) >= observed - 1e-12 for order in permutations(x)]
    assert resampling.permutation_p(x, y, 9999, 0) == pytest.approx(np.mean(hits), abs=1e-12)


def test_permutation_p_of_many_is_close_to_students_and_never_zero():
    x, y = series(12, 0.5, seed=1)
    # .49 or so, with a standard error below .005 from 9,999 permutations; normal values, so t is about right.
    assert resampling.permutation_p(x, y, 9999, 0) == pytest.approx(stats.pearsonr(x, y).pvalue, abs=0.03)
    assert resampling.permutation_p(np.arange(12.0), np.arange(12.0), 999, 0) == pytest.approx(1 / 1000)


def test_leaving_each_out_is_the_slow_loop():
    x, y = series()
    slow = [np.corrcoef(np.delete(x, i), np.delete(y, i))[0, 1] ** 2 for i in range(12)]
    np.testing.assert_allclose(resampling.leave_one_out(x, y), slow, rtol=1e-10)


def test_leaving_out_the_only_one_that_varies_is_not_a_number():
    found = resampling.leave_one_out(np.array([1.0, 1.0, 1.0, 2.0]), np.array([1.0, 2.0, 4.0, 3.0]))
    assert np.isnan(found[3]) and np.isfinite(found[:3]).all()


@pytest.mark.parametrize("r2", [0.0, 0.42])
def test_expanded_percentiles_of_r_cover_r2_where_plain_ones_of_r2_never_hold_zero(r2):
    n, studies = 12, 500
    held = plain = 0
    for seed in range(studies):
        values = series(n, math.sqrt(r2), seed)
        r = resampling.row_pearson(*resampling.resample(values, np.zeros_like(values), 400, seed))
        low, high = squared(*resampling.percentile_interval(r, n))
        held += low <= r2 <= high
        low, high = resampling.percentile_interval(r**2)
        plain += low <= r2 <= high
    # .95 to .97 by bench/correlations.py; three standard errors over 500 studies are .03.
    assert 0.92 < held / studies < 0.995
    assert plain / studies < (0.01 if r2 == 0 else 0.95)


def test_redrawing_values_that_are_already_noisy_pulls_r_down_by_the_reliability_once_more():
    n, error = 200, 0.5  # of a variance of 1.25 as measured, .25 is noise: reliability .8 each
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(n)
    values = truth + error * rng.standard_normal((2, n))
    alone, redrawn = (
        np.median(resampling.row_pearson(*resampling.resample(values, np.full((2, n), e), 2000, 0)))
        for e in (0.0, error)
    )
    assert redrawn / alone == pytest.approx(1.25 / 1.5, abs=0.02)
