"""What the intervals and tests of `jaxdiv.stats` do, on populations whose truth is known: coverage, errors, power.

    PYTHONPATH=. python bench/correlations.py [--replicates=1000] [--draws=500]

`bench/shared_sets.py` has benchmarks that share data sets.

Diversity and performance of n benchmarks are drawn from a bivariate normal population with a given R²; with noise
of known size added to both (reliability .95 each, so R² as measured is .9 of R² without noise); or as exponentials of
normal ones: of z/4 (skewness .78; that of the paper's Table 1 is .2) and, to see what breaks, of z/2 (1.75). Prints
Markdown.
"""

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np
from absl import app, flags
from scipy import special, stats

from jaxdiv.stats import intervals, resampling

REPLICATES = flags.DEFINE_integer(
    "replicates",
    1000,
    "Simulated studies a cell for the bootstraps; four times as many for closed forms.",
    lower_bound=10,
)
DRAWS = flags.DEFINE_integer("draws", 500, "Bootstrap draws, and permutations, of each.", lower_bound=50)
SIZES, POWER_SIZES, TRUTHS = (8, 12, 30), (8, 12, 20, 30), (0.0, 0.15, 0.42, 0.8)
RELIABILITY = 0.95
SKEWED = {"skewed": 0.25, "very skewed": 0.5}
# R² of two methods and the correlation of their residuals: what two methods share of a benchmark's difficulty.
PAIRS = ((0.0, 0.0, 0.8), (0.15, 0.15, 0.8), (0.42, 0.42, 0.8), (0.8, 0.8, 0.8), (0.42, 0.15, 0.0), (0.42, 0.15, 0.8))


class Studies(NamedTuple):
    """Simulated studies, one a row, and the population's values: of what is measured, and of R² without noise."""

    x: np.ndarray
    y: np.ndarray
    error: float
    r: float
    slope: float
    spearman: float
    r2_true: float


def draw(rng: np.random.Generator, count: int, n: int, r2: float, kind: str) -> Studies:
    r = rho = math.sqrt(r2)
    if sigma := SKEWED.get(kind):  # the normal correlation that gives exp(sigma·z) the Pearson correlation r
        rho = math.log1p(r * math.expm1(sigma**2)) / sigma**2
    x = rng.standard_normal((count, n))
    y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal((count, n))
    error = math.sqrt(1 / RELIABILITY - 1) if kind == "noisy" else 0.0
    if kind == "noisy":
        x, y = (v + error * rng.standard_normal(v.shape) for v in (x, y))
        r = rho = rho * RELIABILITY
    elif sigma:
        x, y = np.exp(sigma * x), np.exp(sigma * y)
    # Both have one variance, so that the slope is r.
    return Studies(x, y, error, r, r, 6 / math.pi * math.asin(rho / 2), r2)


