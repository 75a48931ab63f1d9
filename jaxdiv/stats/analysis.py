"""Everything that statistics say of a study, as one value that becomes JSON and back."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdiv.stats.confounders import (
    MatchedComplexity,
    PartialCorrelation,
    SizeOrDiversity,
    matched_complexity,
    partial_correlations,
    size_or_diversity,
)
from jaxdiv.stats.controlled import ControlledEffect, controlled_experiment
from jaxdiv.stats.correlation import Correlation, Fit, correlations
from jaxdiv.stats.differences import Difference, differences
from jaxdiv.stats.effect_size import EffectSize, effect_size_trends, effect_sizes
from jaxdiv.stats.paired import Counterpart, PairedEffect, paired_effects
from jaxdiv.stats.rows import Point, from_json
from jaxdiv.stats.shared_sets import SharedSetsLine, shared_sets

# Raised with every change of what is computed or stored: the results of an older study are then computed again.
STATISTICS = 8


@dataclass(frozen=True)
class Analysis:
    """The rows of every table of a study but those of its settings. A part that cannot be
    computed, or was not asked for, is empty.

    Attributes:
      diversity: Table 1, one row per benchmark, as the study measured it.
      points: every trained learner on every test set.
    """

    diversity: tuple[Mapping[str, Any], ...] = ()
    points: tuple[Point, ...] = ()
    correlations: tuple[Correlation, ...] = ()
    differences: tuple[Difference, ...] = ()
    shared_sets: tuple[SharedSetsLine, ...] = ()
    partial: tuple[PartialCorrelation, ...] = ()
    verdicts: tuple[SizeOrDiversity, ...] = ()
    complexity: MatchedComplexity = field(default_factory=MatchedComplexity)
    effect_sizes: tuple[EffectSize, ...] = ()
    effect_size_trends: tuple[Fit, ...] = ()
    controlled: tuple[ControlledEffect, ...] = ()
    paired: tuple[PairedEffect, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As values that `json.dumps` takes; an enum as its value."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Analysis":
        """From what `json.loads` gives of `to_json`."""
        return from_json(cls, values)


def analyse(
    diversity: Sequence[Mapping[str, Any]],
    tested: Sequence[Mapping[str, Any]],
    norms: Mapping[str, Float[np.ndarray, " tasks"]],
    per_task: Mapping[tuple[str, str, str], Float[np.ndarray, " test_tasks"]],
    shares: Mapping[str, Mapping[str, float]],
    controlled: bool = False,
    counterparts: Mapping[str, Counterpart] | None = None,
) -> Analysis:
    """Every statistic of a study.

    Args:
      diversity: Table 1, one row per benchmark.
      tested: one row per learner, seed and test set: a `Point` without what is known of its benchmark.
      norms: the Task2Vec norm of every task of a benchmark.
      per_task: accuracy task by task by (benchmark, method, test set), seeds averaged.
      shares: the share of each data set in a benchmark's tasks; a part of a set counts as that set.
      controlled: whether the benchmarks are subsets of one pool, chosen for their diversity.
      counterparts: by benchmark, what one that takes its source's data otherwise is compared with.
    """
    measured = {row["benchmark"]: _of_benchmark(row) for row in diversity}
    points = tuple(
        from_json(Point, {**row, **measured[name], "share": dict(shares.get(name, {}))})
        for row in tested
        if (name := row["benchmark"]) in measured
    )
    effects = effect_sizes(points, per_task)
    return Analysis(
        diversity=tuple(diversity),
        points=points,
        correlations=tuple(correlations(points)),
        differences=tuple(differences(points)),
        shared_sets=tuple(shared_sets(points)),
        partial=tuple(partial_correlations(points)),
        verdicts=tuple(size_or_diversity(points)),
        complexity=matched_complexity(points, norms),
        effect_sizes=tuple(effects),
        effect_size_trends=tuple(effect_size_trends(effects)),
        controlled=tuple(controlled_experiment(points)) if controlled else (),
        paired=tuple(paired_effects(points, counterparts or {})),
    )


def _of_benchmark(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a point says of its benchmark, from that one's row of Table 1."""
    jackknife = row.get("interval", "jackknife") == "jackknife"  # Student's t, over tasks
    return {
        "diversity": row["diversity"],
        # Pairs of tasks are not independent: what takes them so is no error of diversity.
        "diversity_ci": None if row.get("interval") == "iid_pairs" else (row["ci_high"] - row["ci_low"]) / 2,
        "diversity_tasks": row["tasks"] if jackknife else None,
        "complexity": row.get("complexity"),
    }
