"""Diversity against performance over benchmarks: R², what is uncertain about it, and which methods differ.

A *point* is a mapping with the keys of `points.csv` (benchmark, method, seed, test_set, diversity, accuracy,
accuracy_ci, loss, loss_ci, ...): one trained learner on one test set. Diversity is a cosine distance (0 to
1), accuracy a fraction of query images, loss a cross-entropy in nats per query image; `_ci` is the half-width
of a 95% interval over tasks.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import special

from jaxdiv.errors import InputError
from jaxdiv.methods.registry import METHODS
from jaxdiv.stats.inference import (
    corrected,
    difference_interval,
    fisher_difference,
    holm,
    overlap,
    p_of_r,
    r2_interval,
    r_interval,
    reliability,
    spearman_interval,
    squared,
    williams,
)
from jaxdiv.stats.regression import r_squared
from jaxdiv.stats.resampling import (
    leave_one_out,
    percentile_interval,
    permutation_p,
    resample,
    row_pearson,
    row_slope,
    row_spearman,
)

METRICS = {"accuracy": "accuracy", "loss": "cross-entropy"}
TEST_SETS = ("own", "fixed")


def in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    """The distinct `names`, those in `order` first and as there, the others after them by name."""
    known = list(order)
    return sorted(set(names), key=lambda name: (known.index(name) if name in known else len(known), name))


def average_seeds(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per benchmark, method and test set: the means over its seeds.

    Keys: benchmark, method, test_set, diversity, diversity_ci, seeds (how many), and per metric the mean
    (`accuracy`), the mean half-width (`accuracy_ci`; never too narrow for the mean, whether or not seeds share
    test tasks) and the values seed by seed (`accuracy_seeds`). A value that is missing or not finite is None, and so
    are those of a benchmark that lacks a seed which another one of its method and test set has.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for point in points:
        groups.setdefault((point["method"], point["test_set"], point["benchmark"]), []).append(point)

    def mean(values: list[float]) -> float | None:
        # All seeds or none: a mean over only those seeds that did not diverge would flatter the method.
        return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else None

    most = Counter[tuple[str, str]]()
    for (method, test_set, _), group in groups.items():
        most[method, test_set] = max(most[method, test_set], len(group))
    rows = []
    for (method, test_set, benchmark), group in groups.items():
        whole = len(group) == most[method, test_set]
        row: dict[str, Any] = {
            "benchmark": benchmark,
            "method": method,
            "test_set": test_set,
            "diversity": mean([p["diversity"] for p in group if p.get("diversity") is not None]),
            "diversity_ci": mean([p["diversity_ci"] for p in group if p.get("diversity_ci") is not None]),
            "seeds": len(group),
            "tasks": group[0].get("tasks"),
            "diversity_tasks": group[0].get("diversity_tasks"),
        }
        for metric in METRICS:
            values = [float(p[metric]) for p in group if p.get(metric) is not None]
            widths = [float(p[f"{metric}_ci"]) for p in group if p.get(f"{metric}_ci") is not None]
            known = whole and len(values) == len(group)
            row |= {metric: mean(values) if known else None, f"{metric}_ci": mean(widths), f"{metric}_seeds": values}
        rows.append(row)
    return rows


CORRELATION_COLUMNS = (
    *("method", "metric", "test_set", "n"),
    *("r2", "ci_low", "ci_high", "p_value", "p_holm", "p_permutation"),
    *("boot_low", "boot_high", "slope", "slope_low", "slope_high", "intercept", "boot_slope_low", "boot_slope_high"),
    *("r", "r_low", "r_high"),
    *("spearman", "spearman_low", "spearman_high", "spearman_p", "boot_spearman_low", "boot_spearman_high"),
    *("boot_dropped", "loo_low", "loo_high", "influential", "influential_r2"),
    *("reliability", "r2_true", "true_low", "true_high", "note"),
)
DIFFERENCE_COLUMNS = (
    *("method", "other", "metric", "test_set", "n", "r2", "other_r2", "difference", "low", "high"),
    *("boot_low", "boot_high", "statistic", "p_value", "p_holm", "decided", "note"),
)


def correlations(points: Sequence[Mapping[str, Any]], draws: int = 9999, seed: int = 0) -> list[dict[str, Any]]:
    """Table 2: per method, metric and test set, R² of performance on diversity over the benchmarks, and its limits.

    Seeds are averaged first, since a benchmark is one point. Rows have CORRELATION_COLUMNS: a number that is
    undefined is None, never NaN, and `note` says why; a benchmark whose value is missing or not finite is left
    out and named there. All intervals are of 95%.

    - r2, ci_low, ci_high, p_value, slope, intercept: `r_squared`. slope_low, slope_high: Student's t.
      r, r_low, r_high: `r_interval`. spearman_low, spearman_high: `spearman_interval`; spearman_p and
      p_permutation: `permutation_p`, of ranks and of values. p_holm: over all rows.
    - boot_*: percentiles over `draws` resamples of benchmarks in which each value is also redrawn within its own
      error (`resample`; an error that is unknown counts as 0). The values hold their error already: redrawing
      pulls R² down by the reliability once more, and errs to the low side. boot_dropped resamples said nothing.
    - loo_low, loo_high: the range of R² with one benchmark left out; influential: whose leaving moves R² most, to
      influential_r2.
    - reliability: of diversity times of performance. r2_true, true_low, true_high: R² and interval over that, the
      estimate for values without noise (Spearman 1904), its own error not counted.
    """
    averaged = average_seeds(points)
    rows: list[dict[str, Any]] = []
    for method in in_order((p["method"] for p in averaged), METHODS):
        for metric in METRICS:
            for test_set in in_order((p["test_set"] for p in averaged if p["method"] == method), TEST_SETS):
                used, lost = _benchmarks(averaged, method, metric, test_set)
                head = {"method": method, "metric": metric, "test_set": test_set}
                rows.append(dict.fromkeys(CORRELATION_COLUMNS) | head | _correlation(used, lost, metric, draws, seed))
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _benchmarks(
    averaged: Sequence[dict[str, Any]], method: str, metric: str, test_set: str
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The benchmarks of a correlation by name, sorted, and the names of those without a finite value."""
    group = {p["benchmark"]: p for p in averaged if p["method"] == method and p["test_set"] == test_set}
    used = {b: p for b, p in sorted(group.items()) if p["diversity"] is not None and p[metric] is not None}
    return used, sorted(group.keys() - used.keys())


