"""The controlled experiment's subsets: classes of one pool, equal in number, of low, middle and high diversity.

Subsets are chosen for the mean distance between their classes: least, most, and half-way. Each takes as many classes
of every data set of the pool as the others, so that neither size nor the mixture of data sets tells one from another.
"""

import numpy as np
from jaxtyping import Float, Int

from jaxdiv.errors import InputError
from jaxdiv.stats.controlled import LEVELS

_STARTS = 6  # random starts of one search


def mean_distance(distances: Float[np.ndarray, "classes classes"], rows: Int[np.ndarray, " chosen"]) -> float:
    """The mean distance between two different ones of `rows`."""
    return float(distances[np.ix_(rows, rows)][np.triu_indices(len(rows), 1)].mean())


def choose(
    distances: Float[np.ndarray, "classes classes"],
    kinds: Int[np.ndarray, " classes"],
    classes: int,
    subsets: int,
    seed: int,
) -> dict[str, Int[np.ndarray, " chosen"]]:
    """Subsets by name, `low-1` to `high-N`: rows of `classes` classes, as many of each kind.

    Subset n of every level is chosen from the n-th of `subsets` parts of the classes, dealt out at random: the levels
    compare within a part, and two parts share no class, so that they are independent.

    Raises:
      InputError: a part leaves no choice.
    """
    check_choice(kinds, classes, subsets)
    rng = np.random.default_rng(seed)
    each = classes // (int(kinds.max()) + 1)
    found: dict[str, np.ndarray] = {}
    dealt = [np.array_split(rng.permutation(np.flatnonzero(kinds == kind)), subsets) for kind in np.unique(kinds)]
    for number in range(1, subsets + 1):
        part = np.concatenate([of_kind[number - 1] for of_kind in dealt])
        inside, of_kind = distances[np.ix_(part, part)], kinds[part]
        low, high = (_search(inside, of_kind, each, target, rng) for target in (0.0, 2.0))
        between = (mean_distance(inside, low) + mean_distance(inside, high)) / 2
        middle = _search(inside, of_kind, each, between, rng)
        for level, rows in zip(LEVELS, (low, middle, high), strict=True):
            found[f"{level}-{number}"] = np.sort(part[rows])
    return {name: found[name] for level in LEVELS for name in found if name.startswith(level)}


def check_choice(kinds: Int[np.ndarray, " classes"], classes: int, subsets: int) -> None:
    """Raise InputError where classes of these data sets (`kinds`) leave no choice of subsets."""
    each = classes // (kinds.max() + 1)
    if np.bincount(kinds).min() < 2 * subsets * each:
        raise InputError(
            f"the pool has {np.bincount(kinds).min()} classes of one data set, too few for {subsets} subsets "
            f"of {each} and a choice: lower `classes` or `subsets`"
        )


def _search(distances: np.ndarray, kinds: np.ndarray, each: int, target: float, rng: np.random.Generator) -> np.ndarray:
    """The subset, `each` of a kind, whose mean distance is nearest to `target` that swaps of two classes find."""
    best, best_gap = np.array([], int), np.inf
    for _ in range(_STARTS):
        rows = np.concatenate([rng.permutation(np.flatnonzero(kinds == kind))[:each] for kind in np.unique(kinds)])
        inside = np.isin(np.arange(len(kinds)), rows)
        pairs = len(rows) * (len(rows) - 1) / 2
        gap = abs(mean_distance(distances, rows) - target)
        while True:
            reach = distances[:, inside].sum(1)
            total = reach[inside].sum() / 2
            out, into = np.flatnonzero(inside), np.flatnonzero(~inside)
            swapped = total - reach[out][:, None] + reach[into][None] - distances[np.ix_(out, into)]
            gaps = np.where(kinds[out][:, None] == kinds[into][None], abs(swapped / pairs - target), np.inf)
            if not gaps.size or gaps.min() >= gap - 1e-12:
                break
            gap = gaps.min()
            i, j = np.unravel_index(gaps.argmin(), gaps.shape)
            inside[out[i]], inside[into[j]] = False, True
        if gap < best_gap:
            best, best_gap = np.flatnonzero(inside), gap
    return best
