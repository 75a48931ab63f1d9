"""What training and evaluation know of a method: three pure functions. A new method is one new file."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree


class Learner(NamedTuple):
    """A method, as three pure functions.

    Attributes:
      init: `key -> params`.
      gradient: `params, batch, key -> (gradient like params, {"loss": [], "accuracy": []})`. The method takes its own
        gradient, since MAML's must be taken task by task: one gradient around the whole meta-batch would hold every
        task's inner loop in memory at once.
      adapt: `params, support images, support labels -> predict`, `predict(query images)` gives logits `[n, ways]`.
    """

    init: Callable[[Array], PyTree]
    gradient: Callable[[PyTree, PyTree, Array], tuple[PyTree, dict[str, Array]]]
    adapt: Callable[[PyTree, Array, Array], Callable[[Array], Array]]


def cross_entropy(logits: Float[Array, "n ways"], labels: Int[Array, "n"]) -> Float[Array, ""]:
    """Mean cross-entropy, nats per image."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: Float[Array, "n ways"], labels: Int[Array, "n"]) -> Float[Array, ""]:
    """The share of images whose largest logit is their label's."""
    return (logits.argmax(-1) == labels).mean(dtype=jnp.float32)
