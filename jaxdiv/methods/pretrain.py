"""Supervised pre-training (PT): cross-entropy over all train classes; a test task fits the last layer only."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxdiv.methods.learner import Learner, Predict, accuracy, cross_entropy
from jaxdiv.nets import logistic
from jaxdiv.nets.network import MOMENTUM, Network

# Steps over which DropBlock rises to its full rate (Tian et al. 2020).
_RAMP = 40_000


def learner(net: Network, ways: int, batch_norm: str = "transductive") -> Learner:
    """The pre-training `Learner`: trained on batches `(images, labels)`, adapted by logistic regression.

    Args:
      net: a network with one logit per train class.
      ways: classes of a test task, whose head is an L2 logistic regression (C = 1, converged) on the support features.
      batch_norm: one of `network.BATCH_NORM`.
    """

    def init(key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        params, stats = net.init(key)
        carried: dict[str, Any] = {"steps": jnp.zeros((), jnp.int32)}
        return params, carried | ({"stats": stats} if batch_norm == "running" else {})

    def gradient(params: PyTree, carried: PyTree, batch: tuple[Array, Array], key: PRNGKeyArray) -> Any:
        images, labels = batch
        ramp = jnp.minimum(carried["steps"] / _RAMP, 1.0)

        def loss(params: PyTree) -> tuple[Array, Any]:
            found = net.by_batch(params, images, key, ramp)
            return cross_entropy(found.logits, labels), (accuracy(found.logits, labels), found.stats)

        (value, (share, stats)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        after = {"steps": carried["steps"] + 1}
        if batch_norm == "running":
            average = lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new
            after |= {"stats": jax.tree.map(average, carried["stats"], stats)}
        return grads, after, {"loss": value, "accuracy": share}

    def adapt(params: PyTree, carried: PyTree, images: Array, labels: Array, key: PRNGKeyArray) -> Predict:
        running = batch_norm == "running"
        support = net.by_stats(params, carried["stats"], images) if running else net.by_batch(params, images)
        kernel, bias = logistic.fit(support.features, labels, ways)

        def predict(queries: Array) -> Array:
            if batch_norm == "transductive":
                return net.by_batch(params, queries).features @ kernel + bias
            return net.by_stats(params, support.stats, queries).features @ kernel + bias

        return predict

    return Learner(init, gradient, adapt)
