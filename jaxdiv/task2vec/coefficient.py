"""Embeddings of tasks -> distances, the diversity coefficient and its interval.

The coefficient is the mean distance between two different tasks of a benchmark (Miranda et al. 2022,
https://arxiv.org/abs/2208.01545). NumPy in float64: the embeddings are few and small, and differences count.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy  # its packages load when they are first used, and `stats` takes a second
from jaxtyping import ArrayLike, Float
from scipy import special

from jaxdiv.errors import InputError, unknown

Distances = Float[np.ndarray | np.floating, "..."]  # a number where one embedding is compared with one
# Embeddings as lists, one for each task.
Rows = Sequence[Float[ArrayLike, " filters"] | Sequence[float]]
# One block of pairs holds at most this many numbers: 32 MB of float64.
_BLOCK = 4 * 2**20
# The reference's guard against dividing by zero. It is absolute, so the distance depends on the Fisher's scale.
_EPSILON = 1e-8


@dataclass(frozen=True)
class Distance:
    """A distance of embeddings, and what a reader has to know of it.

    Attributes:
      function: two sets of embeddings that broadcast, [..., filters] each -> distances [...].
      label: its name in tables and on axes.
      high: the largest value that it can have; the smallest is 0.
      unit: of its values; empty for a pure number.
      of_variances: it compares 1/F, so no entry may be 0.
    """

    function: Callable[[np.ndarray, np.ndarray], np.ndarray | np.floating]
    label: str
    high: float = math.inf
    unit: str = ""
    of_variances: bool = False

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray | np.floating:
        return self.function(a, b)


class Estimate(NamedTuple):
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float


def cosine(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Distances:
    """1 − cos(a, b). An embedding of zeros is at distance 1 from everything but another one, where it is 0."""
    dot = np.einsum("...f,...f->...", a, b)
    lengths = np.sqrt(np.einsum("...f,...f->...", a, a) * np.einsum("...f,...f->...", b, b))
    both_zero = ~(a.any(-1) | b.any(-1))
    # Rounding takes identical embeddings to -1e-16.
    return np.clip(np.where(both_zero, 0.0, 1.0 - dot / np.where(lengths > 0, lengths, 1.0)), 0.0, 2.0)


def task2vec(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Distances:
    """The reference's: cosine distance of a/(a+b+1e-8) and b/(a+b+1e-8), which depends on the Fisher's scale."""
    total = a + b + _EPSILON
    return cosine(a / total, b / total)


def task2vec_scale_free(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Distances:
    """`task2vec` without the 1e-8: the same when both embeddings are scaled alike. Entries zero in both drop out."""
    total = a + b
    total = np.where(total > 0, total, 1.0)
    return cosine(a / total, b / total)


def kl(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Distances:
    """The reference's symmetric Kullback-Leibler divergence of normals of variance 1/F: the larger way, by entry."""
    return np.maximum(_kl(a, b), _kl(b, a)).sum(-1)