def bca(estimate: float, draws: np.ndarray, left_out: np.ndarray) -> tuple[float, float]:
    """Efron's bias-corrected and accelerated interval."""
    bias = special.ndtri(np.clip(np.mean(draws < estimate) + np.mean(draws == estimate) / 2, 1e-3, 1 - 1e-3))
    away = left_out.mean() - left_out
    spread = (away**2).sum()
    bend = (away**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    z = bias + np.array([-1.96, 1.96])
    low, high = np.quantile(draws, special.ndtr(bias + z / np.maximum(1 - bend * z, 1e-3)))
    return low, high


def jackknife(statistic: Callable, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    others = ~np.eye(len(x), dtype=bool)
    return statistic(*(np.stack([v[row] for row in others]) for v in (x, y)))


def closed_forms(x: np.ndarray, y: np.ndarray, error: float) -> dict[str, tuple[str, tuple[float, float]]]:
    """The closed-form intervals of one study: what each is of (a field of Studies), and its ends."""
    n = len(x)
    fit = stats.linregress(x, y)
    half = special.stdtrit(n - 2, 0.975) * fit.stderr
    r, rank = float(resampling.row_pearson(x, y)), float(resampling.row_spearman(x, y))
    found = {
        "r, Fisher's z *": ("r", intervals.r_interval(r, n)),
        "R², folded z *": ("r2", intervals.r2_interval(r, n)),
        "R², Fisher's z, the square of r's": ("r2", intervals.squared(*intervals.r_interval(r, n))),
        "slope, Student's t *": ("slope", (fit.slope - half, fit.slope + half)),
        "Spearman, Bonett & Wright *": ("spearman", intervals.spearman_interval(rank, n)),
    }
    if error:
        found["R², folded z *, of R² without noise"] = ("r2_true", intervals.r2_interval(r, n))
        share = intervals.reliability(x, np.full(n, error)) * intervals.reliability(y, np.full(n, error))
        if share > 0:
            found["R² corrected for noise *, of R² without noise"] = ("r2_true", intervals.corrected(r, n, share)[1:])
    return found


def bootstraps(x: np.ndarray, y: np.ndarray, error: float) -> dict[str, tuple[str, tuple[float, float]]]:
    """The bootstrap intervals of one study, as `closed_forms` has the others."""
    n, square, ends = len(x), intervals.squared, resampling.percentile_interval
    statistics = resampling.row_pearson, resampling.row_slope, resampling.row_spearman
    found = {}
    for name, noise in {"bootstrap": 0.0, "bootstrap + redraw": error}.items():
        if name != "bootstrap" and not error:
            continue
        sample = resampling.resample(np.stack([x, y]), np.full((2, n), noise), DRAWS.value, 0)
        rs, slopes, ranks = (f(*sample) for f in statistics)
        found |= {
            f"R², {name} *": ("r2", square(*ends(rs, n))),
            f"R², {name}, percentiles of r squared": ("r2", square(*ends(rs))),
            f"R², {name}, percentiles of r²": ("r2", ends(rs**2)),
            f"slope, {name} *": ("slope", ends(slopes, n)),
            f"slope, {name}, percentiles": ("slope", ends(slopes)),
            f"Spearman, {name} *": ("spearman", ends(ranks)),
            f"Spearman, {name}, expanded": ("spearman", ends(ranks, n)),
        }
        if error:
            found[f"R², {name} *, of R² without noise"] = ("r2_true", square(*ends(rs, n)))
        if not noise:
            at, left = [float(f(x, y)) for f in statistics], [jackknife(f, x, y) for f in statistics]
            found |= {
                f"R², {name}, BCa of r squared": ("r2", square(*bca(at[0], rs, left[0]))),
                f"slope, {name}, BCa": ("slope", bca(at[1], slopes, left[1])),
                f"Spearman, {name}, BCa": ("spearman", bca(at[2], ranks, left[2])),
            }
    return found


def coverage(kind: str) -> None:
    """A table of how often each interval holds the truth, and how wide it is at n = 12."""
    lines, widths = defaultdict(list), defaultdict(list)
    for n in SIZES:
        for r2 in TRUTHS:
            studies = draw(np.random.default_rng([n, int(100 * r2)]), 4 * REPLICATES.value, n, r2, kind)
            truth = studies._asdict() | {"r2": studies.r**2}
            hits, spans = defaultdict(list), defaultdict(list)
            for i, (x, y) in enumerate(zip(studies.x, studies.y, strict=True)):
                found = closed_forms(x, y, studies.error)
                if i < REPLICATES.value:
                    found |= bootstraps(x, y, studies.error)
                for name, (of, (low, high)) in found.items():
                    hits[name].append(low <= truth[of] <= high)
                    spans[name].append(high - low)
            for name, held in hits.items():
                lines[name].append(f"{100 * np.mean(held):.1f}")
                if n == 12:
                    widths[name].append(f"{np.mean(spans[name]):.2f}")
            say(f"{kind}, n = {n}, R² = {r2}")
    cells = [f"{n}: {r2:g}" for n in SIZES for r2 in TRUTHS]
    rows = [[name, *lines[name], " ".join(widths[name])] for name in sorted(lines)]
    table(["interval", *cells, "mean widths at 12"], rows)


def draw_pair(rng: np.random.Generator, count: int, n: int, first: float, second: float, shared: float) -> np.ndarray:
    """(3, count, n): diversity and two methods' performance."""
    x, e, f = rng.standard_normal((3, count, n))
    f = shared * e + math.sqrt(1 - shared**2) * f
    return np.stack([x] + [math.sqrt(r2) * x + math.sqrt(1 - r2) * v for r2, v in ((first, e), (second, f))])


def compared(x: np.ndarray, y: np.ndarray, other: np.ndarray) -> tuple[tuple[float, float], float]:
    """The interval of a difference of R² and its p-value, as `differences` has them."""
    n, (r1, r2, r12) = len(x), (float(resampling.row_pearson(*pair)) for pair in ((x, y), (x, other), (y, other)))
    r12 *= math.copysign(1, r1 * r2)
    r1, r2 = abs(r1), abs(r2)
    ends = [(r * r, *intervals.squared(*intervals.r_interval(r, n))) for r in (r1, r2)]
    interval = intervals.difference_interval(*ends, intervals.overlap(r1, r2, r12))
    return interval, intervals.williams(r1, r2, r12, n)[1]


def difference_coverage() -> None:
    lines = defaultdict(list)
    for n in SIZES:
        for first, second, shared in PAIRS:
            rng = np.random.default_rng([n, int(100 * first), int(100 * second), int(10 * shared)])
            hits = defaultdict(list)
            studies = draw_pair(rng, 4 * REPLICATES.value, n, first, second, shared).swapaxes(0, 1)
            for i, series in enumerate(studies):
                found = {"difference, MOVER *": compared(*series)[0]}
                if i < REPLICATES.value:
                    x, a, b = resampling.resample(series, np.zeros_like(series), DRAWS.value, 0)
                    drawn = resampling.row_pearson(x, a) ** 2 - resampling.row_pearson(x, b) ** 2
                    found["difference, bootstrap, percentiles"] = resampling.percentile_interval(drawn)
                    found["difference, bootstrap *"] = resampling.percentile_interval(drawn, n)
                for name, (low, high) in found.items():
                    hits[name].append(low <= first - second <= high)
            for name, held in hits.items():
                lines[name].append(f"{100 * np.mean(held):.1f}")
        say(f"difference, n = {n}")
    cells = [f"{n}: {a:g}, {b:g} ({c:g})" for n in SIZES for a, b, c in PAIRS]
    table(
        ["R² and R² (residuals' correlation)", *lines], [[c, *v] for c, *v in zip(cells, *lines.values(), strict=True)]
    )


def false_positives() -> None:
    """How often each p-value is below .05 where nothing is there to be found, in percent."""
    count, rows = REPLICATES.value, defaultdict(list)
    for n in SIZES:
        for kind in ("exact", "very skewed"):
            rng = np.random.default_rng([n, 1])
            studies = draw(rng, 5 * count, n, 0.0, kind)
            r = resampling.row_pearson(studies.x, studies.y)
            rows[f"p_value, {kind}"].append([intervals.p_of_r(v, n) for v in r])
            few = list(zip(studies.x[:count], studies.y[:count], strict=True))
            rows[f"p_permutation, {kind}"].append([resampling.permutation_p(x, y, DRAWS.value, 0) for x, y in few])
            rows[f"spearman_p, {kind}"].append(
                [resampling.permutation_p(stats.rankdata(x), stats.rankdata(y), DRAWS.value, 0) for x, y in few]
            )
        # 20 correlations as of a full study: one diversity, 20 performances that share most of their residuals.
        x, common = rng.standard_normal((2, count, 1, n))
        y = 0.8 * common + 0.6 * rng.standard_normal((count, 20, n))
        r = resampling.row_pearson(np.broadcast_to(x, y.shape), y)
        families = [[intervals.p_of_r(v, n) for v in family] for family in r]
        rows["any of 20 p_value"].append([min(family) for family in families])
        rows["any of 20 p_holm"].append([min(intervals.holm(family)) for family in families])
        for r2 in (0.0, 0.42, 0.8):
            x, common = rng.standard_normal((2, count, 1, n))
            own = rng.standard_normal((count, 5, n))
            y = math.sqrt(r2) * x + math.sqrt(1 - r2) * (0.8 * common + 0.6 * own)
            pairs = [[compared(x[i, 0], *pair)[1] for pair in combinations(y[i], 2)] for i in range(count)]
            rows[f"p_value of a difference, both R² {r2:g}"].append([p for family in pairs for p in family])
            rows[f"any of 10 differences by p_holm, R² {r2:g}"].append([min(intervals.holm(f)) for f in pairs])
        say(f"false positives, n = {n}")
    shares = {name: [f"{100 * np.mean(np.array(p) < 0.05):.1f}" for p in cells] for name, cells in rows.items()}
    table(["p < .05, %", *(f"n = {n}" for n in SIZES)], [[name, *cells] for name, cells in sorted(shares.items())])


def power() -> None:
    """How often p < .05 where something is there, in percent."""
    lines, count = [], REPLICATES.value
    for rho in (0.3, 0.5, 0.7):
        line = [f"ρ = {rho:g} (R² {rho**2:.2f}) against none"]
        for n in POWER_SIZES:
            studies = draw(np.random.default_rng([n, 2]), 5 * count, n, rho**2, "exact")
            p = [intervals.p_of_r(r, n) for r in resampling.row_pearson(studies.x, studies.y)]
            line.append(f"{100 * np.mean(np.array(p) < 0.05):.0f}")
        lines.append(line)
    for shared in (0.0, 0.5, 0.8, 0.95):
        line = [f"R² .42 against .15, residuals' correlation {shared:g}"]
        for n in POWER_SIZES:
            series = draw_pair(np.random.default_rng([n, 3]), count, n, 0.42, 0.15, shared)
            p = [compared(*study)[1] for study in series.swapaxes(0, 1)]
            line.append(f"{100 * np.mean(np.array(p) < 0.05):.0f}")
        lines.append(line)
    table(["power, %", *(f"n = {n}" for n in POWER_SIZES)], lines)


def attenuation() -> None:
    """How far redrawing values that are already noisy pulls the bootstrap's R² down."""
    studies = draw(np.random.default_rng(4), REPLICATES.value // 4, 12, 0.42, "noisy")
    medians = []
    for x, y in zip(studies.x, studies.y, strict=True):
        for error in (0.0, studies.error):
            sample = resampling.resample(np.stack([x, y]), np.full((2, 12), error), DRAWS.value, 0)
            medians.append(np.median(resampling.row_pearson(*sample)) ** 2)
    alone, redrawn = np.array(medians).reshape(-1, 2).mean(axis=0)
    print(
        f"R² .42 without noise, {studies.r**2:.3f} as measured, n = 12: the squared median r of the bootstrap is "
        f"{alone:.3f} on average, with values redrawn {redrawn:.3f}."
    )


def table(head: list[str], rows: list[list[str]]) -> None:
    print(f"| {' | '.join(head)} |\n|{'---|' + '--:|' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


START = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - START:.0f} s: {text}", file=sys.stderr)


def main(argv: list[str]) -> int:
    count = REPLICATES.value
    errors = [196 * math.sqrt(0.05 * 0.95 / studies) for studies in (count, 4 * count)]
    print(f"{count} studies a cell (95% ± {errors[0]:.1f}) for bootstraps of {DRAWS.value} draws, ", end="")
    print(f"{4 * count} (± {errors[1]:.1f}) for closed forms; in %. Columns: n: true R². * is what a study reports.")
    titles = {"exact": "values without noise", "noisy": "values with noise, of what is measured"}
    for kind, title in (titles | {kind: f"{kind} values" for kind in SKEWED}).items():
        print(f"\n## Coverage, {title}\n")
        coverage(kind)
    print()
    attenuation()
    print("\n## Coverage of the difference of two R²\n")
    difference_coverage()
    print("\n## False positives at the 5% level\n")
    false_positives()
    print("\n## Power at the 5% level\n")
    power()
    print(f"\n{time.process_time():.0f} s of one core.")
    return 0


if __name__ == "__main__":
    app.run(main)
