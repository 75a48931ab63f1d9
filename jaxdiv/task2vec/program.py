"""Many tasks, block by block: on each device of a mesh as many as it works on at once, and no wait between blocks.

A block is two programs: one draws its tasks, on the devices that then embed them; the other is features, head and
Fisher. The second compiles for minutes and is one for all benchmarks whose tasks have one shape, so it is apart from
the first, which knows a benchmark's table. Nothing is read but embeddings and what the probe saw of the examples.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt32

from jaxdiv.data.episodes import prefetch
from jaxdiv.device_memory import out_of_memory
from jaxdiv.errors import InputError
from jaxdiv.probes.base import Batch, Probe, size
from jaxdiv.task2vec import aws
from jaxdiv.task2vec.fisher import ESTIMATORS, features_in_chunks
from jaxdiv.task2vec.head import fit_head
from jaxdiv.task2vec.memory import choose, free_bytes, smaller

# Of one task, or with an axis of tasks first of a block: examples, labels, and the words of the keys (None: no keys).
Tasks = tuple[Batch, Int[Array, "*tasks examples"], UInt32[Array, "*tasks words"] | None]


@dataclass(frozen=True)
class How:
    """What an embedding is made with, besides the probe; static under `jax.jit`.

    Attributes:
      ways: classes of a task.
      estimator: a key of `fisher.ESTIMATORS`.
      head: of `head.HEADS`.
      chunk: examples at a time; None: what suits a CPU.
      random: the kind of the keys (`jax.random.key_impl`); None: there are none.
    """

    ways: int
    estimator: str
    head: str
    chunk: int | None = None
    random: Hashable = None

    def key(self, words: UInt32[Array, " words"] | None) -> PRNGKeyArray | None:
        return None if words is None else jax.random.wrap_key_data(words, impl=self.random)  # type: ignore[arg-type]


def embedding(
    probe: Probe, batch: Batch, labels: Int[Array, " examples"], how: How, key: PRNGKeyArray | None
) -> Float[Array, " entries"]:
    """One task's embedding: features, head, Fisher. Of arguments that were checked."""
    head_key, fisher_key = (None, None) if key is None else jax.random.split(key)
    of_reference = how.estimator == "reference"
    features = aws.features(probe, batch) if of_reference else features_in_chunks(probe, batch, how.chunk)
    fitted = fit_head(features, labels, how.ways, how.head, head_key)
    return ESTIMATORS[how.estimator](probe, batch, fitted, fisher_key, chunk=how.chunk)


@cache
def embedder(mesh: Mesh, how: How) -> Callable[[Probe, Tasks], tuple[Array, PyTree]]:
    """The jitted program `probe, block -> embeddings [tasks, entries], what the probe saw of each task`.

    Both come whole to every device, of every host. `abstract` has arguments to compile it with.
    """

    def of_task(probe: Probe, task: Tasks) -> tuple[Array, PyTree]:
        batch, labels, words = task
        return embedding(probe, batch, labels, how, how.key(words)), probe.inspect(batch)

    return _over_devices(mesh, of_task, gather=True)


@cache
def drawer(mesh: Mesh, draw: Callable[[Any, Any], Tasks]) -> Callable[[Any, Any], Tasks]:
    """The jitted program `source, items -> block`: each device draws its own tasks from its copy of the source.

    Args:
      mesh: the devices.
      draw: source, one item (its key, say) -> one task. Equal ones share a program.
    """
    return _over_devices(mesh, draw, gather=False)


def _over_devices(mesh: Mesh, of_task: Callable[[Any, Any], Any], gather: bool) -> Callable[[Any, Any], Any]:
    """One task's function for a block of tasks, which is spread; the first argument is whole on each device."""
    axis = mesh.axis_names[0]
    whole, over = PartitionSpec(), PartitionSpec(axis)

    def of_device(shared: Any, tasks: Any) -> Any:
        if len(jax.tree.leaves(tasks)[0]) == 1:  # without an axis of tasks: the CPU's fastest forms have none
            found = jax.tree.map(lambda leaf: leaf[None], of_task(shared, jax.tree.map(lambda leaf: leaf[0], tasks)))
        else:
            found = jax.vmap(of_task, in_axes=(None, 0))(shared, tasks)
        return jax.tree.map(lambda leaf: lax.all_gather(leaf, axis, tiled=True), found) if gather else found

    # The replication check does not know our convolution.
    out = whole if gather else over
    return jax.jit(jax.shard_map(of_device, mesh=mesh, in_specs=(whole, over), out_specs=out, check_vma=False))


def abstract(mesh: Mesh, probe: Probe, task: PyTree, tasks: int) -> tuple[Probe, PyTree]:
    """Arguments of `embedder(mesh, how)` that stand for arrays, to compile it without running it:
    `embedder(mesh, how).lower(*abstract(mesh, probe, task, tasks)).compile()`.

    Args:
      mesh: devices in one axis; also such as are not there (`jax.experimental.topologies`).
      probe: of which only shapes count.
      task: one task's examples [examples, ...], labels [examples] and key's words [words] or None: shapes alone.
      tasks: in the block, on all devices.
    """
    whole, over = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(mesh.axis_names[0])))
    like = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)
    many = lambda leaf: jax.ShapeDtypeStruct((tasks, *leaf.shape), leaf.dtype, sharding=over)
    return jax.tree.map(like, probe), jax.tree.map(many, task)


