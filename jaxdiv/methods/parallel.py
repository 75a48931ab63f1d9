"""Tasks over devices: the mean gradient of a batch of tasks, meshes, and what the hosts of one job agree on."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PyTree

from jaxdiv.data.episodes import Task
from jaxdiv.device_memory import largest_divisor, peak_bytes, usable_bytes
from jaxdiv.errors import InputError

# Between two moments at which hosts agree, at most: steps, and about so many seconds, since a machine that is taken
# away has 30 from SIGTERM on.
_AGREE_STEPS, _AGREE_SECONDS = 20, 5.0


def mean_over_tasks(
    loss: Callable[..., tuple[Array, Any]],
    params: PyTree,
    tasks: Task,
    keys: Key[Array, " tasks"] | None,
    mesh: Mesh | None,
    tasks_at_once: int = 0,
) -> Any:
    """`jax.value_and_grad` of one task's loss, averaged over a batch of tasks that is spread over a mesh.

    Args:
      loss: `params, task, key -> loss, more`.
      tasks: leading axis `tasks` on every leaf.
      keys: one for each task.
      mesh: devices in one axis, whose number divides that of the tasks; None: one device.
      tasks_at_once: as in `map_tasks`.

    Returns:
      `(loss, more), gradient`, each the mean over the tasks.
    """

    def mean(params: PyTree, tasks: Task, keys: Key[Array, " tasks"] | None) -> Any:
        each = lambda item: jax.value_and_grad(loss, has_aux=True)(params, *item)
        mean_of = lambda found: jax.tree.map(lambda leaf: leaf.mean(0), found)
        # Of each round the mean alone is kept: a gradient for each task would be many times the parameters.
        return mean_of(map_tasks(each, (tasks, keys), tasks_at_once, mean_of))

    if mesh is None:
        return mean(params, tasks, keys)
    axis = mesh.axis_names[0]
    over, whole = PartitionSpec(axis), PartitionSpec()

    def of_device(*arguments: Any) -> Any:
        return lax.pmean(mean(*arguments), axis)

    # The replication check does not know our convolution; `pmean` makes the results alike.
    return jax.shard_map(of_device, mesh=mesh, in_specs=(whole, over, over), out_specs=whole, check_vma=False)(
        params, tasks, keys
    )


def map_tasks(
    each: Callable[[Any], Any],
    tasks: PyTree,
    tasks_at_once: int = 0,
    of_round: Callable[[Any], Any] | None = None,
) -> Any:
    """`each` of every task of one device, in rounds of so many at once.

    Args:
      each: one task -> a pytree.
      tasks: leading axis `tasks` on every leaf.
      tasks_at_once: the largest divisor of the number of tasks that is not above this is taken, so that all rounds are
        alike. 0: one on a CPU, where a loop has twice the speed of the grouped convolutions that several tasks' own
        kernels become; elsewhere as many as fit by an estimate.
      of_round: what is kept of a round's results, where that is less than all; it is applied to rounds of several
        tasks.

    Returns:
      The results with a leading axis of tasks, or of rounds where `of_round` is given.
    """
    count = len(jax.tree.leaves(tasks)[0])
    by_default = 1.0 if tasks_at_once or jax.default_backend() == "cpu" else _estimated(each, tasks)
    at_once = largest_divisor(count, tasks_at_once or by_default)
    if at_once == 1:
        return lax.map(each, tasks)
    rounds = jax.tree.map(lambda leaf: leaf.reshape(-1, at_once, *leaf.shape[1:]), tasks)
    of_all = of_round or (lambda found: found)
    found = lax.map(lambda some: of_all(jax.vmap(each)(some)), rounds)
    return found if of_round else jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[2:]), found)


def _estimated(each: Callable[[Any], Any], tasks: PyTree) -> float:
    """How many tasks fit the device, without compiling."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tasks)
    return usable_bytes(jax.local_devices()[0]) / max(peak_bytes(each, one), 1)


