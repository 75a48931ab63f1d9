"""What else could explain a correlation with diversity: size, mixture, complexity; and the controlled experiment.

Points are those of `jaxdiv.stats.correlate`, with `complexity` (mean Task2Vec norm) and `share` (of each data set in a
benchmark's tasks) where known. Every row is of JSON values; what is undefined is None, and `note` says why.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from jaxdiv.methods.registry import METHODS
from jaxdiv.stats.correlate import METRICS, TEST_SETS, average_seeds, in_order, in_words, listed
from jaxdiv.stats.inference import holm, p_of_r, r_interval
from jaxdiv.stats.regression import r_squared, varies

Point = Mapping[str, Any]
LEVELS = ("low", "middle", "high")
Row = dict[str, Any]
ONE_PERCENT = 0.01  # of accuracy: the group's smallest difference of interest
_UNDECIDED = "undecided"
NOTHING = "nothing"  # given, where no covariate could be
ONE_SIZE = "all benchmarks are of one size"
_WORDS = {
    "log images": "number of images",
    "log classes": "number of classes",
    "share of omniglot": "share of Omniglot",
}


def covariates(points: Sequence[Point]) -> dict[str, dict[str, float]]:
    """What besides diversity tells benchmarks apart, by name and benchmark: sizes as logarithms, and Omniglot's share
    unless it is known that none has any."""
    found: dict[str, dict[str, float]] = {"log images": {}, "log classes": {}}
    if any(point.get("share") is None or point["share"].get("omniglot") for point in points):
        found["share of omniglot"] = {}
    for point in points:
        name = point["benchmark"]
        for title, key in (("log images", "train_images"), ("log classes", "train_classes")):
            if point.get(key):
                found[title][name] = math.log(point[key])
        if point.get("share") is not None and "share of omniglot" in found:
            found["share of omniglot"][name] = float(point["share"].get("omniglot", 0.0))
    return found


class Partial(NamedTuple):
    """A partial correlation: None where undefined, `note` saying why; `given` the covariates that it could use."""

    r: float | None
    low: float | None
    high: float | None
    p_value: float | None
    covariates_r2: float | None
    given: tuple[str, ...]
    note: str


def partial_correlation(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], given: Mapping[str, Float[np.ndarray, " n"]]
) -> Partial:
    """The correlation of what the covariates leave of x and of y.

    Its p-value is Student's with n - 2 - k degrees of freedom and its interval Fisher's z with n - k in place of n, for
    k covariates (Fisher 1924). A covariate that is constant, or a combination of those before it, is not used.
    """
    n = len(x)
    basis = [np.full(n, 1 / math.sqrt(n))] if n else []
    used, dropped = [], []
    for name, values in given.items():
        rest = _rest(np.asarray(values, float), basis)
        if float(np.linalg.norm(rest)) <= 1e-9 * max(float(np.linalg.norm(values)), 1.0):
            dropped.append(name)
            continue
        basis.append(rest / np.linalg.norm(rest))
        used.append(name)
    note = f"not told apart by these benchmarks: {', '.join(dropped)}" if dropped else ""
    nothing = Partial(None, None, None, None, None, tuple(used), note)
    if n - len(used) < 3:
        short = f"{n} benchmarks are too few for {len(used)} covariates"
        return nothing._replace(note="; ".join(filter(None, (short, note))))
    left_x, left_y = _rest(x, basis), _rest(y, basis)
    scale_x, scale_y = float(np.linalg.norm(left_x)), float(np.linalg.norm(left_y))
    spread = float(((y - y.mean()) ** 2).sum())
    explained = max(0.0, 1 - scale_y**2 / spread) if varies(y) else None  # rounding may go below zero
    for scale, whole, what in ((scale_x, x, "diversity"), (scale_y, y, "performance")):
        if scale <= 1e-9 * max(float(np.linalg.norm(whole)), 1e-300):
            short = f"the covariates leave nothing of {what}"
            return nothing._replace(covariates_r2=explained, note="; ".join(filter(None, (short, note))))
    r = float(np.clip(left_x @ left_y / (scale_x * scale_y), -1, 1))
    low, high = r_interval(r, n - len(used))
    return Partial(r, low, high, p_of_r(r, n - len(used)), explained, tuple(used), note)


def partial_correlations(points: Sequence[Point]) -> list[Row]:
    """Per method, metric and test set: diversity and performance, given the sizes and the mixture of the benchmarks.

    Keys: method, metric, test_set, n, given (the covariates in words), r2 (the share of what they leave that diversity
    explains), r, low, high (of r), p_value, p_holm, raw_r2, covariates_r2 (of performance, by the covariates alone),
    note. Where none can be used, `given` is NOTHING, every number but raw_r2 is None, and `note` says why.
    """
    known = covariates(points)
    rows = []
    for group in _groups(points):
        usable = {title: by for title, by in known.items() if all(name in by for name in group.names)}
        given = {title: np.array([by[name] for name in group.names]) for title, by in usable.items()}
        found = partial_correlation(group.x, group.y, given)
        lacking = ", ".join(title for title in known if title not in usable)
        note = found.note
        if not found.given:  # what would be left is no partial correlation
            same = listed(_WORDS[title] for title in given)
            note = f"all benchmarks have the same {same}" if same and group.names else ""
            found = Partial(None, None, None, None, None, (), note)
        rows.append(
            {
                **group.what,
                "given": ", ".join(found.given) or NOTHING,
                "r2": None if found.r is None else found.r**2,
                "r": found.r,
                "low": found.low,
                "high": found.high,
                "p_value": found.p_value,
                "raw_r2": r_squared(group.x, group.y).r2,
                "covariates_r2": found.covariates_r2,
                "note": "; ".join(filter(None, (note, f"not known: {lacking}" if lacking else ""))),
            }
        )
    return _with_holm(rows)


def size_or_diversity(points: Sequence[Point]) -> list[Row]:
    """Per method, metric and test set: does performance go with diversity given size, with size given diversity?

    Size is the number of training images, as a logarithm. Keys: method, metric, test_set, n, p_diversity, p_size,
    verdict ("diversity", "size", "both", "neither": which of the two has p < .05 given the other; None where
    undefined), note. "neither" is what too few benchmarks say too.
    """
    sizes = covariates(points)["log images"]
    rows = []
    for group in _groups(points):
        verdict = p_diversity = p_size = None
        note = "" if all(name in sizes for name in group.names) else "the number of images is not known"
        if not note:
            size = np.array([sizes[name] for name in group.names])
            of_diversity = partial_correlation(group.x, group.y, {"log images": size})
            of_size = partial_correlation(size, group.y, {"diversity": group.x})
            p_diversity, p_size = of_diversity.p_value, of_size.p_value
            if not of_diversity.given:
                note = ONE_SIZE if len(size) else "no benchmarks"
            elif p_diversity is None or p_size is None:
                note = of_diversity.note or of_size.note
            else:
                verdict = {(1, 0): "diversity", (0, 1): "size", (1, 1): "both", (0, 0): "neither"}[
                    p_diversity < 0.05, p_size < 0.05
                ]
        rows.append({**group.what, "p_diversity": p_diversity, "p_size": p_size, "verdict": verdict, "note": note})
    return rows


def complexity_matched(
    points: Sequence[Point], norms: Mapping[str, Float[np.ndarray, " tasks"]], largest_d: float = 0.5
) -> dict[str, Any]:
    """R² over only those benchmarks whose Task2Vec complexity is alike, as the paper's future work proposes.

    The largest set of benchmarks, neighbours in mean norm, in which no two differ by more than `largest_d` pooled
    standard deviations of their tasks' norms (Cohen's d). Returns `matched` (their names), `largest_d`, `rows` (method,
    metric, test_set, n, r2, ci_low, ci_high, p_value, note) and `benchmarks` (benchmark, complexity, low, high,
    matched).
    """
    names = sorted(norms, key=lambda name: (float(np.mean(norms[name])), name))
    alike = np.array([[abs(_pooled_d(norms[a], norms[b])) <= largest_d for b in names] for a in names], bool)
    runs = [
        names[start:end]
        for start in range(len(names))
        for end in range(start + 1, len(names) + 1)
        if alike[start:end, start:end].all()
    ]
    matched = max(runs, key=len) if runs else []
    rows = []
    for group in _groups([point for point in points if point["benchmark"] in matched]):
        found = r_squared(group.x, group.y)
        limits = {"r2": found.r2, "ci_low": found.low, "ci_high": found.high, "p_value": found.p_value}
        rows.append({**group.what, **limits, "note": in_words(found.note, group.what["metric"])})
    listed = []
    for name in names:
        values = np.asarray(norms[name], float)
        half = _t(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
        mean = float(values.mean())
        ends = {"low": None if half is None else mean - half, "high": None if half is None else mean + half}
        listed.append({"benchmark": name, "complexity": mean, **ends, "matched": name in matched})
    return {"matched": matched, "largest_d": largest_d, "rows": rows, "benchmarks": listed}


def pt_against_maml(
    points: Sequence[Point], per_task: Mapping[tuple[str, str, str], Float[np.ndarray, " tasks"]]
) -> list[Row]:
    """MAML against pre-training on the same test tasks of each benchmark, by effect size.

    per_task: each task's accuracy by (benchmark, method, test set), seeds averaged. Keys of a row: benchmark, method,
    test_set, diversity, tasks; difference (MAML minus PT), low, high (its paired 95% t interval); d (Cohen's, by the
    pooled standard deviation), d_low, d_high (delta method, with the pairs' correlation), d_paired (by the standard
    deviation of the differences); threshold (the d of a 1% difference) and rule ("MAML", "PT", "no difference": whether
    |d| passes it, the group's rule, which looks at no interval); verdict ("MAML", "PT", "within 1%", "undecided": what
    the interval supports, which is over tasks: of these trained networks); note.
    """
    diversity = {point["benchmark"]: point["diversity"] for point in points}
    rows = []
    methods = in_order({method for _, method, _ in per_task} - {"pt"}, METHODS)
    for test_set in in_order({test for _, _, test in per_task}, TEST_SETS):
        for method in methods:
            for benchmark in sorted(
                {name for name, _, _ in per_task if name in diversity}, key=lambda name: (diversity[name], name)
            ):
                ours, theirs = (per_task.get((benchmark, which, test_set)) for which in (method, "pt"))
                if ours is None or theirs is None or len(ours) != len(theirs):
                    continue
                what = {"benchmark": benchmark, "method": method, "test_set": test_set}
                rows.append({**what, "diversity": diversity[benchmark], **_compare(ours, theirs)})
    return rows


def _compare(ours: np.ndarray, theirs: np.ndarray) -> Row:
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    n, gaps = len(ours), ours - theirs
    row: Row = dict.fromkeys(("low", "high", "d", "d_low", "d_high", "d_paired", "threshold", "rule", "verdict"))
    row |= {"tasks": n, "difference": float(gaps.mean()), "note": ""}
    if n < 3:
        return row | {"note": f"{n} tasks: no interval"}
    half = _t(n - 1) * gaps.std(ddof=1) / math.sqrt(n)
    low, high = row["difference"] - half, row["difference"] + half
    row |= {"low": low, "high": high}
    if low > ONE_PERCENT:
        row["verdict"] = "MAML"
    elif high < -ONE_PERCENT:
        row["verdict"] = "PT"
    else:
        row["verdict"] = "within 1%" if low >= -ONE_PERCENT and high <= ONE_PERCENT else _UNDECIDED
    pooled = math.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2)
    rounding = 1e-9 * float(np.abs([ours, theirs]).max())
    if pooled <= rounding:
        return row | {"note": "no task differs from another: Cohen's d is undefined"}
    d = row["difference"] / pooled
    # Of pairs that vary together: the variance of the difference, and that of the pooled standard deviation.
    r = float(np.cov(ours, theirs)[0, 1]) / pooled**2
    error = math.sqrt(max(2 * (1 - r) / n + d**2 * (1 + r**2) / (4 * n), 0))
    z = float(special.ndtri(0.975))
    threshold = ONE_PERCENT / pooled
    rule = "no difference" if abs(d) <= threshold else "MAML" if d > 0 else "PT"
    paired = float(gaps.mean() / gaps.std(ddof=1)) if gaps.std() > rounding else None
    row |= {"d": d, "d_low": d - z * error, "d_high": d + z * error, "d_paired": paired}
    return row | {"threshold": threshold, "rule": rule}


def d_on_diversity(rows: Sequence[Row]) -> list[Row]:
    """R² of Cohen's d (rows of `pt_against_maml`) on diversity: does MAML gain on PT as diversity grows?"""
    found = []
    for test_set in in_order({row["test_set"] for row in rows}, TEST_SETS):
        for method in in_order({row["method"] for row in rows if row["test_set"] == test_set}, METHODS):
            mine = [r for r in rows if (r["method"], r["test_set"]) == (method, test_set) and r["d"] is not None]
            fit = r_squared([row["diversity"] for row in mine], [row["d"] for row in mine])
            limits = {"n": fit.n, "r2": fit.r2, "ci_low": fit.low, "ci_high": fit.high, "p_value": fit.p_value}
            note = in_words(fit.note.replace("same y", "same d"), "accuracy")
            found.append({"method": method, "test_set": test_set, **limits, "slope": fit.slope, "note": note})
    return found


