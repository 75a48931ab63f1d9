"""Task2Vec embeddings: of one task, of many spread over devices, and of a benchmark's."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PRNGKeyArray, UInt32

from jaxdiv.data.episodes import check_tasks, sample_tasks
from jaxdiv.data.table import ImageTable
from jaxdiv.errors import InputError, at_least
from jaxdiv.nets.precision import full_precision
from jaxdiv.probes.base import Batch, Probe, as_arrays, check_finite, size
from jaxdiv.progress_bar import bar
from jaxdiv.task2vec.fisher import check_estimator, checked, chunk_here
from jaxdiv.task2vec.head import Keys, Labels, check_head_name, check_labels
from jaxdiv.task2vec.program import How, Tasks, embed_each, embedding


@full_precision
def embed(
    probe: Probe,
    batch: Batch,
    labels: Labels,
    ways: int,
    estimator: str = "exact",
    key: PRNGKeyArray | None = None,
    chunk: int | None = None,
    head: str = "converged",
) -> Float[Array, " entries"]:
    """The Task2Vec embedding of one task: features, head, Fisher.

    For the study's own numbers: `estimator="reference", head="adam"` and the distance `task2vec`.

    Args:
      probe: from `load_probe` or `probe_from`.
      batch: the task's examples, as `fisher`'s.
      labels: 0..ways-1.
      ways: the task's classes.
      estimator: as `fisher`'s.
      key: for a stochastic estimator or head.
      chunk: as `fisher`'s.
      head: as `fit_head`'s.

    Raises:
      InputError: as `fisher` and `fit_head`.
    """
    check_estimator(estimator, key)
    check_head_name(head, key)
    batch, labels = checked(probe, batch, chunk), jnp.asarray(labels)
    check_labels(labels, size(batch), ways)
    how = How(ways, estimator, head, chunk_here(probe, batch, ways, estimator, chunk))
    found = embedding(probe, batch, labels, how, key)
    check_finite(found, "the Fisher")
    return found


@full_precision
def embed_benchmark(
    probe: Probe,
    table: ImageTable,
    tasks: int = 50,
    ways: int = 5,
    shots: int = 5,
    queries: int = 15,
    estimator: str = "exact",
    head: str = "converged",
    key: Keys | None = None,
    again: bool = False,
    augment: bool = False,
    progress: Callable[[int], None] | None = None,
    chunk: int | None = None,
    tasks_at_once: int | None = None,
    mesh: Mesh | None = None,
) -> Float[np.ndarray, "tasks entries"]:
    """The embeddings of `tasks` tasks of a benchmark; support and query images count alike.

    The tasks are drawn on the devices that embed them, a block at a time, and only a block is in memory. Of a job of
    several processes each must call this, and gets all embeddings.

    Args:
      probe: of images, from `load_probe` or `probe_from`.
      table: the benchmark, from `load_benchmark`.
      tasks: how many.
      ways: classes of a task.
      shots: support images of each class.
      queries: query images of each class.
      estimator: as `embed`'s.
      head: as `embed`'s.
      key: one for each task, or one of which task i gets `fold_in(key, i)`; None: `jax.random.key(0)`. Benchmarks that
        are compared need one each (`coefficient.cross_diversity`).
      again: the same tasks, with other draws of the estimator and the head (`coefficient.noise_floor`).
      augment: with the train augmentation of the benchmark's data sets, as the reference measures.
      progress: called with the number of tasks done; None: a bar in a terminal or a notebook.
      chunk, tasks_at_once, mesh: as `embed_tasks`'s.

    Raises:
      InputError: as `embed`, and where the benchmark has too few classes or images.
    """
    check_tasks("the benchmark", table, ways, shots, queries, tasks)
    keys = _task_keys(jax.random.key(0) if key is None else key, tasks)
    _check_how(estimator, head, keys, chunk, tasks_at_once)
    how = How(ways, estimator, head, chunk, jax.random.key_impl(keys))
    draw = _Draw(ways, shots, queries, augment, how.random)
    with bar("embedding tasks", progress, tasks) as report:
        items = jax.random.key_data(keys), np.full(tasks, again)
        return embed_each(probe, how, items, draw, table, table.on_host, tasks_at_once, mesh, report)


@dataclass(frozen=True)
class _Draw:
    """Draws a task of a benchmark, support and query as one, by a key's words; and the words of the embedding's key,
    another one where the task is embedded again."""

    ways: int
    shots: int
    queries: int
    augment: bool
    random: Hashable

    def __call__(self, table: ImageTable, item: tuple[UInt32[Array, " words"], Bool[ArrayLike, ""]]) -> Tasks:
        words, again = item
        for_task, for_embedding = jax.random.split(jax.random.wrap_key_data(words, impl=self.random))
        for_embedding = jnp.where(again, jax.random.fold_in(for_embedding, 1), for_embedding)
        task = sample_tasks(for_task, table, self.ways, self.shots, self.queries, augment=self.augment)
        images = jnp.concatenate([task.support_images[0], task.query_images[0]])
        labels = jnp.concatenate([task.support_labels[0], task.query_labels[0]])
        return images, labels, jax.random.key_data(for_embedding)


def _task_keys(key: Keys, tasks: int) -> Key[Array, " {tasks}"]:
    """A key for each task: as given, or from the one that is given."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # of the older `jax.random.PRNGKey`, an axis longer
    if key.ndim and key.shape != (tasks,):
        raise InputError(f"`key` has the shape {key.shape}: give one key, or one for each of {tasks} tasks")
    return key if key.ndim else jax.vmap(partial(jax.random.fold_in, key))(np.arange(tasks))


