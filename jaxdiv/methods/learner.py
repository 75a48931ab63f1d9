"""What training and evaluation know of a method: three pure functions. A new method is one new file."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

Predict = Callable[[Array], Array]  # query images -> logits [n, ways]
Metrics = dict[str, Array]  # "loss", in nats an image, and "accuracy", a share


class Learner(NamedTuple):
    """A method, as three pure functions.

    What training carries along without learning it (running statistics, a ramp's step) is a pytree of its own,
    `carried`.

    Attributes:
      init: `key -> params, carried`.
      gradient: `params, carried, batch, key -> gradient like params, carried, metrics`. The method takes its own
        gradient, since MAML's must be taken task by task: one gradient around the whole meta-batch would hold every
        task's inner loop in memory at once.
      adapt: `params, carried, support images, support labels, key -> predict`. The key is for methods whose networks
        drop at random in a test.
    """

    init: Callable[[PRNGKeyArray], tuple[PyTree, PyTree]]
    gradient: Callable[[PyTree, PyTree, PyTree, PRNGKeyArray], tuple[PyTree, PyTree, Metrics]]
    adapt: Callable[[PyTree, PyTree, Array, Array, PRNGKeyArray], Predict]


def cross_entropy(logits: Float[Array, "n ways"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Mean cross-entropy, nats per image."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: Float[Array, "n ways"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """The share of images whose largest logit is their label's."""
    return (logits.argmax(-1) == labels).mean(dtype=jnp.float32)
