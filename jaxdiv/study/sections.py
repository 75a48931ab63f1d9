"""The sections of a study's configuration as frozen dataclasses that check themselves.

`configs/default.py` explains the fields and has their defaults. Every error names the flag of the field that is wrong.
"""

import abc
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, get_origin, get_type_hints

import numpy as np

from jaxdiv.errors import MOST_RATE, InputError, unknown
from jaxdiv.methods.maml import GRAD_REDUCTIONS, INNER_PARAMS
from jaxdiv.methods.step import OPTIMIZERS, SCHEDULES
from jaxdiv.nets.network import BATCH_NORM, COMPUTE, NETS
from jaxdiv.probes.registry import PROBES
from jaxdiv.task2vec import fisher
from jaxdiv.task2vec.classes import GOALS
from jaxdiv.task2vec.coefficient import DISTANCES, INTERVALS
from jaxdiv.task2vec.head import HEADS

TEST_SETS = ("own", "fixed")
PRECISIONS = ("highest", "high", "default")
# Metadata of a field that changes no result of a unit whose spec holds it.
NO_RESULT = {"identity": False}


# In an error: what a value of a type is.
_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    bool | None: "true or false",
}


@dataclass(frozen=True)
class Range:
    """A field's number must be at least `least` and smaller than `below`."""

    least: float
    below: float = math.inf


@dataclass(frozen=True)
class Each:
    """Each entry of a list must be of `kind` and pass `rules`; there must be `count` of them, where that is given."""

    kind: type
    rules: tuple = ()
    count: int | None = None


@dataclass(frozen=True)
class OneOf:
    """A field's text must be one of the names in `valid`; `kind` says in an error what they are names of."""

    kind: str
    valid: Collection[str]


# A seed: JAX makes a key of its last 32 bits alone, so that seed 2^32 would be seed 0.
Seed = Annotated[int, Range(0, 2**32)]
# A side in pixels: more would be asked for by mistake, and is refused before terabytes are.
_MOST_PIXELS = 1025


class Section:
    """A section of the configuration, whose fields are annotated with their types and what else they must be."""

    PATH: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Raise InputError for the first field of the wrong type, outside its range, or not among its choices."""
        for name, annotation in get_type_hints(type(self), include_extras=True).items():
            if get_origin(annotation) is ClassVar:
                continue
            kind, rules = getattr(annotation, "__origin__", annotation), getattr(annotation, "__metadata__", ())
            _check(f"--config.{self.PATH}{name} is", getattr(self, name), kind, rules)


def _check(what: str, value: Any, kind: Any, rules: Sequence[Any]) -> None:
    """Raise InputError, which begins with `what`, where a value is not of its type or breaks a rule."""
    if not fits(value, kind):
        raise InputError(f"{what} {value!r}: it must be {_KINDS.get(kind, 'a list')}")
    if kind is int and not any(isinstance(rule, Range) and rule.below < math.inf for rule in rules):
        rules = [*rules, Range(-(2**31), 2**31)]  # what counts on a device
    for rule in rules:
        if isinstance(rule, OneOf) and value not in rule.valid:
            raise unknown(rule.kind, value, rule.valid)
        if isinstance(rule, Range) and value < rule.least:
            raise InputError(f"{what} {value}: it must be at least {rule.least}")
        if isinstance(rule, Range) and value >= rule.below:
            raise InputError(f"{what} {value}: it must be below {rule.below}")
        if isinstance(rule, Each):
            if rule.count not in (None, len(value)):
                raise InputError(f"{what} {value}: it must have {rule.count} entries")
            for each in value:
                _check(f"{what} {value} with", each, rule.kind, rule.rules)


def check_each_once(name: str, given: tuple, least: int) -> None:
    """Raise InputError for a list that has too few entries, or one of them twice."""
    if len(given) < least or len(set(given)) != len(given):
        raise InputError(f"--config.{name} is {given}: give at least {least}, and each once")


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` is of a field's type; a whole number is also a float, and true and false are no numbers."""
    if kind not in (int, float):
        return isinstance(value, kind)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return False
    return math.isfinite(value) and (kind is float or isinstance(value, int | np.integer))


