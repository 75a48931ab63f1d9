"""Benchmarks that take the same data otherwise, by other tasks or other classes, against what they are compared with.

Both are tested on the same tasks, so that a source's difficulty and a test task's luck cancel in the difference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from scipy import special

from jaxdiv.methods.registry import METHODS
from jaxdiv.stats.regression import varies
from jaxdiv.stats.rows import LEVEL, METRICS, TEST_SETS, Note, Point, Reason, in_order, with_holm

# Less accuracy than this is no help to anybody: "not better" is claimed where the whole interval is below it.
MARGIN = 0.01


@dataclass(frozen=True)
class Counterpart:
    """What a benchmark is compared with.

    Attributes:
      kind: how it takes its source's data; several draws of one kind are averaged.
      source: whose data they are.
      others: the benchmarks of the same source that it is compared with, averaged.
    """

    kind: str
    source: str
    others: tuple[str, ...]


class Help(StrEnum):
    """What a difference of performance means."""

    BETTER = "better"  # significant after Holm's correction, as WORSE
    WORSE = "worse"
    NOT_BETTER = "not_better"  # the interval's end is below MARGIN; of accuracy alone
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class PairedEffect:
    """Performance with a kind less that of its counterparts. What is undefined is None.

    Attributes:
      sources, seeds: how many of each.
      difference, low, high: the mean over sources, and its 95% interval (Student's t over the sources' means: seeds are
        replicates, and as cells of a sample would find 9 to 28% false positives at 5% where sources differ). Of one
        source alone it is over its seeds, and says nothing of another source.
      p_holm: over the kinds of a method, metric and test set.
      by_source: the mean over seeds.
      diversity, other_diversity: means over sources, of the kind and of its counterparts.
    """

    kind: str
    method: str
    metric: str
    test_set: str
    sources: int
    seeds: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    found: Help = Help.UNDECIDED
    by_source: Mapping[str, float] = field(default_factory=dict)
    diversity: float | None = None
    other_diversity: float | None = None
    notes: tuple[Note, ...] = ()


def paired_effects(points: Sequence[Point], counterparts: Mapping[str, Counterpart]) -> list[PairedEffect]:
    """Every kind against its counterparts, for each method, metric and test set.

    Args:
      counterparts: by benchmark; one without is no row's kind.
    """
    rows: list[PairedEffect] = []
    kinds = list(dict.fromkeys(each.kind for each in counterparts.values()))
    for test_set in in_order((point.test_set for point in points), TEST_SETS):
        for method in in_order((point.method for point in points), METHODS):
            mine = [point for point in points if (point.test_set, point.method) == (test_set, method)]
            for metric in METRICS:
                effects = [_effect(kind, mine, counterparts, metric) for kind in kinds]
                rows += map(_judged, with_holm([effect for effect in effects if effect]))
    return rows


def _effect(
    kind: str, points: Sequence[Point], counterparts: Mapping[str, Counterpart], metric: str
) -> PairedEffect | None:
    """One row, or None without any point of the kind. All points are of one method and test set."""
    found = {(point.benchmark, point.seed): point for point in points}
    cells: dict[str, list[float]] = {}
    diversity: list[tuple[float | None, float | None]] = []
    lost: list[str] = []
    for source in dict.fromkeys(each.source for each in counterparts.values() if each.kind == kind):
        mine = [name for name, each in counterparts.items() if (each.kind, each.source) == (kind, source)]
        others = list(dict.fromkeys(other for name in mine for other in counterparts[name].others))
        seeds = sorted({seed for name, seed in found if name in mine})
        for seed in seeds:
            # All draws or none: a mean over those that did not diverge would flatter the kind.
            one, other = (_mean([found.get((name, seed)) for name in side], metric) for side in (mine, others))
            if one is None or other is None:
                lost.append(source)
            else:
                cells.setdefault(source, []).append(one - other)
        if source in cells:
            one, other = (_mean([found.get((name, seeds[0])) for name in side], "diversity") for side in (mine, others))
            diversity.append((one, other))
    if not cells and not lost:
        return None
    notes = (Note(Reason.LEFT_OUT, tuple(dict.fromkeys(lost))),) if lost else ()
    seeds_of = max(map(len, cells.values()), default=0)
    row = PairedEffect(kind, points[0].method, metric, points[0].test_set, len(cells), seeds_of, notes=notes)
    row = replace(row, by_source={source: float(np.mean(each)) for source, each in cells.items()})
    if diversity and not any(None in pair for pair in diversity):
        one, other = np.mean(np.array(diversity, float), 0).tolist()
        row = replace(row, diversity=one, other_diversity=other)
    sample = np.array(list(row.by_source.values()) if len(cells) > 1 else next(iter(cells.values()), []))
    if len(sample) < 2 or not varies(sample):
        reason = Reason.TOO_FEW_PAIRS if len(sample) < 2 else Reason.SAME_DIFFERENCE
        return replace(row, notes=(*notes, Note(reason)))
    mean, error, freedom = float(sample.mean()), sample.std(ddof=1) / math.sqrt(len(sample)), len(sample) - 1
    half = float(special.stdtrit(freedom, 1 - LEVEL / 2) * error)
    p = float(2 * special.stdtr(freedom, -abs(mean) / error))
    return replace(row, difference=mean, low=mean - half, high=mean + half, p_value=p)


def _mean(points: Sequence[Point | None], name: str) -> float | None:
    """The mean of a field; None without points, or where one is missing or not finite."""
    values = [math.nan if point is None or (value := getattr(point, name)) is None else value for point in points]
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else None


def _judged(row: PairedEffect) -> PairedEffect:
    if row.difference is None or row.high is None:
        return row
    if row.p_holm is not None and row.p_holm < LEVEL:
        gain = row.difference if row.metric == "accuracy" else -row.difference
        return replace(row, found=Help.BETTER if gain > 0 else Help.WORSE)
    if row.metric == "accuracy" and row.high < MARGIN:
        return replace(row, found=Help.NOT_BETTER)
    return row
