"""Embeddings of tasks -> distances, the diversity coefficient and its interval.

The coefficient is the mean distance between two different tasks of a benchmark (Miranda et al. 2022,
https://arxiv.org/abs/2208.01545). NumPy in float64: the embeddings are few and small, and differences count.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from jaxdiv.errors import InputError, unknown

# One block of pairs holds at most this many numbers: 32 MB of float64.
_BLOCK = 4 * 2**20
# The reference's guard against dividing by zero. It is absolute, so the distance depends on the Fisher's scale.
_EPSILON = 1e-8

# Two sets of embeddings that broadcast, [..., filters] each -> distances [...].
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Estimate(NamedTuple):
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float


def cosine(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Float[np.ndarray, "..."]:
    """1 − cos(a, b). An embedding of zeros is at distance 1 from everything but another one, where it is 0."""
    dot = np.einsum("...f,...f->...", a, b)
    lengths = np.sqrt(np.einsum("...f,...f->...", a, a) * np.einsum("...f,...f->...", b, b))
    both_zero = ~(a.any(-1) | b.any(-1))
    # Rounding takes identical embeddings to -1e-16.
    return np.clip(np.where(both_zero, 0.0, 1.0 - dot / np.where(lengths > 0, lengths, 1.0)), 0.0, 2.0)


def task2vec(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Float[np.ndarray, "..."]:
    """The reference's: cosine distance of a/(a+b+1e-8) and b/(a+b+1e-8), which depends on the Fisher's scale."""
    total = a + b + _EPSILON
    return cosine(a / total, b / total)


def task2vec_scale_free(
    a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]
) -> Float[np.ndarray, "..."]:
    """`task2vec` without the 1e-8: the same when both embeddings are scaled alike. Entries zero in both drop out."""
    total = a + b
    total = np.where(total > 0, total, 1.0)
    return cosine(a / total, b / total)


DISTANCES: Mapping[str, Distance] = {
    "cosine": cosine,
    "task2vec": task2vec,
    "task2vec_scale_free": task2vec_scale_free,
}


def pairwise_distances(
    embeddings: Float[ArrayLike, "tasks filters"], distance: str = "task2vec_scale_free"
) -> Float[np.ndarray, "tasks tasks"]:
    """The distance of every pair of tasks: symmetric, zero on the diagonal; memory does not grow with tasks².

    Raises InputError for an unknown distance or embeddings that are not finite, not negative `[tasks, filters]`.
    """
    if distance not in DISTANCES:
        raise unknown("distance", distance, DISTANCES)
    rows = _checked(embeddings, least=2)
    tasks, filters = rows.shape
    left, right = np.triu_indices(tasks, 1)
    found = np.zeros((tasks, tasks))
    step = max(1, _BLOCK // filters)
    for start in range(0, len(left), step):
        i, j = left[start : start + step], right[start : start + step]
        found[i, j] = DISTANCES[distance](rows[i], rows[j])
    return found + found.T


def jackknife(distances: Float[np.ndarray, "tasks tasks"]) -> Estimate:
    """Mean pair distance with a jackknife over *tasks*: the interval for tasks drawn anew, since pairs share tasks.

    Leaving task i out gives θᵢ; variance (n−1)/n Σ(θᵢ − θ̄)², Student's t with n−1 degrees of freedom (Arvesen 1969).
    """
    n = _enough(distances)
    total, rows = np.triu(distances, 1).sum(), distances.sum(1)
    without = (total - rows) / ((n - 1) * (n - 2) / 2)
    error = np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    return _interval(total / (n * (n - 1) / 2), error, n - 1)


def iid_pairs(distances: Float[np.ndarray, "tasks tasks"]) -> Estimate:
    """The reference's interval, t(.975, N−1)·sd/√N over N = n(n−1)/2 pairs: too narrow, they are not independent."""
    n = _enough(distances)
    pairs = distances[np.triu_indices(n, 1)]
    return _interval(pairs.mean(), pairs.std(ddof=1) / np.sqrt(len(pairs)), len(pairs) - 1)


INTERVALS: Mapping[str, Callable[[np.ndarray], Estimate]] = {"jackknife": jackknife, "iid_pairs": iid_pairs}


def diversity(
    embeddings: Float[ArrayLike, "tasks filters"],
    distance: str = "task2vec_scale_free",
    interval: str | None = "jackknife",
) -> Estimate:
    """The diversity coefficient: the mean distance between two different tasks, with its 95% interval.

    Args:
        embeddings: one task a row.
        distance: a key of `DISTANCES`.
        interval: a key of `INTERVALS`, or None for none (both ends are NaN), which two tasks suffice for.

    Raises InputError for an unknown name, embeddings that are not usable, or fewer than 3 tasks with an interval.
    """
    if interval is not None and interval not in INTERVALS:
        raise unknown("interval", interval, INTERVALS)
    distances = pairwise_distances(embeddings, distance)
    if interval is None:
        return Estimate(float(distances[np.triu_indices(len(distances), 1)].mean()), np.nan, np.nan)
    return INTERVALS[interval](distances)


def complexity(embeddings: Float[ArrayLike, "tasks filters"]) -> Estimate:
    """Task2Vec complexity: the mean length of an embedding, with a 95% t interval over tasks (3 or more)."""
    rows = _checked(embeddings, least=3)
    lengths = np.linalg.norm(rows, axis=1)
    return _interval(lengths.mean(), lengths.std(ddof=1) / np.sqrt(len(rows)), len(rows) - 1)


def _interval(value: float, error: float, freedom: int) -> Estimate:
    half = float(stats.t.ppf(0.975, freedom) * error)
    return Estimate(float(value), float(value) - half, float(value) + half)


def _enough(distances: np.ndarray) -> int:
    if len(distances) < 3:
        raise InputError(
            f"an interval needs at least 3 tasks, not {len(distances)}; interval=None gives the value alone"
        )
    return len(distances)


def _checked(embeddings: ArrayLike, least: int) -> np.ndarray:
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise InputError(f"embeddings must be [tasks, filters], not {rows.shape}")
    if len(rows) < least:
        raise InputError(f"this needs at least {least} tasks' embeddings, not {len(rows)}")
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(bad):
        raise InputError(f"embeddings: NaN or infinity in {len(bad)} of {len(rows)} tasks, first in task {bad[0]}")
    if (rows < 0).any():
        raise InputError("embeddings: negative entries, which no Fisher diagonal has")
    return rows
