"""What else could explain a correlation: partial correlations, matching, and a planted truth."""

import math

import numpy as np
import pytest
from made_up import benchmarks
from scipy import stats

from jaxdiv.stats.confounders import (
    Covariate,
    MatchedComplexity,
    Verdict,
    matched_complexity,
    partial_correlation,
    partial_correlations,
    size_or_diversity,
)
from jaxdiv.stats.rows import Note, Reason


def accuracy_row(rows):
    (row,) = [row for row in rows if row.metric == "accuracy"]
    return row


def test_partial_correlation_is_the_inverse_correlation_matrixs():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 15))
    x, y = 0.7 * z[0] + rng.normal(size=15), 0.5 * z[0] - z[1] + rng.normal(size=15)
    found = partial_correlation(x, y, {"a": z[0], "b": z[1]})
    precision = np.linalg.inv(np.corrcoef([x, y, *z]))
    expected = -precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1])
    assert found.r == pytest.approx(expected, rel=1e-10)
    t = expected * math.sqrt(11 / (1 - expected**2))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 11), rel=1e-10)
    low, high = np.tanh(np.arctanh(expected) + np.array([-1, 1]) * stats.norm.ppf(0.975) / math.sqrt(15 - 2 - 3))
    assert (found.low, found.high) == pytest.approx((low, high))
    fit = np.column_stack([np.ones(15), *z])
    left = y - fit @ np.linalg.lstsq(fit, y, rcond=None)[0]
    assert found.covariates_r2 == pytest.approx(1 - left.var() / y.var())


def test_a_covariate_that_does_not_vary_or_repeats_another_is_named_and_not_used():
    x, y, z = np.random.default_rng(1).normal(size=(3, 9))
    alone = partial_correlation(x, y, {"z": z})
    found = partial_correlation(x, y, {"constant": np.full(9, 7.0), "z": z, "twice": 2 * z + 3})
    assert found.given == ("z",) and found.notes == (Note(Reason.COVARIATES_NOT_DISTINCT, ("constant", "twice")),)
    assert found.r == pytest.approx(alone.r, rel=1e-12)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_benchmarks_for_the_covariates_are_said(n):
    x, y, z = np.random.default_rng(2).normal(size=(3, n))
    found = partial_correlation(x, y, {"z": z})
    assert found.r is None and found.p_value is None
    assert found.notes[0] == Note(Reason.TOO_MANY_COVARIATES, found.given) and found.n == n


def test_diversity_that_is_all_size_leaves_nothing_to_correlate():
    z, y = np.random.default_rng(3).normal(size=(2, 8))
    found = partial_correlation(2 * z + 1, y, {"z": z})
    assert found.r is None and found.notes == (Note(Reason.COVARIATES_ARE_DIVERSITY),)
    flat = partial_correlation(z, np.ones(8), {"y": y})
    assert flat.r is None and flat.notes == (Note(Reason.COVARIATES_ARE_PERFORMANCE),)


def test_partial_rows_take_sizes_and_omniglots_share_and_correct_for_their_number():
    rng = np.random.default_rng(4)
    images = np.exp(rng.normal(size=10))
    shares = [{"omniglot": s, "dtd": 1 - s} for s in rng.uniform(size=10)]
    rows = partial_correlations(benchmarks(rng.normal(size=10), rng.normal(size=10), images, share=shares))
    row = accuracy_row(rows)
    assert row.given == (Covariate.LOG_IMAGES, Covariate.OMNIGLOT_SHARE)
    assert row.notes == (Note(Reason.COVARIATES_NOT_DISTINCT, (Covariate.LOG_CLASSES,)),)
    assert row.r2 == pytest.approx(row.r**2) and row.n == 10
    assert [r.p_holm for r in rows] == pytest.approx([min(1, 2 * min(r.p_value for r in rows))] * 2)
    unknown = Note(Reason.COVARIATES_UNKNOWN, (Covariate.OMNIGLOT_SHARE,))
    assert unknown in partial_correlations(benchmarks([1, 2, 3, 4.5], [1, 2, 2, 3]))[0].notes


def test_omniglots_share_is_no_covariate_where_no_benchmark_has_any():
    rng = np.random.default_rng(17)
    shares = [{"dtd": 1.0}] * 8
    images = np.exp(rng.normal(size=8))
    for row in partial_correlations(benchmarks(rng.normal(size=8), rng.normal(size=8), images, share=shares)):
        assert Covariate.OMNIGLOT_SHARE not in {*row.given, *(name for note in row.notes for name in note.names)}