def make_mesh(batch: int) -> Mesh | None:
    """The devices that share a batch of `batch`, as a mesh of one axis; None where that is one.

    Of a single host's devices as many as divide the batch; of several hosts' all.

    Raises:
      InputError: several hosts whose devices cannot share the batch evenly.
    """
    devices = jax.devices()
    count = math.gcd(batch, len(devices))
    if jax.process_count() > 1 and count < len(devices):
        raise InputError(
            f"a batch of {batch} cannot be spread evenly over {len(devices)} devices of {jax.process_count()} hosts: "
            f"make `batch` a multiple of {len(devices)}"
        )
    return _mesh(devices[:count])


def all_devices() -> Mesh | None:
    """Every device of every host, as a mesh of one axis; None where that is one."""
    return _mesh(jax.devices())


def _mesh(devices: list[jax.Device]) -> Mesh | None:
    if len(devices) == 1:
        return None
    # Auto: XLA finds the sharding of what is computed between the batch and the parameters.
    return jax.make_mesh((len(devices),), ("tasks",), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Arrays that every host has whole, on each device of the mesh. What is on a device already is not copied."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    mine = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]

    def copies(leaf: Any) -> Array:
        whole = isinstance(leaf, jax.Array) and leaf.is_fully_replicated
        there = {shard.device: shard.data for shard in leaf.addressable_shards} if whole else {}
        source = next(iter(there.values()), leaf)
        parts = [there[device] if device in there else jax.device_put(source, device) for device in mine]
        return jax.make_array_from_single_device_arrays(parts[0].shape, sharding, parts)

    return jax.tree.map(copies, tree)


def is_on(tree: PyTree, mesh: Mesh) -> bool:
    """Whether every array is on the devices of the mesh, and on no other."""
    devices = set(mesh.devices.flat)
    there = lambda leaf: isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    return all(there(leaf) and leaf.sharding.device_set == devices for leaf in jax.tree.leaves(tree))


def shard(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Arrays that every host has whole, their first axis spread over the devices of the mesh; what is so stays."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    if is_on(tree, mesh) and all(x.sharding.is_equivalent_to(sharding, x.ndim) for x in jax.tree.leaves(tree)):
        return tree
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    part = lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])
    return jax.tree.map(part, jax.device_get(tree))


def own_copy(tree: PyTree) -> PyTree:
    """Replicated arrays as this host's own on its first device, to compute with alone and to keep."""
    here = lambda leaf: leaf.addressable_shards[0].data if isinstance(leaf, jax.Array) else leaf
    return jax.tree.map(lambda leaf: jnp.copy(here(leaf)), tree)


def least(value: float) -> float:
    """The least of the hosts' values: they must decide alike."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return float(multihost_utils.process_allgather(np.asarray(value)).min())


class Agreement:
    """What the hosts of one job agree on, at steps that all of them know before: each time costs a message.

    Alone, a host agrees with itself after every step.
    """

    def __init__(self, step: int, seconds: float):
        self._step, self._seconds = step, seconds
        self._next = step + 1

    def due(self, step: int) -> bool:
        """Whether this is a step after which the hosts agree."""
        return jax.process_count() == 1 or step >= self._next

    def reach(self, step: int, stop: bool, seconds: float) -> tuple[bool, float]:
        """Whether any host was told to stop, and the slowest clock: all must save and end at the same step."""
        if jax.process_count() == 1:
            return stop, seconds
        from jax.experimental import multihost_utils

        found = multihost_utils.process_allgather(np.asarray([stop, seconds]))
        slowest = float(found[:, 1].max())
        self._next = step + agree_after(step - self._step, slowest - self._seconds)
        self._step, self._seconds = step, slowest
        return bool(found[:, 0].any()), slowest


def agree_after(steps: int, seconds: float) -> int:
    """After how many steps hosts agree again, where the last `steps` of them took so many seconds."""
    pace = seconds / max(steps, 1)
    return max(1, min(_AGREE_STEPS, int(_AGREE_SECONDS / max(pace, 1e-9))))
