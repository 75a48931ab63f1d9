"""Hard tasks on line: of more tasks than a batch takes, those that the learner as it is now finds hardest.

Online hard example mining (Shrivastava, Gupta and Girshick 2016, https://arxiv.org/abs/1604.03540) for tasks, as in the
samplers of Kumar, Deleu and Bengio (AAAI 2023, https://arxiv.org/abs/2201.11775).
"""

from dataclasses import dataclass, fields, replace

import jax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from jaxdiv.data.table import ImageTable
from jaxdiv.device_memory import Fit
from jaxdiv.methods.base import Method, Metrics, Predict


@dataclass(frozen=True)
class HardTasks(Method):
    """A method that trains on the hard ones among what it draws; in everything else it is `of`.

    Attributes:
      of: the method. Its `losses` say how hard a task is, of pre-training how hard an image.
      among: how many times as many are drawn.
      mesh: the devices that share a batch.
      tasks_at_once: of a device; 0: as many as fit, on a CPU one.
    """

    of: Method
    among: int = 2
    mesh: Mesh | None = None
    tasks_at_once: int = 0

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def tested(self) -> Method:
        return self.of.tested

    @property
    def remats(self) -> tuple[bool, ...]:
        return self.of.remats

    def at(self, fit: Fit) -> "HardTasks":
        return replace(self, of=self.of.at(fit), tasks_at_once=fit.tasks_at_once)

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        return self.of.init(key)

    def gradient(
        self, params: PyTree, model_state: PyTree, batch: PyTree, key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree, Metrics]:
        for_losses, for_gradient = jax.random.split(key)
        losses = self._learner.losses(params, model_state, batch, for_losses)
        rows = hardest(losses, max(len(losses) // self.among, 1))  # one task alone, where its memory is measured
        return self._learner.gradient(params, model_state, jax.tree.map(lambda leaf: leaf[rows], batch), for_gradient)

    def adapt(self, params: PyTree, model_state: PyTree, support: Array, labels: Array, key: PRNGKeyArray) -> Predict:
        return self.of.adapt(params, model_state, support, labels, key)

    def sample(
        self, key: PRNGKeyArray, table: ImageTable, size: int, ways: int, shots: int, queries: int, augment: bool
    ) -> PyTree:
        """`among` times `size` of what the method draws."""
        return self._learner.sample(key, table, self.among * size, ways, shots, queries, augment)

    @property
    def _learner(self) -> Method:
        """The method, on the devices that share this one's batch."""
        known = {each.name for each in fields(self.of)}  # type: ignore[arg-type]
        mine = {name: getattr(self, name) for name in ("mesh", "tasks_at_once") if name in known}
        return replace(self.of, **mine)  # type: ignore[type-var]


def hardest(losses: Array, count: int) -> Int[Array, " count"]:
    """The `count` of them with the largest losses, in their order among all."""
    return lax.top_k(losses, count)[1].sort()
