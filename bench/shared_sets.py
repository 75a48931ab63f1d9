"""What intervals and tests do where benchmarks share data sets, with the very overlap of a study and a known truth.

    PYTHONPATH=. python bench/shared_sets.py [--replicates=400]

The benchmarks are those of `configs/replication.py`: 36 of seven data sets. Diversity is Σ share · share · distance of
two data sets, whose distances are drawn (about .33 within a set and .60 between two, a little as measured), less for a
part of a set. Accuracy is intercept + slope · diversity + Σ share · effect of the set + noise: the sets have from none
to four fifths of the variance around the line. The truth of R² is the population's: of the expected variances over
such benchmarks. MAML and PT share half of either noise. A last row breaks the model: the sets' effects on accuracy
correlate .7 with their own diversity. Prints Markdown. `bench/correlations.py` has the tests of independent benchmarks.
"""

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from absl import app, flags
from scipy import special, stats

from jaxdiv.configs import replication
from jaxdiv.stats import intervals
from jaxdiv.stats.mixed_model import mixed_line
from jaxdiv.stats.shared_sets import r2_difference

REPLICATES = flags.DEFINE_integer("replicates", 400, "Simulated studies a cell.", lower_bound=10)
RHOS, SET_SHARES = (0.0, 0.3, 0.5, 0.7), (0.0, 0.4, 0.8)
PAIRS = ((0.0, 0.0), (0.5, 0.5), (0.65, 0.39))  # ρ of MAML and of PT; the last are the paper's R² of .42 and .15
Interval = tuple[float, float]


