"""Choose, a part of `select`: the most (least) diverse classes of a pool, or those that add most to what one has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxdiv.study.flags import in_flags
from jaxdiv.study.stages.select import Pool
from jaxdiv.study.unit import ProgressFn
from jaxdiv.task2vec.classes import Gain, choice_gain, choose_classes
from jaxdiv.task2vec.coefficient import pairwise_distances


@dataclass(frozen=True)
class Spec:
    """How classes are chosen.

    Attributes:
      datasets: the names of the base sets that were embedded.
      pool: so many of them, the first, are chosen from; the others one has.
      classes: how many classes.
      seed: of the random sets.
    """

    datasets: tuple[str, ...]
    pool: int
    classes: int
    goal: str
    distance: str
    seed: int


@dataclass(frozen=True)
class Result:
    """The classes in the order of choice, the data set of each, and of how many; what the first k of them gain."""

    classes: list[str]
    datasets: list[str]
    candidates: int
    gains: list[Gain]


def run(spec: Spec, inputs: Sequence[Pool], progress: ProgressFn) -> Result:
    """Choose by all images, and measure what a choice by one half of them is worth on the other.

    inputs: the classes embedded from all of their images, and from each half.

    Raises:
      InputError: the pool has fewer classes than are chosen.
    """
    whole = inputs[0]
    by_all, one, other = (pairwise_distances(pool.embeddings, spec.distance) for pool in inputs)
    have = np.flatnonzero(np.asarray(whole.datasets) >= spec.pool)
    with in_flags(count="--config.choice.classes"):
        rows = choose_classes(by_all, spec.classes, spec.goal, have)
        gains = choice_gain(one, other, spec.classes, spec.goal, have, seed=spec.seed)
    datasets = [spec.datasets[whole.datasets[row]] for row in rows]
    return Result([whole.classes[row] for row in rows], datasets, len(whole.classes) - len(have), gains)
