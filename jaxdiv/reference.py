"""aws-cv-task2vec's procedure as the study ran it, quirks kept: for numbers that compare with published ones.

The probe stays in training mode: every batch norm uses the statistics of its batch. Features, head and Fisher here are
what `task2vec` calls the estimator `reference` and the head `adam` (Achille et al. 2019; Miranda et al. 2022).
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiv.logistic import Head
from jaxdiv.nets.resnet import Probe, at, layers

# The reference's loader (protocol of aws-cv-task2vec with its defaults): 10,000 draws in batches of 64, none left over.
_BATCH, _BATCHES = 64, 156
_HEAD_EPOCHS, _HEAD_RATE, _HEAD_DECAY = 10, 4e-4, 1e-4


@jax.jit
def features(probe: Probe, images: Float[Array, "images h w c"]) -> Float[Array, "images d"]:
    """Features as the reference caches them: batches of 64 in order, batch norm on each one's own statistics."""
    parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    return jnp.concatenate([_features(probe, probe.params["params"], part) for part in parts])


def _features(probe: Probe, params: dict, images: Array) -> Array:
    variables = {"params": params, "batch_stats": probe.params["batch_stats"]}
    # A mutable `batch_stats` makes every norm use the statistics of this batch.
    return probe.net.apply(variables, images, mutable=["batch_stats"])[0]


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
def fisher(probe: Probe, images: Array, head: Head, key: PRNGKeyArray) -> Float[Array, " filters"]:
    """Like the Fisher diagonal per filter, over 64: the squared gradient of a batch's *mean* cross-entropy.

    156 batches of 64 images drawn with replacement (every image alike: the classes of a task are of one size), batch
    norm on each batch's own statistics, labels drawn from the model.
    """

    def loss(params: dict, rows: Array, key: PRNGKeyArray) -> Array:
        found = _features(probe, params, images[rows])
        logits = jnp.matmul(found, head.kernel, precision=lax.Precision.HIGHEST) + head.bias
        drawn = lax.stop_gradient(jax.random.categorical(key, logits))
        return optax.softmax_cross_entropy_with_integer_labels(logits, drawn).mean()

    def batch(total: Array, key: PRNGKeyArray) -> tuple[Array, None]:
        for_rows, for_labels = jax.random.split(key)
        rows = jax.random.randint(for_rows, (_BATCH,), 0, len(images))
        gradient = jax.grad(loss)(probe.params["params"], rows, for_labels)
        squares = []
        for layer in layers(probe.net):
            squares.append((at(gradient, layer.conv)["kernel"] ** 2).mean((0, 1, 2)))
            squares.append(at(gradient, layer.norm)["scale"] ** 2)
        return total + jnp.concatenate(squares), None

    zero = jnp.zeros((probe.filters,), images.dtype)
    return lax.scan(batch, zero, jax.random.split(key, _BATCHES))[0] / _BATCHES
