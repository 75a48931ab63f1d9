"""How many examples of a task, and how many tasks, a device works on at once.

On a CPU: the examples whose activations stay in its caches, of one task. Elsewhere: as many examples as the device's
memory holds, and where that is a whole task, several tasks. Neither changes a result beyond rounding.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from jaxdiv.device_memory import tree_bytes, usable_bytes
from jaxdiv.probes.base import Batch, Probe, size

# Bytes of activations and cotangents that one chunk of examples may take on a CPU: larger ones leave its caches.
_CPU_CHUNK_BYTES = 2**28
# A compiled program takes so many times its activations and cotangents (`Probe.bytes_per_example`): bench/compile.py.
_COMPILED = 3.0
# Examples that keep any device busy. More of them only delay the next word of progress.
_ENOUGH = 4096
# As the reference's Fisher has it: examples in one batch.
_REFERENCE_BATCH = 64


class AtOnce(NamedTuple):
    """What one device works on at a time.

    Attributes:
      chunk: examples of a task; None: what suits a CPU.
      tasks: tasks, side by side.
    """

    chunk: int | None
    tasks: int


class Need(NamedTuple):
    """Bytes that one task takes while it is embedded, besides the probe.

    Attributes:
      examples: of the task.
      each: for each example of a chunk.
      fixed: whatever the chunk.
    """

    examples: int
    each: int
    fixed: int

    def of(self, chunk: int) -> int:
        """With so many examples at a time."""
        return self.fixed + min(chunk, self.examples) * self.each


def need(probe: Probe, batch: Batch, ways: int, estimator: str) -> Need:
    """What a task takes.

    Args:
      probe: of which only shapes count.
      batch: the task's examples, of which only shapes count.
      ways: classes of the task.
      estimator: a key of `fisher.ESTIMATORS`; `reference` works on batches of 64, whatever the chunk.
    """
    examples = size(batch)
    each = math.ceil(_COMPILED * _bytes_per_example(probe, batch, ways - 1 if estimator == "exact" else 1))
    # The examples once more as chunks. The head's Newton systems: [ways, examples, examples], a few of them.
    fixed = 2 * tree_bytes(batch) + 6 * ways * examples**2 * 4
    if estimator == "reference":
        return Need(examples, 0, fixed + min(examples, _REFERENCE_BATCH) * each)
    return Need(examples, each, fixed)


def most(task: Need, tasks: int, memory: int, chunk: int | None = None, tasks_at_once: int | None = None) -> AtOnce:
    """The largest chunk that fits in a device's memory, and where it is a whole task, as many tasks as fit.

    Args:
      task: what one task takes.
      tasks: that the device has to embed.
      memory: bytes of the device that are free for it (`free_bytes`).
      chunk, tasks_at_once: what is decided; None: not.
    """
    examples = task.examples
    if chunk is None:
        room = memory - task.fixed
        chunk = _even(examples, max(1, room // task.each)) if task.each else examples
    if tasks_at_once is None:
        fit = memory // task.of(chunk) if chunk >= examples else 1
        tasks_at_once = max(1, min(fit, _ENOUGH // examples))
    return AtOnce(chunk, _even(tasks, tasks_at_once))


def cpu_chunk(probe: Probe, batch: Batch, columns: int) -> int:
    """As many examples as `_CPU_CHUNK_BYTES` hold."""
    return max(1, min(size(batch), _CPU_CHUNK_BYTES // _bytes_per_example(probe, batch, columns)))


def choose(
    probe: Probe,
    batch: Batch,
    ways: int,
    estimator: str,
    tasks: int,
    memory: int | None,
    chunk: int | None = None,
    tasks_at_once: int | None = None,
) -> AtOnce:
    """What suits a device: on a CPU one task, in chunks for its caches; elsewhere what its memory holds.

    Args:
      probe, batch, ways, estimator: as `need`'s.
      tasks: that the device has to embed.
      memory: bytes of the device that are free for it (`free_bytes`); None: it is a CPU.
      chunk, tasks_at_once: what is decided; None: not.
    """
    if memory is None:
        return AtOnce(chunk, _even(tasks, tasks_at_once or 1))
    return most(need(probe, batch, ways, estimator), tasks, memory, chunk, tasks_at_once)


def free_bytes(device: jax.Device, resident: PyTree) -> int | None:
    """Bytes that a device has for work beside `resident`, arrays that it holds; None: it is a CPU.

    The least of all hosts of a job, so that they choose alike.
    """
    if device.platform == "cpu":
        return None
    there = tree_bytes(resident)
    found = max(0, math.floor(usable_bytes(device, there)) - there)
    if jax.process_count() == 1:
        return found
    return int(np.min(multihost_utils.process_allgather(np.asarray(found, np.float32))))


def smaller(at_once: AtOnce, examples: int) -> AtOnce | None:
    """The next to try where that was too much for a device; None: nothing is smaller."""
    if at_once.tasks > 1:
        return at_once._replace(tasks=-(-at_once.tasks // 2))
    chunk = at_once.chunk or examples
    return at_once._replace(chunk=-(-chunk // 2)) if chunk > 1 else None


def _even(count: int, at_once: int) -> int:
    """At most `at_once`, with the remainder spread over all turns."""
    return math.ceil(count / math.ceil(count / at_once))


def _bytes_per_example(probe: Probe, batch: Batch, columns: int) -> int:
    """As the probe says. Also of one whose parameters stand for arrays, which are traced here."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), batch)
    found: list[int] = []
    jax.eval_shape(lambda probe: found.append(probe.bytes_per_example(one, columns)), probe)
    return found[0]
