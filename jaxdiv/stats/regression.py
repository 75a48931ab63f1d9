"""The least-squares line through points: its R² with interval and test, and its confidence band."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from jaxdiv.errors import InputError
from jaxdiv.stats.inference import r2_interval


class RSquared(NamedTuple):
    """What `r_squared` found. A field that is undefined for the input is None; `note` says why in words."""

    r2: float | None
    low: float | None
    high: float | None
    p_value: float | None
    slope: float | None
    intercept: float | None
    r: float | None
    n: int
    note: str = ""


class Band(NamedTuple):
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


def r_squared(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> RSquared:
    """R² of the degree-1 fit y = slope·x + intercept: the squared Pearson correlation.

    The p-value is two-sided against r = 0 (SciPy's `pearsonr`); `low` and `high` bound R² by the 95% `r2_interval`.
    Input that leaves something undefined (fewer than 3 points, no variance) gives None there and a `note`. Raises
    InputError where x and y differ in length, are not one-dimensional, or not finite.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if xs.ndim != 1 or xs.shape != ys.shape:
        raise InputError(f"r_squared needs two lists of equal length, got shapes {xs.shape} and {ys.shape}")
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise InputError("r_squared got a value that is not finite (NaN or infinite); leave such points out")
    n = len(xs)
    nothing = RSquared(None, None, None, None, None, None, None, n)
    if n < 3:
        return nothing._replace(note=f"undefined: {n} point{'s' * (n != 1)}, at least 3 are needed")
    if not varies(xs):
        return nothing._replace(note=f"undefined: all {n} points have the same x")
    if not varies(ys):
        note = f"undefined: all {n} points have the same y"
        return nothing._replace(slope=0.0, intercept=float(ys[0]), note=note)
    from scipy import stats  # over a second to import, so only where it is needed

    found = stats.pearsonr(xs, ys)
    r = float(found.statistic)
    # The regression slope by the centred sums, so that line and r come from the same degree-1 fit.
    dx, dy = xs - xs.mean(), ys - ys.mean()
    slope = float(dx @ dy / (dx @ dx))
    low, high = r2_interval(r, n)
    note = "3 points say nothing about the interval: it is all of [0, 1]" if n == 3 else ""
    intercept = float(ys.mean() - slope * xs.mean())
    return RSquared(r * r, low, high, float(found.pvalue), slope, intercept, r, n, note)


def trend_band(x: Sequence[float], y: Sequence[float], at: Sequence[float] | np.ndarray) -> Band | None:
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
