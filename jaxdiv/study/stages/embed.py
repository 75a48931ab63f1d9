"""Embed: tasks of a benchmark -> their Task2Vec embeddings."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxdiv.data.episodes import sample_tasks
from jaxdiv.data.own import fingerprint
from jaxdiv.data.table import ImageTable
from jaxdiv.methods.base import Method
from jaxdiv.methods.hard import hardest
from jaxdiv.probes.base import Probe
from jaxdiv.probes.registry import load_probe
from jaxdiv.probes.weights import IMAGENET, imagenet_file
from jaxdiv.study.keys import key_for
from jaxdiv.study.samplers import Mined
from jaxdiv.study.sections import NO_RESULT, Compute, Task
from jaxdiv.study.tables import Table
from jaxdiv.study.unit import ProgressFn, in_its_precision
from jaxdiv.task2vec.embed import embed_benchmark


@dataclass(frozen=True)
class Spec:
    """Which tasks are embedded, how.

    Attributes:
      weights: as the configuration names them; `contents` is what decides: the sha256 of their file, or their name.
      tasks: how many. Task number i depends on `seed`, `purpose` and i alone, so that more tasks begin with fewer.
      floor_tasks: how many of them are embedded a second time, with other draws, for the noise floor.
      augment: whether images go through their data set's train augmentation.
      purpose: of the draw; benchmarks with one purpose meet tasks of the same data sets.
      compute: how a device computes.
      chunk: examples of a task in its memory at once; 0: as many as fit.
    """

    benchmark: str
    table: Table
    task: Task
    probe: str
    weights: str = field(metadata=NO_RESULT)
    contents: str
    probe_seed: int
    estimator: str
    head: str
    augment: bool
    tasks: int
    floor_tasks: int
    seed: int
    purpose: str
    compute: Compute
    chunk: int = field(metadata=NO_RESULT)


@dataclass(frozen=True)
class Result:
    """Embeddings of the tasks, and of the first of them a second time."""

    embeddings: Float[np.ndarray, "tasks filters"]
    again: Float[np.ndarray, "repeated filters"]


@dataclass(frozen=True)
class Learned:
    """A learner that was trained on hard tasks, and the train split as it sees it: which tasks are hard for it."""

    method: Method
    params: PyTree
    model_state: PyTree
    table: ImageTable


@dataclass(frozen=True)
class Inputs:
    """The benchmark's train split, the probe, and what a unit of fewer (or more) tasks already found; where the tasks
    are those that a learner finds hard, that learner."""

    table: ImageTable
    probe: Probe
    before: Result | None = None
    learned: Learned | None = None


@in_its_precision
def run(spec: Spec, inputs: Inputs, progress: ProgressFn) -> Result:
    """Embed the tasks that are not in `inputs.before`.

    Raises:
      InputError: as `embed_benchmark`.
    """
    floor = min(spec.floor_tasks, spec.tasks)
    numbers = _hardest(spec, inputs.learned) if inputs.learned else range(spec.tasks)
    done = 0

    def complete(known: np.ndarray | None, tasks: int, again: bool) -> np.ndarray:
        nonlocal done
        start = 0 if known is None else min(len(known), tasks)
        parts = [] if known is None else [known[:start]]
        if start < tasks:
            keys = jnp.stack([key_for(spec.seed, spec.purpose, number) for number in numbers[start:tasks]])
            heard = lambda more: progress(
                (done + start + more) / (spec.tasks + floor), f"task {start + more} of {tasks}"
            )
            parts.append(
                embed_benchmark(
                    inputs.probe,
                    inputs.table,
                    tasks - start,
                    spec.task.ways,
                    spec.task.shots,
                    spec.task.queries,
                    estimator=spec.estimator,
                    head=spec.head,
                    key=keys,
                    again=again,
                    augment=spec.augment,
                    progress=heard,
                    chunk=spec.chunk or None,
                    tasks_at_once=spec.compute.tasks_at_once or None,
                )
            )
        done += tasks
        return np.concatenate(parts)

    embeddings = complete(inputs.before.embeddings if inputs.before else None, spec.tasks, again=False)
    again = embeddings[:0]
    if floor:
        again = complete(inputs.before.again if inputs.before else None, floor, again=True)
    return Result(embeddings, again)


def _hardest(spec: Spec, learned: Learned) -> list[int]:
    """The numbers of the tasks that are hardest for the learner, of `among` times as many as are embedded."""
    assert isinstance(spec.table, Mined)
    keys = jnp.stack([key_for(spec.seed, spec.purpose, number) for number in range(spec.table.among * spec.tasks)])
    # As `embed_benchmark` draws them, each as a batch of one.
    for_tasks = jax.vmap(lambda key: jax.random.split(jax.random.split(key)[0], 1)[0])(keys)

    @jax.jit
    def losses(params: PyTree, model_state: PyTree, tasks: Any) -> Array:
        # Not the method's own `losses`: pre-training's are of images.
        return Method.losses(learned.method, params, model_state, tasks, key_for(spec.seed, spec.purpose, "losses"))

    ways, shots, queries = spec.task.ways, spec.task.shots, spec.task.queries
    tasks = sample_tasks(for_tasks, learned.table, ways, shots, queries, len(keys))
    return hardest(losses(learned.params, learned.model_state, tasks), spec.tasks).tolist()


def contents(weights: Path | None) -> str:
    """What weights are: the sha256 of their file, or a name that says it; "" for random ones."""
    return str(weights or "") if weights in (None, Path(IMAGENET)) else fingerprint.of_file(weights)


def probe(name: str, weights: Path | None, seed: int, progress: ProgressFn) -> Probe:
    """The probe; torchvision's weights are downloaded once. Raises InputError as `load_probe`."""
    if weights == Path(IMAGENET):
        weights = imagenet_file(name, lambda share: progress(0.0, f"downloading weights, {share:.0%}"))
    return _loaded(name, weights, seed, fingerprint.of_file(weights) if weights else "")


@lru_cache(maxsize=1)
def _loaded(name: str, weights: Path | None, seed: int, contents: str) -> Probe:
    return load_probe(name, weights, seed)
