"""The rows that every statistic starts from and returns: points, why a number is undefined, JSON in both directions.

Rows are frozen dataclasses of plain values. A judgement is an enum and never a sentence: `report` has the words.
"""

import dataclasses
import math
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum, StrEnum
from functools import cache
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from jaxdiv.methods.registry import METHODS
from jaxdiv.stats.intervals import holm

METRICS = ("accuracy", "loss")  # share of query images; cross-entropy in nats per query image
TEST_SETS = ("own", "fixed")
LEVEL = 0.05  # of every test
Number = int | float
Row = TypeVar("Row")


class Reason(StrEnum):
    """Why a number of a row is undefined, or what it leaves out."""

    TOO_FEW_POINTS = "too_few_points"
    SAME_X = "same_x"
    SAME_Y = "same_y"
    NO_INTERVAL = "no_interval"  # so few points that the interval is the whole range
    LEFT_OUT = "left_out"  # benchmarks (names) without a finite value
    NOT_IN_BOTH = "not_in_both"  # benchmarks (names) missing for one of two methods
    NOISE_IS_ALL = "noise_is_all"  # errors of measurement as large as the spread
    NOTHING_TO_TEST = "nothing_to_test"  # no residual to test a difference against
    FROM_SUMMARY = "from_summary"  # R² and n alone; the sign of r taken as positive
    AS_INDEPENDENT = "as_independent"  # two summaries, as if the methods shared no benchmark
    COVARIATES_NOT_DISTINCT = "covariates_not_distinct"  # constant, or a combination of the others (names)
    COVARIATES_UNKNOWN = "covariates_unknown"  # of some benchmark (names)
    COVARIATES_CONSTANT = "covariates_constant"  # none is left (names)
    TOO_MANY_COVARIATES = "too_many_covariates"  # for so few benchmarks (names)
    COVARIATES_ARE_DIVERSITY = "covariates_are_diversity"  # they leave nothing of it
    COVARIATES_ARE_PERFORMANCE = "covariates_are_performance"
    ONE_SIZE = "one_size"  # all benchmarks have equally many images
    NO_BENCHMARKS = "no_benchmarks"
    TOO_FEW_TASKS = "too_few_tasks"
    SAME_TASKS = "same_tasks"  # no task's accuracy differs from another's
    SETS_NOT_TOLD_APART = "sets_not_told_apart"  # too few benchmarks, or nothing varies, to tell a set's effect
    TOO_FEW_PAIRS = "too_few_pairs"  # of a benchmark and its counterpart
    SAME_DIFFERENCE = "same_difference"  # of every pair
    TOO_FEW_SUBSETS = "too_few_subsets"  # to tell diversity from the blocks


@dataclasses.dataclass(frozen=True)
class Note:
    """A reason, and the benchmarks or covariates that it is about."""

    reason: Reason
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Point:
    """One trained learner on one test set: a row of points.csv, and what is known of its benchmark.

    Attributes:
      diversity: the coefficient of the benchmark, in units of its distance.
      diversity_ci, accuracy_ci, loss_ci: half-widths of 95% intervals, Student's t over `diversity_tasks` or `tasks`
        where that is known.
      accuracy: share of query images. loss: cross-entropy in nats per query image.
      complexity: mean Task2Vec norm of the benchmark's tasks.
      share: of each data set in the benchmark's tasks.
      net, pixels: the learner's network and the side of its images.
    """

    benchmark: str
    method: str
    test_set: str
    diversity: Number | None
    seed: int = 0
    accuracy: Number | None = None
    accuracy_ci: Number | None = None
    loss: Number | None = None
    loss_ci: Number | None = None
    train_images: Number | None = None
    train_classes: Number | None = None
    tasks: int | None = None
    diversity_ci: Number | None = None
    diversity_tasks: int | None = None
    complexity: Number | None = None
    share: Mapping[str, float] | None = None
    net: str | None = None
    pixels: int | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """A value, the half-width of its 95% interval over `tasks` tasks, and the values seed by seed."""

    value: float | None
    half_width: float | None
    tasks: int | None
    seeds: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Averaged:
    """A benchmark, method and test set, averaged over `seeds` seeds. measured: diversity and each of METRICS."""

    benchmark: str
    method: str
    test_set: str
    seeds: int
    measured: Mapping[str, Measured]

    def value(self, name: str) -> float | None:
        """The value of "diversity" or of a metric; None where it is unknown or not finite."""
        return self.measured[name].value


