"""Closed forms over numbers: intervals and tests of one correlation, of two, and of many.

Where a method is named after its author, the docstring has the year of the paper.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy  # its packages load when they are first used
from jaxtyping import Float
from scipy import special


def r_interval(r: float, n: int) -> tuple[float, float]:
    """The 95% interval of a Pearson r over `n` points: tanh(artanh r ± 1.96/√(n-3)), by Fisher's z.

    With n ≤ 3 the standard error of z is undefined, and the interval is all of (-1, 1). Source: Fisher 1921.
    """
    if n <= 3:
        return -1.0, 1.0
    if abs(r) >= 1:
        return float(r), float(r)
    half = float(special.ndtri(0.975)) / math.sqrt(n - 3)
    z = math.atanh(r)
    return math.tanh(z - half), math.tanh(z + half)


def r2_interval(r: float, n: int) -> tuple[float, float]:
    """The 95% interval of r² over `n` points: the squares that a two-sided 5% test on |Fisher's z| does not reject.

    In units of its standard error |z| is a folded normal. Where r² is large the test is that of `r_interval`, 2.5% on
    either side. Where it is small |z| cannot be too small for it, and the far side takes what is left of the 5%: the
    square of `r_interval` would cover up to 97.5% there. It begins at 0 exactly where `r_interval` holds 0, and ends
    at the larger square of its ends. With n ≤ 3 all of [0, 1].
    """
    if n <= 3:
        return 0.0, 1.0
    if abs(r) >= 1:
        return 1.0, 1.0
    high = max(end * end for end in r_interval(r, n))
    usual, root = float(special.ndtri(0.975)), math.sqrt(n - 3)
    z = math.atanh(abs(r)) * root
    if z <= usual:
        return 0.0, high

    def excess(mean: float) -> float:
        """By how much P(|z| as large) and what is rejected for a small |z| exceed 5% together."""
        beyond = special.ndtr(mean - z) + special.ndtr(-mean - z)
        least = max(0.0, mean - usual)
        return float(beyond + special.ndtr(least - mean) - special.ndtr(-least - mean) - 0.05)

    return math.tanh(scipy.optimize.brentq(excess, 0, z) / root) ** 2, high


def squared(low: float, high: float) -> tuple[float, float]:
    """The interval of the square of a number between low and high: from 0 where they enclose 0."""
    ends = sorted((low * low, high * high))
    return (0.0 if low <= 0 <= high else ends[0]), ends[1]


def spearman_interval(r: float, n: int) -> tuple[float, float]:
    """The 95% interval of Spearman's correlation over `n` points: Fisher's z with variance (1 + r²/2)/(n-3).

    With n ≤ 3 all of (-1, 1). Source: Bonett & Wright 2000.
    """
    if n <= 3:
        return -1.0, 1.0
    # Ranks move in steps: ±1 stands for all that lies within half a step of it, and z needs it finite.
    z = math.atanh(math.copysign(min(abs(r), 1 - 6 / (n * (n * n - 1))), r))
    half = float(special.ndtri(0.975)) * math.sqrt((1 + r * r / 2) / (n - 3))
    return max(-1.0, math.tanh(z - half)), 1.0 if r >= 1 else math.tanh(z + half)


def p_of_r(r: float, n: int) -> float | None:
    """The two-sided p-value of Pearson's r over `n` points, by Student's t; None if n < 3."""
    if n < 3:
        return None
    if abs(r) >= 1:
        return 0.0
    return 2 * float(special.stdtr(n - 2, -abs(r) * math.sqrt((n - 2) / (1 - r * r))))


def reliability(values: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"]) -> float:
    """The share of the values' variance that is not noise: 1 - mean squared standard error / variance, at least 0.

    Source: classical test theory. Needs 2 values that differ.
    """
    return max(0.0, 1 - float(np.mean(np.square(errors)) / np.var(values, ddof=1)))


def corrected(r: float, n: int, share: float) -> tuple[float, float, float]:
    """R² and its 95% interval as they would be without noise: `r2_interval` over share, at most 1.

    share: the reliability of x times that of y, above 0, taken as exact. Source: Spearman 1904.
    """
    low, high = r2_interval(r, n)
    return min(1.0, r * r / share), min(1.0, low / share), min(1.0, high / share)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values, in the order given; None stays None and does not count. Source: Holm 1979."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(known):
        running = max(running, min(1.0, (len(known) - rank) * p))
        adjusted[i] = running
    return adjusted


def williams(r1: float, r2: float, r12: float, n: int) -> tuple[float, float] | tuple[None, None]:
    """Williams' t of r1 = r2, two correlations with one series in common over the same n points, and its p-value.

    r12 correlates the two series that are not common. Two-sided, n-3 degrees of freedom; (None, None) with n ≤ 3 or
    where the three correlations leave no residual. Source: Williams 1959, as recommended by Steiger 1980 (eq. 7).
    """
    if n <= 3:
        return None, None
    determinant = 1 - r1 * r1 - r2 * r2 - r12 * r12 + 2 * r1 * r2 * r12
    mean = (r1 + r2) / 2
    scale = 2 * (n - 1) / (n - 3) * max(determinant, 0.0) + mean * mean * (1 - r12) ** 3
    if scale <= 1e-12:
        return None, None
    t = (r1 - r2) * math.sqrt((n - 1) * (1 + r12) / scale)
    return t, 2 * float(special.stdtr(n - 3, -abs(t)))


def fisher_difference(r1: float, r2: float, n1: int, n2: int) -> tuple[float, float] | tuple[None, None]:
    """Fisher's z of r1 = r2, two correlations taken as independent, and its two-sided p-value.

    (None, None) where a sample has 3 points or fewer or lies on a line. Source: Fisher 1921.
    """
    if min(n1, n2) <= 3 or max(abs(r1), abs(r2)) >= 1:
        return None, None
    z = (math.atanh(r1) - math.atanh(r2)) / math.sqrt(1 / (n1 - 3) + 1 / (n2 - 3))
    return z, 2 * float(special.ndtr(-abs(z)))


def overlap(r1: float, r2: float, r12: float) -> float:
    """The correlation of two sample correlations that share a series, large samples: Zou 2007, after Olkin & Siotani.

    0 where r1 or r2 is ±1, since such a correlation does not vary.
    """
    rest = (1 - r1 * r1) * (1 - r2 * r2)
    if rest <= 0:
        return 0.0
    found = ((r12 - r1 * r2 / 2) * (1 - r1 * r1 - r2 * r2 - r12 * r12) + r12**3) / rest
    return float(np.clip(found, -1, 1))


def difference_interval(
    first: tuple[float, float, float], second: tuple[float, float, float], correlation: float
) -> tuple[float, float]:
    """The 95% interval of first minus second from each one's (estimate, low, high): MOVER, Zou 2007, eq. 15.

    correlation: of the two estimates over samples.
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second

    def reach(p: float, q: float) -> float:
        return math.sqrt(max(p * p + q * q - 2 * correlation * p * q, 0.0))

    return a - b - reach(a - a_low, b_high - b), a - b + reach(a_high - a, b - b_low)