def controlled_effect(points: Sequence[Point], levels: Sequence[str] = LEVELS) -> list[Row]:
    """What diversity does to performance at equal size and mixture: benchmarks are subsets `LEVEL-NUMBER` of one pool.

    A linear model per method, metric and test set, on the means over seeds: performance = block + slope · diversity,
    where subset NUMBER of every level is a block, since those were chosen from the same classes, which no other
    block's were (`subsets.choose`); and one of levels
    instead of the slope. A subset is the unit: seeds are replicates of it and add no degree of freedom. `all` is the
    mean of the methods, `maml minus pt` that of MAML's less PT.

    Keys: method, metric, test_set, subsets, seeds; effect, low, high (per .1 of diversity), p_value, p_holm; means (by
    level), high_minus_low, hl_low, hl_high; sd_subsets, sd_seeds (of the residuals); note.
    """
    averaged = [p for p in average_seeds(points) if _level(p["benchmark"], levels)]
    rows = []
    for test_set in in_order({p["test_set"] for p in averaged}, TEST_SETS):
        for metric in METRICS:
            mine = [p for p in averaged if p["test_set"] == test_set and p[metric] is not None]
            mine = [p for p in mine if p["diversity"] is not None]
            methods = in_order({p["method"] for p in mine}, METHODS)
            by_method = {m: {p["benchmark"]: p for p in mine if p["method"] == m} for m in methods}
            of_rows = [_effect(method, [method], [], by_method, metric, levels) for method in methods]
            if len(methods) > 1:
                of_rows.append(_effect("all", methods, [], by_method, metric, levels))
            maml = [m for m in methods if m != "pt"]
            if "pt" in methods and maml:
                of_rows.append(_effect("maml minus pt", maml, ["pt"], by_method, metric, levels))
            rows += _with_holm([{**row, "metric": metric, "test_set": test_set} for row in of_rows])
    return rows


