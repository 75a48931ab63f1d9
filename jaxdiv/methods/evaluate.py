"""A method on test tasks: accuracy and cross-entropy on each, and their means with intervals."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy  # its packages load when they are first used, and `stats` takes a second
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from jaxdiv.data.episodes import Task
from jaxdiv.device_memory import Fit, choose, peak_bytes, tree_bytes, usable_bytes
from jaxdiv.errors import InputError, at_least
from jaxdiv.methods.base import Method, accuracy, cross_entropy
from jaxdiv.methods.metrics import Diverged
from jaxdiv.methods.parallel import least, map_tasks, replicate, shard
from jaxdiv.methods.sampling import TestTasks, task_keys
from jaxdiv.nets.precision import full_precision

Sample = Callable[[PRNGKeyArray, int], Task]  # key, number -> a batch of so many tasks


class Evaluation(NamedTuple):
    """Per-task values: `accuracy` (share of the query examples) and `loss` (nats per query example)."""

    accuracy: Float[np.ndarray, " tasks"]
    loss: Float[np.ndarray, " tasks"]


@full_precision
def evaluate(
    method: Method,
    params: PyTree,
    model_state: PyTree,
    sample: Sample,
    key: PRNGKeyArray,
    tasks: int,
    chunk: int = 25,
    progress: Callable[[int], None] = lambda done: None,
    tasks_at_once: int = 0,
    mesh: Mesh | None = None,
) -> Evaluation:
    """Adapt a trained method to each of `tasks` test tasks and test it there.

    Task number i depends on `key`, `chunk` and i alone: under one key every method meets the same tasks, so that
    methods compare in pairs. It depends neither on the devices nor on how many tasks they compute at once.

    Args:
      params, model_state: as `method.init` and `train.load_params` give them.
      sample: key, number -> a batch of so many tasks. Those of a `sampling.TestTasks` are drawn on the device that
        computes them.
      chunk: tasks that are drawn under one key; each device of a mesh computes up to so many in one program.
      progress: called with the number of tasks done.
      tasks_at_once: of a device; the largest divisor of its share that is not above this is taken. 0: one on a CPU,
        elsewhere as many as the device's memory holds by what the compiled program needs.
      mesh: devices in one axis that share the tasks, on however many hosts, which then call this together; None: one.

    Raises:
      InputError: a number of tasks below 1, or labels of more ways than the method has.
      Diverged: the loss on a task is not finite.
    """
    at_least(1, tasks=tasks, chunk=chunk)
    at_least(0, tasks_at_once=tasks_at_once)
    devices = 1 if mesh is None else mesh.size
    # Never a shorter round, so that the last one is neither compiled again nor other tasks than in a longer run.
    chunks = min(devices, -(-tasks // chunk))
    share = -(-chunks * chunk // devices)
    rows = np.arange(devices * share) % (chunks * chunk)  # a task twice rather than a device with fewer
    params, model_state = replicate((params, model_state), mesh)
    sample = sample.spread(mesh) if isinstance(sample, TestTasks) else sample

    def drawn(number: int) -> tuple[list[PRNGKeyArray], Task]:
        keys = [jax.random.fold_in(key, chunks * number + each) for each in range(chunks)]
        return keys, _draw(sample, keys, chunk, rows, mesh)

    def one_round(number: int) -> tuple[Array, Array]:
        keys, batch = drawn(number)
        for_adapt = task_keys([jax.random.fold_in(each, 0) for each in keys], chunk)[rows]
        given = (method.tested, mesh, params, model_state, batch, for_adapt)
        return _on_tasks(*given, tasks_at_once or _fitting(*given, share))

    values: list[Any] = []

    def read(found: tuple[Array, Array]) -> None:
        values.append(jax.device_get(found))
        if not np.isfinite(values[-1][1]).all():
            raise _not_finite(method.tested, params, model_state, drawn(len(values) - 1)[1])
        progress(min(len(values) * chunks * chunk, tasks))

    running: tuple[Array, Array] | None = None
    for number in range(-(-tasks // (chunks * chunk))):
        # The next round is under way before the one before it is read, so that the devices do not wait for the host.
        found, running = running, one_round(number)
        if found:
            read(found)
    assert running is not None
    read(running)
    whole = lambda parts: np.concatenate([part[: chunks * chunk] for part in parts])[:tasks].astype(np.float64)
    return Evaluation(*map(whole, zip(*values, strict=True)))


def mean_interval(values: Float[np.ndarray, " n"], level: float = 0.95) -> tuple[float, float]:
    """Mean and the half-width of its interval, t·sem, taking the values as independent.

    Raises:
      InputError: there are fewer than two.
    """
    n = len(values)
    at_least(2, values=n)
    return float(values.mean()), float(scipy.stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))


def _draw(sample: Sample, keys: list[PRNGKeyArray], chunk: int, rows: np.ndarray, mesh: Mesh | None) -> Task:
    """The tasks of the chunks of these keys, in the order of `rows`, spread over the mesh."""
    if mesh is None:
        return sample(keys[0], chunk)
    if isinstance(sample, TestTasks) and not sample.table.on_host:
        return sample.of_keys(task_keys(keys, chunk)[rows], mesh)
    drawn = [jax.device_get(sample(key, chunk)) for key in keys]
    return shard(jax.tree.map(lambda *leaves: np.concatenate(leaves)[rows], *drawn), mesh)


@partial(jax.jit, static_argnames=("method", "mesh", "tasks_at_once"))
def _on_tasks(
    method: Method,
    mesh: Mesh | None,
    params: PyTree,
    model_state: PyTree,
    batch: Task,
    keys: Key[Array, " tasks"],
    tasks_at_once: int,
) -> tuple[Array, Array]:
    def on_share(params: PyTree, model_state: PyTree, *tasks: PyTree) -> tuple[Array, Array]:
        return map_tasks(partial(_on_task, method, params, model_state), tasks, tasks_at_once)

    if mesh is None:
        return on_share(params, model_state, batch, keys)
    axis = mesh.axis_names[0]
    over, whole = PartitionSpec(axis), PartitionSpec()
    # Gathered, so that every host can read all of it.
    gathered = lambda *given: lax.all_gather(on_share(*given), axis, tiled=True)
    # The replication check does not know our convolution.
    return jax.shard_map(gathered, mesh=mesh, in_specs=(whole, whole, over, over), out_specs=whole, check_vma=False)(
        params, model_state, batch, keys
    )


def _on_task(method: Method, params: PyTree, model_state: PyTree, item: tuple[Task, PRNGKeyArray]) -> Any:
    task, key = item
    logits = method.adapt(params, model_state, task.support_images, task.support_labels, key)(task.query_images)
    return accuracy(logits, task.query_labels), cross_entropy(logits, task.query_labels)


def _not_finite(method: Method, params: PyTree, model_state: PyTree, batch: Task) -> Exception:
    """Why the loss on one of these tasks is not finite."""

    def logits(key: PRNGKeyArray, task: Task) -> Array:
        predict = method.adapt(params, model_state, task.support_images, task.support_labels, key)
        return predict(task.query_images)

    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batch)
    ways = jax.eval_shape(logits, jax.random.key(0), one).shape[-1]
    largest = int(max(batch.support_labels.max(), batch.query_labels.max()))
    if largest >= ways:
        return InputError(f"a task has a label {largest}; the method is of {ways} ways, so labels are 0 to {ways - 1}")
    return Diverged("the loss on a test task is not finite after adaptation; lower the inner learning rate")


def _fitting(
    method: Method, mesh: Mesh | None, params: PyTree, model_state: PyTree, batch: Task, keys: Array, share: int
) -> int:
    """How many tasks at once a device computes by default."""
    if jax.default_backend() == "cpu":
        return 1
    given = (params, model_state, batch, keys)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), given)
    here = tree_bytes((params, model_state)) + tree_bytes(batch) * share // len(keys)
    limit = least(usable_bytes(jax.local_devices()[0], here))
    leaves, structure = jax.tree.flatten(abstract)
    return _chosen(method, mesh, share, limit, structure, tuple(leaves))


@cache
def _chosen(method: Method, mesh: Mesh | None, share: int, limit: float, structure: Any, leaves: tuple) -> int:
    """As `fit`, once for programs that are alike."""
    return fit(method, mesh, jax.tree.unflatten(structure, leaves), share, limit).tasks_at_once


def fit(method: Method, mesh: Mesh | None, given: tuple, share: int, limit_bytes: float) -> Fit:
    """How many tasks a device of so much memory computes at once in an evaluation; nothing is computed.

    Args:
      method: `method.tested` of what is evaluated.
      given: parameters, model state, a batch of tasks and their keys, abstract (`jax.ShapeDtypeStruct`) or not.
      share: the tasks of a device.
    """
    params, model_state, batch, keys = given
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (batch, keys))
    each = peak_bytes(partial(_on_task, method), params, model_state, one)
    return choose(lambda k, _: lower(method, mesh, given, k).compile(), share, limit_bytes, each)


def lower(method: Method, mesh: Mesh | None, given: tuple, tasks_at_once: int) -> Any:
    """The program of one round, lowered and not compiled; the arguments as in `fit`."""
    return _on_tasks.lower(method, mesh, *given, tasks_at_once)
