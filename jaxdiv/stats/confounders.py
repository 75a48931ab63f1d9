"""What else could explain a correlation with diversity: the benchmarks' size, their mixture, their complexity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

from jaxdiv.stats.correlation import Fit, fit
from jaxdiv.stats.intervals import p_of_r, r_interval
from jaxdiv.stats.regression import r_squared, varies
from jaxdiv.stats.rows import LEVEL, Note, Point, Reason, groups, with_holm


class Covariate(StrEnum):
    """What besides diversity tells benchmarks apart. Sizes are those of the train split, as logarithms."""

    LOG_IMAGES = "log_images"
    LOG_CLASSES = "log_classes"
    OMNIGLOT_SHARE = "omniglot_share"


class Verdict(StrEnum):
    """Which of diversity and size still explains performance when the other is given."""

    DIVERSITY = "diversity"
    SIZE = "size"
    BOTH = "both"
    NEITHER = "neither"  # which may only mean too few benchmarks


_VERDICTS = {
    (True, False): Verdict.DIVERSITY,
    (False, True): Verdict.SIZE,
    (True, True): Verdict.BOTH,
    (False, False): Verdict.NEITHER,
}


@dataclass(frozen=True)
class Partial:
    """A partial correlation over `n` benchmarks. What is undefined is None, and `notes` say why.

    Attributes:
      given: the covariates that could be used.
      low, high: the 95% interval of r.
      covariates_r2: the share of y's variance that the covariates alone explain.
    """

    n: int
    given: tuple[str, ...] = ()
    r: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    covariates_r2: float | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class PartialCorrelation:
    """Diversity and performance, given the size and the mixture of the benchmarks.

    Attributes:
      given: the covariates that could be used; of none, every number but raw_r2 is None.
      r, low, high, p_value, covariates_r2: of `Partial`. p_holm: over all rows.
      r2: the share of what the covariates leave of performance that diversity explains.
      raw_r2: of diversity alone.
    """

    method: str
    metric: str
    test_set: str
    n: int
    given: tuple[str, ...] = ()
    r2: float | None = None
    r: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    raw_r2: float | None = None
    covariates_r2: float | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class SizeOrDiversity:
    """Whether performance goes with diversity given size, and with size given diversity. p-values are uncorrected."""

    method: str
    metric: str
    test_set: str
    n: int
    p_diversity: float | None = None
    p_size: float | None = None
    verdict: Verdict | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Complexity:
    """A benchmark's mean Task2Vec norm with its 95% interval over tasks, and whether it is among the matched ones."""

    benchmark: str
    complexity: float
    low: float | None
    high: float | None
    matched: bool


@dataclass(frozen=True)
class MatchedComplexity:
    """R² over the benchmarks of like complexity alone; `largest_d` is what they may differ by (Cohen's d)."""

    matched: tuple[str, ...] = ()
    largest_d: float = 0.5
    rows: tuple[Fit, ...] = ()
    benchmarks: tuple[Complexity, ...] = ()


def covariates(points: Sequence[Point]) -> dict[Covariate, dict[str, float]]:
    """Each covariate by benchmark, as far as it is known. Omniglot's share is one unless no benchmark is known to have
    any."""
    found: dict[Covariate, dict[str, float]] = {Covariate.LOG_IMAGES: {}, Covariate.LOG_CLASSES: {}}
    if any(point.share is None or point.share.get("omniglot") for point in points):
        found[Covariate.OMNIGLOT_SHARE] = {}
    for point in points:
        sizes = {Covariate.LOG_IMAGES: point.train_images, Covariate.LOG_CLASSES: point.train_classes}
        for covariate, size in sizes.items():
            if size:
                found[covariate][point.benchmark] = math.log(size)
        if point.share is not None and Covariate.OMNIGLOT_SHARE in found:
            found[Covariate.OMNIGLOT_SHARE][point.benchmark] = float(point.share.get("omniglot", 0.0))
    return found