def _effect(title, added, taken, by_method, metric, levels) -> Row:
    """One row: the methods `added` averaged, less `taken`, over the subsets that all of them have."""
    common = set.intersection(*(set(by_method[m]) for m in (*added, *taken)))
    names = sorted(common, key=lambda name: (levels.index(_level(name, levels)), name))
    mean = lambda methods: np.array([np.mean([by_method[m][name][metric] for m in methods]) for name in names])
    y = mean(added) - (mean(taken) if taken else 0)
    x = np.array([by_method[added[0]][name]["diversity"] for name in names], float)
    level = np.array([levels.index(_level(name, levels)) for name in names], int)
    block = (
        np.unique([name.rpartition("-")[2] for name in names], return_inverse=True)[1] if names else np.array([], int)
    )
    seeds = {by_method[m][name]["seeds"] for m in (*added, *taken) for name in names}
    row: Row = dict.fromkeys(("effect", "low", "high", "p_value", "high_minus_low", "hl_low", "hl_high"))
    row |= {"method": title, "subsets": len(names), "seeds": min(seeds, default=0), "note": ""}
    row["means"] = {name: float(y[level == i].mean()) for i, name in enumerate(levels) if (level == i).any()}
    row |= {"sd_subsets": None, "sd_seeds": None}
    blocks = np.eye(block.max() + 1)[block] if len(names) else np.zeros((0, 0))
    if len(names) - blocks.shape[1] < 2 or not varies(x):
        return row | {"note": f"{len(names)} subsets do not tell diversity from the rest"}
    if not varies(y):
        return row | {"note": f"all {len(names)} subsets have the same {METRICS[metric]}"}
    slope, error, freedom, residual = _least_squares(np.column_stack([x, blocks]), y, np.eye(1, 1 + blocks.shape[1])[0])
    half = _t(freedom) * error
    row |= {"effect": slope / 10, "low": (slope - half) / 10, "high": (slope + half) / 10}
    row["p_value"] = float(2 * special.stdtr(freedom, -abs(slope) / error)) if error > 0 else None
    if not taken and len(added) == 1:
        spread = (
            [np.var(by_method[added[0]][name][f"{metric}_seeds"], ddof=1) for name in names] if min(seeds) > 1 else []
        )
        of_seeds = float(np.mean(spread)) if spread else None
        row["sd_seeds"] = None if of_seeds is None else math.sqrt(of_seeds)
        between = residual if of_seeds is None else max(residual - of_seeds / min(seeds), 0.0)
        row["sd_subsets"] = math.sqrt(between)
    present = np.unique(level)
    if 0 in present and len(levels) - 1 in present and len(names) - len(present) - blocks.shape[1] + 1 > 0:
        dummies = np.eye(len(levels))[level][:, present]
        contrast = np.zeros(len(present) + blocks.shape[1] - 1)
        contrast[0], contrast[len(present) - 1] = -1, 1
        gap, error, freedom, _ = _least_squares(np.column_stack([dummies, blocks[:, 1:]]), y, contrast)
        half = _t(freedom) * error
        row |= {"high_minus_low": gap, "hl_low": gap - half, "hl_high": gap + half}
    return row


