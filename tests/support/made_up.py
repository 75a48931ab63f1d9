"""Analyses of studies that never ran: every row that a report can be made of."""

from dataclasses import replace

import numpy as np

from jaxdiv.report.published import PAPER_TABLE2
from jaxdiv.stats.analysis import Analysis
from jaxdiv.stats.confounders import matched_complexity, partial_correlations, size_or_diversity
from jaxdiv.stats.controlled import LEVELS, controlled_experiment
from jaxdiv.stats.correlation import correlations
from jaxdiv.stats.differences import differences
from jaxdiv.stats.effect_size import effect_size_trends, effect_sizes
from jaxdiv.stats.rows import Point

METHODS = tuple(PAPER_TABLE2)
DRAWS = 99  # of a bootstrap: what the report does with its ends is tested, not the ends


def study(benchmarks=8, methods=METHODS, test_sets=("own", "fixed"), seeds=1, spread=0.03, names=None):
    """Rows of Table 1 and of points.csv of a made-up study whose accuracy rises with diversity."""
    rng = np.random.default_rng(7)
    names = names or [f"bench-{b}" for b in range(benchmarks)]
    diversity = {name: 0.1 + spread * b for b, name in enumerate(names)}
    sizes = {name: int(rng.integers(500, 5000)) for name in names}
    rows = [
        {
            "benchmark": name,
            "probe": "resnet18",
            "diversity": value,
            "ci_low": value - 0.004,
            "ci_high": value + 0.005,
            "tasks": 20,
            "estimator": "exact",
        }
        for name, value in diversity.items()
    ]
    points = [
        Point(
            benchmark=name,
            method=method,
            seed=seed,
            test_set=test_set,
            diversity=value,
            diversity_ci=0.0045,
            accuracy=0.3 + value + 0.05 * rng.normal(),
            accuracy_ci=0.01,
            loss=1.5 - value + 0.1 * rng.normal(),
            loss_ci=0.03,
            train_images=sizes[name],
            train_classes=20,
        )
        for method in methods
        for test_set in test_sets
        for name, value in diversity.items()
        for seed in range(seeds)
    ]
    return rows, points


def points(benchmarks=6, methods=("pt", "ho_maml_10"), test_sets=("own", "fixed"), seeds=1):
    """Points with a positive slope and a little scatter."""
    rng = np.random.default_rng(0)
    rows = []
    for method in methods:
        for test_set in test_sets:
            for b in range(benchmarks):
                for seed in range(seeds):
                    accuracy = 0.4 + 0.5 * b / benchmarks + 0.05 * rng.normal()
                    point = Point(
                        f"bench{b}", method, test_set, 0.1 + 0.01 * b, seed, accuracy, 0.01, 2 - accuracy, 0.02
                    )
                    rows.append(replace(point, diversity_ci=0.002))
    return rows


def benchmarks(diversity, accuracy, images=None, method="pt", test_set="own", seeds=1, **more):
    """Points from lists over benchmarks; an accuracy may be a list over seeds."""
    rows = []
    for b, value in enumerate(diversity):
        of_seeds = np.broadcast_to(accuracy[b], seeds)
        for seed in range(seeds):
            point = Point(f"bench{b}", method, test_set, float(value), seed, train_images=100, train_classes=10)
            point = replace(point, accuracy=float(of_seeds[seed]), loss=2 - float(of_seeds[seed]))
            sizes = {} if images is None else {"train_images": float(images[b])}
            rows.append(replace(point, **sizes, **{key: values[b] for key, values in more.items()}))
    return rows


def analysis(rows, points):
    """Tables 1 and 2 and the points alone."""
    return Analysis(tuple(rows), tuple(points), tuple(correlations(points, DRAWS)))


def full_analysis(names=None, **how):
    """Every part of an analysis, as `jaxdiv.stats.analysis.analyse` puts it together but with fewer draws."""
    rows, points = study(names=names, **how)
    rng = np.random.default_rng(3)
    diversity = {row["benchmark"]: row["diversity"] for row in rows}
    norms = {name: 0.02 * b + rng.normal(size=20) for b, name in enumerate(diversity)}
    per_task = {}
    for method, test_set in dict.fromkeys((p.method, p.test_set) for p in points):
        for name, value in diversity.items():
            gap = 0.0 if method == "pt" else 0.2 * (value - 0.15) + 0.05 * rng.normal()
            per_task[name, method, test_set] = 0.5 + gap + 0.1 * rng.normal(size=100)
    effects = effect_sizes(points, per_task)
    return replace(
        analysis(rows, points),
        differences=tuple(differences(points, DRAWS)),
        partial=tuple(partial_correlations(points)),
        verdicts=tuple(size_or_diversity(points)),
        complexity=matched_complexity(points, norms),
        effect_sizes=tuple(effects),
        effect_size_trends=tuple(effect_size_trends(effects)),
    )


def controlled_analysis(subsets=3, seeds=2):
    """An analysis of the controlled experiment: subsets of three levels, every method, the fixed test set."""
    names = [f"{level}-{i + 1}" for level in LEVELS for i in range(subsets)]
    found = full_analysis(names=names, test_sets=("fixed",), seeds=seeds)
    return replace(found, controlled=tuple(controlled_experiment(found.points)))