def partial_correlation(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], given: Mapping[str, Float[np.ndarray, " n"]]
) -> Partial:
    """The correlation of what the covariates leave of x (diversity) and of y (performance).

    Its p-value is Student's with n - 2 - k degrees of freedom and its interval Fisher's z with n - k in place of n, for
    k covariates. A covariate that is constant, or a combination of those before it, is not used.

    References:
      Fisher 1924, "The distribution of the partial correlation coefficient".
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
    names = tuple(used)
    notes = (Note(Reason.COVARIATES_NOT_DISTINCT, tuple(dropped)),) if dropped else ()
    if n - len(used) < 3:
        return Partial(n, names, notes=(Note(Reason.TOO_MANY_COVARIATES, names), *notes))
    left_x, left_y = _rest(x, basis), _rest(y, basis)
    scale_x, scale_y = float(np.linalg.norm(left_x)), float(np.linalg.norm(left_y))
    spread = float(((y - y.mean()) ** 2).sum())
    explained = max(0.0, 1 - scale_y**2 / spread) if varies(y) else None  # rounding may go below zero
    for scale, whole, reason in (
        (scale_x, x, Reason.COVARIATES_ARE_DIVERSITY),
        (scale_y, y, Reason.COVARIATES_ARE_PERFORMANCE),
    ):
        if scale <= 1e-9 * max(float(np.linalg.norm(whole)), 1e-300):
            return Partial(n, names, covariates_r2=explained, notes=(Note(reason), *notes))
    r = float(np.clip(left_x @ left_y / (scale_x * scale_y), -1, 1))
    low, high = r_interval(r, n - len(used))
    return Partial(n, names, r, low, high, p_of_r(r, n - len(used)), explained, notes)


def partial_correlations(points: Sequence[Point]) -> list[PartialCorrelation]:
    """Per method, metric and test set: diversity and performance, given the sizes and the mixture of the benchmarks."""
    known = covariates(points)
    rows = []
    for group in groups(points):
        x, y = group.values("diversity"), group.values(group.metric)
        usable = {name: by for name, by in known.items() if all(benchmark in by for benchmark in group.names)}
        given = {str(name): np.array([by[benchmark] for benchmark in group.names]) for name, by in usable.items()}
        found = partial_correlation(x, y, given)
        notes = found.notes
        if not found.given:  # what would be left is no partial correlation
            notes = (Note(Reason.COVARIATES_CONSTANT, tuple(given)),) if given and group.names else ()
            found = Partial(found.n)
        if unknown := tuple(str(name) for name in known if name not in usable):
            notes = (*notes, Note(Reason.COVARIATES_UNKNOWN, unknown))
        r2 = None if found.r is None else found.r**2
        numbers: dict[str, Any] = {"r": found.r, "low": found.low, "high": found.high, "p_value": found.p_value}
        numbers |= {"r2": r2, "raw_r2": r_squared(x, y).r2, "covariates_r2": found.covariates_r2}
        rows.append(PartialCorrelation(**group.what, **numbers, given=found.given, notes=notes))
    return with_holm(rows)


def size_or_diversity(points: Sequence[Point]) -> list[SizeOrDiversity]:
    """Per method, metric and test set: which of diversity and size explains performance when the other is given.

    Size is the number of training images, as a logarithm; a verdict is by p < .05, uncorrected.
    """
    sizes = covariates(points)[Covariate.LOG_IMAGES]
    rows = []
    for group in groups(points):
        if not all(name in sizes for name in group.names):
            unknown = Note(Reason.COVARIATES_UNKNOWN, (Covariate.LOG_IMAGES,))
            rows.append(SizeOrDiversity(**group.what, notes=(unknown,)))
            continue
        x, y = group.values("diversity"), group.values(group.metric)
        size = np.array([sizes[name] for name in group.names])
        of_diversity = partial_correlation(x, y, {str(Covariate.LOG_IMAGES): size})
        of_size = partial_correlation(size, y, {"diversity": x})
        verdict: Verdict | None = None
        notes: tuple[Note, ...] = ()
        if not of_diversity.given:
            notes = (Note(Reason.ONE_SIZE if group.names else Reason.NO_BENCHMARKS),)
        elif of_diversity.p_value is None or of_size.p_value is None:
            notes = of_diversity.notes or of_size.notes
        else:
            verdict = _VERDICTS[of_diversity.p_value < LEVEL, of_size.p_value < LEVEL]
        rows.append(
            SizeOrDiversity(
                **group.what, p_diversity=of_diversity.p_value, p_size=of_size.p_value, verdict=verdict, notes=notes
            )
        )
    return rows


def matched_complexity(
    points: Sequence[Point], norms: Mapping[str, Float[np.ndarray, " tasks"]], largest_d: float = 0.5
) -> MatchedComplexity:
    """R² over only those benchmarks whose Task2Vec complexity is alike, as the paper's future work proposes.

    The largest set of benchmarks, neighbours in mean norm, in which no two differ by more than `largest_d` pooled
    standard deviations of their tasks' norms (Cohen's d).

    Args:
      norms: the Task2Vec norm of every task of a benchmark.
    """
    names = sorted(norms, key=lambda name: (float(np.mean(norms[name])), name))
    alike = np.array([[abs(_pooled_d(norms[a], norms[b])) <= largest_d for b in names] for a in names], bool)
    runs = [
        names[start:end]
        for start in range(len(names))
        for end in range(start + 1, len(names) + 1)
        if alike[start:end, start:end].all()
    ]
    longest: list[str] = max(runs, key=len, default=[])
    matched = tuple(longest)
    rows = [
        fit(group.what, group.values("diversity"), group.values(group.metric))
        for group in groups([point for point in points if point.benchmark in matched])
    ]
    benchmarks = []
    for name in names:
        values = np.asarray(norms[name], float)
        mean, low, high = float(values.mean()), None, None
        if (n := len(values)) > 1:
            half = float(special.stdtrit(n - 1, 0.975)) * values.std(ddof=1) / math.sqrt(n)
            low, high = mean - half, mean + half
        benchmarks.append(Complexity(name, mean, low, high, name in matched))
    return MatchedComplexity(matched, largest_d, tuple(with_holm(rows)), tuple(benchmarks))


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
