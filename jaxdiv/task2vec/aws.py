"""aws-cv-task2vec's procedure as the study ran it, quirks kept: for numbers that compare with published ones.

The probe stays in training mode: every batch norm uses the statistics of its batch. Features, head and Fisher here are
what `task2vec` calls the estimator `reference` and the head `adam` (Achille et al. 2019; Miranda et al. 2022).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxdiv.nets.logistic import Head
from jaxdiv.probes.base import Batch, Probe, size

# The reference's loader (protocol of aws-cv-task2vec with its defaults): 10,000 draws in batches of 64, none left over.
_BATCH, _BATCHES = 64, 156
_HEAD_EPOCHS, _HEAD_RATE, _HEAD_DECAY = 10, 4e-4, 1e-4


@jax.jit
def features(probe: Probe, batch: Batch) -> Float[Array, "examples d"]:
    """Features as the reference caches them: batches of 64 in order, batch norm on each one's own statistics."""
    starts = range(0, size(batch), _BATCH)
    parts = [jax.tree.map(lambda leaf, start=start: leaf[start : start + _BATCH], batch) for start in starts]
    return jnp.concatenate([probe.training_features(probe.weights, part) for part in parts])


@partial(jax.jit, static_argnames=("ways",))
def adam_head(features: Float[Array, "images d"], labels: Int[Array, " images"], key: PRNGKeyArray, ways: int) -> Head:
    """The head as the reference fits it; `task2vec.fit_head` says how."""
    initial, draws = jax.random.split(key)
    bound = features.shape[1] ** -0.5
    numbers = jax.random.uniform(initial, (features.shape[1] + 1, ways), features.dtype, -bound, bound)
    head = Head(numbers[:-1], numbers[-1])
    optimizer = optax.chain(optax.add_decayed_weights(_HEAD_DECAY), optax.adam(_HEAD_RATE))

    def loss(head: Head, rows: Array) -> Array:
        logits = features[rows] @ head.kernel + head.bias
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def step(state: tuple[Head, optax.OptState], key: PRNGKeyArray) -> tuple[tuple[Head, optax.OptState], None]:
        head, moments = state
        rows = balanced_rows(key, labels, ways)
        updates, moments = optimizer.update(jax.grad(loss)(head, rows), moments, head)
        return (optax.apply_updates(head, updates), moments), None

    keys = jax.random.split(draws, _HEAD_EPOCHS * _BATCHES)
    return lax.scan(step, (head, optimizer.init(head)), keys)[0][0]


def balanced_rows(key: PRNGKeyArray, labels: Int[Array, " images"], ways: int) -> Int[Array, " batch"]:
    """A batch's images, drawn with replacement, every class with the same chance."""
    count = jnp.bincount(labels, length=ways)
    return jax.random.categorical(key, -jnp.log(count[labels].astype(jnp.float32)), shape=(_BATCH,))


@jax.jit
def fisher(probe: Probe, batch: Batch, head: Head, key: PRNGKeyArray) -> Float[Array, " entries"]:
    """Like the Fisher diagonal per entry, over 64: the squared gradient of a batch's *mean* cross-entropy.

    156 batches of 64 examples drawn with replacement (all alike: the classes of a task are of one size), batch norm
    on each batch's own statistics, labels drawn from the model. An example drawn several times is computed once
    and counts as often in the statistics; each of its copies has its own label.
    """
    examples, dtype = size(batch), head.kernel.dtype

    def loss(weights: PyTree, rows: Array, key: PRNGKeyArray, capacity: int) -> Array:
        # Filled up with the first example, which then counts for nothing.
        distinct, copies = jnp.unique(rows, size=capacity, fill_value=0, return_inverse=True)
        counts = jnp.bincount(copies, length=capacity).astype(dtype)
        found = probe.training_features(weights, jax.tree.map(lambda leaf: leaf[distinct], batch), counts)
        logits = found @ head.kernel + head.bias
        drawn = lax.stop_gradient(jax.random.categorical(key, logits[copies]))
        return optax.softmax_cross_entropy_with_integer_labels(logits[copies], drawn).mean()

    def squares(capacity: int, rows: Array, key: PRNGKeyArray) -> Array:
        return probe.mean_squares(jax.grad(loss)(probe.weights, rows, key, capacity))

    def draw(key: PRNGKeyArray) -> tuple[Array, PRNGKeyArray, Array]:
        for_rows, for_labels = jax.random.split(key)
        rows = jax.random.randint(for_rows, (_BATCH,), 0, examples, jnp.int32)
        return rows, for_labels, (jnp.bincount(rows, length=examples) > 0).sum()

    rows, for_labels, distinct = jax.vmap(draw)(jax.random.split(key, _BATCHES))
    usual, most = usually_distinct(examples), min(_BATCH, examples)
    # Two loops over the batches in order of size: XLA's conditional in one loop took half as long again.
    order, fitting = jnp.argsort(distinct), (distinct <= usual).sum()
    total = jnp.zeros(len(probe.layer_names), dtype)
    for capacity, start, stop in ((usual, 0, fitting), (most, fitting, _BATCHES)):
        add = lambda i, total, n=capacity: total + squares(n, rows[order[i]], for_labels[order[i]])
        if capacity == usual or usual < most:
            total = lax.fori_loop(start, stop, add, total)
    return total / _BATCHES


def usually_distinct(images: int) -> int:
    """Different images among a batch's draws in 19 batches of 20; or the most there can be, where that is hardly more.

    The mean and the variance are those of the number of occupied cells.
    """
    missed, both = (1 - 1 / images) ** _BATCH, (1 - 2 / images) ** _BATCH
    variance = images * missed + images * (images - 1) * both - (images * missed) ** 2
    usual, most = math.ceil(images * (1 - missed) + 1.65 * max(variance, 0.0) ** 0.5), min(_BATCH, images)
    return usual if usual < 0.9 * most else most  # a second program to compile has to earn it