@dataclass(frozen=True)
class Task(Section):
    """The size of a few-shot task."""

    PATH: ClassVar[str] = "task."
    ways: Annotated[int, Range(2)]
    shots: Annotated[int, Range(1)]
    queries: Annotated[int, Range(1)]


@dataclass(frozen=True)
class Split(Section):
    """How the classes of the user's own data sets are split."""

    PATH: ClassVar[str] = "data.split."
    fractions: Annotated[tuple, Each(float, (Range(0),), count=3)]
    seed: Seed
    file: str


@dataclass(frozen=True)
class Cut(Section):
    """To which size train splits are cut; 0: not at all."""

    PATH: ClassVar[str] = "data.cut."
    classes: Annotated[int, Range(0)]
    images: Annotated[int, Range(0)]


@dataclass(frozen=True)
class Augment(Section):
    """Where images go through their data set's train augmentation."""

    PATH: ClassVar[str] = "data.augment."
    diversity: bool
    training: bool


@dataclass(frozen=True)
class Data(Section):
    """Where images come from and which of them are used."""

    PATH: ClassVar[str] = "data."
    archive_dir: str
    dir: str
    download: bool
    partial: bool
    without_imagenet: bool
    skip_broken: bool
    split: Split
    cut: Cut
    augment: Augment
    classes: Annotated[tuple, Each(int, (Range(0, 10**6),), count=3)]
    images_per_class: Annotated[int, Range(1, 10**6)]


@dataclass(frozen=True)
class Sampling(Section):
    """The samplers of benchmarks like `SOURCE@SAMPLER`: `study/samplers.py`."""

    PATH: ClassVar[str] = "sampling."
    few_classes: Annotated[int, Range(2)]
    batch_tasks: Annotated[int, Range(1)]
    hard_among: Annotated[int, Range(2)]
    class_images: Annotated[int, Range(1)]


@dataclass(frozen=True)
class Controlled(Section):
    """The controlled experiment; an empty `pool`: there is none."""

    PATH: ClassVar[str] = "controlled."
    pool: str
    subsets: Annotated[int, Range(1)]
    classes: Annotated[int, Range(1)]
    images: Annotated[int, Range(1)]
    candidates: Annotated[int, Range(1)]


@dataclass(frozen=True)
class Choice(Section):
    """A choice of classes by diversity, for people; `classes` 0: there is none."""

    PATH: ClassVar[str] = "choice."
    classes: Annotated[int, Range(0)]
    pool: str
    have: str
    goal: Annotated[str, OneOf("goal", GOALS)]
    images: Annotated[int, Range(2)]


@dataclass(frozen=True)
class Probe(Section):
    """How diversity is measured. `chunk` is of memory and speed alone; 0: as many examples as fit."""

    PATH: ClassVar[str] = "probe."
    name: Annotated[str, OneOf("probe", PROBES)]
    weights: str
    seed: Seed
    pixels: Annotated[int, Range(8, _MOST_PIXELS)]
    tasks: Annotated[int, Range(3)]
    estimator: Annotated[str, OneOf("estimator", fisher.ESTIMATORS)]
    head: Annotated[str, OneOf("head", HEADS)]
    distance: Annotated[str, OneOf("distance", DISTANCES)]
    interval: Annotated[str, OneOf("interval", INTERVALS)]
    floor_tasks: Annotated[int, Range(1)]
    chunk: Annotated[int, Range(0)] = field(metadata=NO_RESULT)


@dataclass(frozen=True)
class Learner(Section):
    """The network that every method trains."""

    PATH: ClassVar[str] = "learner."
    net: Annotated[str, OneOf("network", NETS)]
    width: Annotated[int, Range(1)]
    pixels: Annotated[int, Range(16, _MOST_PIXELS)]
    dropout: Annotated[float, Range(0, 1)]
    compute: Annotated[str, OneOf("compute type", COMPUTE)]
    batch_norm: Annotated[str, OneOf("batch-norm policy", BATCH_NORM)]