def mesh_of(tasks: int) -> Mesh:
    """The devices that share so many tasks: all of all hosts, or of a single host no more than there are tasks."""
    devices = jax.devices() if jax.process_count() > 1 else jax.devices()[:tasks]
    return jax.make_mesh((len(devices),), ("tasks",), devices=devices)


def embed_each(
    probe: Probe,
    how: How,
    items: PyTree,
    draw: Callable[[Any, Any], Tasks] | None = None,
    source: Any = None,
    on_host: bool = False,
    tasks_at_once: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Float[np.ndarray, "tasks entries"]:
    """The embeddings of tasks, on every host of a job, each of which must call this.

    Args:
      probe: the probe.
      how: with the chunk that is wanted; None: what suits the devices.
      items: the tasks themselves, as `Tasks`, or what `draw` draws each of them by.
      draw: source, item -> one task; pure, and equal where it draws alike. None: `items` are the tasks.
      source: what every device needs to draw from.
      on_host: `draw` reads the source on the host, and so runs there.
      tasks_at_once: on each device; None: as many as suit it.
      mesh: devices in one axis; None: all of all hosts.
      progress: called with the number of tasks done, after each block.

    Raises:
      InputError: as `probe.check` and `probe.check_numbers`, or an embedding that is not finite.
    """
    tasks = len(jax.tree.leaves(items)[0])
    mesh = mesh or mesh_of(tasks)
    first = jax.tree.map(lambda leaf: leaf[0], items)
    if draw is not None:
        first = draw(source, first) if on_host else jax.eval_shape(draw, source, first)
    jax.eval_shape(probe.check, first[0])
    memory, each = free_bytes(mesh.local_devices[0], (probe, source, items)), -(-tasks // mesh.size)
    at_once = choose(probe, first[0], how.ways, how.estimator, each, memory, how.chunk, tasks_at_once)
    found: list[np.ndarray] = []
    while (done := sum(map(len, found))) < tasks:
        block = at_once.tasks * mesh.size
        # The last one is filled up with tasks that are done already: one program for all.
        turns = done + np.arange(-(-(tasks - done) // block) * block).reshape(-1, block) % (tasks - done)
        blocks = _blocks(mesh, items, draw, source, on_host, turns)
        try:
            for embeddings in _embedded(mesh, replace(how, chunk=at_once.chunk), probe, blocks):
                found.append(_checked(embeddings[: tasks - done], done))
                done += len(found[-1])
                progress(done)
        except jax.errors.JaxRuntimeError as error:
            less = smaller(at_once, size(first[0])) if out_of_memory(error) else None
            if less is None or jax.process_count() > 1:  # another host may have found room
                raise
            at_once = less
    return np.concatenate(found)


def _embedded(mesh: Mesh, how: How, probe: Probe, blocks: Iterator[Tasks]) -> Iterator[Float[np.ndarray, "tasks _"]]:
    """The embeddings of each block, and InputError where the probe cannot take what it saw in it."""
    program, there = embedder(mesh, how), replicate(probe, mesh)
    for embeddings, seen in _ahead((program(there, block) for block in blocks), mesh):
        probe.check_numbers(seen)
        yield embeddings


def _checked(embeddings: Float[np.ndarray, "tasks entries"], start: int) -> Float[np.ndarray, "tasks entries"]:
    """The embeddings of tasks from number `start` on; InputError where one is not finite."""
    finite = np.isfinite(embeddings).all(1)
    if not finite.all():
        number = start + int(np.argmin(finite))
        raise InputError(f"the Fisher: NaN or infinity in {(~finite).sum()} tasks, the first of them task {number}")
    return embeddings


def _blocks(
    mesh: Mesh,
    items: PyTree,
    draw: Callable[[Any, Any], Tasks] | None,
    source: Any,
    on_host: bool,
    turns: Int[np.ndarray, "blocks tasks"],
) -> Iterator[Tasks]:
    """The blocks' tasks, on their devices."""
    of = lambda rows: jax.tree.map(lambda leaf: leaf[rows], items)
    if draw is None:
        yield from (spread(of(rows), mesh) for rows in turns)
    elif on_host:
        drawn = lambda rows: [draw(source, of(row)) for row in rows]
        joined = lambda rows: jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(drawn(rows)))
        yield from (spread(block, mesh) for block in prefetch(joined, turns))
    else:
        program, there = drawer(mesh, draw), replicate(source, mesh)
        yield from (program(there, spread(of(rows), mesh)) for rows in turns)


def _ahead(results: Iterable[Any], mesh: Mesh) -> Iterator[Any]:
    """Results read in their order, the next of them already under way: a device does not wait for the host.

    On a CPU, which is the host, one after the other: side by side they would share its cores and double the memory.
    """
    depth = 0 if mesh.local_devices[0].platform == "cpu" else 1
    waiting: deque[Any] = deque()
    for result in results:
        waiting.append(result)
        if len(waiting) > depth:
            yield jax.device_get(waiting.popleft())
    while waiting:
        yield jax.device_get(waiting.popleft())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays that every host has, whole on each device of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    copies = lambda leaf: [jax.device_put(leaf, device) for device in mesh.local_devices]
    join = lambda leaf: jax.make_array_from_single_device_arrays(np.shape(leaf), sharding, copies(leaf))
    return jax.tree.map(join, tree)


def spread(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays that every host has, their first axis spread over the devices of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    part = lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])
    return jax.tree.map(part, jax.device_get(tree))
