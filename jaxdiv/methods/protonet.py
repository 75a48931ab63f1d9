"""Prototypical networks (Snell, Swersky and Zemel 2017, https://arxiv.org/abs/1703.05175).

A class is the mean of its support features; a query's logits are its negative squared distances to the classes.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxdiv.data.episodes import Task
from jaxdiv.device_memory import Fit
from jaxdiv.errors import check_known
from jaxdiv.methods.base import Method, Metrics, Predict, accuracy, cross_entropy
from jaxdiv.methods.parallel import mean_over_tasks
from jaxdiv.nets.network import BATCH_NORM, Network, task_features, update_running
from jaxdiv.nets.precision import full_precision


@full_precision
def prototypes(
    features: Float[Array, "support d"], labels: Int[Array, " support"], ways: int
) -> Float[Array, "ways d"]:
    """The mean support features of each class (equation 1)."""
    members = jax.nn.one_hot(labels, ways, dtype=features.dtype)
    return members.T @ features / members.sum(0)[:, None]


def distance_logits(features: Float[Array, "query d"], centres: Float[Array, "ways d"]) -> Float[Array, "query ways"]:
    """Negative squared Euclidean distances (equation 2)."""
    return -jnp.square(features[:, None] - centres).sum(-1)


@dataclass(frozen=True)
class ProtoNet(Method):
    """Prototypical networks as a method, trained on batches of tasks. Nothing adapts in a test but the prototypes.

    Attributes:
      net: a network without a head: its features are what is learned.
      ways: classes of a task.
      batch_norm: one of `network.BATCH_NORM`.
      mesh: the devices that share a batch of tasks.
      tasks_at_once: of a device; 0: as many as fit, on a CPU one.
    """

    net: Network
    ways: int
    batch_norm: str = "transductive"
    mesh: Mesh | None = None
    tasks_at_once: int = 0

    def __post_init__(self) -> None:
        check_known("batch-norm policy", self.batch_norm, BATCH_NORM)

    @property
    def name(self) -> str:
        return "protonet"

    @property
    def tested(self) -> "ProtoNet":
        return ProtoNet(self.net, self.ways, self.batch_norm)

    @property
    def remats(self) -> tuple[bool, ...]:
        return (False,)

    def at(self, fit: Fit) -> "ProtoNet":
        return replace(self, tasks_at_once=fit.tasks_at_once)

    @staticmethod
    def head(ways: int, classes: int) -> int:
        return 0

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        params, stats = self.net.init(key)
        return params, {"stats": stats} if self.batch_norm == "running" else {}

    def gradient(
        self, params: PyTree, model_state: PyTree, batch: Task, key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree, Metrics]:
        keys = jax.random.split(key, len(batch.query_labels))
        (loss, (share, stats)), grads = mean_over_tasks(
            self._task_loss, params, batch, keys, self.mesh, self.tasks_at_once
        )
        if self.batch_norm == "running":
            model_state = {"stats": update_running(model_state["stats"], stats)}
        return grads, model_state, {"loss": loss, "accuracy": share}

    def adapt(self, params: PyTree, model_state: PyTree, support: Array, labels: Array, key: PRNGKeyArray) -> Predict:
        features, of_queries = task_features(self.net, self.batch_norm, params, model_state.get("stats"), support)
        centres = prototypes(features, labels, self.ways)
        return lambda queries: distance_logits(of_queries(queries), centres)

    def _task_loss(self, params: PyTree, task: Task, key: PRNGKeyArray) -> tuple[Array, Any]:
        for_support, for_query = jax.random.split(key)
        support = self.net.apply_batch_stats(params, task.support_images, for_support)
        if self.batch_norm == "support_statistics":
            query = self.net.apply_given_stats(params, support.stats, task.query_images)
        else:
            query = self.net.apply_batch_stats(params, task.query_images, for_query)
        logits = distance_logits(query.features, prototypes(support.features, task.support_labels, self.ways))
        loss, share = cross_entropy(logits, task.query_labels), accuracy(logits, task.query_labels)
        return loss, (share, query.stats if self.batch_norm == "running" else None)
