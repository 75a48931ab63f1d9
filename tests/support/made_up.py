"""Analyses of studies that never ran: every row that a report can be made of."""

import numpy as np

from jaxdiv.methods import registry
from jaxdiv.stats import controls, correlate
from jaxdiv.stats.controls import LEVELS

METHODS = tuple(registry.METHODS)
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
        {
            "benchmark": name,
            "method": method,
            "seed": seed,
            "test_set": test_set,
            "diversity": value,
            "diversity_ci": 0.0045,
            "accuracy": 0.3 + value + 0.05 * rng.normal(),
            "accuracy_ci": 0.01,
            "loss": 1.5 - value + 0.1 * rng.normal(),
            "loss_ci": 0.03,
            "train_images": sizes[name],
            "train_classes": 20,
        }
        for method in methods
        for test_set in test_sets
        for name, value in diversity.items()
        for seed in range(seeds)
    ]
    return rows, points


def analysis(rows, points):
    """What an older study left: no more than Tables 1 and 2 and the points."""
    return {"diversity": rows, "points": points, "correlations": correlate.correlations(points, DRAWS)}


def full_analysis(names=None, **how):
    """Every part of an analysis, as `jaxdiv.stats.analysis.analyse` puts it together but with fewer draws."""
    rows, points = study(names=names, **how)
    rng = np.random.default_rng(3)
    diversity = {row["benchmark"]: row["diversity"] for row in rows}
    norms = {name: 0.02 * b + rng.normal(size=20) for b, name in enumerate(diversity)}
    per_task = {}
    for method, test_set in dict.fromkeys((p["method"], p["test_set"]) for p in points):
        for name, value in diversity.items():
            gap = 0.0 if method == "pt" else 0.2 * (value - 0.15) + 0.05 * rng.normal()
            per_task[name, method, test_set] = 0.5 + gap + 0.1 * rng.normal(size=100)
    effects = controls.pt_against_maml(points, per_task)
    return analysis(rows, points) | {
        "differences": correlate.differences(points, DRAWS),
        "partial": controls.partial_correlations(points),
        "verdicts": controls.size_or_diversity(points),
        "complexity": controls.complexity_matched(points, norms),
        "effect_sizes": effects,
        "effect_size_trends": controls.d_on_diversity(effects),
    }


def controlled_analysis(subsets=3, seeds=2):
    """An analysis of the controlled experiment: subsets of three levels, every method, the fixed test set."""
    names = [f"{level}-{i + 1}" for level in LEVELS for i in range(subsets)]
    found = full_analysis(names=names, test_sets=("fixed",), seeds=seeds)
    found["controlled"] = controls.controlled_effect(found["points"])
    return found
