"""Closed forms of correlations against published examples, SciPy, and simulated studies whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxdiv.stats import intervals
from jaxdiv.stats.resampling import row_pearson, row_spearman


def bivariate(seed, studies, n, r):
    """(2, studies, n) of normal pairs with correlation r."""
    x, e = np.random.default_rng(seed).standard_normal((2, studies, n))
    return np.stack([x, r * x + math.sqrt(1 - r * r) * e])


def test_williams_t_of_the_published_example():
    # Silver, Hittner & May 2006 (the program depcor): r .3 and .4, .5 between them, 100 points.
    t, p = intervals.williams(0.3, 0.4, 0.5, 100)
    assert (round(t, 4), round(p, 4)) == (-1.0767, 0.2843)


def test_difference_of_overlapping_correlations_has_zous_published_interval():
    # Zou 2007, the example of overlapping correlations: r .396 and .179, .088 between them, 66 points.
    ends = [(r, *intervals.r_interval(r, 66)) for r in (0.396, 0.179)]
    found = intervals.difference_interval(*ends, intervals.overlap(0.396, 0.179, 0.088))
    assert tuple(round(v, 3) for v in found) == (-0.093, 0.517)


def test_fishers_difference_of_the_textbook_and_of_the_papers_best_against_pre_training():
    # Guilford & Fruchter 1978: .92 over 60 points against .82 over 50.
    assert round(intervals.fisher_difference(0.92, 0.82, 60, 50)[0], 2) == 2.19
    z, p = intervals.fisher_difference(math.sqrt(0.416), math.sqrt(0.149), 12, 12)
    assert (round(z, 2), round(p, 2)) == (0.76, 0.45)


def test_overlap_is_the_correlation_that_simulated_correlations_have():
    n, studies = 200, 4000
    cross, r1, r2 = 0.6, 0.5, 0.3
    root = np.linalg.cholesky([[1, r1, r2], [r1, 1, cross], [r2, cross, 1]])
    x, y, other = np.einsum("ab,bsn->asn", root, np.random.default_rng(0).standard_normal((3, studies, n)))
    simulated = np.corrcoef(row_pearson(x, y), row_pearson(x, other))[0, 1]
    # A correlation over 4,000 has standard error .016·(1-.26); the formula is for large n, the rest is O(1/n).
    assert intervals.overlap(r1, r2, cross) == pytest.approx(simulated, abs=0.04)


@pytest.mark.parametrize("case", [(0.5, 0.3, 0.99, 3), (0.5, 0.5, 1.0, 12), (1.0, 1.0, 1.0, 12)])
def test_a_comparison_without_residual_or_freedom_is_undefined_not_nan(case):
    assert intervals.williams(*case) == (None, None)
    assert math.isfinite(intervals.overlap(*case[:3]))


def test_fishers_difference_is_undefined_on_a_line_or_with_three_points():
    assert intervals.fisher_difference(1.0, 0.5, 12, 12) == (None, None)
    assert intervals.fisher_difference(0.9, 0.5, 3, 12) == (None, None)


@pytest.mark.parametrize("r", [-0.9, 0.0, 0.645])
def test_p_value_of_r_is_that_of_scipys_pearsonr(r):
    x = np.arange(12.0) - 5.5
    noise = np.random.default_rng(0).normal(size=12)
    noise -= noise.mean() + (noise @ x) / (x @ x) * x
    y = r * x / np.linalg.norm(x) + math.sqrt(1 - r * r) * noise / np.linalg.norm(noise)
    assert intervals.p_of_r(r, 12) == pytest.approx(stats.pearsonr(x, y).pvalue, rel=1e-9)
    assert intervals.p_of_r(r, 2) is None and intervals.p_of_r(1.0, 3) == 0


def test_fisher_interval_of_the_papers_best_r_spans_from_point_eleven_to_point_eighty_nine():
    low, high = intervals.r_interval(0.645, 12)
    assert (round(low, 2), round(high, 2)) == (0.11, 0.89)
    # R² = .416 over 12 benchmarks may be anything from .04 to .79.
    assert tuple(round(v, 2) for v in intervals.r2_interval(0.645, 12)) == (0.04, 0.79)


def test_interval_agrees_with_scipy():
    x, y = np.random.default_rng(1).normal(size=(2, 12))
    found = stats.pearsonr(x, y)
    ours = intervals.r_interval(float(found.statistic), 12)
    np.testing.assert_allclose(ours, found.confidence_interval(0.95), rtol=1e-12)


def test_r2_interval_starts_at_zero_where_the_interval_of_r_holds_zero():
    low, high = intervals.r2_interval(-0.2, 12)
    assert low == 0.0
    assert high == max(v * v for v in intervals.r_interval(-0.2, 12))


def test_holm_adjusts_by_its_definition_and_passes_over_what_is_undefined():
    found = intervals.holm([0.01, None, 0.04, 0.03, 0.005])
    # Sorted: .005·4, .01·3, .03·2, .04·1, none below the one before it.
    assert found == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06), pytest.approx(0.02)]
    assert intervals.holm([]) == [] and intervals.holm([None]) == [None] and intervals.holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_rejects_what_the_step_down_procedure_rejects():
    p = np.random.default_rng(0).uniform(0, 0.03, 12).tolist()
    rejected = set()
    for step, i in enumerate(np.argsort(p)):
        if p[i] > 0.05 / (12 - step):
            break
        rejected.add(int(i))
    assert 0 < len(rejected) < 12
    assert {i for i, q in enumerate(intervals.holm(p)) if q <= 0.05} == rejected


def test_spearman_interval_is_fishers_z_with_bonett_and_wrights_error():
    low, high = intervals.spearman_interval(0.6, 12)
    half = 1.959964 * math.sqrt((1 + 0.18) / 9)
    np.testing.assert_allclose(np.arctanh([low, high]), math.atanh(0.6) + np.array([-half, half]), rtol=1e-6)
    assert intervals.spearman_interval(0.5, 3) == (-1.0, 1.0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_equal_ranks_do_not_make_spearmans_interval_a_point(sign):
    low, high = sorted(sign * v for v in intervals.spearman_interval(sign * 1.0, 8))
    assert 0.5 < low < 0.95 and high > low


def test_correction_for_attenuation_divides_by_the_reliability_and_stops_at_one():
    r2, low, high = intervals.corrected(0.6, 30, 0.9)
    plain_low, plain_high = intervals.r2_interval(0.6, 30)
    assert (r2, low, high) == pytest.approx((0.4, plain_low / 0.9, plain_high / 0.9))
    assert intervals.corrected(0.95, 12, 0.8)[::2] == (1.0, 1.0)


def test_reliability_is_the_share_of_variance_that_is_not_noise():
    rng = np.random.default_rng(0)
    found = [
        intervals.reliability(v, np.full(50, 0.5))
        for v in rng.normal(size=(400, 50)) + 0.5 * rng.normal(size=(400, 50))
    ]
    # True 1/(1+.25); a sample variance over 50 has a relative sd of .2, and 400 are averaged.
    assert np.mean(found) == pytest.approx(0.8, abs=0.01)
    assert intervals.reliability(np.array([0.1, 0.2, 0.3]), np.full(3, 1.0)) == 0.0


STUDIES = 1500
# A share that is truly .95 lies within ±.017 of it in 1,500 studies with probability .998.
SLACK = 0.017


@pytest.mark.parametrize("n", [8, 12, 30])
@pytest.mark.parametrize("r2", [0.0, 0.15, 0.8])
def test_default_intervals_cover_the_truth_in_95_of_100_studies(n, r2):
    r = math.sqrt(r2)
    x, y = bivariate(n, STUDIES, n, r)
    rank = 6 / math.pi * math.asin(r / 2)
    held = np.zeros(3)
    for found, ranked in zip(row_pearson(x, y), row_spearman(x, y), strict=True):
        ends = [intervals.r_interval(found, n), intervals.spearman_interval(ranked, n), intervals.r2_interval(found, n)]
        held += [low <= truth <= high for truth, (low, high) in zip((r, rank, r2), ends, strict=True)]
    shares = held / STUDIES
    assert abs(shares[0] - 0.95) < SLACK
    assert 0.93 - SLACK < shares[1] < 0.97 + SLACK
    assert abs(shares[2] - 0.95) < SLACK


def test_r2_interval_covers_95_of_100_where_fishers_z_is_normal_and_begins_at_0_where_that_of_r_holds_0():
    n, root = 12, 3.0
    z = np.linspace(0.002, 12, 4000)
    ends = np.arctanh(np.sqrt([intervals.r2_interval(math.tanh(v / root), n) for v in z])) * root
    assert (np.diff(ends, axis=0) >= -1e-9).all()  # both ends rise with |r|
    for mean in (0.0, 0.1, 0.5, 1.0, 1.7, 2.0, 2.5, 3.0, 5.0):
        density = stats.norm.pdf(z - mean) + stats.norm.pdf(z + mean)
        held = (ends[:, 0] <= mean) & (mean <= ends[:, 1])
        assert (density * held).sum() * (z[1] - z[0]) == pytest.approx(0.95, abs=0.004), mean
    for v, (low, _) in zip(z, ends, strict=True):
        assert (low == 0) == (intervals.r_interval(math.tanh(v / root), n)[0] <= 0)


def test_a_difference_of_two_r2_is_covered_and_equal_ones_are_told_apart_in_at_most_5_of_100():
    n, r2 = 12, 0.42
    rng = np.random.default_rng(7)
    x, e, f = rng.standard_normal((3, STUDIES, n))
    y, other = (math.sqrt(r2) * x + math.sqrt(1 - r2) * v for v in (e, 0.8 * e + 0.6 * f))
    held = rejected = 0
    for r1, r2_, r12 in zip(row_pearson(x, y), row_pearson(x, other), row_pearson(y, other), strict=True):
        a, b, cross = abs(r1), abs(r2_), r12 * math.copysign(1, r1 * r2_)
        ends = [(v * v, *intervals.squared(*intervals.r_interval(v, n))) for v in (a, b)]
        low, high = intervals.difference_interval(*ends, intervals.overlap(a, b, cross))
        held += low <= 0 <= high
        rejected += intervals.williams(a, b, cross, n)[1] < 0.05
    assert abs(held / STUDIES - 0.95) < SLACK + 0.01
    assert 0.02 < rejected / STUDIES < 0.05 + SLACK
