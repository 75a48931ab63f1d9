"""Resampling benchmarks: the bootstrap that also redraws each value within its error, permutations, leaving one out.

A *series* is one number per benchmark (diversity, a method's accuracy, ...); `n` is the number of benchmarks.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy import special


def row_pearson(x: Float[np.ndarray, "*rows n"], y: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "*rows"]:
    """Pearson's r of each row of x with the same row of y; no row may be constant."""
    dx, dy = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    r = (dx * dy).sum(-1) / np.sqrt((dx * dx).sum(-1) * (dy * dy).sum(-1))
    return np.asarray(np.clip(r, -1, 1))  # rounding


def row_slope(x: Float[np.ndarray, "*rows n"], y: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "*rows"]:
    """The least-squares slope of each row of y on the same row of x; no row of x may be constant."""
    dx = x - x.mean(-1, keepdims=True)
    return np.asarray((dx * y).sum(-1) / (dx * dx).sum(-1))


def row_spearman(x: Float[np.ndarray, "*rows n"], y: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "*rows"]:
    """Spearman's rank correlation of each row of x with the same row of y; no row may be constant."""
    from scipy import stats  # over a second to import, so only where it is needed

    return row_pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


def resample(
    series: Float[np.ndarray, "series n"], errors: Float[np.ndarray, "series n"], draws: int, seed: int
) -> Float[np.ndarray, "series kept n"]:
    """Bootstrap samples of benchmarks, all series of a benchmark together, each value redrawn within its error.

    errors: standard errors, 0 where a value is to be taken as exact. A resample in which a series has one value
    only, before the redrawing, is dropped, since noise alone would decide it: kept ≤ draws.
    """
    rng = np.random.default_rng(seed)
    n = series.shape[1]
    picks = rng.integers(0, n, (draws, n))
    samples = series[:, picks]
    varied = np.ptp(samples, axis=-1) > 1e-12 * np.abs(samples).max(axis=-1)
    kept = varied.all(axis=0)
    samples = samples[:, kept]
    return samples + errors[:, picks[kept]] * rng.standard_normal(samples.shape)


def percentile_interval(
    estimates: Float[np.ndarray, " draws"], n: int | None = None
) -> tuple[float, float] | tuple[None, None]:
    """The central 95% of the draws; (None, None) where there is none.

    n: the size of the sample, to take more than 95% and so make up for a bootstrap's spread, too small by
    √((n-1)/n), and for the normal quantile in place of Student's. Source: Hesterberg 2015, "expanded percentile".
    """
    if not len(estimates):
        return None, None
    tail = 0.025 if n is None else special.ndtr(-math.sqrt(n / (n - 1)) * special.stdtrit(n - 1, 0.975))
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return float(low), float(high)


def permutation_p(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], draws: int, seed: int) -> float:
    """The two-sided permutation p-value of r = 0: how often |r| is as large when x is shuffled.

    Exact where n! ≤ draws; else of `draws` random permutations, the observed one counted in, so never 0. On ranks it
    is Spearman's. Neither x nor y may be constant.
    """
    from scipy import stats

    centred = y - y.mean()
    # Σx and the variances are the same in every permutation: |r| grows with |Σx(y-ȳ)|.
    found = stats.permutation_test(
        (x,),
        lambda shuffled, axis: np.abs((shuffled * centred).sum(axis=axis)),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=draws,
        alternative="greater",
        random_state=seed,
    )
    return float(found.pvalue)


def leave_one_out(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """R² with each benchmark left out in turn; NaN where the others do not vary. Needs n ≥ 2."""
    n = len(x)
    others = np.array([np.delete(np.arange(n), i) for i in range(n)])
    xs, ys = x[others], y[others]
    found = np.full(n, np.nan)
    varied = np.all([np.ptp(v, axis=1) > 1e-12 * np.abs(v).max(axis=1) for v in (xs, ys)], axis=0)
    found[varied] = row_pearson(xs[varied], ys[varied]) ** 2
    return found
