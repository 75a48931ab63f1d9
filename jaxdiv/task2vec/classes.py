"""Single classes instead of tasks: their embeddings, a choice among them by diversity, and what the choice gains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jaxdiv.data.episodes import read_images
from jaxdiv.data.table import ImageTable, checked_rows, take
from jaxdiv.errors import InputError, at_least, check_known
from jaxdiv.probes.base import Probe
from jaxdiv.task2vec.program import How, Tasks, embed_each

GOALS = ("most", "least")


def embed_classes(
    probe: Probe,
    pool: ImageTable,
    rows: Int[np.ndarray, " classes"],
    images: int,
    key: PRNGKeyArray,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
    chunk: int | None = None,
    tasks_at_once: int | None = None,
) -> Float[np.ndarray, "classes filters"]:
    """Task2Vec embeddings (exact, converged head) of single classes of a pool.

    Each class is a 2-way task: `images` of its images, which `seed` draws, against as many of the pool's other classes,
    which are nearly the same for all. Different devices embed different classes; `chunk` and `tasks_at_once` are as
    `embed_tasks`'s.

    Raises:
      InputError: as `embed_tasks`, for a row that is no class of the pool, for a class with fewer images, and for a
        pool with fewer images beside a class.
    """
    at_least(1, images=images)
    chosen = jax.device_put(take(pool, rows, images, seed))
    backgrounds = _backgrounds(key, pool, rows, images)
    how, draw = How(ways=2, estimator="exact", head="converged", chunk=chunk), _AgainstAll(images)
    numbers = np.arange(len(rows), dtype=np.int32)
    source = (chosen, *backgrounds)
    return embed_each(probe, how, numbers, draw, source, tasks_at_once=tasks_at_once, progress=progress)


def _backgrounds(
    key: PRNGKeyArray, pool: ImageTable, rows: Int[np.ndarray, " classes"], images: int
) -> tuple[Float[Array, "some h w c"], Int[np.ndarray, "classes images"]]:
    """Images as a probe sees them, and which of them are the background of each class in `rows`: the first of one
    random order of the pool that are not its own.

    An image of the class itself would carry both labels: the head cannot tell it apart, and such a class would have an
    embedding a hundred times as long, far from all others.
    """
    first, count = np.asarray(pool.first), np.asarray(pool.count)
    whole, most = len(pool.images), int(count[rows].max())
    if whole - most < images:
        raise InputError(f"a class has all but {whole - most} images of the pool, `images` is {images}: lower it")
    order = np.asarray(jax.random.permutation(key, whole))[: images + most]
    others = [order[(order < first[row]) | (order >= first[row] + count[row])][:images] for row in rows]
    used, which = np.unique(others, return_inverse=True)
    # To a multiple of `images`, so that another draw has the same shape and compiles nothing.
    used = np.pad(used, (0, -len(used) % images), mode="edge")
    part = np.bincount(np.searchsorted(first, used, side="right") - 1, minlength=len(first)).astype(np.int32)
    shown = replace(
        pool, images=np.asarray(pool.images[used]), first=np.cumsum(part, dtype=np.int32) - part, count=part
    )
    return read_images(jax.device_put(shown), np.arange(len(used))), which.reshape(len(rows), images)


@dataclass(frozen=True)
class _AgainstAll:
    """Draws the task of a class, by its number among the chosen: its `images` images against its background."""

    images: int

    def __call__(self, source: tuple[ImageTable, Array, Array], number: Int[ArrayLike, ""]) -> Tasks:
        chosen, shown, which = source
        mine = read_images(chosen, number * self.images + jnp.arange(self.images))
        return jnp.concatenate([mine, shown[which[number]]]), jnp.repeat(jnp.arange(2), self.images), None


@dataclass(frozen=True)
class Gain:
    """What a choice of so many classes is worth.

    Attributes:
      classes: how many are chosen.
      diversity: the mean distance between two of them, and of those that one has.
      random: the same of as many classes drawn at random: its mean, and the ends of the range of 95% of draws.
    """

    classes: int
    diversity: float
    random: float
    random_low: float
    random_high: float


def choose_classes(
    distances: Float[ArrayLike, "classes classes"],
    count: int,
    goal: str = "most",
    have: Sequence[int] | Int[np.ndarray, " had"] = (),
) -> Int[np.ndarray, " count"]:
    """Rows of classes in the order of choice: the first k are the choice of k classes.

    Greedy for the mean distance between two classes: the farthest pair (`goal="least"`: the nearest), then always the
    class that is farthest on average from those before it. Where distances obey the triangle inequality, the most
    diverse choice has at least half of the largest sum of distances that any has (Birnbaum and Goldman 2006,
    https://doi.org/10.1007/11830924_7). Task2Vec distances need not obey it; then this is a heuristic.

    Args:
      distances: symmetric, as `pairwise_distances` gives them.
      count: how many; at least 2 where `have` is empty.
      goal: "most" or "least" diverse.
      have: rows of classes that one has already. They are not chosen, and the choice is the one that adds most
        (least) to them.

    Raises:
      InputError: distances that are not a finite square, or fewer classes than are asked for.
    """
    check_known("goal", goal, GOALS)
    square, had = _checked(distances, count, have)
    towards = square if goal == "most" else -square
    free = np.ones(len(square), bool)
    free[had] = False
    order: list[int] = []
    if not len(had):
        pairs = np.where(np.triu(np.ones_like(towards, bool), 1), towards, -np.inf)
        order += map(int, np.unravel_index(pairs.argmax(), pairs.shape))
        free[order] = False
    sums = towards[:, [*had, *order]].sum(1)
    while len(order) < count:
        best = int(np.where(free, sums, -np.inf).argmax())
        order.append(best)
        free[best] = False
        sums += towards[:, best]
    return np.array(order)


def choice_gain(
    one: Float[ArrayLike, "classes classes"],
    other: Float[ArrayLike, "classes classes"],
    count: int,
    goal: str = "most",
    have: Sequence[int] | Int[np.ndarray, " had"] = (),
    draws: int = 1000,
    seed: int = 0,
) -> list[Gain]:
    """The diversity of the first k classes chosen, and of k random ones, for each k up to `count`.

    A choice made on noisy distances looks better by them than it is, since it also chose their errors. So what is
    chosen by `one` is measured by `other`, and the reverse; the mean of both is the diversity. Random sets choose
    nothing, and are measured by the mean of both.

    Args:
      one, other: distances of the same classes, embedded from disjoint halves of their images.
      count, goal, have: as in `choose_classes`.
      draws: random sets, each of which grows with k.

    Raises:
      InputError: as `choose_classes`.
    """
    at_least(1, draws=draws)
    (first, had), (second, _) = _checked(one, count, have), _checked(other, count, have)
    if first.shape != second.shape:
        raise InputError(f"`one` is of {len(first)} classes, `other` of {len(second)}: they must be of the same")
    halves = (first, second), (second, first)
    chosen = [_growing(by, np.array(choose_classes(on, count, goal, had)), had) for on, by in halves]
    pool, rng = np.setdiff1d(np.arange(len(first)), had), np.random.default_rng(seed)
    both = (first + second) / 2
    random = np.array([_growing(both, rng.permutation(pool)[:count], had) for _ in range(draws)])
    low, high = np.quantile(random, (0.025, 0.975), axis=0)
    columns = np.mean(chosen, axis=0), random.mean(0), low, high
    begin = max(0, 2 - len(had))  # of fewer than two classes there is no distance
    return [Gain(begin + k, *map(float, row)) for k, row in enumerate(zip(*columns, strict=True))]


def _growing(distances: np.ndarray, order: np.ndarray, had: np.ndarray) -> np.ndarray:
    """The mean distance between two of `had` and the first k of `order`, for each k for which these are two or more."""
    rows = np.concatenate([had, order])
    sums = np.tril(distances[np.ix_(rows, rows)], -1).sum(1).cumsum()
    sizes = np.arange(1, len(rows) + 1)
    return (sums[1:] / (sizes * (sizes - 1) / 2)[1:])[max(0, len(had) - 2) :]


def _checked(distances: ArrayLike, count: int, have: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distances and the rows that one has."""
    square = np.asarray(distances, np.float64)
    if square.ndim != 2 or square.shape[0] != square.shape[1] or not np.isfinite(square).all():
        raise InputError(f"`distances` {square.shape} must be a finite square [classes, classes]")
    had = np.asarray(have, None if len(have) else int)
    if len(np.unique(checked_rows(had, len(square), "classes"))) < len(had):
        raise InputError(f"`have` is {had.tolist()}: give each class once")
    at_least(1 if len(had) else 2, count=count)
    if count > len(square) - len(had):
        raise InputError(f"`count` is {count}: there are {len(square) - len(had)} classes to choose from")
    return square, had
