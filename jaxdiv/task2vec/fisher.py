"""The diagonal of the Fisher information of a probe's weights, for one task.

F = E_x E_{y~p(y|x)} (∂ log p(y|x)/∂w)² under the model's own labels (Achille et al. 2019,
https://arxiv.org/abs/1902.03545), averaged over the weights that make one output unit of the probe.

Labels cost nothing to enumerate. The expectation over y is that of vᵀJ over the score vectors v = e_y − p at the
logits, and E vvᵀ = diag(p) − ppᵀ = LLᵀ with ways − 1 columns: one backward pass a column is exact.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiv.errors import InputError, at_least, unknown
from jaxdiv.nets.logistic import Head
from jaxdiv.nets.precision import full_precision
from jaxdiv.probes.base import Batch, Probe, as_arrays, check_finite, size
from jaxdiv.task2vec import aws
from jaxdiv.task2vec.head import Keys, check_head
from jaxdiv.task2vec.memory import choose, cpu_chunk, free_bytes


class Columns(NamedTuple):
    """How the expectation over labels is taken.

    Attributes:
      score_vectors: probabilities [examples, ways], what was drawn for the examples -> [examples, columns, ways].
      draw: key, (examples, ways), type -> what is drawn, with a row for each example; None: nothing.
    """

    score_vectors: Callable[[Array, Any], Array]
    draw: Callable[[PRNGKeyArray, tuple[int, int], np.dtype], Array] | None = None


def exact(probe: Probe, batch: Batch, head: Head, key: PRNGKeyArray | None = None, chunk: int | None = None) -> Array:
    """The Fisher diagonal itself, by ways − 1 backward passes. Uses no key. Arguments as `fisher`'s."""
    return _fisher(probe, batch, head, key, EXACT, chunk)


def rademacher(probe: Probe, batch: Batch, head: Head, key: PRNGKeyArray, chunk: int | None = None) -> Array:
    """Unbiased, by one backward pass: a random ±1 mixture of the exact columns. Arguments as `fisher`'s."""
    return _fisher(probe, batch, head, key, _RADEMACHER, chunk)


def mc(probe: Probe, batch: Batch, head: Head, key: PRNGKeyArray, chunk: int | None = None) -> Array:
    """Unbiased and very noisy: one label for each example, drawn from the model. Arguments as `fisher`'s."""
    return _fisher(probe, batch, head, key, _MC, chunk)


def reference(probe: Probe, batch: Batch, head: Head, key: PRNGKeyArray, chunk: int | None = None) -> Array:
    """The study's own procedure, noise and all (`aws.fisher`). Arguments as `fisher`'s; `chunk` is not used."""
    return aws.fisher(probe, batch, head, key)


ESTIMATORS: Mapping[str, Callable[..., Array]] = {
    "exact": exact,
    "rademacher": rademacher,
    "mc": mc,
    "reference": reference,
}
_NEED_KEY = {"rademacher", "mc", "reference"}


def is_stochastic(estimator: str, head: str) -> bool:
    """Whether embeddings by these depend on a key, so that they have a noise floor."""
    return estimator in _NEED_KEY or head == "adam"


@full_precision
def fisher(
    probe: Probe,
    batch: Batch,
    head: Head,
    estimator: str = "exact",
    key: PRNGKeyArray | None = None,
    chunk: int | None = None,
) -> Float[Array, " entries"]:
    """The Fisher diagonal per entry (`probe.layer_names` names each one's layer), in (nats per unit of weight)².

    Args:
      probe: from `load_probe` or `probe_from`.
      batch: examples as the probe takes them: images [images, h, w, 3], normalised as those that it was trained on.
      head: kernel and bias on the pooled features.
      estimator: `exact`, `rademacher`, `mc` or `reference`.
      key: for the three that draw.
      chunk: examples in memory at a time, which changes no result beyond rounding; None: as many as the device's
        memory holds, on a CPU 256 MB of activations and cotangents.

    Raises:
      InputError: an unknown estimator, a missing key, a batch that the probe cannot take, a head of another
        probe's features, or a result that is not finite.
    """
    check_estimator(estimator, key)
    batch = checked(probe, batch, chunk)
    head = Head(*map(jnp.asarray, head))
    check_head(head, jax.eval_shape(probe.features, batch).shape[1])
    chunk = chunk_here(probe, batch, head.bias.shape[0], estimator, chunk)
    found = ESTIMATORS[estimator](probe, batch, head, key, chunk=chunk)
    check_finite(found, "the Fisher")
    return found


def chunk_here(probe: Probe, batch: Batch, ways: int, estimator: str, chunk: int | None) -> int | None:
    """`chunk`, or what suits the device of this process; None: a CPU's own."""
    memory = free_bytes(jax.local_devices()[0], (probe, batch))
    return choose(probe, batch, ways, estimator, 1, memory, chunk).chunk


def check_estimator(estimator: str, key: Keys | None) -> None:
    """Check that there is such an estimator, and a key if it is stochastic."""
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)
    if key is None and estimator in _NEED_KEY:
        raise InputError(f"estimator {estimator!r} draws at random: give it a jax.random key")


def checked(probe: Probe, batch: Batch, chunk: int | None) -> Batch:
    """The batch on the device, where the probe can take it and `chunk` is a number of examples.

    Inside `jax.jit` the numbers of a batch are not looked at.
    """
    batch = as_arrays(batch)
    probe.check(batch)
    if chunk is not None:
        at_least(1, chunk=chunk)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(batch)):
        probe.check_numbers(jax.device_get(_inspect(probe, batch)))
    return batch


