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
from jaxdiv.errors import InputError


def mean_over_tasks(
    loss: Callable[..., tuple[Array, Any]],
    params: PyTree,
    tasks: Task,
    keys: Key[Array, " tasks"] | None,
    mesh: Mesh | None,
    vmap: bool | None = None,
) -> Any:
    """`jax.value_and_grad` of one task's loss, averaged over a batch of tasks that is spread over a mesh.

    Args:
      loss: `params, task, key -> loss, more`.
      tasks: leading axis `tasks` on every leaf.
      keys: one for each task.
      mesh: devices in one axis, whose number divides that of the tasks; None: one device.
      vmap: all tasks of a device at once, or one after the other; None: what suits the platform.

    Returns:
      `(loss, more), gradient`, each the mean over the tasks.
    """
    # On a CPU vmap would turn the tasks' adapted kernels into grouped convolutions, at half the speed of a loop.
    at_once = jax.default_backend() != "cpu" if vmap is None else vmap

    def mean(params: PyTree, tasks: Task, keys: Key[Array, " tasks"] | None) -> Any:
        each = lambda item: jax.value_and_grad(loss, has_aux=True)(params, *item)
        results = jax.vmap(each)((tasks, keys)) if at_once else lax.map(each, (tasks, keys))
        return jax.tree.map(lambda leaf: leaf.mean(0), results)

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
    if count == 1:
        return None
    # Auto: XLA finds the sharding of what is computed between the batch and the parameters.
    return jax.make_mesh((count,), ("tasks",), axis_types=(AxisType.Auto,), devices=devices[:count])


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Arrays that every host has whole, copied to each device of the mesh."""
    return _put(tree, mesh, PartitionSpec())


def shard(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Arrays that every host has whole, their first axis spread over the devices of the mesh."""
    return tree if mesh is None else _put(tree, mesh, PartitionSpec(mesh.axis_names[0]))


def _put(tree: PyTree, mesh: Mesh | None, spec: PartitionSpec) -> PyTree:
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    part = lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])
    return jax.tree.map(part, jax.device_get(tree))


def on_host(tree: PyTree) -> PyTree:
    """Replicated arrays as this host's own, so that it can compute with them alone."""
    return jax.tree.map(jnp.asarray, jax.device_get(tree)) if jax.process_count() > 1 else tree


def agree(stop: bool, seconds: float) -> tuple[bool, float]:
    """Whether any host was told to stop, and the slowest clock: all hosts must save and end at the same step."""
    if jax.process_count() == 1:
        return stop, seconds
    from jax.experimental import multihost_utils

    found = multihost_utils.process_allgather(np.asarray([stop, seconds]))
    return bool(found[:, 0].any()), float(found[:, 1].max())
