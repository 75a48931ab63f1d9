"""Samplers of train tasks, `SOURCE@SAMPLER`, and choices of train classes, `SOURCE@N_CHOICE`.

A sampler leaves the data as they are, and changes how diverse the tasks are. After Kumar, Deleu and Bengio (AAAI 2023,
https://arxiv.org/abs/2201.11775). The uniform one needs no name: it is SOURCE itself. A choice takes N classes, whose
tasks are uniform. SAMPLER-M or CHOICE-M is the M-th draw of one that draws something once.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxdiv.data import registry
from jaxdiv.data.class_choice import ClassChoice, Greedy, Nearest, OneOf, k_dpp, similarity
from jaxdiv.data.table import ImageTable, draw_classes, place, take
from jaxdiv.errors import InputError, unknown
from jaxdiv.stats.paired import Counterpart
from jaxdiv.study.keys import key_for
from jaxdiv.study.sections import Sampling
from jaxdiv.study.tables import Table
from jaxdiv.task2vec.classes import choose_classes
from jaxdiv.task2vec.coefficient import pairwise_distances

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
ON_LINE = {"hard": "those of more tasks that the learner finds hardest"}
CHOICES = {
    "most_diverse": "the classes that are farthest from each other",
    "least_diverse": "those that are nearest to each other",
    "random": "any",
}
_NAME = re.compile(r"(?:(?P<classes>[0-9]+)_)?(?P<sampler>.*?)(?:-(?P<number>[0-9]+))?")


class _Parts(NamedTuple):
    """A benchmark's source, its sampler or choice, the number of the draw, and how many classes a choice takes."""

    source: str
    sampler: str
    number: int
    classes: int


@dataclass(frozen=True)
class Sampled(Table):
    """A train split whose tasks have classes as a sampler draws them; `sets` of one that fixes some."""

    sampler: str = ""
    number: int = 0
    sets: int = 0


@dataclass(frozen=True)
class Mined(Table):
    """A train split of whose tasks the learner takes the hardest, of `among` times as many."""

    among: int = 2


@dataclass(frozen=True)
class Chosen(Table):
    """`count` classes of a train split, as `choice` takes them: by `distance`, or the draw `number` at random."""

    choice: str = ""
    count: int = 0
    distance: str = ""
    number: int = 0


def source(benchmark: str) -> str:
    """The benchmark whose data a sampler uses."""
    return benchmark.partition("@")[0]


def by_classes(benchmark: str) -> bool:
    """Whether its sampler or choice needs the classes' embeddings."""
    return _parts(benchmark).sampler in (*BY_CLASSES, "most_diverse", "least_diverse")


def on_line(benchmark: str) -> bool:
    """Whether the learner chooses its tasks."""
    return _parts(benchmark).sampler in ON_LINE


def is_few(benchmark: str) -> bool:
    """Whether its sampler cuts the train split to a few classes."""
    return _parts(benchmark).sampler == "few_classes"


def counterparts(names: Collection[str]) -> dict[str, Counterpart]:
    """What each of the benchmarks `names` is compared with, of those: without what is itself a reference.

    The most (least) diverse classes of a source: as many random ones of it. A sampler: its source, sampled uniformly.
    """
    found = {}
    for name in names:
        mine = _parts(name)
        if mine.sampler in CHOICES:
            wanted = mine._replace(sampler="random", number=0)
            others = [each for each in names if _parts(each)._replace(number=0) == wanted]
            kind = f"{mine.classes}_{mine.sampler}"
        else:
            others, kind = [each for each in names if each == mine.source], mine.sampler
        if others and mine.sampler and mine.sampler != "random":
            found[name] = Counterpart(kind, mine.source, tuple(others))
    return found