def _least_squares(design: np.ndarray, y: np.ndarray, contrast: np.ndarray) -> tuple[float, float, int, float]:
    """A contrast of the coefficients, its standard error, the degrees of freedom, and the residual variance."""
    freedom = len(y) - np.linalg.matrix_rank(design)
    inverse = np.linalg.pinv(design.T @ design)
    coefficients = inverse @ design.T @ y
    variance = float(((y - design @ coefficients) ** 2).sum()) / max(freedom, 1)
    return float(contrast @ coefficients), math.sqrt(variance * contrast @ inverse @ contrast), int(freedom), variance


def _level(benchmark: str, levels: Sequence[str]) -> str:
    level, _, number = benchmark.rpartition("-")
    return level if level in levels and number.isdigit() else ""


class _Group(NamedTuple):
    what: Row  # method, metric, test_set, n
    names: list[str]
    x: np.ndarray
    y: np.ndarray


def _groups(points: Sequence[Point]) -> Iterable[_Group]:
    """The usable benchmarks of each method, metric and test set, seeds averaged."""
    averaged = average_seeds(points)
    for method in in_order({p["method"] for p in averaged}, METHODS):
        for metric in METRICS:
            for test_set in in_order({p["test_set"] for p in averaged if p["method"] == method}, TEST_SETS):
                mine = [p for p in averaged if (p["method"], p["test_set"]) == (method, test_set)]
                mine = [p for p in mine if p["diversity"] is not None and p[metric] is not None]
                x, y = (np.array([p[key] for p in mine], float) for key in ("diversity", metric))
                what = {"method": method, "metric": metric, "test_set": test_set, "n": len(mine)}
                yield _Group(what, [p["benchmark"] for p in mine], x, y)


def _with_holm(rows: list[Row]) -> list[Row]:
    corrected = holm([row["p_value"] for row in rows])
    return [{**row, "p_holm": p} for row, p in zip(rows, corrected, strict=True)]


def _rest(values: np.ndarray, basis: Sequence[np.ndarray]) -> np.ndarray:
    """What the orthonormal `basis` leaves; twice, for what rounding leaves of a projection."""
    for _ in range(2):
        for direction in basis:
            values = values - (values @ direction) * direction
    return values


def _pooled_d(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.asarray(a, float), np.asarray(b, float)
    gap = float(a.mean() - b.mean())
    spread = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2) if min(len(a), len(b)) > 1 else 0.0
    return gap / spread if spread > 0 else math.copysign(math.inf, gap) if gap else 0.0


def _t(freedom: int) -> float:
    return float(special.stdtrit(freedom, 0.975)) if freedom > 0 else math.inf
