"""How often each interval of the diversity coefficient covers the true mean, on simulated embeddings.

    python bench/intervals.py [--sets=1000]

Embeddings are log-normal: a common level per filter, a few latent factors that a task shares among its filters, and
noise. `mixed` draws each task from one of two kinds, as a union of data sets does. The true mean is that of 400,000
independent pairs of tasks (its own standard error is shown), which no interval ever sees.
"""

import sys
import time

import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from jaxdiv.task2vec.coefficient import DISTANCES, INTERVALS, pairwise_distances

SETS = flags.DEFINE_integer("sets", 1000, "Sets of embeddings for each row.", lower_bound=10)
FILTERS, FACTORS, PAIRS = 120, 3, 400_000
_LEVEL, _LOADINGS, _SHIFT = (
    np.random.default_rng(0).normal(size=shape) for shape in (FILTERS, (FACTORS, FILTERS), FILTERS)
)


def tasks(rng: np.random.Generator, count: int, mixed: bool) -> np.ndarray:
    factors = rng.normal(size=(count, FACTORS)) @ (0.4 * _LOADINGS)
    kind = rng.integers(0, 2, (count, 1)) * mixed
    return np.exp(_LEVEL + factors + kind * _SHIFT + 0.3 * rng.normal(size=(count, FILTERS)))


def true_mean(distance: str, mixed: bool) -> tuple[float, float]:
    rng = np.random.default_rng(1)
    found = np.concatenate(
        [DISTANCES[distance](tasks(rng, 20_000, mixed), tasks(rng, 20_000, mixed)) for _ in range(PAIRS // 20_000)]
    )
    return float(found.mean()), float(found.std() / PAIRS**0.5)


def coverage(distance: str, mixed: bool, count: int, truth: float, sets: int) -> dict[str, tuple[float, float]]:
    """By interval: the share of sets that it covers, and its mean width."""
    rng = np.random.default_rng(2)
    covered, width = dict.fromkeys(INTERVALS, 0), dict.fromkeys(INTERVALS, 0.0)
    for _ in range(sets):
        distances = pairwise_distances(tasks(rng, count, mixed), distance)
        for name, interval in INTERVALS.items():
            _, low, high = interval(distances)
            covered[name] += low <= truth <= high
            width[name] += (high - low) / sets
    return {name: (covered[name] / sets, width[name]) for name in INTERVALS}


def main(argv: list[str]) -> int:
    sets, console = SETS.value, Console(width=120)
    table = Table(
        title=f"Coverage of nominal 95% intervals, {sets} sets a row (± {1.96 * (0.05 * 0.95 / sets) ** 0.5:.1%})"
    )
    for name in ("distance", "tasks", "tasks are", "true mean", *(f"{name} (width)" for name in INTERVALS)):
        table.add_column(name, justify="right")
    start = time.monotonic()
    for distance in ("task2vec_scale_free", "cosine"):
        for mixed in (False, True):
            truth, error = true_mean(distance, mixed)
            for count in (10, 20, 50):
                found = coverage(distance, mixed, count, truth, sets)
                cells = [f"{share:.1%} ({width:.3f})" for share, width in found.values()]
                kind = "of two kinds" if mixed else "alike"
                table.add_row(distance, str(count), kind, f"{truth:.4f} ± {error:.4f}", *cells)
                print(f"{time.monotonic() - start:.0f} s: {distance}, {count} tasks, {kind}", file=sys.stderr)
    console.print(table)
    return 0


if __name__ == "__main__":
    app.run(main)
