"""All that is said of a finished study's numbers, in one mapping that the report shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdiv.stats import controls
from jaxdiv.stats.correlate import correlations, differences

Row = dict[str, Any]
STATISTICS = 4  # raised with every change of what is computed: an older study's results are then computed anew


def analyse(
    diversity: Sequence[Row],
    tested: Sequence[Row],
    norms: Mapping[str, Float[np.ndarray, " tasks"]],
    per_task: Mapping[tuple[str, str, str], Float[np.ndarray, " tasks"]],
    shares: Mapping[str, Mapping[str, float]],
    controlled: bool = False,
) -> dict[str, Any]:
    """Every table of a study but those of settings, as JSON values.

    Args:
      diversity: Table 1, a row a benchmark.
      tested: a row of each learner, seed and test set: `correlate`'s points without their diversity.
      norms: the Task2Vec norm of every task of a benchmark.
      per_task: accuracy task by task by (benchmark, method, test set), seeds averaged.
      shares: the share of each data set in a benchmark's tasks.
      controlled: whether the benchmarks are subsets of one pool, chosen for their diversity.
    """
    measured = {row["benchmark"]: row for row in diversity}
    points = [
        {**row, **_of_benchmark(measured[row["benchmark"]]), "share": dict(shares.get(row["benchmark"], {}))}
        for row in tested
        if row["benchmark"] in measured
    ]
    effect_sizes = controls.pt_against_maml(points, per_task)
    return {
        "diversity": list(diversity),
        "points": points,
        "correlations": correlations(points),
        "differences": differences(points),
        "partial": controls.partial_correlations(points),
        "verdicts": controls.size_or_diversity(points),
        "complexity": controls.complexity_matched(points, norms),
        "effect_sizes": effect_sizes,
        "effect_size_trends": controls.d_on_diversity(effect_sizes),
        "controlled": controls.controlled_effect(points) if controlled else [],
    }


def _of_benchmark(row: Row) -> Row:
    half = (row["ci_high"] - row["ci_low"]) / 2
    jackknife = row.get("interval", "jackknife") == "jackknife"  # Student's t, over tasks
    return {
        "diversity": row["diversity"],
        # Pairs of tasks are not independent: what takes them so is no error of diversity.
        "diversity_ci": None if row.get("interval") == "iid_pairs" else half,
        "diversity_tasks": row["tasks"] if jackknife else None,
        "complexity": row.get("complexity"),
    }
