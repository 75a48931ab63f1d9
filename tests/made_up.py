"""Analyses of studies that never ran, with every row of the contract: what a report is made of."""

import numpy as np

from jaxdiv import correlate

METHODS = tuple(correlate.METHODS)
LEVELS = ("low", "middle", "high")
DRAWS = 99  # of a bootstrap: what the report does with its ends is tested, not the ends


def study(benchmarks=8, methods=METHODS, test_sets=("own", "fixed"), seeds=1, spread=0.03, names=None):
    """Rows of Table 1 and of points.csv of a made-up study whose accuracy rises with diversity."""
    rng = np.random.default_rng(7)
    names = names or [f"bench-{b}" for b in range(benchmarks)]
    diversity = {name: 0.1 + spread * b for b, name in enumerate(names)}
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
            "train_images": 1000,
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
    """Every part of an analysis. Numbers of the controls are made up; so are those of Cohen's d."""
    rows, points = study(names=names, **how)
    rng = np.random.default_rng(3)
    which = [
        (method, metric, test_set)
        for method, test_set in dict.fromkeys((p["method"], p["test_set"]) for p in points)
        for metric in correlate.METRICS
    ]
    keys = [dict(zip(("method", "metric", "test_set"), key, strict=True)) for key in which]
    names = [row["benchmark"] for row in rows]
    found = analysis(rows, points) | {"differences": correlate.differences(points, DRAWS)}
    partial = [
        key
        | {"n": len(names), "given": "log images, log classes", "r2": 0.21, "r": -0.46, "low": -0.9, "high": 0.3}
        | {"p_value": 0.25, "p_holm": 1.0, "raw_r2": 0.4, "covariates_r2": 0.33, "note": ""}
        for key in keys
    ]
    verdicts = [
        key | {"verdict": verdict, "p_diversity": 0.03, "p_size": 0.4, "n": len(names), "note": ""}
        for key, verdict in zip(keys, ["diversity", "size", "both", "neither"] * len(keys), strict=False)
    ]
    matched = [
        key | {"n": 3, "r2": None, "ci_low": None, "ci_high": None, "p_value": None, "note": "undefined: 2 benchmarks"}
        if i == 0
        else key | {"n": 4, "r2": 0.3, "ci_low": 0.0, "ci_high": 0.9, "p_value": 0.3, "note": ""}
        for i, key in enumerate(keys)
    ]
    norms = [
        {"benchmark": name, "complexity": 0.01 * (i + 1), "low": 0.01 * i, "high": 0.01 * (i + 2), "matched": i < 4}
        for i, name in enumerate(names)
    ]
    diversity = {row["benchmark"]: row["diversity"] for row in rows}
    effects = []
    for method, test_set in dict.fromkeys((m, t) for m, _, t in which if m != "pt"):
        for name in names:
            gap = 0.05 * rng.normal() + 0.2 * (diversity[name] - 0.15)
            effects.append(
                {"benchmark": name, "method": method, "test_set": test_set, "diversity": diversity[name], "tasks": 300}
                | {"difference": gap, "low": gap - 0.01, "high": gap + 0.01, "d": 10 * gap, "d_low": 10 * gap - 0.2}
                | {"d_high": 10 * gap + 0.2, "d_paired": 12 * gap, "threshold": 0.1, "note": ""}
                | {"rule": "MAML" if gap > 0.01 else "PT" if gap < -0.01 else "no difference"}
                | {"verdict": "MAML" if gap > 0.02 else "PT" if gap < -0.02 else "undecided"}
            )
    trends = []
    for method, test_set in dict.fromkeys((row["method"], row["test_set"]) for row in effects):
        mine = [row for row in effects if (row["method"], row["test_set"]) == (method, test_set)]
        fit = correlate.r_squared([row["diversity"] for row in mine], [row["d"] for row in mine])
        trends.append(
            {"method": method, "test_set": test_set, "n": fit.n, "r2": fit.r2, "ci_low": fit.low, "ci_high": fit.high}
            | {"p_value": fit.p_value, "slope": fit.slope, "note": fit.note}
        )
    return found | {
        "partial": partial,
        "verdicts": verdicts,
        "complexity": {"matched": names[:4], "largest_d": 0.5, "rows": matched, "benchmarks": norms},
        "effect_sizes": effects,
        "effect_size_trends": trends,
    }


def controlled_analysis(subsets=3, seeds=2):
    """An analysis of the controlled experiment: subsets of three levels, every method, the fixed test set."""
    names = [f"{level}-{i + 1}" for level in LEVELS for i in range(subsets)]
    found = full_analysis(names=names, test_sets=("fixed",), seeds=seeds)
    found["controlled"] = [
        {"method": m, "metric": metric, "test_set": "fixed", "subsets": len(names), "seeds": seeds}
        | {"effect": 0.09 if m == "pt" else -0.013, "low": 0.05 if m == "pt" else -0.06, "high": 0.13, "note": ""}
        | {"p_value": 0.001 if m == "pt" else 0.5, "p_holm": 0.01 if m == "pt" else 1.0}
        | {"means": dict(zip(LEVELS, (0.4, 0.5, 0.6), strict=True)), "high_minus_low": 0.2, "hl_low": 0.1}
        | {"hl_high": 0.3, "sd_subsets": 0.03, "sd_seeds": 0.01}
        for m in METHODS
        for metric in correlate.METRICS
    ]
    return found
