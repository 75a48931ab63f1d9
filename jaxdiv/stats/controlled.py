"""The controlled experiment: subsets of one pool, of equal size and mixture, that differ in diversity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from jaxdiv.methods.registry import METHODS, family
from jaxdiv.stats.effect_size import BASELINE
from jaxdiv.stats.regression import varies
from jaxdiv.stats.rows import METRICS, TEST_SETS, Averaged, Note, Point, Reason, average_seeds, in_order, with_holm

LEVELS = ("low", "middle", "high")  # of diversity


@dataclass(frozen=True)
class ControlledEffect:
    """What diversity does to performance at equal size and mixture. What is undefined is None.

    Attributes:
      methods: whose performance it is; of several, their mean.
      minus: the methods whose mean is subtracted; mostly none.
      subsets, seeds: how many of each. A subset is the unit: seeds are replicates of it and add no degree of freedom.
      effect, low, high: the change of performance per .1 of diversity, and its 95% interval (Student's t).
      p_holm: over the rows of a metric and test set.
      means: of performance by level.
      high_minus_low, hl_low, hl_high: of levels instead of the slope.
      sd_subsets, sd_seeds: of the residuals.
    """

    methods: tuple[str, ...]
    minus: tuple[str, ...]
    metric: str
    test_set: str
    subsets: int
    seeds: int
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    means: Mapping[str, float] = field(default_factory=dict)
    high_minus_low: float | None = None
    hl_low: float | None = None
    hl_high: float | None = None
    sd_subsets: float | None = None
    sd_seeds: float | None = None
    notes: tuple[Note, ...] = ()

    @property
    def method(self) -> str | None:
        """The method, where the row is about a single one."""
        return self.methods[0] if len(self.methods) == 1 and not self.minus else None


def controlled_experiment(points: Sequence[Point], levels: Sequence[str] = LEVELS) -> list[ControlledEffect]:
    """The effect of diversity on each method, on their mean, and on each family's mean less pre-training's.

    A linear model per method, metric and test set, on the means over seeds: performance = block + slope · diversity.
    Benchmarks are subsets `LEVEL-NUMBER`; subset NUMBER of every level is a block, since those were chosen from the
    same classes, which no other block's were (`jaxdiv.study.subsets.choose`).
    """
    averaged = [row for row in average_seeds(points) if _level(row.benchmark, levels)]
    rows: list[ControlledEffect] = []
    for test_set in in_order({row.test_set for row in averaged}, TEST_SETS):
        for metric in METRICS:
            mine = [row for row in averaged if row.test_set == test_set]
            mine = [row for row in mine if row.value(metric) is not None and row.value("diversity") is not None]
            methods = tuple(in_order({row.method for row in mine}, METHODS))
            by_method = {m: {row.benchmark: row for row in mine if row.method == m} for m in methods}
            means: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((method,), ()) for method in methods]
            if len(methods) > 1:
                means.append((methods, ()))
            families = list(dict.fromkeys(map(family, methods)))
            of_family = {name: tuple(m for m in methods if family(m) == name) for name in families}
            if baseline := of_family.pop(BASELINE, ()):
                means += [(of, baseline) for of in of_family.values()]
            rows += with_holm([_effect(of, minus, by_method, metric, test_set, levels) for of, minus in means])
    return rows


def _effect(
    methods: tuple[str, ...],
    minus: tuple[str, ...],
    by_method: Mapping[str, Mapping[str, Averaged]],
    metric: str,
    test_set: str,
    levels: Sequence[str],
) -> ControlledEffect:
    """One row: the methods averaged, less `minus`, over the subsets that all of them have."""
    common = set.intersection(*(set(by_method[m]) for m in (*methods, *minus)))
    names = sorted(common, key=lambda name: (levels.index(_level(name, levels)), name))
    mean = lambda of: np.array([np.mean([by_method[m][name].value(metric) for m in of]) for name in names])
    y = mean(methods) - (mean(minus) if minus else 0)
    x = np.array([by_method[methods[0]][name].value("diversity") for name in names], float)
    level = np.array([levels.index(_level(name, levels)) for name in names], int)
    numbers = [name.rpartition("-")[2] for name in names]
    block = np.unique(numbers, return_inverse=True)[1] if names else np.array([], int)
    blocks = np.eye(block.max() + 1)[block] if names else np.zeros((0, 0))
    seeds = min((by_method[m][name].seeds for m in (*methods, *minus) for name in names), default=0)
    row: dict[str, Any] = {"methods": methods, "minus": minus, "metric": metric, "test_set": test_set}
    row |= {"subsets": len(names), "seeds": seeds}
    row["means"] = {name: float(y[level == i].mean()) for i, name in enumerate(levels) if (level == i).any()}
    if len(names) - blocks.shape[1] < 2 or not varies(x):
        return ControlledEffect(**row, notes=(Note(Reason.TOO_FEW_SUBSETS),))
    if not varies(y):
        return ControlledEffect(**row, notes=(Note(Reason.SAME_Y),))
    slope, error, freedom, residual = _least_squares(np.column_stack([x, blocks]), y, np.eye(1, 1 + blocks.shape[1])[0])
    half = _t(freedom) * error
    row |= {"effect": slope / 10, "low": (slope - half) / 10, "high": (slope + half) / 10}
    row["p_value"] = float(2 * special.stdtr(freedom, -abs(slope) / error)) if error > 0 else None
    if not minus and len(methods) == 1:
        row |= _parts(residual, [by_method[methods[0]][name].measured[metric].seeds for name in names], seeds)
    present = np.unique(level)
    if 0 in present and len(levels) - 1 in present and len(names) - len(present) - blocks.shape[1] + 1 > 0:
        dummies = np.eye(len(levels))[level][:, present]
        contrast = np.zeros(len(present) + blocks.shape[1] - 1)
        contrast[0], contrast[len(present) - 1] = -1, 1
        gap, error, freedom, _ = _least_squares(np.column_stack([dummies, blocks[:, 1:]]), y, contrast)
        half = _t(freedom) * error
        row |= {"high_minus_low": gap, "hl_low": gap - half, "hl_high": gap + half}
    return ControlledEffect(**row)


def _parts(residual: float, values: Sequence[Sequence[float]], seeds: int) -> dict[str, float | None]:
    """The standard deviations of subsets and of seeds, from the residual variance and the values seed by seed."""
    if seeds < 2:
        return {"sd_subsets": math.sqrt(residual), "sd_seeds": None}
    of_seeds = float(np.mean([np.var(of_subset, ddof=1) for of_subset in values]))
    return {"sd_subsets": math.sqrt(max(residual - of_seeds / seeds, 0.0)), "sd_seeds": math.sqrt(of_seeds)}


def _least_squares(design: np.ndarray, y: np.ndarray, contrast: np.ndarray) -> tuple[float, float, int, float]:
    """A contrast of the coefficients, its standard error, the degrees of freedom, and the residual variance."""
    freedom = len(y) - np.linalg.matrix_rank(design)
    inverse = np.linalg.pinv(design.T @ design)
    coefficients = inverse @ design.T @ y
    variance = float(((y - design @ coefficients) ** 2).sum()) / max(freedom, 1)
    return float(contrast @ coefficients), math.sqrt(variance * contrast @ inverse @ contrast), int(freedom), variance


def _t(freedom: int) -> float:
    return float(special.stdtrit(freedom, 0.975)) if freedom > 0 else math.inf


def _level(benchmark: str, levels: Sequence[str]) -> str:
    level, _, number = benchmark.rpartition("-")
    return level if level in levels and number.isdigit() else ""
