"""A line through benchmarks that share data sets: a mixed model in which every set has an effect, by its share.

    performance = intercept + slope · diversity + Σ_sets share · effect of the set + what is the benchmark's own

The effects of the sets, and what is a benchmark's own, are normal and independent (a multiple-membership model, Browne
et al. 2001). `n` is the number of benchmarks.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy  # its packages load when they are first used
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special

from jaxdiv.stats.regression import varies

_SMALLEST_RATIO, _LARGEST_RATIO = 1e-4, 1e4  # of the sets' variance to the benchmarks' own


@dataclass(frozen=True)
class Variances:
    """REML's estimates of what a linear model leaves, and their covariance from the expected information.

    Attributes:
      sets: the variance of a set's effect. own: of what is a benchmark's own.
      total: the variance of both over the benchmarks, as its expected value. total_df: the degrees of freedom of a χ²
        that varies as much (Satterthwaite 1946).
    """

    sets: float
    own: float
    covariance: Float[np.ndarray, "2 2"]
    total: float
    total_df: float


@dataclass(frozen=True)
class MixedLine:
    """The line of `mixed_line`. All intervals are of 95%.

    Attributes:
      slope, error, df: by generalised least squares; its standard error and degrees of freedom for Student's t, both
        after Kenward and Roger 1997.
      low, high, p_value: of the slope; the test is two-sided, of none.
      r, r_low, r_high: the correlation: r² is the share of the variance over benchmarks that the line explains (the
        marginal R² of Nakagawa & Schielzeth 2013), and r has the slope's sign.
      sets_share: the share of the variance around the line that the sets have.
    """

    slope: float
    error: float
    df: float
    low: float
    high: float
    p_value: float
    r: float
    r_low: float
    r_high: float
    sets_share: float


def reml(
    design: Float[np.ndarray, "n columns"], y: Float[np.ndarray, " n"], shares: Float[np.ndarray, "n sets"]
) -> Variances | None:
    """The variances of the sets' effects and of the benchmarks' own parts, by restricted maximum likelihood.

    Args:
      design: of full rank, with a constant among its combinations. shares: what each set has of a benchmark; not the
        same for all benchmarks.

    Returns:
      None where the sets' effects cannot be told from the benchmarks' own parts.
    """
    kernels = _kernels(shares)
    # REML is the likelihood of what is orthogonal to the design, here along axes on which it is independent.
    free = np.linalg.svd(design)[0][:, design.shape[1] :]
    spread, axes = np.linalg.eigh(free.T @ kernels[0] @ free)
    spread = spread.clip(0)
    if np.ptp(spread) <= 1e-9:
        return None
    squares = (axes.T @ (free.T @ y)) ** 2

    def deviance(ratio: ArrayLike) -> np.ndarray:
        variances = 1 + np.multiply.outer(ratio, spread)
        return np.asarray(len(squares) * np.log((squares / variances).sum(-1)) + np.log(variances).sum(-1))

    grid = np.linspace(math.log(_SMALLEST_RATIO), math.log(_LARGEST_RATIO), 40)
    start = grid[int(np.argmin(deviance(np.exp(grid))))]
    ends = (start - (grid[1] - grid[0]), start + (grid[1] - grid[0]))
    best = scipy.optimize.minimize_scalar(lambda log: float(deviance(math.exp(log))), bounds=ends, method="bounded")
    ratio = math.exp(best.x) if best.fun < deviance(0.0) else 0.0
    own = float(np.mean(squares / (1 + ratio * spread)))
    inverse = np.linalg.inv(own * (ratio * kernels[0] + kernels[1]))
    projected = inverse - inverse @ design @ np.linalg.solve(design.T @ inverse @ design, design.T @ inverse)
    through = [projected @ kernel for kernel in kernels]
    information = np.array([[np.sum(a * b.T) / 2 for b in through] for a in through])
    covariance = np.linalg.inv(information)
    weights = np.array([np.var(shares, axis=0, ddof=1).sum(), 1.0])
    total = float(weights @ (own * ratio, own))
    total_df = 2 * total**2 / float(weights @ covariance @ weights)
    return Variances(own * ratio, own, covariance, total, total_df)


def mixed_line(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], shares: Float[np.ndarray, "n sets"]
) -> MixedLine | None:
    """The line through benchmarks that share sets, with intervals that know it.

    The interval of r is that of artanh r, whose variance has three parts: of the slope, of the variance around the
    line, and of diversity's own variance over benchmarks, since that too comes with the sets. Without shared sets they
    sum to about 1/n, Fisher's.

    Returns:
      None with fewer than 5 benchmarks, where x or y is constant, where the line leaves no variance, and where sets'
      effects cannot be told from the benchmarks' own parts.
    """
    n = len(x)
    if n < 5 or not (varies(x) and varies(y)):
        return None
    constant = np.ones((n, 1))
    design = np.column_stack([constant, x - x.mean()])
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    if np.abs(left).max() <= 1e-12 * np.abs(y).max():
        return None
    found, of_x = reml(design, y, shares), reml(constant, x, shares)
    if found is None or of_x is None:
        return None
    kernels = _kernels(shares)
    inverse = np.linalg.inv(found.sets * kernels[0] + found.own * kernels[1])
    covariance = np.linalg.inv(design.T @ inverse @ design)
    slope = float((covariance @ design.T @ inverse @ y)[1])
    error, df = _kenward_roger(design, kernels, inverse, covariance, found.covariance)
    half = float(special.stdtrit(df, 0.975)) * error
    deviation = float(np.std(x, ddof=1))
    scale = deviation / math.sqrt(found.total)
    ratio = slope * scale  # r / √(1-r²)
    parts = np.array([(error * scale) ** 2, ratio**2 / (2 * found.total_df), ratio**2 / (2 * of_x.total_df)])
    parts /= 1 + ratio**2
    z_df = parts.sum() ** 2 / np.sum(parts**2 / (df, found.total_df, of_x.total_df))
    z, z_half = math.asinh(ratio), float(special.stdtrit(z_df, 0.975)) * math.sqrt(parts.sum())
    sets_share = 1 - found.own / found.total
    p_value = 2 * float(special.stdtr(df, -abs(slope) / error))
    ends = (math.tanh(z - z_half), math.tanh(z + z_half))
    return MixedLine(slope, error, df, slope - half, slope + half, p_value, math.tanh(z), *ends, sets_share)


def _kernels(shares: Float[np.ndarray, "n sets"]) -> list[Float[np.ndarray, "n n"]]:
    """What each variance does to the covariance of two benchmarks."""
    return [shares @ shares.T, np.eye(len(shares))]


def _kenward_roger(
    design: np.ndarray, kernels: list[np.ndarray], inverse: np.ndarray, covariance: np.ndarray, variances: np.ndarray
) -> tuple[float, float]:
    """The standard error of the last coefficient and its degrees of freedom. Source: Kenward & Roger 1997.

    Args:
      inverse: of the benchmarks' covariance. covariance: of the coefficients, were the variances known. variances: the
        covariance of the estimated variances.
    """
    weighted = inverse @ design
    changes = [-weighted.T @ kernel @ weighted for kernel in kernels]
    lost = np.zeros_like(covariance)
    for i, first in enumerate(kernels):
        for j, second in enumerate(kernels):
            both = weighted.T @ first @ inverse @ second @ weighted
            lost += variances[i, j] * (both - changes[i] @ covariance @ changes[j])
    adjusted = covariance + 2 * covariance @ lost @ covariance
    gradient = np.array([-(covariance @ change @ covariance)[-1, -1] for change in changes])
    df = 2 * covariance[-1, -1] ** 2 / (gradient @ variances @ gradient)
    return math.sqrt(adjusted[-1, -1]), float(df)
