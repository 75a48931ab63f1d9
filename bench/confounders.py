"""How many benchmarks it takes to tell size from diversity, and subsets to see what diversity does: simulated.

    PYTHONPATH=. python bench/confounders.py [--replicates=1000]

Studies are generated whose accuracy depends on diversity, on size (the logarithm of the number of images), or on both
alike, while size and diversity go together (r = .6, as they do where unions are among the benchmarks). Prints Markdown.
"""

import math
import sys

import numpy as np
from absl import app, flags

from jaxdiv.stats.confounders import size_or_diversity
from jaxdiv.stats.controlled import controlled_experiment
from jaxdiv.stats.rows import Point

REPLICATES = flags.DEFINE_integer("replicates", 1000, "Generated studies a cell.", lower_bound=10)
SIZES = (8, 12, 16, 20, 30, 40, 60)
TOGETHER = 0.6
TRUTHS = ("diversity", "size", "both")


def study(rng: np.random.Generator, truth: str, n: int, r2: float) -> list[Point]:
    """Points of `n` benchmarks; what `truth` names explains `r2` of the accuracy's variance."""
    size = rng.normal(size=n)
    diversity = TOGETHER * size + math.sqrt(1 - TOGETHER**2) * rng.normal(size=n)
    signal = {"size": size, "diversity": diversity, "both": (size + diversity) / math.sqrt(2 + 2 * TOGETHER)}[truth]
    accuracy = math.sqrt(r2) * signal + math.sqrt(1 - r2) * rng.normal(size=n)
    return [
        Point(str(b), "pt", "own", diversity[b], accuracy=accuracy[b], train_images=math.exp(size[b])) for b in range(n)
    ]


def planted(r2: float) -> None:
    print(f"\nShare of {REPLICATES.value} studies whose verdict is the truth, which explains {r2:g} of the accuracy:\n")
    print(f"| truth | {' | '.join(f'n={n}' for n in SIZES)} |")
    print(f"| --- | {' | '.join('--:' for _ in SIZES)} |")
    for truth in TRUTHS:
        rng = np.random.default_rng([TRUTHS.index(truth), round(100 * r2)])
        shares = []
        for n in SIZES:
            found = [verdict(study(rng, truth, n, r2)) for _ in range(REPLICATES.value)]
            shares.append(f"{found.count(truth) / len(found):.2f}")
        print(f"| {truth} | {' | '.join(shares)} |")


def verdict(points: list[Point]) -> str | None:
    (row,) = [row for row in size_or_diversity(points) if row.metric == "accuracy"]
    return row.verdict


def experiment(rng: np.random.Generator, effect: float, blocks: int, seeds: int) -> list[Point]:
    """A controlled experiment as configs/controlled.py:real measured it: levels .04 of diversity apart."""
    return [
        Point(
            f"{level}-{block}",
            "pt",
            "fixed",
            diversity,
            seed,
            accuracy=effect * diversity + of_subset + SD_SEEDS * rng.normal(),
        )
        for level, middle in zip(("low", "middle", "high"), (0.55, 0.59, 0.63), strict=True)
        for block in range(1, blocks + 1)
        for diversity, of_subset in [(middle + 0.012 * rng.normal(), SD_SUBSETS * rng.normal())]
        for seed in range(seeds)
    ]


SD_SUBSETS, SD_SEEDS = 0.01, 0.01  # of accuracy


def experiments() -> None:
    print(
        f"\nThe controlled experiment: 2 seeds; standard deviations {SD_SUBSETS:g} (subsets), {SD_SEEDS:g} (seeds):\n"
    )
    print("| subsets a level | truth in the 95% interval | p < .05, no effect | effect +.01 per .1 | +.03 | +.05 |")
    print("| --- | --: | --: | --: | --: | --: |")
    for blocks in (3, 5, 10):
        rng = np.random.default_rng(blocks)
        cells = []
        for effect in (0.0, 0.1, 0.3, 0.5):
            rows = [controlled_experiment(experiment(rng, effect, blocks, 2))[0] for _ in range(REPLICATES.value // 2)]
            if effect == 0.1:
                cells.insert(0, np.mean([row.low <= effect / 10 <= row.high for row in rows]))
            cells.append(np.mean([row.p_value < 0.05 for row in rows]))
        print(f"| {blocks} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")


def main(argv: list[str]) -> int:
    for r2 in (0.8, 0.5):
        planted(r2)
    experiments()
    return 0


if __name__ == "__main__":
    sys.exit(app.run(main))