def _values(rows: Iterable[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def _errors(rows: Iterable[Mapping[str, Any]], name: str) -> np.ndarray | None:
    """The standard errors of averaged rows, or None where one is unknown.

    Over tasks, and over seeds where there are several, since these also differ by their training. On the fixed test
    set every benchmark's learner meets the same tasks, whose draw moves all of them alike: there the error of
    performance is that between seeds, and unknown of a single one.
    """
    found = []
    for row in rows:
        seeds = row.get(f"{name}_seeds", ())
        same_tasks = name in METRICS and row["test_set"] == "fixed"
        if (same_tasks and len(seeds) < 2) or row[f"{name}_ci"] is None:
            return None
        between = np.var(seeds, ddof=1) / len(seeds) if len(seeds) > 1 else 0.0
        tasks = row.get("diversity_tasks" if name == "diversity" else "tasks")
        quantile = special.stdtrit(tasks - 1, 0.975) if tasks else special.ndtri(0.975)
        found.append(math.sqrt((0.0 if same_tasks else (row[f"{name}_ci"] / quantile) ** 2) + between))
    return np.array(found)


def listed(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"; nothing where there are none."""
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def in_words(note: str, metric: str) -> str:
    """A note of `r_squared` in the study's words."""
    note = note.replace("same x", "same diversity").replace("same y", f"same {METRICS[metric]}")
    return note.replace("points", "benchmarks").replace("point,", "benchmark,")


def _correlation(
    used: Mapping[str, dict[str, Any]], lost: Sequence[str], metric: str, draws: int, seed: int
) -> dict[str, Any]:
    """What `correlations` says of the benchmarks `used`."""
    x, y = _values(used.values(), "diversity"), _values(used.values(), metric)
    n, found = len(x), r_squared(x, y)
    notes = [in_words(found.note, metric)] if found.note else []
    if lost:
        notes.append(f"left out, diversity or {METRICS[metric]} missing or not finite: {', '.join(lost)}")
    row: dict[str, Any] = {"n": n, "slope": found.slope, "intercept": found.intercept}
    if found.r is None or found.slope is None:
        return row | {"note": "; ".join(notes)}
    from scipy import stats

    r_low, r_high = r_interval(found.r, n)
    half = float(special.stdtrit(n - 2, 0.975) * stats.linregress(x, y).stderr)
    ranks = stats.rankdata(x), stats.rankdata(y)
    spearman = float(row_pearson(*ranks))
    spearman_low, spearman_high = spearman_interval(spearman, n)
    row |= {
        "r2": found.r2,
        "ci_low": found.low,
        "ci_high": found.high,
        "p_value": found.p_value,
        "p_permutation": permutation_p(x, y, draws, seed),
        "slope_low": found.slope - half,
        "slope_high": found.slope + half,
        "r": found.r,
        "r_low": r_low,
        "r_high": r_high,
        "spearman": spearman,
        "spearman_low": spearman_low,
        "spearman_high": spearman_high,
        "spearman_p": permutation_p(*ranks, draws, seed),
    }
    errors = _errors(used.values(), "diversity"), _errors(used.values(), metric)
    known = [np.zeros(n) if e is None else e for e in errors]
    samples = resample(np.stack([x, y]), np.stack(known), draws, seed)
    row["boot_dropped"] = draws - samples.shape[1]
    boot_r = percentile_interval(row_pearson(*samples), n)
    # By way of r: the percentiles of r² itself never hold 0.
    row["boot_low"], row["boot_high"] = boot_r if boot_r[0] is None else squared(*boot_r)
    row["boot_slope_low"], row["boot_slope_high"] = percentile_interval(row_slope(*samples), n)
    # Not expanded: the ties of a resample already spread rank correlations enough (bench/correlations.py).
    row["boot_spearman_low"], row["boot_spearman_high"] = percentile_interval(row_spearman(*samples))
    without = leave_one_out(x, y)
    if n > 3 and np.isfinite(without).any():
        moved = int(np.nanargmax(np.abs(without - found.r2)))
        row |= {"loo_low": float(np.nanmin(without)), "loo_high": float(np.nanmax(without))}
        row |= {"influential": list(used)[moved], "influential_r2": float(without[moved])}
    if errors[0] is not None and errors[1] is not None:
        row["reliability"] = share = reliability(x, errors[0]) * reliability(y, errors[1])
        if share > 0:
            row["r2_true"], row["true_low"], row["true_high"] = corrected(found.r, n, share)
        else:
            notes.append("the values' errors are as large as their spread: nothing to correct R² by")
    return row | {"note": "; ".join(notes)}


def differences(points: Sequence[Mapping[str, Any]], draws: int = 9999, seed: int = 0) -> list[dict[str, Any]]:
    """Whether two methods' R² differ, per pair of methods, metric and test set, over the benchmarks both have.

    Rows have DIFFERENCE_COLUMNS: `difference` is r2 of `method` minus that of `other`, the earlier in METHODS. low,
    high: `difference_interval` of the two r's intervals, squared, which knows that the methods share benchmarks and
    their diversity. boot_low, boot_high: percentiles over resamples as in `correlations`, both methods' values of a
    benchmark together. statistic, p_value: `williams`, of the two |r|, since R² does not know their signs. p_holm:
    over the rows of a metric and test set. decided: p_holm < .05 and no zero in the interval, which is wider than the
    test is sharp where two methods' values hardly differ. Undefined numbers are None, and `note` says why.
    """
    averaged = average_seeds(points)
    rows = []
    for other, method in combinations(in_order((p["method"] for p in averaged), METHODS), 2):
        for metric in METRICS:
            tests = in_order((p["test_set"] for p in averaged if p["method"] in (method, other)), TEST_SETS)
            for test_set in tests:
                (first, _), (second, _) = (_benchmarks(averaged, m, metric, test_set) for m in (method, other))
                both = sorted(first.keys() & second.keys())
                lost = sorted({p["benchmark"] for p in averaged if p["test_set"] == test_set} - set(both))
                head = {"method": method, "other": other, "metric": metric, "test_set": test_set}
                pair = [first[b] for b in both], [second[b] for b in both]
                rows.append(dict.fromkeys(DIFFERENCE_COLUMNS) | head | _difference(*pair, lost, metric, draws, seed))
    _decide(rows)
    return rows


def _difference(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    lost: Sequence[str],
    metric: str,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """What `differences` says of two methods over the same benchmarks."""
    x, ys = _values(first, "diversity"), [_values(rows, metric) for rows in (first, second)]
    n, found = len(x), [r_squared(x, y) for y in ys]
    notes = [in_words(note, metric) for note in dict.fromkeys(f.note for f in found if f.note)]
    if lost:
        notes.append(f"not in both, or not finite: {', '.join(lost)}")
    row: dict[str, Any] = {"n": n, "r2": found[0].r2, "other_r2": found[1].r2, "note": "; ".join(notes)}
    if found[0].r is None or found[1].r is None:
        return row
    # R² does not know the sign: turn a falling series over, so that equal R² means equal r.
    r1, r2 = abs(found[0].r), abs(found[1].r)
    r12 = float(row_pearson(*ys)) * math.copysign(1, found[0].r * found[1].r)
    low, high = difference_interval(_estimate(r1, n), _estimate(r2, n), overlap(r1, r2, r12))
    statistic, p_value = williams(r1, r2, r12, n)
    if p_value is None and n > 3:
        row["note"] = "; ".join([*notes, "the methods' values leave nothing to test a difference against"])
    errors = [_errors(rows, name) for rows, name in ((first, "diversity"), (first, metric), (second, metric))]
    known = [np.zeros(n) if e is None else e for e in errors]
    samples = resample(np.stack([x, *ys]), np.stack(known), draws, seed)
    r2s = [row_pearson(samples[0], sample) ** 2 for sample in samples[1:]]
    boot = percentile_interval(r2s[0] - r2s[1], n)
    return row | {
        "difference": r1 * r1 - r2 * r2,
        "low": max(-1.0, low),
        "high": min(1.0, high),
        "boot_low": boot[0],
        "boot_high": boot[1],
        "statistic": statistic,
        "p_value": p_value,
    }


def _estimate(r: float, n: int) -> tuple[float, float, float]:
    """R² and the square of r's interval, which has 2.5% beyond either end. `difference_interval` rests on that: with
    `r2_interval` it covers down to 92.8%."""
    return (r * r, *squared(*r_interval(r, n)))


def _decide(rows: Sequence[dict[str, Any]]) -> None:
    """Sets p_holm and decided, by metric and test set: a verdict that its own interval contradicts would be none."""
    for family in {(row["metric"], row["test_set"]) for row in rows}:
        mine = [row for row in rows if (row["metric"], row["test_set"]) == family]
        for row, adjusted in zip(mine, holm([row["p_value"] for row in mine]), strict=True):
            apart = row["low"] is not None and row["high"] is not None and not row["low"] <= 0 <= row["high"]
            row |= {"p_holm": adjusted, "decided": adjusted is not None and adjusted < 0.05 and apart}


def from_summaries(r2: Mapping[str, Mapping[str, float]], n: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What published R², by method and metric over `n` benchmarks, support without their points.

    Rows as of `correlations` and of `differences`, test_set "published". The sign of r is unknown and taken as
    positive. That two methods share benchmarks cannot be used: their difference is Fisher's z of independent
    samples (`fisher_difference`). What needs points is None. Raises InputError for an R² outside [0, 1].
    """
    rows: list[dict[str, Any]] = []
    few = f"; {n} benchmark{'s' * (n != 1)} say nothing about the interval" if n <= 3 else ""
    for method in in_order(r2, METHODS):
        for metric in in_order(r2[method], METRICS):
            value = r2[method][metric]
            if not 0 <= value <= 1:
                raise InputError(f"R² of {method}, {metric} is {value}; it must lie between 0 and 1")
            r = math.sqrt(value)
            (r_low, r_high), (low, high) = r_interval(r, n), r2_interval(r, n)
            head = {"method": method, "metric": metric, "test_set": "published", "n": n, "r": r, "r2": value}
            limits = {"ci_low": low, "ci_high": high, "r_low": r_low, "r_high": r_high, "p_value": p_of_r(r, n)}
            note = "from R² and n alone; r taken as positive" + few
            rows.append(dict.fromkeys(CORRELATION_COLUMNS) | head | limits | {"note": note})
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    pairs = []
    for second, first in combinations(rows, 2):
        if first["metric"] != second["metric"]:
            continue
        first_r, second_r = first["r"], second["r"]
        low, high = difference_interval(_estimate(first_r, n), _estimate(second_r, n), 0.0)
        statistic, p_value = fisher_difference(first_r, second_r, n, n)
        pairs.append(
            dict.fromkeys(DIFFERENCE_COLUMNS)
            | {"method": first["method"], "other": second["method"], "metric": first["metric"], "n": n}
            | {"test_set": "published", "r2": first["r2"], "other_r2": second["r2"]}
            | {"difference": first["r2"] - second["r2"], "low": max(-1.0, low), "high": min(1.0, high)}
            | {"statistic": statistic, "p_value": p_value}
            | {"note": "from R² and n alone, as if the methods shared no benchmarks; r taken as positive" + few}
        )
    _decide(pairs)
    return rows, pairs