@jax.jit
def _inspect(probe: Probe, batch: Batch) -> PyTree:
    return probe.inspect(batch)


@full_precision
def pooled_features(probe: Probe, batch: Batch, chunk: int | None = None) -> Float[Array, "examples d"]:
    """`probe.features` with no more than `chunk` examples in memory at a time. Arguments and errors as `fisher`'s."""
    batch = checked(probe, batch, chunk)
    return features_in_chunks(probe, batch, chunk_here(probe, batch, 2, "exact", chunk))


@partial(jax.jit, static_argnames=("chunk",))
def features_in_chunks(probe: Probe, batch: Batch, chunk: int | None) -> Float[Array, "examples d"]:
    """`pooled_features` of arguments that were checked."""
    parts, _ = _chunks(batch, chunk or cpu_chunk(probe, batch, columns=1))
    found = lax.map(probe.features, parts)
    return found.reshape(-1, found.shape[-1])[: size(batch)]


def stick_breaking(probabilities: Float[Array, "examples ways"], drawn: None = None) -> Array:
    """Columns of L with LLᵀ = diag(p) − ppᵀ -> `[examples, ways - 1, ways]`. Nothing is drawn for it.

    Column k: √(p_k s_{k+1} / s_k) at k and −p_j √(p_k / (s_k s_{k+1})) at j > k, with s_k = Σ_{j≥k} p_j.
    """
    # Smallest first: then every s holds the largest p, nothing is divided by a vanishing rest, and a sum of small
    # probabilities stands where 1 − p would cancel.
    order = jnp.argsort(probabilities, axis=1)
    p = jnp.take_along_axis(probabilities, order, 1)
    tail = jnp.cumsum(p[:, ::-1], 1)[:, ::-1]
    first, rest = p[:, :-1], tail[:, 1:]
    ways = p.shape[1]
    diagonal = jnp.sqrt(first * rest / tail[:, :-1])
    below = -jnp.sqrt(first / (tail[:, :-1] * rest))[:, :, None] * p[:, None, :]
    place = jnp.arange(ways)[None, :] - jnp.arange(ways - 1)[:, None]
    columns = jnp.where(place == 0, diagonal[:, :, None], jnp.where(place > 0, below, 0))
    back = jnp.broadcast_to(jnp.argsort(order, axis=1)[:, None, :], columns.shape)
    return jnp.take_along_axis(columns, back, 2)


def _mixed(probabilities: Array, signs: Array) -> Array:
    return jnp.einsum("nk,nkc->nc", signs, stick_breaking(probabilities))[:, None, :]


def _one_label(probabilities: Array, noise: Array) -> Array:
    drawn = jnp.argmax(jnp.log(probabilities) + noise, 1)
    return (jax.nn.one_hot(drawn, probabilities.shape[1], dtype=probabilities.dtype) - probabilities)[:, None, :]


EXACT = Columns(stick_breaking)
_RADEMACHER = Columns(_mixed, lambda key, shape, dtype: jax.random.rademacher(key, (shape[0], shape[1] - 1), dtype))
# The largest of log p with Gumbel noise is a draw by p.
_MC = Columns(_one_label, jax.random.gumbel)


@partial(jax.jit, static_argnames=("columns", "chunk"))
def _fisher(
    probe: Probe, batch: Batch, head: Head, key: PRNGKeyArray | None, columns: Columns, chunk: int | None
) -> Float[Array, " entries"]:
    ways = head.bias.shape[0]
    in_caches = cpu_chunk(probe, batch, columns=ways - 1)
    drawn, draw = None, columns.draw
    if draw is not None:
        assert key is not None  # `fisher` sees to it
        # In chunks of a CPU's size, whatever `chunk` is: so it changes no draw, here or on another device.
        _, real = _chunks(batch, in_caches)
        keys = jax.random.split(key, len(real))
        drawn = jax.vmap(lambda key: draw(key, (real.shape[1], ways), head.kernel.dtype))(keys)
        drawn = drawn.reshape(-1, *drawn.shape[2:])[: size(batch)]
    (parts, drawn), real = _chunks((batch, drawn), chunk or in_caches)

    def one(part: tuple[Batch, Array | None, Array]) -> Array:
        examples, drawn, real = part
        # Those that only fill the chunk up have scores of 0.
        scores = lambda p: columns.score_vectors(p, drawn) * real.astype(p.dtype)[:, None, None]
        return probe.fisher(examples, head, scores)

    if len(real) == 1:
        total = one(jax.tree.map(lambda leaf: leaf[0], (parts, drawn, real)))
    else:
        total = lax.map(one, (parts, drawn, real)).sum(0)
    return total / size(batch)


def _chunks(batch: Batch, chunk: int) -> tuple[Batch, Array]:
    """Equal chunks of at most `chunk` examples, the last filled up by its last example -> parts, and what is real."""
    n = size(batch)
    count = -(-n // chunk)
    length = -(-n // count)
    fill = count * length - n

    def cut(leaf: Array) -> Array:
        padding = ((0, fill), *[(0, 0)] * (leaf.ndim - 1))
        return jnp.pad(leaf, padding, mode="edge").reshape(count, length, *leaf.shape[1:])

    return jax.tree.map(cut, batch), (jnp.arange(count * length) < n).reshape(count, length)
