"""Correlate: Table 1 and the points of every test -> all that is said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdiv.stats.analysis import STATISTICS, Analysis, analyse
from jaxdiv.stats.paired import Counterpart
from jaxdiv.study.unit import ProgressFn

Found = tuple[dict[str, Any], dict[str, np.ndarray]]  # of a unit: its row, and its arrays


@dataclass(frozen=True)
class Spec:
    """How the benchmarks relate.

    Attributes:
      shares: the share of each data set in a benchmark's tasks; parts of a set count as that set.
      controlled: whether the benchmarks are subsets of one pool.
      counterparts: by benchmark, what one that samples or chooses from its source is compared with.
      statistics: which version of what is computed.
    """

    shares: Mapping[str, Mapping[str, float]]
    controlled: bool
    counterparts: Mapping[str, Counterpart]
    statistics: int = STATISTICS


@dataclass(frozen=True)
class Inputs:
    """What was measured, what the embeddings were, and what was tested: whatever is done."""

    measured: Sequence[dict[str, Any]]
    embeddings: Mapping[str, np.ndarray]
    tested: Sequence[Found]


def run(spec: Spec, inputs: Inputs, progress: ProgressFn) -> Analysis:
    """Diversity against performance."""
    seeds: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for row, arrays in inputs.tested:
        seeds.setdefault((row["benchmark"], row["method"], row["test_set"]), []).append(arrays["task_accuracy"])
    return analyse(
        inputs.measured,
        [row for row, _ in inputs.tested],
        {name: np.linalg.norm(rows, axis=1) for name, rows in inputs.embeddings.items()},
        # Of one test set, all seeds meet the same tasks.
        {which: np.mean(accuracies, 0) for which, accuracies in seeds.items()},
        spec.shares,
        spec.controlled,
        spec.counterparts,
    )
