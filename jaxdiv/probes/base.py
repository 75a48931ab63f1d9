"""The protocol of a probe: a network that turns examples into features and knows its own Fisher information.

`task2vec` speaks of this protocol alone. It knows no layer, and nothing of what an example is.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxdiv.errors import InputError
from jaxdiv.nets.logistic import Head

# A pytree of arrays, each with one row per example: images [n, h, w, 3], tokens and their mask, whatever a probe takes.
Batch = PyTree
# Probabilities [examples, ways] -> vectors v at the logits [examples, columns, ways]: an example's Fisher information
# is the sum of (vᵀJ)² over its columns, J the Jacobian of its logits.
ScoreVectors = Callable[[Array], Array]


@runtime_checkable
class Probe(Protocol):
    """A network with its parameters, and what Task2Vec asks of it.

    A probe is a pytree whose leaves are its parameters, so that it passes through `jax.jit`; everything else about it
    is static. Its network treats each example on its own, except in `training_features`. An *entry* is one number of
    an embedding: the mean of the Fisher diagonal over the weights that make one output unit (a filter, a neuron).
    """

    @property
    def name(self) -> str:
        """The architecture's name, for records."""

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layer that each entry belongs to."""

    @property
    def weights(self) -> PyTree:
        """The parameters that `training_features` is differentiated by."""

    def check(self, batch: Batch) -> None:
        """Raise InputError for a batch, of arrays, whose shapes or types the network cannot take."""

    def inspect(self, batch: Batch) -> PyTree:
        """What `check_numbers` judges a batch's numbers by: a few numbers, by a pure function. A program over many
        tasks thus looks at all of their examples, and nothing is read before it is done."""

    def check_numbers(self, seen: PyTree) -> None:
        """Raise InputError, or warn, for what `inspect` saw of a batch; of several, with an axis of batches first."""

    def features(self, batch: Batch) -> Float[Array, "examples d"]:
        """Pooled features, what the classifier's head sees."""

    def fisher(self, batch: Batch, head: Head, score_vectors: ScoreVectors) -> Float[Array, " entries"]:
        """The Fisher diagonal per entry, summed over examples and columns, in (nats per unit of weight)²."""

    def bytes_per_example(self, example: Batch, columns: int) -> int:
        """Memory that `fisher` takes for each example; `example` is a batch of one, of which only shapes count."""

    def training_features(
        self, weights: PyTree, batch: Batch, counts: Float[Array, " examples"] | None = None
    ) -> Float[Array, "examples d"]:
        """`features` under other `weights` and in training mode, where the network has one: batch norm then uses the
        statistics of the batch, in which example i occurs `counts[i]` times (None: once)."""

    def mean_squares(self, gradient: PyTree) -> Float[Array, " entries"]:
        """A gradient with the structure of `weights` -> the mean of its square per entry."""


Tensors = Mapping[str, np.ndarray]


def feature_cotangents(
    features: Float[Array, "examples d"], head: Head, score_vectors: ScoreVectors
) -> Float[Array, "columns examples d"]:
    """The score vectors, taken back through the head to the features."""
    logits = features @ head.kernel + head.bias
    return jnp.einsum("nkc,dc->knd", score_vectors(jax.nn.softmax(logits)), head.kernel)


def as_arrays(batch: Batch) -> Batch:
    """The same batch as JAX arrays; nested lists are one array."""
    return jnp.asarray(batch) if isinstance(batch, list) else jax.tree.map(jnp.asarray, batch)


def size(batch: Batch) -> int:
    """The number of examples."""
    return jax.tree.leaves(batch)[0].shape[0]


def description(name: str, entries: int, parameters: int) -> str:
    """A probe in one line, of numbers that hold for traced and abstract parameters too."""
    return f"Probe({name}, {entries:,} entries, {parameters / 1e6:.1f} M parameters)"


def count_unusable(values: Array) -> Int[Array, "2"]:
    """How many numbers are NaN or infinite, and how many there are."""
    return jnp.stack([(~jnp.isfinite(values)).sum(), jnp.asarray(values.size)])


def check_count(counted: Int[ArrayLike, "*batches 2"], what: str) -> None:
    """Raise InputError where `count_unusable` counted any."""
    unusable, size = np.asarray(counted).reshape(-1, 2).sum(0)
    if unusable:
        raise InputError(f"{what}: NaN or infinity in {unusable} of {size} numbers")


def check_finite(values: Array | np.ndarray, what: str) -> None:
    """Raise InputError where there is NaN or infinity; tracers pass: the caller of the outermost function checks."""
    if not isinstance(values, jax.core.Tracer) and not bool(jnp.isfinite(values).all()):
        raise InputError(f"{what}: NaN or infinity in {int((~np.isfinite(values)).sum())} of {values.size} numbers")
