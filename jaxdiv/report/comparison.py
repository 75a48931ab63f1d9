"""Benchmarks side by side: their cross distances, which is more diverse, and what may be compared with what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdiv.report.published import unlike
from jaxdiv.report.wording import listed, p_text, short, significant, span
from jaxdiv.stats.rows import with_holm
from jaxdiv.task2vec.coefficient import cross_diversity, difference

Row = Mapping[str, Any]
DIGITS = 3
_SOME = 3  # pairs that are told one by one


@dataclass(frozen=True)
class CrossDistance:
    """The mean distance of one benchmark's tasks from another's, with its 95% interval; of one with itself, its
    diversity."""

    benchmark: str
    other: str
    distance: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class DiversityDifference:
    """The first benchmark's diversity minus the other's.

    Attributes:
      ci_low, ci_high, p_value: of this pair alone.
      p_holm: corrected over all pairs.
      more_diverse: the benchmark that is, where p_holm is below .05.
    """

    benchmark: str
    other: str
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    p_holm: float | None = None
    more_diverse: str | None = None


def cross_distances(
    rows: Sequence[Row], embeddings: Mapping[str, Float[np.ndarray, "tasks filters"]]
) -> list[CrossDistance]:
    """The distance of every two benchmarks, in both orders, and each one's own coefficient.

    Args:
      rows: Table 1's, of one distance.
      embeddings: by benchmark.
    """
    found = []
    for one, other in product(rows, rows):
        names = one["benchmark"], other["benchmark"]
        if one is other:
            found.append(CrossDistance(*names, one["diversity"], one["ci_low"], one["ci_high"]))
        else:
            value = cross_diversity(embeddings[names[0]], embeddings[names[1]], one["distance"])
            found.append(CrossDistance(*names, *value))
    return found


def diversity_differences(distances: Mapping[str, Float[np.ndarray, "tasks tasks"]]) -> list[DiversityDifference]:
    """For every two benchmarks the first's diversity minus the second's.

    Args:
      distances: of every two tasks, by benchmark.
    """
    rows = []
    for one, other in combinations(distances, 2):
        value, p_value = difference(distances[one], distances[other])
        rows.append(DiversityDifference(one, other, *value, p_value))
    found = []
    for row in with_holm(rows):
        larger = row.benchmark if row.difference > 0 else row.other
        found.append(replace(row, more_diverse=larger if significant(row) else None))
    return found


def coefficients(rows: Sequence[Row]) -> list[str]:
    """A sentence with each benchmark's coefficient; of many, the least and the most."""
    told = [f"{row['benchmark']} {span(row['diversity'], row['ci_low'], row['ci_high'], DIGITS)}" for row in rows]
    if len(rows) == 1:
        row = rows[0]
        value = span(row["diversity"], row["ci_low"], row["ci_high"], DIGITS)
        return [f"The diversity coefficient of {row['benchmark']} is {value} (95% interval)."]
    if len(rows) > _SOME:
        ordered = sorted(range(len(rows)), key=lambda i: rows[i]["diversity"])
        told = [told[ordered[0]], told[ordered[-1]]]
        return [f"Diversity coefficients of {len(rows)} benchmarks, the least and the greatest: {listed(told)} (95%)."]
    return [f"Diversity coefficients: {listed(told)} (95% intervals)."]


def between(rows: Sequence[CrossDistance]) -> list[str]:
    """The cross distances in a sentence, of a few benchmarks."""
    names = list(dict.fromkeys(row.benchmark for row in rows))
    pairs = [row for row in rows if names.index(row.benchmark) < names.index(row.other)]
    if not pairs or len(pairs) > _SOME:
        return []
    told = [
        f"{span(row.distance, row.ci_low, row.ci_high, DIGITS)} between {row.benchmark} and {row.other}"
        for row in pairs
    ]
    return [f"Mean distance of two tasks: {listed(told)}."]


def verdicts(rows: Sequence[DiversityDifference]) -> list[str]:
    """Which benchmark is more diverse, one sentence per pair; of many pairs, how many are decided."""
    if len(rows) > _SOME:
        decided = sum(bool(row.more_diverse) for row in rows)
        return [
            f"Of {len(rows)} pairs, {decided} differ in diversity after Holm's correction (p < .05); "
            f"{len(rows) - decided} are undecided. The report says which."
        ]
    return [_verdict(row, len(rows)) for row in rows]