def check(benchmark: str, own: Collection[str], ways: int) -> None:
    """Raise InputError for a sampler that does not exist, or that cannot be of this benchmark or of tasks of `ways`."""
    if "@" not in benchmark:
        return
    name, sampler, number, classes = _parts(benchmark)
    if sampler in CHOICES and classes < ways:
        raise InputError(
            f"benchmark {benchmark!r}: say how many classes are chosen, as in {name}@{max(10, ways)}_{sampler}, at "
            f"least ways={ways}"
        )
    if sampler not in CHOICES and (classes or sampler not in (*FIXING, *BY_CLASSES, *ON_LINE)):
        valid = [*FIXING, *BY_CLASSES, *ON_LINE, *(f"N_{each}" for each in CHOICES)]
        raise unknown("sampler", benchmark.partition("@")[2], valid)
    if number and sampler not in (*FIXING, "random"):
        why = "is a single choice" if sampler in CHOICES else "draws new classes for every task"
        raise InputError(f"benchmark {benchmark!r}: {sampler} {why}, so it takes no number")
    if len(registry.components(name, own)) > 1:
        raise InputError(f"benchmark {benchmark!r}: a sampler is of one data set, since a task never mixes several")


def check_size(table: Chosen, classes: int) -> None:
    """Raise InputError where a train split has fewer classes than are chosen."""
    if table.count > classes:
        raise InputError(
            f"benchmark '{table.source}@{table.count}_{table.choice}': its train split has {classes} classes to choose "
            f"from"
        )


def sampled(benchmark: str, table: Table, settings: Sampling, distance: str, seed: int) -> Table:
    """`table`, the train split of the benchmark's source, as its sampler or choice uses it."""
    _, sampler, number, classes = _parts(benchmark)
    if not sampler:
        return table
    if is_few(benchmark):  # a smaller cut: the same tasks of fewer classes
        return replace(table, classes=settings.few_classes, seed=seed + number)
    images = {each.name: getattr(table, each.name) for each in fields(Table)} | {"seed": seed}
    if sampler in CHOICES:
        return Chosen(**images, choice=sampler, count=classes, distance=distance * by_classes(benchmark), number=number)
    if sampler in ON_LINE:
        return Mined(**images, among=settings.hard_among)
    sets = {"one_task": 1, "one_batch": settings.batch_tasks}.get(sampler, 0)
    return Sampled(**images, sampler=sampler, number=number, sets=sets)


def with_choice(
    images: ImageTable,
    table: Sampled | Chosen,
    ways: int,
    embeddings: Float[np.ndarray, "classes filters"] | None = None,
) -> ImageTable:
    """The images of `table.of` with the sampler's choice of classes for each task, or of the chosen classes alone.

    embeddings: of all classes, for what needs them (`by_classes`).
    """
    if isinstance(table, Chosen):
        return place(take(images, _rows(table, images, embeddings), 0, table.seed))
    return replace(images, choice=_choice(table, len(images.classes), ways, embeddings))


def _rows(table: Chosen, images: ImageTable, embeddings: np.ndarray | None) -> Int[np.ndarray, " chosen"]:
    check_size(table, len(images.classes))
    if embeddings is None:
        return draw_classes(table.source, images, [table.count], 0, table.seed + table.number)
    distances = pairwise_distances(embeddings, table.distance)
    return choose_classes(distances, table.count, table.choice.removesuffix("_diverse"))


def _choice(table: Sampled, classes: int, ways: int, embeddings: np.ndarray | None) -> ClassChoice:
    if embeddings is None:
        keys = jax.random.split(key_for(table.seed, "sampling", table.source, table.number), table.sets)
        return OneOf(jnp.stack([jax.random.permutation(key, classes)[:ways] for key in keys]))
    kernel = similarity(jnp.asarray(embeddings, jnp.float32))
    if table.sampler == "k_dpp":
        return k_dpp(kernel, ways)
    return (Nearest if table.sampler == "nearest" else Greedy)(kernel, ways)


def _parts(benchmark: str) -> _Parts:
    name, _, sampler = benchmark.partition("@")
    found = _NAME.fullmatch(sampler)
    assert found  # every part of the pattern may be empty
    return _Parts(name, found["sampler"], int(found["number"] or 0), int(found["classes"] or 0))
