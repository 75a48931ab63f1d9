"""What training and evaluation know of a method. A new method is one new file and one line in `registry.METHODS`."""

import abc
import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxdiv.data.episodes import Task
from jaxdiv.data.table import ImageTable
from jaxdiv.device_memory import Fit
from jaxdiv.methods import registry
from jaxdiv.methods.parallel import map_tasks
from jaxdiv.methods.sampling import draw_tasks
from jaxdiv.nets.network import Network

Predict = Callable[[Array], Array]  # query batch -> logits [n, ways]
Metrics = dict[str, Array]  # "loss", in nats an example, and "accuracy", a share


class Method(abc.ABC):
    """A method: a frozen dataclass of its settings, and pure functions of them.

    jit takes a method as a static argument: equal values hash equal and share what is compiled. What training carries
    along without learning it (running statistics, a count of steps) is a pytree of its own, `model_state`.

    Attributes:
      mesh: the devices that share a batch; None: one, or a method that does not know of several.
      tasks_at_once: how many tasks a device computes at once; 0: as many as fit.
    """

    mesh: Mesh | None = None
    tasks_at_once: int = 0

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Its name in the registry, by its settings."""

    @property
    def family(self) -> str:
        """What it is compared as, such as "maml" or "pretraining"."""
        return registry.family(self.name)

    @property
    def label(self) -> str:
        """Its name as a reader sees it."""
        return registry.label(self.name)

    @property
    def tested(self) -> "Method":
        """The same method with every setting that a test does not see at its default: evaluation compiles for this."""
        return self

    @property
    def remats(self) -> tuple[bool, ...]:
        """For a method that computes its batch in rounds of tasks: whether its activations may be kept (False), must
        be recomputed (True), or either. Empty: there is nothing to choose."""
        return ()

    def at(self, fit: Fit) -> "Method":
        """The same method in rounds of so many tasks, which changes no result beyond rounding."""
        return self

    @staticmethod
    def head(ways: int, classes: int) -> int:
        """How many logits its network has, for tasks of `ways` classes and a train split of `classes`; 0: no head."""
        return ways

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Parameters and model state to begin with."""

    @abc.abstractmethod
    def gradient(
        self, params: PyTree, model_state: PyTree, batch: PyTree, key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree, Metrics]:
        """A gradient like `params`, the model state after the batch, and the batch's metrics.

        The method takes its own gradient, since MAML's must be taken task by task: one gradient around the whole
        meta-batch would hold every task's inner loop in memory at once.
        """

    @abc.abstractmethod
    def adapt(self, params: PyTree, model_state: PyTree, support: Array, labels: Array, key: PRNGKeyArray) -> Predict:
        """Learn a task from its support batch.

        Args:
          labels: of the support batch, 0..ways-1.
          key: for networks that drop at random in a test.

        Returns:
          The function from a query batch to its logits `[n, ways]`.
        """

    def losses(self, params: PyTree, model_state: PyTree, batch: PyTree, key: PRNGKeyArray) -> Float[Array, " batch"]:
        """How hard each part of a training batch is for the learner as it is: here a task's loss after adaptation."""

        def loss(item: tuple[Task, PRNGKeyArray]) -> Array:
            task, key = item
            predict = self.adapt(params, model_state, task.support_images, task.support_labels, key)
            return cross_entropy(predict(task.query_images), task.query_labels)

        items = batch, jax.random.split(key, len(batch.query_labels))
        of_device = lambda items: map_tasks(loss, items, self.tasks_at_once)
        if self.mesh is None:
            return of_device(items)
        over = PartitionSpec(self.mesh.axis_names[0])
        return jax.shard_map(of_device, mesh=self.mesh, in_specs=(over,), out_specs=over, check_vma=False)(items)

    def sample(
        self, key: PRNGKeyArray, table: ImageTable, size: int, ways: int, shots: int, queries: int, augment: bool
    ) -> PyTree:
        """A training batch from a table: here `size` tasks. Methods that train on tasks meet the same ones."""
        return draw_tasks(key, table, ways, shots, queries, size, augment, self.mesh)


def make_method(name: str, net: Network, ways: int, classes: int, settings: Mapping[str, Any]) -> Method:
    """A method by its name.

    Args:
      name: one of `registry.METHODS`, or MAML with another number of steps.
      net: a network with any head, instead of which it gets the one that the method needs.
      ways: classes of a task.
      classes: of the train split.
      settings: values for the method's fields. Other names are ignored: a section of the configuration also says how
        long to train.

    Raises:
      InputError: an unknown name, or a setting that the method cannot use.
    """
    entry = registry.entry(name)
    module, _, attribute = entry.path.partition(":")
    kind: type[Method] = getattr(importlib.import_module(module), attribute)
    given = {**settings, **entry.fields, "net": net.with_ways(kind.head(ways, classes)), "ways": ways}
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in given.items() if name in names})


def cross_entropy(logits: Float[Array, "n ways"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Mean cross-entropy, nats per example."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: Float[Array, "n ways"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """The share of examples whose largest logit is their label's."""
    return (logits.argmax(-1) == labels).mean(dtype=jnp.float32)
