"""Which classes a task has: uniformly drawn, alike, or diverse. Pure, keyed and jitted.

Diverse classes come from a determinantal point process: a set of classes S has a probability in proportion to
det L_S, the squared volume that the classes' embeddings span (Kulesza and Taskar 2012, "Determinantal point processes
for machine learning", https://arxiv.org/abs/1207.6083). As in the samplers of Kumar, Deleu and Bengio (AAAI 2023,
https://arxiv.org/abs/2201.11775), of fixed size and over fixed embeddings of the classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, no_type_check, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiv.errors import InputError, at_least


@runtime_checkable
class ClassChoice(Protocol):
    """How a task gets its classes; a pytree, since it may be traced with its table."""

    @property
    def ways(self) -> int:
        """How many classes a draw has."""

    def __call__(self, key: PRNGKeyArray) -> Int[Array, " ways"]:
        """The classes of one task, in random order."""


@no_type_check  # a pytree: transformations put in it what they like
@struct.dataclass
class OneOf:
    """One of a few fixed sets of classes, each as likely."""

    sets: Int[Any, "sets ways"]

    @property
    def ways(self) -> int:
        return self.sets.shape[1]

    def __call__(self, key: PRNGKeyArray) -> Int[Array, " ways"]:
        for_set, for_order = jax.random.split(key)
        return jax.random.permutation(for_order, self.sets[jax.random.randint(for_set, (), 0, len(self.sets))])


@no_type_check  # a pytree: transformations put in it what they like
@struct.dataclass
class Nearest:
    """A class and those most similar to it: `draw_nearest`."""

    kernel: Float[Any, "classes classes"]
    ways: int = struct.field(pytree_node=False)

    def __call__(self, key: PRNGKeyArray) -> Int[Array, " ways"]:
        return draw_nearest(key, self.kernel, self.ways)


@no_type_check  # a pytree: transformations put in it what they like
@struct.dataclass
class Greedy:
    """A class and those that make the determinant largest: `draw_greedy`."""

    kernel: Float[Any, "classes classes"]
    ways: int = struct.field(pytree_node=False)

    def __call__(self, key: PRNGKeyArray) -> Int[Array, " ways"]:
        return draw_greedy(key, self.kernel, self.ways)


@no_type_check  # a pytree: transformations put in it what they like
@struct.dataclass
class KDPP:
    """A determinantal process over classes, ready to be drawn from: see `k_dpp`.

    Attributes:
      vectors: the eigenvectors of L, as columns.
      keep: how likely the draw keeps eigenvector n where it still has to keep l, 0 to `ways`: [l, n].
    """

    vectors: Float[Any, "classes classes"]
    keep: Float[Any, "kept classes"]

    @property
    def ways(self) -> int:
        """How many classes a draw has."""
        return len(self.keep) - 1

    def __call__(self, key: PRNGKeyArray) -> Int[Array, " ways"]:
        return draw_k_dpp(key, self)


def similarity(embeddings: Float[Array, "classes d"]) -> Float[Array, "classes classes"]:
    """L of a determinantal process: the cosines between the classes' embeddings, so that a class's own length counts
    for nothing."""
    units = embeddings / jnp.linalg.norm(embeddings, axis=1, keepdims=True)
    return units @ units.T


def k_dpp(kernel: Float[Array, "classes classes"], ways: int) -> KDPP:
    """The determinantal process of `kernel` on sets of `ways` classes.

    Args:
      kernel: symmetric, positive semidefinite.

    Raises:
      InputError: its rank is smaller than `ways`: then no set of so many classes has any probability.
    """
    at_least(1, ways=ways)
    values, vectors = jnp.linalg.eigh(kernel)
    noise = len(kernel) * jnp.finfo(kernel.dtype).eps * values[-1]
    values = jnp.where(values > noise, values, 0.0)
    if (rank := int((values > 0).sum())) < ways:
        raise InputError(f"the classes' embeddings span {rank} dimensions, fewer than ways={ways}: lower `ways`")
    return KDPP(vectors, _keep(values, ways))


@partial(jax.jit, static_argnames="ways")
def _keep(values: Array, ways: int) -> Array:
    # e[l] over the first n eigenvalues, the elementary symmetric polynomials: e_n[l] = e_{n-1}[l] + value e_{n-1}[l-1].
    scaled = values * (ways / values.sum())  # a common factor cancels; of this one, e[l] is at most ways^l / l!

    def step(e: Array, value: Array) -> tuple[Array, Array]:
        more = e.at[1:].add(value * e[:-1])
        share = value * e[:-1] / jnp.where(more[1:] > 0, more[1:], 1.0)
        return more, jnp.concatenate([jnp.zeros(1), share])

    none = jnp.zeros(ways + 1).at[0].set(1.0)
    return lax.scan(step, none, scaled)[1].T


@jax.jit
def draw_k_dpp(key: PRNGKeyArray, process: KDPP) -> Int[Array, " ways"]:
    """`process.ways` classes, each set of them in proportion to its determinant, in random order."""
    for_vectors, for_classes, for_order = jax.random.split(key, 3)
    count, ways = len(process.vectors), process.ways
    uniform = jax.random.uniform(for_vectors, (count,))

    def choose(left: Array, n: Array) -> tuple[Array, Array]:
        kept = uniform[n] < process.keep[left, n]
        return left - kept, kept

    kept = lax.scan(choose, jnp.int32(ways), jnp.arange(count)[::-1])[1][::-1]
    basis = process.vectors[:, lax.top_k(kept.astype(jnp.float32), ways)[1]]
    # Given the eigenvectors, classes follow one after the other, each with the variance that those before it leave.
    pick = lambda key, variance: jax.random.categorical(key, jnp.log(variance))
    found = _one_by_one(jax.random.split(for_classes, ways), basis @ basis.T, pick)
    return jax.random.permutation(for_order, found)


@partial(jax.jit, static_argnames="ways")
def draw_greedy(key: PRNGKeyArray, kernel: Float[Array, "classes classes"], ways: int) -> Int[Array, " ways"]:
    """A class drawn uniformly, then always the one that makes the determinant largest; in random order."""
    for_first, for_order = jax.random.split(key)
    first = jax.random.randint(for_first, (), 0, len(kernel))
    steps = jnp.arange(ways)
    pick = lambda step, variance: jnp.where(step == 0, first, variance.argmax())
    return jax.random.permutation(for_order, _one_by_one(steps, kernel, pick))


@partial(jax.jit, static_argnames="ways")
def draw_nearest(key: PRNGKeyArray, kernel: Float[Array, "classes classes"], ways: int) -> Int[Array, " ways"]:
    """A class drawn uniformly, and those most similar to it; in random order."""
    for_first, for_order = jax.random.split(key)
    first = jax.random.randint(for_first, (), 0, len(kernel))
    closeness = kernel[first].at[first].set(jnp.inf)
    return jax.random.permutation(for_order, lax.top_k(closeness, ways)[1])


def _one_by_one(turns: Array, kernel: Array, pick: Callable[[Array, Array], Array]) -> Int[Array, " ways"]:
    """Classes chosen in turn by their variance given those before, the diagonal of the Schur complement: a Cholesky
    factorisation in the order of the choice."""
    ways = len(turns)

    def choose(carry: tuple[Array, Array], item: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        variance, factor = carry
        turn, number = item
        chosen = pick(turn, variance)
        column = (kernel[chosen] - factor @ factor[chosen]) / jnp.sqrt(variance[chosen])
        # Never again, whatever rounding leaves.
        left = (variance - column**2).clip(0).at[chosen].set(0.0)
        left = jnp.where(variance > 0, left, 0.0)
        return (left, factor.at[:, number].set(column)), chosen

    begin = (jnp.diagonal(kernel), jnp.zeros((len(kernel), ways)))
    return lax.scan(choose, begin, (turns, jnp.arange(ways)))[1]
