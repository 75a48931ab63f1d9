"""Task2Vec embeddings: of one task, of many spread over devices, and of a benchmark's."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Float, Int, Key, PRNGKeyArray, PyTree

from jaxdiv.data.episodes import check_tasks, sample_tasks
from jaxdiv.data.table import ImageTable
from jaxdiv.errors import InputError
from jaxdiv.nets.precision import full_precision
from jaxdiv.probes.base import Batch, Probe, as_arrays, check_finite, size
from jaxdiv.progress_bar import bar
from jaxdiv.task2vec import aws
from jaxdiv.task2vec.fisher import check_estimator, checked, features_in_chunks, finite_fisher
from jaxdiv.task2vec.head import Keys, Labels, check_head_name, check_labels, fit_head


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
    head_key, fisher_key = (None, None) if key is None else jax.random.split(key)
    features = aws.features(probe, batch) if estimator == "reference" else features_in_chunks(probe, batch, chunk)
    fitted = fit_head(features, labels, ways, head, head_key)
    return finite_fisher(probe, batch, fitted, estimator, fisher_key, chunk)


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
) -> Float[np.ndarray, "tasks entries"]:
    """The embeddings of `tasks` tasks of a benchmark; support and query images count alike.

    Only as many tasks are in memory as there are devices.

    Args:
      probe: of images, from `load_probe` or `probe_from`.
      table: the benchmark, from `load_benchmark`.
      tasks: how many.
      ways: classes of a task.
      shots: support images of each class.
      queries: query images of each class.
      estimator: as `embed`'s.
      head: as `embed`'s.
      key: one for each task, or one of which task i gets `fold_in(key, i)`; None: `jax.random.key(0)`.
      again: the same tasks, with other draws of the estimator and the head (`coefficient.noise_floor`).
      augment: with the train augmentation of the benchmark's data sets, as the reference measures.
      progress: called with the number of tasks done; None: a bar in a terminal or a notebook.

    Raises:
      InputError: as `embed`, and where the benchmark has too few classes or images.
    """
    check_tasks("the benchmark", table, ways, shots, queries, tasks)
    keys = _task_keys(jax.random.key(0) if key is None else key, tasks)
    found: list[np.ndarray] = []
    devices = jax.local_device_count()
    with bar("embedding tasks", progress, tasks) as report:
        for start in range(0, tasks, devices):
            halves = [jax.random.split(key) for key in keys[start : start + devices]]
            drawn = [sample_tasks(for_task, table, ways, shots, queries, augment=augment) for for_task, _ in halves]
            images = [jnp.concatenate([task.support_images, task.query_images], 1) for task in drawn]
            labels = [jnp.concatenate([task.support_labels, task.query_labels], 1) for task in drawn]
            for_fisher = [jax.random.fold_in(key, 1) if again else key for _, key in halves]
            found += [
                *embed_tasks(
                    probe,
                    jnp.concatenate(images),
                    jnp.concatenate(labels),
                    ways,
                    estimator,
                    jnp.stack(for_fisher),
                    head=head,
                )
            ]
            report(len(found))
    return np.stack(found)


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
) -> Float[np.ndarray, "tasks entries"]:
    """`embed` of many tasks with one probe: one after the other on a device, side by side on several.

    Memory is one task's chunk on each device, besides the batches.

    Args:
      probe: as `embed`'s.
      batches: the tasks' examples: as `embed`'s, with an axis of tasks before that of examples.
      labels: of each task, 0..ways-1.
      ways: the classes of each task.
      estimator: as `embed`'s.
      key: one for each task, or one of which task i gets `fold_in(key, i)`, on however many devices.
      chunk: as `embed`'s.
      head: as `embed`'s.
      mesh: devices in one axis, over which the tasks are spread; None: all of this process's.

    Raises:
      InputError: as `embed`.
    """
    check_estimator(estimator, key)
    check_head_name(head, key)
    batches, labels = as_arrays(batches), jnp.asarray(labels)
    shapes = [leaf.shape for leaf in jax.tree.leaves(batches)]
    if labels.ndim != 2 or labels.size == 0 or any(shape[:2] != labels.shape for shape in shapes):
        found = f"{', '.join(map(str, shapes))} and {labels.shape}"
        raise InputError(f"tasks must be batches [tasks, examples, ...] and labels [tasks, examples], not {found}")
    tasks, examples = labels.shape
    checked(probe, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batches), chunk)
    for of_task in labels:
        check_labels(of_task, examples, ways)
    mesh = mesh or jax.make_mesh((jax.local_device_count(),), ("tasks",), devices=jax.local_devices())
    # A task more than once rather than a short last device: every device has the same program.
    rows = np.arange(-(-tasks // mesh.size) * mesh.size) % tasks
    keys = None if key is None else _task_keys(key, tasks)[rows]
    over = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    spread = jax.device_put((jax.tree.map(lambda leaf: leaf[rows], batches), labels[rows], keys), over)
    found = jax.device_get(_embed_spread(mesh, ways, estimator, head, chunk)(probe, *spread))[:tasks]
    check_finite(found, "the Fisher")
    return found


@cache
def _embed_spread(mesh: Mesh, ways: int, estimator: str, head: str, chunk: int | None) -> Callable[..., Array]:
    def of_device(probe: Probe, *tasks: PyTree) -> Array:
        one = lambda task: embed(probe, task[0], task[1], ways, estimator, task[2], chunk, head)
        return lax.map(one, tasks)

    over = PartitionSpec(mesh.axis_names[0])
    # No collective inside: nothing for the replication check to see, and it does not know our convolution.
    return jax.jit(
        jax.shard_map(
            of_device, mesh=mesh, in_specs=(PartitionSpec(), over, over, over), out_specs=over, check_vma=False
        )
    )