class Design:
    """The overlap of a study's benchmarks, and diversity and noise drawn for it."""

    def __init__(self) -> None:
        config = replication.get_config()
        paths = {name: settings.path for name, settings in config.datasets.items()}
        sets = list(dict.fromkeys(paths.values()))
        parts = [benchmark.split("+") for benchmark in config.benchmarks]
        self.shares = np.array([[sum(paths[p] == s for p in of) / len(of) for s in sets] for of in parts])
        self.n, self.sets = self.shares.shape
        self.alone = self.shares.max(axis=1) == 1
        self.is_part = np.array(["-" in benchmark for benchmark in config.benchmarks])
        self.common = np.var(self.shares, axis=0, ddof=1).sum()  # the variance over benchmarks of effects of variance 1
        rng = np.random.default_rng(0)
        self.diversity_variance = float(np.mean([np.var(self.diversity(rng)[0], ddof=1) for _ in range(4000)]))
        self.relabellings = self._relabellings()

    def diversity(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Of the benchmarks; and of the sets, standardised."""
        distance = np.triu(0.6 + 0.12 * rng.standard_normal((self.sets, self.sets)), 1)
        own = rng.standard_normal(self.sets)
        distance += distance.T + np.diag(0.33 + 0.07 * own)
        found = np.einsum("is,st,it->i", self.shares, distance, self.shares) + 0.03 * rng.standard_normal(self.n)
        return found - self.is_part * (0.05 + 0.03 * rng.standard_normal(self.n)), own

    def noise(self, rng: np.random.Generator, sets_share: float) -> tuple[np.ndarray, np.ndarray]:
        """The sets' effects by their shares, and the benchmarks' own parts; of variance 1 together."""
        effects = math.sqrt(sets_share / self.common) * rng.standard_normal(self.sets)
        return effects, math.sqrt(1 - sets_share) * rng.standard_normal(self.n)

    def slope(self, rho: float) -> float:
        return rho / math.sqrt(1 - rho**2) / math.sqrt(self.diversity_variance)

    def _relabellings(self, count: int = 199) -> np.ndarray:
        """Relabellings of the six whole sets as permutations of benchmarks: of the whole sets and of their pairs, which
        alone are closed under it."""
        whole = np.flatnonzero((~self.is_part) & (self.shares.max(axis=1) >= 0.5))
        sets = np.flatnonzero(self.shares[whole].any(axis=0))
        at = {tuple(np.flatnonzero(self.shares[i])): i for i in whole}
        rng = np.random.default_rng(1)
        found = [np.arange(self.n)]
        for _ in range(count):
            to = dict(zip(sets, rng.permutation(sets), strict=True))
            moved = np.arange(self.n)
            for key, i in at.items():
                moved[i] = at[tuple(sorted(to[s] for s in key))]
            found.append(moved)
        self.whole = whole
        return np.array(found)[:, whole]


def t_interval(value: float, error: float, df: float) -> Interval:
    half = float(special.stdtrit(df, 0.975)) * error
    return value - half, value + half


def slope_of(x: np.ndarray, y: np.ndarray) -> float:
    dx = x - x.mean()
    return float(dx @ y / (dx @ dx))


def z_of(x: np.ndarray, y: np.ndarray) -> float:
    return math.atanh(np.corrcoef(x, y)[0, 1])


def jackknife(of: Callable[[np.ndarray, np.ndarray], float], x: np.ndarray, y: np.ndarray, design: Design) -> Interval:
    """A set and every benchmark with it left out in turn."""
    kept = [design.shares[:, s] == 0 for s in range(design.sets)]
    left = np.array([of(x[rows], y[rows]) for rows in kept])
    error = math.sqrt((design.sets - 1) / design.sets * np.sum((left - left.mean()) ** 2))
    return t_interval(of(x, y), error, design.sets - 1)


def robust(x: np.ndarray, y: np.ndarray, design: Design) -> Interval:
    """Errors of any two benchmarks that share a set may correlate: sets as overlapping clusters, by HC2's residuals."""
    dx, slope = x - x.mean(), slope_of(x, y)
    lever = 1 / design.n + dx**2 / (dx @ dx)
    scores = dx * (y - y.mean() - slope * dx) / np.sqrt(1 - lever)
    meat = max(float(scores @ (design.shares @ design.shares.T > 0) @ scores), float(scores @ scores))
    return t_interval(slope, math.sqrt(meat) / (dx @ dx), design.sets - 1)


def given_shares(x: np.ndarray, y: np.ndarray, design: Design) -> Interval:
    """The sets' effects as fixed ones: the slope among benchmarks of equal shares."""
    columns = np.column_stack([design.shares, x])
    found, _, rank, _ = np.linalg.lstsq(columns, y, rcond=None)
    left, df = y - columns @ found, design.n - rank
    return t_interval(found[-1], math.sqrt(left @ left / df * np.linalg.pinv(columns.T @ columns)[-1, -1]), df)


def relabelled_p(x: np.ndarray, y: np.ndarray, design: Design) -> float:
    """Labels of sets permuted, within whole sets and within pairs (both centred: Freedman and Lane's residuals)."""
    x, y = x[design.whole].copy(), y.copy()
    alone = design.alone[design.whole]
    for which in (alone, ~alone):
        x[which] -= x[which].mean()
        y[design.whole[which]] -= y[design.whole[which]].mean()
    found = np.abs(y[design.relabellings] @ x)
    return float(np.mean(found >= found[0] * (1 - 1e-12)))


def candidates(x: np.ndarray, y: np.ndarray, design: Design) -> dict[str, Interval]:
    """Every interval of a study: those of a slope, and those of r."""
    fit, line = stats.linregress(x, y), mixed_line(x, y, design.shares)
    assert line is not None
    ends = jackknife(z_of, x, y, design)
    return {
        "slope, naive": t_interval(fit.slope, fit.stderr, design.n - 2),
        "slope, mixed model *": (line.low, line.high),
        "slope, sets fixed": given_shares(x, y, design),
        "slope, robust": robust(x, y, design),
        "slope, jackknife": jackknife(slope_of, x, y, design),
        "r, naive": intervals.r_interval(float(fit.rvalue), design.n),
        "r, mixed model *": (line.r_low, line.r_high),
        "r, jackknife": (math.tanh(ends[0]), math.tanh(ends[1])),
        "R², mixed model *": intervals.squared(line.r_low, line.r_high),
    }


def one_method(design: Design) -> None:
    """Coverage of each interval, and how often it does not hold 0: false positives at ρ = 0, else power."""
    covered, found = defaultdict(list), defaultdict(list)
    cells = [(rho, share, 0.0) for rho in RHOS for share in SET_SHARES] + [(0.0, 0.4, 0.7), (0.5, 0.4, 0.7)]
    for rho, sets_share, tied in cells:
        rng = np.random.default_rng([int(100 * rho), int(10 * sets_share), int(10 * tied)])
        slope = design.slope(rho)
        truth = {"s": slope, "r": rho, "R": rho**2}
        held, seen = defaultdict(list), defaultdict(list)
        for _ in range(REPLICATES.value):
            x, own = design.diversity(rng)
            effects, rest = design.noise(rng, sets_share)
            size = math.sqrt(sets_share / design.common)
            effects = math.sqrt(1 - tied**2) * effects + tied * size * own
            y = slope * x + design.shares @ effects + rest
            for name, (low, high) in candidates(x, y, design).items():
                held[name].append(low <= truth[name[0]] <= high)
                seen[name].append(not low <= 0 <= high)
            seen["relabelled sets"].append(relabelled_p(x, y, design) < 0.05)
        for name in seen:
            covered[name].append(f"{100 * np.mean(held[name]):.1f}" if held[name] else "–")
            found[name].append(f"{100 * np.mean(seen[name]):.0f}")
    heads = [f"{rho:g}: {share:g}{' tied' * (tied > 0)}" for rho, share, tied in cells]
    print("\n## Coverage, %. Columns: ρ, and the sets' share of the variance around the line\n")
    table(["interval", *heads], [[name, *cells] for name, cells in covered.items() if "–" not in cells])
    print("\n## Not holding 0, %: false positives at ρ = 0, else power\n")
    table(["test", *heads], [[name, *cells] for name, cells in found.items()])


def two_methods(design: Design) -> None:
    """MAML less PT: coverage of the difference of slopes and of R², and how often they are not 0."""
    rows = []
    for first, second in PAIRS:
        for sets_share in SET_SHARES:
            rng = np.random.default_rng([int(100 * first), int(100 * second), int(10 * sets_share)])
            slopes = [design.slope(rho) for rho in (first, second)]
            held, seen = defaultdict(list), defaultdict(list)
            for _ in range(REPLICATES.value):
                x, _ = design.diversity(rng)
                drawn = [design.noise(rng, sets_share) for _ in range(3)]
                noises = [design.shares @ effects + rest for effects, rest in drawn]
                ys = [s * x + (noises[0] + noise) / math.sqrt(2) for s, noise in zip(slopes, noises[1:], strict=True)]
                gap, lines = mixed_line(x, ys[0] - ys[1], design.shares), [mixed_line(x, y, design.shares) for y in ys]
                assert gap is not None and lines[0] is not None and lines[1] is not None
                naive = stats.linregress(x, ys[0] - ys[1])
                between = float(np.corrcoef(*ys)[0, 1])
                ends = {
                    "slope, naive": t_interval(naive.slope, naive.stderr, design.n - 2),
                    "slope, mixed model *": (gap.low, gap.high),
                    "R², mixed model *": r2_difference(lines[0], lines[1], between)[1:],
                }
                truth = {"s": slopes[0] - slopes[1], "R": first**2 - second**2}
                for name, (low, high) in ends.items():
                    held[name].append(low <= truth[name[0]] <= high)
                    seen[name].append(not low <= 0 <= high)
            cells = [f"{100 * np.mean(held[name]):.1f} / {100 * np.mean(seen[name]):.0f}" for name in held]
            rows.append([f"ρ {first:g} and {second:g}, sets' share {sets_share:g}", *cells])
    print("\n## MAML minus PT: coverage, % / not holding 0, %\n")
    table(["truth", *held], rows)


def table(head: list[str], rows: list[list[str]]) -> None:
    print(f"| {' | '.join(head)} |\n|{'---|' + '--:|' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main(argv: list[str]) -> int:
    design, count = Design(), REPLICATES.value
    print(f"{design.n} benchmarks of {design.sets} data sets, {count} studies a cell ", end="")
    print(f"(95% ± {196 * math.sqrt(0.05 * 0.95 / count):.1f}). * is what a study reports.", flush=True)
    two_methods(design)
    one_method(design)
    return 0


if __name__ == "__main__":
    app.run(main)
