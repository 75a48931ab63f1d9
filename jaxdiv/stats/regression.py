"""The least-squares line through points: its R² with interval and test, and its confidence band."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from jaxdiv.errors import InputError
from jaxdiv.stats.intervals import r2_interval
from jaxdiv.stats.rows import Reason


@dataclass(frozen=True)
class RSquared:
    """What `r_squared` found over `n` points. A field that is undefined for the input is None; `reason` says why.

    Attributes:
      r2, low, high: R² and its 95% interval.
      p_value: two-sided, of r = 0.
      slope, intercept: of the least-squares line, in units of y per unit of x and of y.
      r: Pearson's correlation.
    """

    n: int
    r2: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    slope: float | None = None
    intercept: float | None = None
    r: float | None = None
    reason: Reason | None = None


@dataclass(frozen=True)
class Band:
    """A trend line at the asked places, and its pointwise 95% confidence band (None where undefined)."""

    value: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def smallest_significant_r2(n: int) -> float | None:
    """The smallest R² over `n` points that differs from zero at the two-sided 5% level; None if n < 3."""
    if n < 3:
        return None
    t2 = float(special.stdtrit(n - 2, 0.975)) ** 2
    return t2 / (n - 2 + t2)


def varies(values: np.ndarray) -> bool:
    """Whether values differ by more than rounding: a correlation with rounding noise would mean nothing."""
    return float(np.ptp(values)) > 1e-12 * float(np.abs(values).max())


def r_squared(x: ArrayLike, y: ArrayLike) -> RSquared:
    """R² of the degree-1 fit y = slope·x + intercept, the squared Pearson correlation, with its interval and test.

    Args:
      x, y: two columns of equally many finite numbers.

    Returns:
      R² with its 95% `r2_interval`, and the two-sided p-value against r = 0 (SciPy's `pearsonr`). What is undefined,
      with fewer than 3 points or without variance, is None; with exactly 3 the interval is all of [0, 1]. `reason` says
      so.

    Raises:
      InputError: x and y differ in length, are not one-dimensional, or are not finite.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if xs.ndim != 1 or xs.shape != ys.shape:
        raise InputError(f"r_squared needs two lists of equal length, got shapes {xs.shape} and {ys.shape}")
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise InputError("r_squared got a value that is not finite (NaN or infinite); leave such points out")
    n = len(xs)
    if n < 3:
        return RSquared(n, reason=Reason.TOO_FEW_POINTS)
    if not varies(xs):
        return RSquared(n, reason=Reason.SAME_X)
    if not varies(ys):
        return RSquared(n, slope=0.0, intercept=float(ys[0]), reason=Reason.SAME_Y)
    from scipy import stats  # over a second to import, so only where it is needed

    found = stats.pearsonr(xs, ys)
    r = float(found.statistic)
    # The regression slope by the centred sums, so that line and r come from the same degree-1 fit.
    dx, dy = xs - xs.mean(), ys - ys.mean()
    slope = float(dx @ dy / (dx @ dx))
    intercept = float(ys.mean() - slope * xs.mean())
    reason = Reason.NO_INTERVAL if n == 3 else None
    return RSquared(n, r * r, *r2_interval(r, n), float(found.pvalue), slope, intercept, r, reason)


def trend_band(x: ArrayLike, y: ArrayLike, at: ArrayLike) -> Band | None:
    """The least-squares line through (x, y) at the places `at`, with its pointwise 95% confidence band.

    The band is that of the line's mean, t(.975, n-2)·s·√(1/n + (at-x̄)²/Σ(x-x̄)²), undefined below 3 points.
    None where no line exists: fewer than 2 points, or all x equal.
    """
    xs, ys, places = np.asarray(x, float), np.asarray(y, float), np.asarray(at, float)
    n = len(xs)
    if n < 2 or not varies(xs):
        return None
    dx = xs - xs.mean()
    slope = dx @ ys / (dx @ dx)
    value = ys.mean() + slope * (places - xs.mean())
    if n < 3:
        return Band(value, None, None)
    residual = ys - ys.mean() - slope * dx
    spread = math.sqrt(float(residual @ residual) / (n - 2))
    half = special.stdtrit(n - 2, 0.975) * spread * np.sqrt(1 / n + (places - xs.mean()) ** 2 / (dx @ dx))
    return Band(value, value - half, value + half)