@dataclass(frozen=True)
class MethodSection(Section, abc.ABC):
    """How one method trains. `steps` is a setting of its own in what is trained (`stages.train.Spec`)."""

    steps: Annotated[int, Range(1)] = field(metadata=NO_RESULT)
    learning_rate: Annotated[float, Range(0, MOST_RATE)]

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Examples, or tasks, in one step."""


@dataclass(frozen=True)
class Pretraining(MethodSection):
    """Supervised pre-training."""

    PATH: ClassVar[str] = "pt."
    batch_size: Annotated[int, Range(2)]

    @property
    def size(self) -> int:
        return self.batch_size


@dataclass(frozen=True)
class Episodic(MethodSection):
    """A method that trains on batches of tasks and has no settings of its own."""

    meta_batch: Annotated[int, Range(1)]

    @property
    def size(self) -> int:
        return self.meta_batch


@dataclass(frozen=True)
class MAML(Episodic):
    """MAML of every order. `train_inner_steps` is part of the name of the method that is trained."""

    PATH: ClassVar[str] = "maml."
    inner_lr: Annotated[float, Range(0, MOST_RATE)]
    train_inner_steps: Annotated[int, Range(0)] = field(metadata=NO_RESULT)
    inner_params: Annotated[str, OneOf("choice of maml.inner_params", INNER_PARAMS)]
    learn_inner_lr: bool
    grad_reduction: Annotated[str, OneOf("choice of maml.grad_reduction", GRAD_REDUCTIONS)]
    remat: bool | None = field(metadata=NO_RESULT)


@cache
def method_section(name: str) -> type[MethodSection]:
    """The class of a method's section of the configuration; one that has no class of its own is `Episodic`."""
    known = {"pt": Pretraining, "maml": MAML}
    return known[name] if name in known else type(name, (Episodic,), {"PATH": f"{name}."})


@dataclass(frozen=True)
class Compute(Section):
    """How a device computes.

    `tasks_at_once` (0: as many as fit) and `deterministic` change no result beyond rounding.
    """

    PATH: ClassVar[str] = "compute."
    precision: Annotated[str, OneOf("precision", PRECISIONS)]
    tasks_at_once: Annotated[int, Range(0)] = field(metadata=NO_RESULT)
    deterministic: bool = field(metadata=NO_RESULT)


@dataclass(frozen=True)
class Training(Section):
    """The training loop that methods share. `validation_tasks` matters only where `validate_every` is set."""

    PATH: ClassVar[str] = "training."
    optimizer: Annotated[str, OneOf("optimizer", OPTIMIZERS)]
    schedule: Annotated[str, OneOf("schedule", SCHEDULES)]
    warmup: Annotated[int, Range(0)]
    weight_decay: Annotated[float, Range(0, MOST_RATE)]
    grad_clip_norm: Annotated[float, Range(0, MOST_RATE)]
    minutes: Annotated[float, Range(0, MOST_RATE)]
    validate_every: Annotated[int, Range(0)]
    validation_tasks: Annotated[int, Range(2)] = field(metadata=NO_RESULT)
    patience: Annotated[int, Range(0)]
    checkpoint_every: Annotated[int, Range(1)] = field(metadata=NO_RESULT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience and not self.validate_every:
            raise InputError("--config.training.patience counts validations: set --config.training.validate_every too")


@dataclass(frozen=True)
class Evaluation(Section):
    """Tests of what was trained."""

    PATH: ClassVar[str] = "evaluation."
    tasks: Annotated[int, Range(2)]
    test_sets: Annotated[tuple, Each(str, (OneOf("test set", TEST_SETS),))]
    fixed_test_set: str
    dropout: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each_once("evaluation.test_sets", self.test_sets, 1)
