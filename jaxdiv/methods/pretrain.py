"""Supervised pre-training (PT): cross-entropy over all train classes; a test task fits the last layer only."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiv.data.table import ImageTable
from jaxdiv.errors import check_known
from jaxdiv.methods.base import Method, Metrics, Predict, accuracy, cross_entropy
from jaxdiv.methods.sampling import draw_batch
from jaxdiv.nets import logistic
from jaxdiv.nets.network import BATCH_NORM, Network, task_features, update_running

# Steps over which DropBlock rises to its full rate (Tian et al. 2020).
_DROPBLOCK_STEPS = 40_000


@dataclass(frozen=True)
class PreTraining(Method):
    """Pre-training as a method: trained on batches `(images, labels)`, adapted by logistic regression.

    Attributes:
      net: a network with one logit per train class.
      ways: classes of a test task, whose head is an L2 logistic regression (C = 1, converged) on the support features.
      batch_norm: one of `network.BATCH_NORM`.
      mesh: the devices that share a batch.
    """

    net: Network
    ways: int
    batch_norm: str = "transductive"
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        check_known("batch-norm policy", self.batch_norm, BATCH_NORM)

    @property
    def name(self) -> str:
        return "pt"

    @property
    def tested(self) -> "PreTraining":
        return replace(self, mesh=None)

    @staticmethod
    def head(ways: int, classes: int) -> int:
        return classes

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        params, stats = self.net.init(key)
        model_state: dict[str, Any] = {"steps": jnp.zeros((), jnp.int32)}
        return params, model_state | ({"stats": stats} if self.batch_norm == "running" else {})

    def gradient(
        self, params: PyTree, model_state: PyTree, batch: tuple[Array, Array], key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree, Metrics]:
        images, labels = batch
        dropblock_scale = jnp.minimum(model_state["steps"] / _DROPBLOCK_STEPS, 1.0)

        def loss(params: PyTree) -> tuple[Array, Any]:
            found = self.net.apply_batch_stats(params, images, key, dropblock_scale)
            return cross_entropy(found.logits, labels), (accuracy(found.logits, labels), found.stats)

        (value, (share, stats)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        after = {"steps": model_state["steps"] + 1}
        if self.batch_norm == "running":
            after |= {"stats": update_running(model_state["stats"], stats)}
        return grads, after, {"loss": value, "accuracy": share}

    def adapt(self, params: PyTree, model_state: PyTree, support: Array, labels: Array, key: PRNGKeyArray) -> Predict:
        features, of_queries = task_features(self.net, self.batch_norm, params, model_state.get("stats"), support)
        kernel, bias = logistic.fit(features, labels, self.ways)
        return lambda queries: of_queries(queries) @ kernel + bias

    def losses(
        self, params: PyTree, model_state: PyTree, batch: tuple[Array, Array], key: PRNGKeyArray
    ) -> Float[Array, " batch"]:
        """The cross-entropy of each image, in nats."""
        images, labels = batch
        logits = self.net.apply_batch_stats(params, images).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def sample(
        self, key: PRNGKeyArray, table: ImageTable, size: int, ways: int, shots: int, queries: int, augment: bool
    ) -> tuple[Array, Array]:
        """`size` images of any classes, and each one's class."""
        return draw_batch(key, table, size, augment, self.mesh)