def average_seeds(points: Sequence[Point]) -> list[Averaged]:
    """One row per benchmark, method and test set: the means over its seeds.

    A half-width is the mean of the seeds', never too narrow for their mean, whether or not seeds share test tasks. A
    value that is missing or not finite is None, and so are those of a benchmark without a seed that another one of
    its method and test set has.
    """
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.method, point.test_set, point.benchmark), []).append(point)
    most = Counter[tuple[str, str]]()
    for (method, test_set, _), group in groups.items():
        most[method, test_set] = max(most[method, test_set], len(group))
    rows = []
    for (method, test_set, benchmark), group in groups.items():
        first, whole = group[0], len(group) == most[method, test_set]
        values, widths = _known(p.diversity for p in group), _known(p.diversity_ci for p in group)
        measured = {"diversity": Measured(_mean(values), _mean(widths), first.diversity_tasks)}
        for metric in METRICS:
            values, widths = (_known(getattr(p, name) for p in group) for name in (metric, f"{metric}_ci"))
            value = _mean(values) if whole and len(values) == len(group) else None
            measured[metric] = Measured(value, _mean(widths), first.tasks, tuple(values))
        rows.append(Averaged(benchmark, method, test_set, len(group), measured))
    return rows


def _known(values: Iterable[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    # All seeds or none: a mean over only those seeds that did not diverge would flatter the method.
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else None


@dataclasses.dataclass(frozen=True)
class Group:
    """The benchmarks of one correlation, by name; `lost` are those without a finite diversity or performance."""

    method: str
    metric: str
    test_set: str
    rows: tuple[Averaged, ...]
    lost: tuple[str, ...]

    @property
    def what(self) -> dict[str, Any]:
        """The fields that a row about this group begins with."""
        return {"method": self.method, "metric": self.metric, "test_set": self.test_set, "n": len(self.rows)}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row.benchmark for row in self.rows)

    def values(self, name: str) -> Float[np.ndarray, " benchmarks"]:
        """Of "diversity" or of a metric."""
        return np.array([row.value(name) for row in self.rows], float)


def group_of(averaged: Sequence[Averaged], method: str, metric: str, test_set: str) -> Group:
    """The benchmarks that a method has on a test set."""
    mine = sorted((r for r in averaged if (r.method, r.test_set) == (method, test_set)), key=lambda r: r.benchmark)
    usable = [row.value("diversity") is not None and row.value(metric) is not None for row in mine]
    used = tuple(row for row, use in zip(mine, usable, strict=True) if use)
    lost = tuple(row.benchmark for row, use in zip(mine, usable, strict=True) if not use)
    return Group(method, metric, test_set, used, lost)


def groups(points: Sequence[Point]) -> Iterator[Group]:
    """Every method, metric and test set of the points, in the study's order; seeds are averaged."""
    averaged = average_seeds(points)
    for method in in_order((row.method for row in averaged), METHODS):
        for metric in METRICS:
            for test_set in in_order((row.test_set for row in averaged if row.method == method), TEST_SETS):
                yield group_of(averaged, method, metric, test_set)


def in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    """The distinct `names`, those in `order` first and as there, the others after them by name."""
    known = list(order)
    return sorted(set(names), key=lambda name: (known.index(name) if name in known else len(known), name))


def with_holm(rows: Sequence[Row]) -> list[Row]:
    """The rows with `p_holm`: Holm's correction of their `p_value` over all of them."""
    corrected = holm([row.p_value for row in rows])  # type: ignore[attr-defined]
    return [dataclasses.replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]  # type: ignore[type-var]


def from_json(kind: Any, value: Any) -> Any:
    """A value of type `kind` from what `json.loads` gives of its `dataclasses.asdict`.

    Enums come back from their values, tuples from lists; a field that is missing keeps its default, and an unknown one
    is ignored.
    """
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        return None if value is None else from_json(arguments[0], value)
    if typing.get_origin(kind) is tuple:
        return tuple(from_json(arguments[0], item) for item in value)
    if dataclasses.is_dataclass(kind):
        known = _fields(kind)  # type: ignore[arg-type]
        return kind(**{name: from_json(known[name], value[name]) for name in known if name in value})  # type: ignore
    return kind(value) if isinstance(kind, type) and issubclass(kind, Enum) else value


@cache
def _fields(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)