def _verdict(row: DiversityDifference, pairs: int) -> str:
    p = f"p {p_text(row.p_holm)}" + (f" after Holm's correction for {pairs} pairs" if pairs > 1 else "")
    sign = -1 if row.more_diverse == row.other else 1
    ends = sorted((sign * row.ci_low, sign * row.ci_high))
    value = f"{span(sign * row.difference, ends[0], ends[1], DIGITS)}, {p}"
    if not row.more_diverse:
        return f"Undecided whether {row.benchmark} or {row.other} is more diverse: the difference is {value}."
    less = row.benchmark if sign < 0 else row.other
    return f"{row.more_diverse} is more diverse than {less}: the difference is {value}."


def how(row: Row) -> str:
    """How a row of Table 1 was measured: what must be the same wherever two values are compared."""
    weights = f"weights {row['weights']}" if row["weights"] else "random parameters"
    return (
        f"{row['tasks']} tasks of {row['ways']} classes with {row['shots']} + {row['queries']} images"
        f"{', augmented' if row['augment'] else ''}; probe {row['probe']} ({weights}); {row['pixels']} px; estimator "
        f"{row['estimator']}, head {row['head']}, distance {row['distance']}, interval {row['interval']}"
    )


def comparable(rows: Sequence[Row]) -> list[str]:
    """What may be compared with what, in sentences. rows: Table 1's, all measured alike."""
    found = []
    if len(rows) > 1:
        found = [
            "With each other: all values of this report, which were measured alike (see the table's text).",
            "Which of two is more diverse: the interval of their difference tells, not whether their own intervals "
            "overlap. Where it holds zero, the answer is undecided.",
        ]
    found += [
        "With another report: only where probe, weights, pixels, estimator, head, distance, augmentation and size of "
        "the tasks are the same.",
        paper_sentence(rows),
        "With other images of the same kind: with care. An interval is about other tasks from the same classes and "
        "images; other images may differ by more.",
    ]
    if rows[0]["interval"] == "iid_pairs":
        found.append(
            "The coefficients' intervals take pairs of tasks as independent, as the paper did, and are too narrow. "
            "Cross distances and differences have a jackknife over tasks."
        )
    if any(row.get("noise_floor") is not None for row in rows):
        floors = listed(f"{short(row['noise_floor'], DIGITS)} ({row['benchmark']})" for row in rows)
        found.append(
            f"The estimator or the head is random: two embeddings of the same task are {floors} apart. About as much "
            f"of a coefficient is not diversity."
        )
    return found


def shared_classes(rows: Sequence[Row], classes: Mapping[str, Sequence[int]]) -> list[str]:
    """A sentence where tasks overlap so much, by few classes, that diversity is lower for that alone.

    classes: of each benchmark, how many each of its data sets has.
    """
    ways = rows[0]["ways"]
    # Two tasks of ways from n classes share ways²/n; of k data sets, each drawn by 1/k, both must have drawn the same.
    shared = {name: sum(ways**2 / n for n in of_sets) / len(of_sets) ** 2 for name, of_sets in classes.items()}
    worst = max(shared, key=lambda name: shared[name])
    if shared[worst] < 0.1 * ways:
        return []
    total = {name: sum(of_sets) for name, of_sets in classes.items()}
    text = (
        f"Few classes make for a low coefficient: {worst} has {total[worst]}, of which two tasks share "
        f"{shared[worst]:.1f} of {ways} on average."
    )
    if len({*total.values()}) > 1:
        text += f" --config.data.cut.classes={min(total.values())} measures all with equally many."
    return [text]


def same_images(
    rows: Sequence[Row], classes: Mapping[str, Sequence[int]], images: Mapping[str, int | None]
) -> list[str]:
    """A sentence on each benchmark of which every task is the same images: its coefficient is no measurement.

    classes: as in `shared_classes`. images: of each benchmark in all, where that is known.
    """
    task = rows[0]["ways"] * (rows[0]["shots"] + rows[0]["queries"])
    same = [name for name, of_sets in classes.items() if [*of_sets] == [rows[0]["ways"]] and images[name] == task]
    return [one_task(name, task) for name in same]


def one_task(name: str, images: int) -> str:
    """What is said of a benchmark with the images of a single task."""
    return (
        f"Every task of {name} is the same {images} images, in another order: its coefficient says nothing about its "
        f"diversity."
    )


def paper_sentence(rows: Sequence[Row]) -> str:
    """Whether the paper's Table 1 may stand beside these values, and if not, why."""
    reasons = unlike(rows[0])
    if not reasons:
        return "With the paper's Table 1: its values were measured alike, on its own benchmarks."
    text = f"Not with the paper's Table 1, which had {listed(reasons)}."
    if any(reason.startswith(("estimator", "head", "distance", "interval", "augmented")) for reason in reasons):
        text += (
            " --config.preset=paper sets estimator, head, distance, interval and augmentation as there, unless given."
        )
    return text
