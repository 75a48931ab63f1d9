"""Samplers of train tasks, `SOURCE@SAMPLER`: the data stay as they are, and how diverse the tasks are changes.

After Kumar, Deleu and Bengio (AAAI 2023, https://arxiv.org/abs/2201.11775). SAMPLER-N is the N-th draw of one that
fixes something. The uniform one needs no name: it is SOURCE itself.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdiv.data import registry
from jaxdiv.data.class_choice import ClassChoice, Greedy, Nearest, OneOf, k_dpp, similarity
from jaxdiv.data.table import ImageTable
from jaxdiv.errors import InputError, unknown
from jaxdiv.study.keys import key_for
from jaxdiv.study.sections import Sampling
from jaxdiv.study.tables import Table

FIXING = {
    "one_task": "one set of classes, whose images are drawn anew",
    "one_batch": "a few sets of classes, drawn once",
    "few_classes": "tasks of a few classes alone",
}
BY_CLASSES = {
    "nearest": "a class and those whose embeddings are nearest",
    "k_dpp": "classes of a determinantal process: diverse, and random",
    "greedy": "a class, and always the one that adds most to the determinant",
}


@dataclass(frozen=True)
class Sampled(Table):
    """A train split whose tasks have classes as a sampler draws them; `sets` of one that fixes some."""

    sampler: str = ""
    number: int = 0
    sets: int = 0

    @property
    def of(self) -> Table:
        """The same images without the sampler."""
        return Table(self.source, self.split, self.pixels, self.classes, self.images, self.seed, own=self.own)


def source(benchmark: str) -> str:
    """The benchmark whose data a sampler uses."""
    return benchmark.partition("@")[0]


def by_classes(benchmark: str) -> bool:
    """Whether its sampler needs the classes' embeddings."""
    return _parts(benchmark)[1] in BY_CLASSES


def is_few(benchmark: str) -> bool:
    """Whether its sampler cuts the train split to a few classes."""
    return _parts(benchmark)[1] == "few_classes"


def check(benchmark: str, own: Collection[str]) -> None:
    """Raise InputError for a sampler that does not exist, or that cannot be of this benchmark."""
    if "@" not in benchmark:
        return
    name, sampler, number = _parts(benchmark)
    if sampler not in (*FIXING, *BY_CLASSES):
        raise unknown("sampler", sampler, [*FIXING, *BY_CLASSES])
    if number and sampler in BY_CLASSES:
        raise InputError(f"benchmark {benchmark!r}: {sampler} draws anew for each task, so that it has no numbers")
    if len(registry.components(name, own)) > 1:
        raise InputError(f"benchmark {benchmark!r}: a sampler is of one data set, since a task never mixes several")


def sampled(benchmark: str, table: Table, settings: Sampling, seed: int) -> Table:
    """`table`, the train split of the benchmark's source, as its sampler uses it."""
    _, sampler, number = _parts(benchmark)
    if not sampler:
        return table
    if is_few(benchmark):  # a smaller cut: the same tasks of fewer classes
        return replace(table, classes=settings.few_classes, seed=seed + number)
    fields = {name: getattr(table, name) for name in ("source", "split", "pixels", "classes", "images", "own")}
    sets = {"one_task": 1, "one_batch": settings.batch_tasks}.get(sampler, 0)
    return Sampled(**fields, seed=seed, sampler=sampler, number=number, sets=sets)


def with_choice(
    images: ImageTable, table: Sampled, ways: int, embeddings: Float[np.ndarray, "classes filters"] | None = None
) -> ImageTable:
    """The images with the sampler's choice of classes."""
    return replace(images, choice=_choice(table, len(images.classes), ways, embeddings))


def _choice(table: Sampled, classes: int, ways: int, embeddings: np.ndarray | None) -> ClassChoice:
    if embeddings is None:
        keys = jax.random.split(key_for(table.seed, "sampling", table.source, table.number), table.sets)
        return OneOf(jnp.stack([jax.random.permutation(key, classes)[:ways] for key in keys]))
    kernel = similarity(jnp.asarray(embeddings, jnp.float32))
    if table.sampler == "k_dpp":
        return k_dpp(kernel, ways)
    return (Nearest if table.sampler == "nearest" else Greedy)(kernel, ways)


def _parts(benchmark: str) -> tuple[str, str, int]:
    """Source, sampler and the number of its draw."""
    name, _, sampler = benchmark.partition("@")
    kind, _, number = sampler.partition("-")
    return (name, kind, int(number)) if number.isdecimal() else (name, sampler, 0)
