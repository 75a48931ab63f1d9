"""Diversity against performance over benchmarks: R², its interval, its trend line, and the published values.

A *point* is a mapping with the keys of `points.csv` (benchmark, method, seed, test_set, diversity, accuracy,
accuracy_ci, loss, loss_ci, ...): one trained learner on one test set. Diversity is a cosine distance (0 to
1), accuracy a fraction of query images, loss a cross-entropy in nats per query image; `_ci` is the half-width
of a 95% interval over test tasks.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from jaxdiv.errors import InputError

METHODS = {
    "pt": "PT",
    "fo_maml_5": "FO-MAML 5 steps",
    "fo_maml_10": "FO-MAML 10 steps",
    "ho_maml_5": "HO-MAML 5 steps",
    "ho_maml_10": "HO-MAML 10 steps",
}
METRICS = {"accuracy": "accuracy", "loss": "cross-entropy"}
TEST_SETS = ("own", "fixed")

# Published values, "Exploring the Efficacy of Meta-Learning: Unveiling Superior Data Diversity Utilization of
# MAML Over Pre-training". Table 1: diversity coefficient and half-width of its 95% interval, train split.
PAPER_TABLE1: dict[str, dict[str, tuple[float, float]]] = {
    "CIFAR-FS": {"resnet18": (0.106, 0.00166), "resnet34": (0.0890, 0.00199)},
    "FC100": {"resnet18": (0.107, 0.00149), "resnet34": (0.0903, 0.00389)},
    "Aircraft": {"resnet18": (0.110, 0.00127), "resnet34": (0.0932, 0.00109)},
    "Flower": {"resnet18": (0.138, 0.00288), "resnet34": (0.117, 0.00234)},
    "DTD": {"resnet18": (0.129, 0.00227), "resnet34": (0.111, 0.00228)},
    "CUBirds": {"resnet18": (0.120, 0.00161), "resnet34": (0.104, 0.00149)},
    "Omniglot": {"resnet18": (0.159, 0.00472), "resnet34": (0.136, 0.00421)},
    # Equals the group's own Mini-ImageNet value, not its Mini-ImageNet + Omniglot one (.216): probably
    # mislabelled.
    "MIO": {"resnet18": (0.1191, 0.0015), "resnet34": (0.1013, 0.00122)},
    "hdb7-afto": {"resnet18": (0.171, 0.01435), "resnet34": (0.148, 0.01179)},
    "hdb8-cado": {"resnet18": (0.174, 0.01), "resnet34": (0.155, 0.00845)},
    "hdb9-cavdo": {"resnet18": (0.180, 0.0092), "resnet34": (0.143, 0.00844)},
    "hdb10-micova": {"resnet18": (0.171, 0.0101), "resnet34": (0.144, 0.00766)},
}
# Table 2: R² over the 12 benchmarks above. Which test set they were taken on is not said.
PAPER_TABLE2: dict[str, dict[str, float]] = {
    "pt": {"accuracy": 0.149, "loss": 0.137},
    "fo_maml_5": {"accuracy": 0.168, "loss": 0.184},
    "fo_maml_10": {"accuracy": 0.152, "loss": 0.174},
    "ho_maml_5": {"accuracy": 0.398, "loss": 0.074},
    "ho_maml_10": {"accuracy": 0.416, "loss": 0.203},
}
PAPER_BENCHMARKS = len(PAPER_TABLE1)
_PAPER_ALIASES = {
    "flowers": "flower",
    "vggflower": "flower",
    "vggflowers": "flower",
    "flowers102": "flower",
    "cub": "cubirds",
    "cub200": "cubirds",
    "cub2002011": "cubirds",
    "fgvcaircraft": "aircraft",
    "hdb1": "mio",
    "hdb1mio": "mio",
}


class RSquared(NamedTuple):
    """What `r_squared` found. A field that is undefined for the input is None; `note` says why in words."""

    r2: float | None
    low: float | None
    high: float | None
    p_value: float | None
    slope: float | None
    intercept: float | None
    r: float | None
    n: int
    note: str = ""


class Band(NamedTuple):
    """A trend line at the asked places, and its pointwise 95% confidence band (None where undefined)."""

    value: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def r_interval(r: float, n: int) -> tuple[float, float]:
    """The 95% interval of a Pearson r over `n` points: tanh(artanh r ± 1.96/√(n-3)), by Fisher's z.

    With n ≤ 3 the standard error of z is undefined, and the interval is all of (-1, 1). Source: Fisher 1921.
    """
    if n <= 3:
        return -1.0, 1.0
    if abs(r) >= 1:
        return float(r), float(r)
    half = float(special.ndtri(0.975)) / math.sqrt(n - 3)
    z = math.atanh(r)
    return math.tanh(z - half), math.tanh(z + half)


def r2_interval(r: float, n: int) -> tuple[float, float]:
    """The 95% interval of r² that follows from `r_interval`: from 0 where the interval of r holds 0."""
    low, high = r_interval(r, n)
    ends = sorted((low * low, high * high))
    return (0.0 if low <= 0 <= high else ends[0]), ends[1]


def smallest_significant_r2(n: int) -> float | None:
    """The smallest R² over `n` points that differs from zero at the two-sided 5% level; None if n < 3."""
    if n < 3:
        return None
    t2 = float(special.stdtrit(n - 2, 0.975)) ** 2
    return t2 / (n - 2 + t2)


def _varies(values: np.ndarray) -> bool:
    """Whether values differ by more than rounding: a correlation with rounding noise would mean nothing."""
    return float(np.ptp(values)) > 1e-12 * float(np.abs(values).max())


def r_squared(x: Sequence[float], y: Sequence[float]) -> RSquared:
    """R² of the degree-1 fit y = slope·x + intercept: the squared Pearson correlation.

    The p-value is two-sided against r = 0 (SciPy's `pearsonr`); `low` and `high` bound R² by the 95% Fisher-z
    interval of r. Input that leaves something undefined (fewer than 3 points, no variance) gives None there
    and a `note`. Raises InputError where x and y differ in length, are not one-dimensional, or not finite.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if xs.ndim != 1 or xs.shape != ys.shape:
        raise InputError(f"r_squared needs two lists of equal length, got shapes {xs.shape} and {ys.shape}")
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise InputError("r_squared got a value that is not finite (NaN or infinite); leave such points out")
    n = len(xs)
    nothing = RSquared(None, None, None, None, None, None, None, n)
    if n < 3:
        return nothing._replace(note=f"undefined: {n} point{'s' * (n != 1)}, at least 3 are needed")
    if not _varies(xs):
        return nothing._replace(note=f"undefined: all {n} points have the same x")
    if not _varies(ys):
        note = f"undefined: all {n} points have the same y"
        return nothing._replace(slope=0.0, intercept=float(ys[0]), note=note)
    from scipy import stats  # over a second to import, so only where it is needed

    found = stats.pearsonr(xs, ys)
    r = float(found.statistic)
    # The regression slope by the centred sums, so that line and r come from the same degree-1 fit.
    dx, dy = xs - xs.mean(), ys - ys.mean()
    slope = float(dx @ dy / (dx @ dx))
    low, high = r2_interval(r, n)
    note = "3 points say nothing about the interval: it is all of [0, 1]" if n == 3 else ""
    intercept = float(ys.mean() - slope * xs.mean())
    return RSquared(r * r, low, high, float(found.pvalue), slope, intercept, r, n, note)


def trend_band(x: Sequence[float], y: Sequence[float], at: Sequence[float] | np.ndarray) -> Band | None:
    """The least-squares line through (x, y) at the places `at`, with its pointwise 95% confidence band.

    The band is that of the line's mean, t(.975, n-2)·s·√(1/n + (at-x̄)²/Σ(x-x̄)²), undefined below 3 points.
    None where no line exists: fewer than 2 points, or all x equal.
    """
    xs, ys, places = np.asarray(x, float), np.asarray(y, float), np.asarray(at, float)
    n = len(xs)
    if n < 2 or not _varies(xs):
        return None
    dx = xs - xs.mean()
    slope = dx @ ys / (dx @ dx)
    value = ys.mean() + slope * (places - xs.mean())
    if n < 3:
        return Band(value, None, None)
    residual = ys - ys.mean() - slope * dx
    spread = math.sqrt(float(residual @ residual) / (n - 2))
    half = special.stdtrit(n - 2, 0.975) * spread * np.sqrt(1 / n + (places - xs.mean()) ** 2 / (dx @ dx))
    return Band(value, value - half, value + half)


def in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    """The distinct `names`, those in `order` first and as there, the others after them by name."""
    known = list(order)
    return sorted(set(names), key=lambda name: (known.index(name) if name in known else len(known), name))


def average_seeds(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per benchmark, method and test set: the means over its seeds.

    Keys: benchmark, method, test_set, diversity, seeds (how many), and per metric the mean (`accuracy`), the
    mean half-width (`accuracy_ci`; never too narrow for the mean, whether or not seeds share test tasks) and
    the values seed by seed (`accuracy_seeds`). A metric with a value that is not finite is None.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for point in points:
        groups.setdefault((point["method"], point["test_set"], point["benchmark"]), []).append(point)

    def mean(values: list[float]) -> float | None:
        # All seeds or none: a mean over only those seeds that did not diverge would flatter the method.
        return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else None

    rows = []
    for (method, test_set, benchmark), group in groups.items():
        row: dict[str, Any] = {
            "benchmark": benchmark,
            "method": method,
            "test_set": test_set,
            "diversity": mean([p["diversity"] for p in group if p.get("diversity") is not None]),
            "seeds": len(group),
        }
        for metric in METRICS:
            values = [float(p[metric]) for p in group if p.get(metric) is not None]
            widths = [float(p[f"{metric}_ci"]) for p in group if p.get(f"{metric}_ci") is not None]
            row |= {metric: mean(values), f"{metric}_ci": mean(widths), f"{metric}_seeds": values}
        rows.append(row)
    return rows


def correlations(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Table 2: per method, metric and test set, R² of performance on diversity over the benchmarks.

    Seeds are averaged first, since a benchmark is one point. Rows have method, metric, test_set, r2, ci_low,
    ci_high, p_value, n (benchmarks used), slope, intercept, note. A benchmark whose value is missing or not
    finite is left out and named in the note. Undefined numbers are None, never NaN.
    """
    averaged = average_seeds(points)
    rows = []
    for method in in_order((p["method"] for p in averaged), METHODS):
        for metric, metric_name in METRICS.items():
            for test_set in in_order((p["test_set"] for p in averaged if p["method"] == method), TEST_SETS):
                group = [p for p in averaged if p["method"] == method and p["test_set"] == test_set]
                used = [p for p in group if p["diversity"] is not None and p[metric] is not None]
                lost = sorted(p["benchmark"] for p in group if p not in used)
                found = r_squared([p["diversity"] for p in used], [p[metric] for p in used])
                note = found.note.replace("same x", "same diversity").replace("same y", f"same {metric_name}")
                note = note.replace("points", "benchmarks").replace("point,", "benchmark,")
                if lost:
                    reason = f"left out, diversity or {metric_name} missing or not finite: {', '.join(lost)}"
                    note = f"{note}; {reason}" if note else reason
                rows.append(
                    {
                        "method": method,
                        "metric": metric,
                        "test_set": test_set,
                        "r2": found.r2,
                        "ci_low": found.low,
                        "ci_high": found.high,
                        "p_value": found.p_value,
                        "n": found.n,
                        "slope": found.slope,
                        "intercept": found.intercept,
                        "note": note,
                    }
                )
    return rows


def _plain(name: str) -> str:
    bare = "".join(c for c in name.lower() if c.isalnum())
    return _PAPER_ALIASES.get(bare, bare)


def paper_diversity(benchmark: str, probe: str) -> tuple[float, float] | None:
    """The published diversity of a benchmark (in any spelling) and probe, and its half-width; or None."""
    for name, values in PAPER_TABLE1.items():
        if _plain(name) == _plain(benchmark):
            return values.get(_plain(probe))
    return None


def holm(p_values):
    """Interim, until branch stats."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    out, top = [None] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        top = max(top, min(1.0, p * (len(known) - rank)))
        out[i] = top
    return out


def from_summaries(r2, n):
    """Interim, until branch stats."""
    rows, diffs = [], []
    for m, metrics in r2.items():
        for metric, v in metrics.items():
            t = math.sqrt(v * (n - 2) / (1 - v))
            low, high = r2_interval(math.sqrt(v), n)
            rows.append(
                dict(
                    method=m,
                    metric=metric,
                    test_set="published",
                    n=n,
                    r2=v,
                    ci_low=low,
                    ci_high=high,
                    p_value=float(2 * special.stdtr(n - 2, -t)),
                    note="",
                )
            )
    names = list(r2)
    for metric in METRICS:
        mine = []
        for i, other in enumerate(names):
            for m in names[i + 1 :]:
                z = (math.atanh(math.sqrt(r2[m][metric])) - math.atanh(math.sqrt(r2[other][metric]))) / math.sqrt(
                    2 / (n - 3)
                )
                p = float(2 * special.ndtr(-abs(z)))
                mine.append(
                    dict(
                        method=m,
                        other=other,
                        metric=metric,
                        test_set="published",
                        n=n,
                        r2=r2[m][metric],
                        other_r2=r2[other][metric],
                        difference=r2[m][metric] - r2[other][metric],
                        low=None,
                        high=None,
                        p_value=p,
                        note="",
                    )
                )
        for row, p in zip(mine, holm([r["p_value"] for r in mine])):
            row["p_holm"] = p
            row["decided"] = p < 0.05
        diffs += mine
    for row, p in zip(rows, holm([r["p_value"] for r in rows])):
        row["p_holm"] = p
    return rows, diffs