def test_where_no_covariate_varies_there_is_no_partial_correlation_but_a_reason():
    rng = np.random.default_rng(18)
    for row in partial_correlations(benchmarks(rng.normal(size=8), rng.normal(size=8), share=[{}] * 8)):
        assert row.given == () and row.raw_r2 > 0
        assert [getattr(row, key) for key in ("r2", "r", "low", "high", "p_value", "p_holm", "covariates_r2")] == [
            None
        ] * 7
        assert row.notes == (Note(Reason.COVARIATES_CONSTANT, (Covariate.LOG_IMAGES, Covariate.LOG_CLASSES)),)
    unknown = benchmarks(rng.normal(size=8), rng.normal(size=8), train_images=[None] * 8, train_classes=[None] * 8)
    row = partial_correlations(unknown)[0]
    assert row.r2 is None and row.notes == (Note(Reason.COVARIATES_UNKNOWN, tuple(Covariate)),)


def planted(rng, truth, n):
    """A study whose size and diversity go together (r about .6), and what its accuracy depends on: `truth`."""
    size = rng.normal(size=n)
    diversity = 0.6 * size + 0.8 * rng.normal(size=n)
    signal = {"size": size, "diversity": diversity, "both": size + diversity}[truth]
    return benchmarks(diversity, signal + 0.5 * rng.normal(size=n), np.exp(size))


@pytest.mark.parametrize("truth", ["size", "diversity", "both"])
def test_a_planted_truth_is_found_in_nine_of_ten_studies(truth):
    """100 studies of 20 benchmarks; `bench/correlations.py` has the table over the number of benchmarks."""
    rng = np.random.default_rng(5)
    verdicts = [accuracy_row(size_or_diversity(planted(rng, truth, 20))).verdict for _ in range(100)]
    assert verdicts.count(Verdict(truth)) >= 90


def test_a_raw_correlation_would_have_blamed_diversity_where_only_size_acts():
    rng = np.random.default_rng(6)
    studies = [planted(rng, "size", 20) for _ in range(100)]
    raw = [stats.pearsonr([p.diversity for p in s], [p.accuracy for p in s]).pvalue < 0.05 for s in studies]
    given = [accuracy_row(partial_correlations(s)).p_value < 0.05 for s in studies]
    assert np.mean(raw) > 0.5 and np.mean(given) <= 0.12


def test_equal_sizes_and_unknown_sizes_give_no_verdict_but_a_reason():
    rng = np.random.default_rng(7)
    row = accuracy_row(size_or_diversity(benchmarks(rng.normal(size=8), rng.normal(size=8))))
    assert row.verdict is None and row.notes == (Note(Reason.ONE_SIZE),)
    row = accuracy_row(size_or_diversity(benchmarks([1, 2], [1, 2], [5, 7])))
    assert row.verdict is None and row.notes[0].reason is Reason.TOO_MANY_COVARIATES
    row = accuracy_row(size_or_diversity(benchmarks([1, 2, 3, 4], [1, 2, 3, 5], train_images=[None] * 4)))
    assert row.verdict is None and row.notes == (Note(Reason.COVARIATES_UNKNOWN, (Covariate.LOG_IMAGES,)),)


def test_matching_keeps_the_largest_group_of_like_complexity():
    rng = np.random.default_rng(8)
    centre = [1.0, 5.0, 5.05, 5.1, 9.0]
    norms = {f"bench{b}": c + rng.normal(0, 0.2, 400) for b, c in enumerate(centre)}
    found = matched_complexity(benchmarks([1, 2, 3, 4, 5], [1, 2, 4, 3, 9]), norms)
    assert found.matched == ("bench1", "bench2", "bench3")
    row = accuracy_row(found.rows)
    assert row.n == 3 and row.r2 == pytest.approx(0.25)
    assert [b.matched for b in found.benchmarks] == [False, True, True, True, False]
    for b in found.benchmarks:
        assert b.low < b.complexity < b.high
    alone = matched_complexity(benchmarks([1, 2], [1, 2]), {"bench0": np.ones(4), "bench1": np.full(4, 2.0)})
    assert len(alone.matched) == 1 and alone.rows[0].notes == (Note(Reason.TOO_FEW_POINTS),)
    assert matched_complexity([], {}) == MatchedComplexity()