def asymmetric_kl(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Distances:
    """KL(a from b) of normals of variance 1/F. The only distance that depends on the order."""
    return _kl(a, b).sum(-1)


def jsd(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Distances:
    """The reference's Jensen-Shannon-like divergence: half the KL of both from the normal of mean variance."""
    middle = 2 * a * b / (a + b)  # 1 / (mean of 1/a and 1/b)
    return (0.5 * (_kl(a, middle) + _kl(b, middle))).mean(-1)


def normalized_cosine(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Distances:
    """Cosine distance of the variances 1/F (the reference also divides by a prior's scale, 1 for Monte Carlo)."""
    return cosine(1 / a, 1 / b)


def correlation(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Distances:
    """1 − Pearson's correlation of the variances 1/F, as in the reference."""
    a, b = 1 / a, 1 / b
    return cosine(a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True))


def entropy(a: Float[np.ndarray, "... filters"], b: Float[np.ndarray, "... filters"]) -> Distances:
    """log 2 less the mean binary entropy (nats) of a/(a+b+1e-8), as in the reference: an entry that is 0 in both counts
    as the largest distance, so filters without any gradient raise it."""
    share = a / (a + b + _EPSILON)
    return np.log(2) + (special.xlogy(share, share) + special.xlogy(1 - share, 1 - share)).mean(-1)


def _kl(a, b):
    ratio = b / a  # the variances are 1/a and 1/b
    return 0.5 * (ratio - 1 - np.log(ratio))


DISTANCES: Mapping[str, Distance] = {
    distance.function.__name__: distance
    for distance in (
        Distance(task2vec_scale_free, "scale-free Task2Vec distance", 1.0),
        Distance(task2vec, "Task2Vec distance", 1.0),
        Distance(cosine, "cosine distance", 1.0),
        Distance(kl, "symmetric KL divergence", unit="nats", of_variances=True),
        Distance(asymmetric_kl, "KL divergence", unit="nats", of_variances=True),
        Distance(jsd, "Jensen-Shannon divergence", unit="nats", of_variances=True),
        Distance(normalized_cosine, "cosine distance of variances", 1.0, of_variances=True),
        Distance(correlation, "correlation distance of variances", 2.0, of_variances=True),
        Distance(entropy, "entropy distance", math.log(2), "nats"),
    )
}


def pairwise_distances(
    embeddings: Float[ArrayLike, "tasks filters"] | Rows, distance: str = "task2vec_scale_free"
) -> Float[np.ndarray, "tasks tasks"]:
    """The distance of every pair of tasks, zero on the diagonal; memory does not grow with tasks².

    Symmetric; `asymmetric_kl` is taken from the earlier task to the later.

    Raises:
      InputError: an unknown distance or embeddings that are not finite, not negative `[tasks, filters]`.
    """
    rows = _checked(embeddings, least=2, distance=distance)
    left, right = np.triu_indices(len(rows), 1)
    found = np.zeros((len(rows), len(rows)))
    found[left, right] = _distances(rows, rows, left, right, distance)
    return found + found.T


def _distances(a, b, left, right, distance):
    """Of the rows `left` of a from the rows `right` of b."""
    step = max(1, _BLOCK // a.shape[1])
    parts = [
        DISTANCES[distance](a[left[start : start + step]], b[right[start : start + step]])
        for start in range(0, len(left), step)
    ]
    return np.concatenate(parts)


def jackknife(distances: Float[np.ndarray, "tasks tasks"]) -> Estimate:
    """Mean pair distance with a jackknife over *tasks*: over newly drawn tasks, since pairs share tasks.

    Leaving task i out gives θᵢ; variance (n−1)/n Σ(θᵢ − θ̄)², Student's t with n−1 degrees of freedom (Arvesen 1969).
    """
    value, error, freedom = _jackknife(distances)
    return _interval(value, error, freedom)


def _jackknife(distances):
    """The mean pair distance, its standard error and degrees of freedom."""
    n = _enough(distances)
    total, rows = np.triu(distances, 1).sum(), distances.sum(1)
    without = (total - rows) / ((n - 1) * (n - 2) / 2)
    error = np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    return total / (n * (n - 1) / 2), error, n - 1


def difference(
    one: Float[np.ndarray, "tasks tasks"], other: Float[np.ndarray, "others others"]
) -> tuple[Estimate, float]:
    """One coefficient minus another, from the distances of tasks drawn independently, and its two-sided p-value.

    The variance is the sum of both jackknives'; Student's t with Welch's degrees of freedom (Welch 1947).
    """
    (a, a_error, a_freedom), (b, b_error, b_freedom) = _jackknife(one), _jackknife(other)
    error = float(np.hypot(a_error, b_error))
    if error == 0:  # no task differs from another in its distances
        return Estimate(float(a - b), float(a - b), float(a - b)), float(a == b)
    freedom = error**4 / (a_error**4 / a_freedom + b_error**4 / b_freedom)
    return _interval(a - b, error, freedom), float(2 * scipy.stats.t.sf(abs(a - b) / error, freedom))


def iid_pairs(distances: Float[np.ndarray, "tasks tasks"]) -> Estimate:
    """The reference's interval, t(.975, N−1)·sd/√N over N = n(n−1)/2 pairs: too narrow, they are not independent."""
    n = _enough(distances)
    pairs = distances[np.triu_indices(n, 1)]
    return _interval(pairs.mean(), pairs.std(ddof=1) / np.sqrt(len(pairs)), len(pairs) - 1)


def bootstrap(distances: Float[np.ndarray, "tasks tasks"], draws: int = 2000, seed: int = 0) -> Estimate:
    """Percentile interval over tasks drawn with replacement.

    A task drawn twice is no pair with itself: its distance of 0 would pull every replicate down.
    """
    n = _enough(distances)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws).astype(float)
    pairs = n * n - (weights**2).sum(1)
    weights, pairs = weights[pairs > 0], pairs[pairs > 0]
    replicates = np.einsum("ri,ri->r", weights @ distances, weights) / pairs
    low, high = np.quantile(replicates, (0.025, 0.975))
    return Estimate(float(distances[np.triu_indices(n, 1)].mean()), float(low), float(high))


INTERVALS: Mapping[str, Callable[[np.ndarray], Estimate]] = {
    "jackknife": jackknife,
    "bootstrap": bootstrap,
    "iid_pairs": iid_pairs,
}


def diversity(
    embeddings: Float[ArrayLike, "tasks filters"] | Rows,
    distance: str = "task2vec_scale_free",
    interval: str | None = "jackknife",
) -> Estimate:
    """The diversity coefficient: the mean distance between two different tasks, with its 95% interval.

    Args:
      embeddings: one task a row.
      distance: a key of `DISTANCES`.
      interval: a key of `INTERVALS`, or None for none (both ends are NaN), which two tasks suffice for.

    Raises:
      InputError: an unknown name, embeddings that are not usable, or fewer than 3 tasks with an interval.
    """
    if interval is not None and interval not in INTERVALS:
        raise unknown("interval", interval, INTERVALS)
    distances = pairwise_distances(embeddings, distance)
    if interval is None:
        return Estimate(float(distances[np.triu_indices(len(distances), 1)].mean()), np.nan, np.nan)
    return INTERVALS[interval](distances)


def cross_diversity(
    one: Float[ArrayLike, "tasks filters"] | Rows,
    other: Float[ArrayLike, "others filters"] | Rows,
    distance: str = "task2vec_scale_free",
) -> Estimate:
    """The mean distance of one benchmark's tasks from another's, with a jackknife over the tasks of both.

    The tasks must have been drawn apart: give `embed_benchmark` another key for each benchmark. Under one key, two
    tables of which one begins with the other, or one table twice, have tasks in common, and the mean is too small.

    Leaving a task out is leaving out its row (or column) of distances, so the variance is the sum of those of the row
    and of the column means; Student's t with one degree less than the smaller benchmark has tasks.

    Raises:
      InputError: embeddings of different probes or fewer than 3 tasks in either.
    """
    a, b = (_checked(rows, least=3, distance=distance) for rows in (one, other))
    if a.shape[1] != b.shape[1]:
        raise InputError(f"embeddings of {a.shape[1]} and {b.shape[1]} filters: were they made with the same probe?")
    left, right = (index.ravel() for index in np.indices((len(a), len(b))))
    found = _distances(a, b, left, right, distance).reshape(len(a), len(b))
    error = np.sqrt(sum(means.var(ddof=1) / len(means) for means in (found.mean(1), found.mean(0))))
    return _interval(found.mean(), error, min(found.shape) - 1)


def noise_floor(
    once: Float[ArrayLike, "tasks filters"] | Rows,
    again: Float[ArrayLike, "tasks filters"] | Rows,
    distance: str = "task2vec_scale_free",
) -> float:
    """The mean distance between two embeddings of the *same* task under different keys: the estimator's own noise.

    About this much of a coefficient from the same estimator is not diversity. Zero for `exact` with a converged head.
    """
    a, b = (_checked(rows, least=1, distance=distance) for rows in (once, again))
    if a.shape != b.shape:
        raise InputError(f"the same tasks embedded twice must have one shape, not {a.shape} and {b.shape}")
    both = np.arange(len(a))
    return float(_distances(a, b, both, both, distance).mean())


def layer_diversity(
    embeddings: Float[ArrayLike, "tasks filters"] | Rows,
    layer_names: Sequence[str],
    distance: str = "task2vec_scale_free",
) -> dict[str, float]:
    """The coefficient of each layer's entries alone; `layer_names` names each entry (`Probe.layer_names`)."""
    rows = _checked(embeddings, least=2, distance=distance)
    if len(layer_names) != rows.shape[1]:
        raise InputError(f"{len(layer_names)} layer names for {rows.shape[1]} filters: another probe's?")
    names = np.asarray(layer_names)
    return {
        name: diversity(rows[:, names == name], distance, interval=None).value for name in dict.fromkeys(layer_names)
    }


def vendi(embeddings: Float[ArrayLike, "tasks filters"] | Rows) -> float:
    """The Vendi score: the effective number of different tasks, 1 to `tasks` (Friedman and Dieng 2023).

    exp of the entropy of the eigenvalues of K/tasks, K the cosine similarities, which are a kernel where the
    pairwise-scaled ones need not be. It rises with the number of tasks: compare equal numbers only.
    """
    rows = _checked(embeddings, least=2)
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.all():
        raise InputError(f"embeddings: task {np.argmin(lengths)} is all zeros, which has no cosine similarity")
    unit = rows / lengths[:, None]
    eigenvalues = np.clip(np.linalg.eigvalsh(unit @ unit.T / len(rows)), 0, None)
    return float(np.exp(-special.xlogy(eigenvalues, eigenvalues).sum()))


def complexity(embeddings: Float[ArrayLike, "tasks filters"] | Rows) -> Estimate:
    """Task2Vec complexity: the mean length of an embedding, with a 95% t interval over tasks (3 or more)."""
    rows = _checked(embeddings, least=3)
    lengths = np.linalg.norm(rows, axis=1)
    return _interval(lengths.mean(), lengths.std(ddof=1) / np.sqrt(len(rows)), len(rows) - 1)


def _interval(value: float, error: float, freedom: float) -> Estimate:
    half = float(scipy.stats.t.ppf(0.975, freedom) * error)
    return Estimate(float(value), float(value) - half, float(value) + half)


def _enough(distances: np.ndarray) -> int:
    if len(distances) < 3:
        raise InputError(
            f"an interval needs at least 3 tasks, not {len(distances)}; interval=None gives the value alone"
        )
    return len(distances)


def _checked(embeddings: ArrayLike | Rows, least: int, distance: str | None = None) -> np.ndarray:
    if distance is not None and distance not in DISTANCES:
        raise unknown("distance", distance, DISTANCES)
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
    if distance is not None and DISTANCES[distance].of_variances and not rows.all():
        raise InputError(
            f"distance {distance!r} compares 1/F, but {int((rows == 0).sum())} entries are 0 (filters that no image "
            f"reaches): use task2vec_scale_free"
        )
    return rows
