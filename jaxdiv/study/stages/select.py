"""Select: the subsets of a controlled experiment, of equal size, and of low, middle and high diversity.

The pool's classes are embedded as a unit of its own (`embed_pool`), so that another distance does not embed them again.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from jaxdiv.data.table import ImageTable, draw_classes, place, take
from jaxdiv.probes.base import Probe
from jaxdiv.study import subsets
from jaxdiv.study.flags import in_flags
from jaxdiv.study.keys import key_for
from jaxdiv.study.sections import NO_RESULT, Compute
from jaxdiv.study.tables import Table
from jaxdiv.study.unit import ProgressFn, in_its_precision
from jaxdiv.task2vec.classes import embed_classes
from jaxdiv.task2vec.coefficient import pairwise_distances


@dataclass(frozen=True)
class PoolSpec:
    """Which classes of a pool are embedded: at most `candidates` of each data set (0: all classes), `images` images of
    each (of all classes: at most, as many as the smallest has).

    weights, contents, compute, chunk: as in `embed.Spec`.
    """

    table: Table
    probe: str
    weights: str = field(metadata=NO_RESULT)
    contents: str
    probe_seed: int
    candidates: int
    images: int
    seed: int
    compute: Compute
    chunk: int = field(metadata=NO_RESULT)


@dataclass(frozen=True)
class HalfSpec(PoolSpec):
    """The same of one half of each class's images: 0 or 1. The halves share no image, neither of a class nor of the
    background. `images` is of both together."""

    half: int


@dataclass(frozen=True)
class Pool:
    """The embedded classes: their rows in the pool's table, their names, and the data set of each by its number."""

    classes: list[str]
    rows: Int[np.ndarray, " classes"]
    datasets: Int[np.ndarray, " classes"]
    embeddings: Float[np.ndarray, "classes filters"]


@dataclass(frozen=True)
class Spec:
    """How subsets are chosen: `subsets` of each level, of `classes` classes."""

    distance: str
    classes: int
    subsets: int
    seed: int


@dataclass(frozen=True)
class Result:
    """The subsets by name: the rows and names of their classes, and the mean distance between two of them."""

    rows: dict[str, list[int]]
    classes: dict[str, list[str]]
    class_distance: dict[str, float]


def candidates(spec: PoolSpec, table: ImageTable) -> Int[np.ndarray, " classes"]:
    """The rows of the classes that are embedded.

    Raises:
      InputError: the pool has too few with enough images.
    """
    sets = np.bincount(table.dataset, minlength=len(table.rotates)).clip(max=spec.candidates).tolist()
    with in_flags(quotas="--config.controlled.candidates", images="--config.controlled.images"):
        return draw_classes(spec.table.source, table, sets, spec.images, spec.seed)


@in_its_precision
def embed_pool(spec: PoolSpec, inputs: tuple[ImageTable, Probe], progress: ProgressFn) -> Pool:
    """Embed the candidates among the classes of a pool, each as a task of its own."""
    table, probe = inputs
    if spec.candidates:
        rows, images = candidates(spec, table), spec.images
    else:
        rows, images = np.arange(len(table.classes)), min(spec.images, table.smallest)
    if isinstance(spec, HalfSpec):
        images //= 2
        table = place(take(table, rows, images, spec.seed, spec.half))
    heard = lambda done: progress(done / len(rows), f"class {done} of {len(rows)}")
    # Of each half another background: with one, an error that both share would pass for diversity.
    half = f"/{spec.half}" if isinstance(spec, HalfSpec) else ""
    key = key_for(spec.seed, f"select/{spec.probe}{half}")
    at_once = spec.chunk or None, spec.compute.tasks_at_once or None
    embedded = embed_classes(probe, table, rows, images, key, spec.seed, heard, *at_once)
    return Pool([table.classes[row] for row in rows], rows, np.asarray(table.dataset)[rows], embedded)


def run(spec: Spec, pool: Pool, progress: ProgressFn) -> Result:
    """Choose the subsets.

    Raises:
      InputError: the pool leaves no choice.
    """
    distances = pairwise_distances(pool.embeddings, spec.distance)
    found = subsets.choose(distances, pool.datasets, spec.classes, spec.subsets, spec.seed)
    return Result(
        {name: [int(pool.rows[i]) for i in chosen] for name, chosen in found.items()},
        {name: [pool.classes[i] for i in chosen] for name, chosen in found.items()},
        {name: subsets.mean_distance(distances, chosen) for name, chosen in found.items()},
    )
