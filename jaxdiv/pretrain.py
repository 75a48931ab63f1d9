"""Supervised pre-training (PT): cross-entropy over all train classes; a test task fits the last layer only."""

from collections.abc import Callable

import jax
from jaxtyping import Array, PyTree

from jaxdiv import logistic
from jaxdiv.learner import Learner, accuracy, cross_entropy


def learner(
    init: Callable[[Array], PyTree], forward: Callable[[PyTree, Array], tuple[Array, Array]], ways: int
) -> Learner:
    """The pre-training `Learner`: trained on batches `(images, labels)`, adapted by logistic regression.

    Args:
      init: `key -> params` of a network with one logit per train class.
      forward: `(params, images) -> logits, features`.
      ways: classes of a test task, whose head is an L2 logistic regression (C=1) on the support features.
    """

    def gradient(params, batch, key):
        images, labels = batch

        def loss(params):
            logits = forward(params, images)[0]
            return cross_entropy(logits, labels), accuracy(logits, labels)

        (value, share), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, {"loss": value, "accuracy": share}

    def adapt(params, images, labels):
        kernel, bias = logistic.fit(forward(params, images)[1], labels, ways)
        return lambda queries: forward(params, queries)[1] @ kernel + bias

    return Learner(init, gradient, adapt)