@full_precision
def embed_tasks(
    probe: Probe,
    batches: Batch,
    labels: Int[ArrayLike, "tasks examples"],
    ways: int,
    estimator: str = "exact",
    key: Keys | None = None,
    chunk: int | None = None,
    head: str = "converged",
    mesh: Mesh | None = None,
    tasks_at_once: int | None = None,
) -> Float[np.ndarray, "tasks entries"]:
    """`embed` of many tasks with one probe, spread over devices. Memory is a block of tasks, besides the batches.

    Args:
      probe: as `embed`'s.
      batches: the tasks' examples: as `embed`'s, with an axis of tasks before that of examples.
      labels: of each task, 0..ways-1.
      ways: the classes of each task.
      estimator: as `embed`'s.
      key: one for each task, or one of which task i gets `fold_in(key, i)`, on however many devices.
      chunk: as `embed`'s.
      head: as `embed`'s.
      mesh: devices in one axis, over which the tasks are spread; None: all, of all processes, each of which must then
        call this and gets all embeddings.
      tasks_at_once: tasks side by side on each device, which changes no result beyond rounding; None: as many as its
        memory holds, on a CPU one.

    Raises:
      InputError: as `embed`.
    """
    _check_how(estimator, head, key, chunk, tasks_at_once)
    batches, labels = as_arrays(batches), np.asarray(labels)
    shapes = [leaf.shape for leaf in jax.tree.leaves(batches)]
    if labels.ndim != 2 or labels.size == 0 or any(shape[:2] != labels.shape for shape in shapes):
        found = f"{', '.join(map(str, shapes))} and {labels.shape}"
        raise InputError(f"tasks must be batches [tasks, examples, ...] and labels [tasks, examples], not {found}")
    check_labels(labels.ravel(), labels.size, ways)
    keys = None if key is None else _task_keys(key, len(labels))
    how = How(ways, estimator, head, chunk, None if keys is None else jax.random.key_impl(keys))
    words = None if keys is None else jax.random.key_data(keys)
    return embed_each(probe, how, (batches, labels.astype(np.int32), words), tasks_at_once=tasks_at_once, mesh=mesh)


def _check_how(estimator: str, head: str, key: Keys | None, chunk: int | None, tasks_at_once: int | None) -> None:
    check_estimator(estimator, key)
    check_head_name(head, key)
    at_least(1, **{name: n for name, n in dict(chunk=chunk, tasks_at_once=tasks_at_once).items() if n is not None})
