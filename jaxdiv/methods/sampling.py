"""Batches and test tasks that each device draws for itself, from its own copy of the table: no pixel passes the host.

A draw is a program of its own, beside the training step: it depends on the size of the table, and the step, which is
long to compile, does not.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PRNGKeyArray

from jaxdiv.data.episodes import Task, sample_batch, sample_tasks
from jaxdiv.data.table import ImageTable
from jaxdiv.methods.parallel import is_on, replicate


def draw_tasks(
    key: PRNGKeyArray,
    table: ImageTable,
    ways: int,
    shots: int,
    queries: int,
    tasks: int,
    augment: bool,
    mesh: Mesh | None,
) -> Task:
    """`sample_tasks`: the same tasks, spread over the mesh where each of its devices has the table (`spread_table`)."""
    if mesh is None or not _is_spread(table, mesh):
        return sample_tasks(key, table, ways, shots, queries, tasks, augment)
    return _tasks_of(jax.random.split(key, tasks), table, mesh, ways, shots, queries, augment)


def draw_batch(
    key: PRNGKeyArray, table: ImageTable, size: int, augment: bool, mesh: Mesh | None
) -> tuple[Array, Array]:
    """`sample_batch`: the same images, spread as in `draw_tasks`."""
    if mesh is None or not _is_spread(table, mesh):
        return sample_batch(key, table, size, augment)
    return _batch(key, table, mesh, size, augment)


def spread_table(table: ImageTable, mesh: Mesh | None) -> ImageTable:
    """A copy of the table on each device of the mesh; a table that stays on the host is as it was."""
    return table if table.on_host else replicate(table, mesh)


@dataclass(frozen=True)
class TestTasks:
    """Test tasks of a table, for `evaluate`: `(key, number) -> Task`, and by the keys of single tasks."""

    __test__ = False  # pytest: no test
    table: ImageTable
    ways: int
    shots: int
    queries: int

    def __call__(self, key: PRNGKeyArray, number: int) -> Task:
        return sample_tasks(key, self.table, self.ways, self.shots, self.queries, number)

    def spread(self, mesh: Mesh | None) -> "TestTasks":
        """The same with a copy of the table on each device of the mesh."""
        return replace(self, table=spread_table(self.table, mesh))

    def of_keys(self, keys: Key[Array, " tasks"], mesh: Mesh) -> Task:
        """A task for each key, each device of the mesh its share: those of `self(key, number)` have the keys
        `jax.random.split(key, number)`."""
        return _tasks_of(keys, self.table, mesh, self.ways, self.shots, self.queries, False)


def _is_spread(table: ImageTable, mesh: Mesh) -> bool:
    return not table.on_host and is_on(table.images, mesh)


@partial(jax.jit, static_argnames=("mesh", "ways", "shots", "queries", "augment"))
def _tasks_of(
    keys: Key[Array, " tasks"], table: ImageTable, mesh: Mesh, ways: int, shots: int, queries: int, augment: bool
) -> Task:
    over, whole = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
    draw = lambda keys, table: sample_tasks(keys, table, ways, shots, queries, len(keys), augment)
    return jax.shard_map(draw, mesh=mesh, in_specs=(over, whole), out_specs=over, check_vma=False)(keys, table)


@partial(jax.jit, static_argnames=("mesh", "size", "augment"))
def _batch(key: PRNGKeyArray, table: ImageTable, mesh: Mesh, size: int, augment: bool) -> tuple[Array, Array]:
    batch = sample_batch(key, table, size, augment)
    # The rows are drawn on every device, and XLA lets each read its own.
    return lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(mesh.axis_names[0])))


def task_keys(keys: list[PRNGKeyArray], chunk: int) -> Key[Array, " tasks"]:
    """The keys of the tasks in the chunks of these keys."""
    return jnp.concatenate([jax.random.split(key, chunk) for key in keys])
