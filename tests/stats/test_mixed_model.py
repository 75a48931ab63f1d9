"""The mixed model of benchmarks that share sets, against closed forms of balanced designs and REML's formula."""

import numpy as np
import pytest
from scipy import optimize, stats

from jaxdiv.stats.intervals import r_interval
from jaxdiv.stats.mixed_model import mixed_line, reml

BLOCKS = np.kron(np.eye(6), np.ones((5, 1)))  # six sets with five benchmarks each, none of two sets


def overlapping(rng, n=30, sets=6):
    """Benchmarks of one to three sets in equal shares."""
    shares = np.zeros((n, sets))
    for i in range(n):
        used = rng.choice(sets, 1 + i % 3, replace=False)
        shares[i, used] = 1 / len(used)
    return shares


def test_diversity_that_varies_within_sets_alone_has_the_within_sets_slope_and_its_exact_t_interval():
    rng = np.random.default_rng(0)
    x = np.tile([-2.0, -1, 0, 1, 2], 6)
    y = 0.3 * x + BLOCKS @ rng.normal(0, 3, 6) + rng.normal(size=30)
    design = np.column_stack([BLOCKS, x])
    slope = np.linalg.lstsq(design, y, rcond=None)[0][-1]
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    error = np.sqrt(residual @ residual / (30 - 7) / (x @ x))
    line = mixed_line(x, y, BLOCKS)
    assert line.slope == pytest.approx(slope) and line.error == pytest.approx(error, rel=1e-4)
    assert line.df == pytest.approx(23, rel=1e-3)
    assert line.p_value == pytest.approx(2 * stats.t.sf(abs(slope / error), 23), rel=1e-3)


def test_diversity_that_is_one_number_a_set_has_as_many_degrees_of_freedom_as_there_are_sets_less_two():
    rng = np.random.default_rng(1)
    x = np.repeat([0.0, 1, 2, 3, 4, 5], 5)
    y = 0.3 * x + BLOCKS @ rng.normal(0, 2, 6) + rng.normal(size=30)
    means = stats.linregress(x[::5], y.reshape(6, 5).mean(axis=1))
    line = mixed_line(x, y, BLOCKS)
    assert (line.slope, line.error) == pytest.approx((means.slope, means.stderr), rel=1e-4)
    assert line.df == pytest.approx(4, rel=1e-3)
    naive = stats.linregress(x, y)
    assert naive.stderr < 0.7 * line.error  # what a test of 30 independent benchmarks would take it for


def test_variances_of_overlapping_sets_maximise_the_restricted_likelihood():
    rng = np.random.default_rng(2)
    shares, x = overlapping(rng), rng.normal(size=30)
    y = x + shares @ rng.normal(0, 2, 6) + rng.normal(size=30)
    design = np.column_stack([np.ones(30), x])

    def criterion(logs):
        covariance = np.exp(logs[0]) * shares @ shares.T + np.exp(logs[1]) * np.eye(30)
        inverse = np.linalg.inv(covariance)
        middle = design.T @ inverse @ design
        residual = y - design @ np.linalg.solve(middle, design.T @ inverse @ y)
        return np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(middle)[1] + residual @ inverse @ residual

    best = optimize.minimize(criterion, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    found = reml(design, y, shares)
    assert (found.sets, found.own) == pytest.approx(tuple(np.exp(best.x)), rel=1e-3)


def test_without_an_effect_of_sets_the_interval_of_r_is_nearly_fishers():
    rng = np.random.default_rng(3)
    shares, x = overlapping(rng, 300, 60), rng.normal(size=300)
    y = 0.5 * x + rng.normal(size=300)
    line = mixed_line(x, y, shares)
    assert (line.r_low, line.r_high) == pytest.approx(r_interval(np.corrcoef(x, y)[0, 1], 300), abs=0.02)


def test_sets_with_an_effect_give_a_naive_test_false_positives_and_the_mixed_model_none_to_speak_of():
    rng = np.random.default_rng(4)
    shares, naive, mixed = overlapping(rng), [], []
    for _ in range(120):
        x, y = (shares @ rng.normal(0, 2, 6) + 0.5 * rng.normal(size=30) for _ in range(2))
        naive.append(stats.linregress(x, y).pvalue < 0.05)
        mixed.append(mixed_line(x, y, shares).p_value < 0.05)
    # 5% ± 4% of 120 studies.
    assert np.mean(naive) > 0.2 and np.mean(mixed) < 0.09


@pytest.mark.parametrize(
    "why, x, y, shares",
    [
        ("one value of diversity", np.ones(30), np.arange(30.0) ** 2, BLOCKS),
        ("one value of performance", np.arange(30.0), np.ones(30), BLOCKS),
        ("on a line", np.arange(30.0), 2 * np.arange(30.0), BLOCKS),
        ("a set a benchmark", np.arange(30.0), np.arange(30.0) ** 2, np.eye(30)),
        ("four benchmarks", np.arange(4.0), np.array([1.0, 3, 2, 5]), BLOCKS[[0, 1, 5, 6]]),
    ],
)
def test_what_leaves_no_variance_or_tells_no_set_from_a_benchmark_has_no_line(why, x, y, shares):
    assert mixed_line(x, y, shares) is None, why
