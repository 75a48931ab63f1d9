"""What else could explain a correlation: partial correlations, matching, effect sizes, and a planted truth."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxdiv.stats import controls


def points(diversity, accuracy, images=None, method="pt", test_set="own", seeds=1, **more):
    """Rows of points from lists over benchmarks; an accuracy may be a list over seeds."""
    rows = []
    for b, value in enumerate(diversity):
        of_seeds = np.broadcast_to(accuracy[b], seeds)
        for seed in range(seeds):
            rows.append(
                {
                    "benchmark": f"bench{b}",
                    "method": method,
                    "seed": seed,
                    "test_set": test_set,
                    "diversity": float(value),
                    "accuracy": float(of_seeds[seed]),
                    "loss": 2 - float(of_seeds[seed]),
                    "train_images": 100 if images is None else float(images[b]),
                    "train_classes": 10,
                }
                | {key: values[b] for key, values in more.items()}
            )
    return rows


def accuracy_row(rows, **want):
    want = {"metric": "accuracy"} | want
    (row,) = [row for row in rows if all(row[key] == value for key, value in want.items() if key in row)]
    return row


def test_partial_correlation_is_the_inverse_correlation_matrixs():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 15))
    x, y = 0.7 * z[0] + rng.normal(size=15), 0.5 * z[0] - z[1] + rng.normal(size=15)
    found = controls.partial_correlation(x, y, {"a": z[0], "b": z[1]})
    precision = np.linalg.inv(np.corrcoef([x, y, *z]))
    expected = -precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1])
    assert found.r == pytest.approx(expected, rel=1e-10)
    t = expected * math.sqrt(11 / (1 - expected**2))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 11), rel=1e-10)
    low, high = np.tanh(np.arctanh(expected) + np.array([-1, 1]) * stats.norm.ppf(0.975) / math.sqrt(15 - 2 - 3))
    assert (found.low, found.high) == pytest.approx((low, high))
    fit = np.column_stack([np.ones(15), *z])
    left = y - fit @ np.linalg.lstsq(fit, y, rcond=None)[0]
    assert found.covariates_r2 == pytest.approx(1 - left.var() / y.var())


def test_a_covariate_that_does_not_vary_or_repeats_another_is_named_and_not_used():
    x, y, z = np.random.default_rng(1).normal(size=(3, 9))
    alone = controls.partial_correlation(x, y, {"z": z})
    found = controls.partial_correlation(x, y, {"constant": np.full(9, 7.0), "z": z, "twice": 2 * z + 3})
    assert found.given == ("z",) and "constant, twice" in found.note
    assert found.r == pytest.approx(alone.r, rel=1e-12)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_benchmarks_for_the_covariates_are_said(n):
    x, y, z = np.random.default_rng(2).normal(size=(3, n))
    found = controls.partial_correlation(x, y, {"z": z})
    assert found.r is None and found.p_value is None and f"{n} benchmarks are too few" in found.note


def test_diversity_that_is_all_size_leaves_nothing_to_correlate():
    z, y = np.random.default_rng(3).normal(size=(2, 8))
    found = controls.partial_correlation(2 * z + 1, y, {"z": z})
    assert found.r is None and "leave nothing of diversity" in found.note
    flat = controls.partial_correlation(z, np.ones(8), {"y": y})
    assert flat.r is None and "leave nothing of performance" in flat.note


def test_partial_rows_take_sizes_and_omniglots_share_and_correct_for_their_number():
    rng = np.random.default_rng(4)
    images = np.exp(rng.normal(size=10))
    shares = [{"omniglot": s, "dtd": 1 - s} for s in rng.uniform(size=10)]
    rows = controls.partial_correlations(points(rng.normal(size=10), rng.normal(size=10), images, share=shares))
    row = accuracy_row(rows)
    assert row["given"] == "log images, share of omniglot" and "log classes" in row["note"]
    assert row["r2"] == pytest.approx(row["r"] ** 2) and row["n"] == 10
    assert [r["p_holm"] for r in rows] == pytest.approx([min(1, 2 * min(r["p_value"] for r in rows))] * 2)
    assert (
        "not known: share of omniglot" in controls.partial_correlations(points([1, 2, 3, 4.5], [1, 2, 2, 3]))[0]["note"]
    )


def test_omniglots_share_is_no_covariate_where_no_benchmark_has_any():
    rng = np.random.default_rng(17)
    shares = [{"dtd": 1.0}] * 8
    images = np.exp(rng.normal(size=8))
    for row in controls.partial_correlations(points(rng.normal(size=8), rng.normal(size=8), images, share=shares)):
        assert "omniglot" not in row["given"] + row["note"]


def test_where_no_covariate_varies_there_is_no_partial_correlation_but_a_reason():
    rng = np.random.default_rng(18)
    for row in controls.partial_correlations(points(rng.normal(size=8), rng.normal(size=8), share=[{}] * 8)):
        assert row["given"] == controls.NOTHING and row["raw_r2"] > 0
        assert [row[key] for key in ("r2", "r", "low", "high", "p_value", "p_holm", "covariates_r2")] == [None] * 7
        assert row["note"] == "all benchmarks have the same number of images and number of classes"
    unknown = points(rng.normal(size=8), rng.normal(size=8), train_images=[None] * 8, train_classes=[None] * 8)
    row = controls.partial_correlations(unknown)[0]
    assert row["r2"] is None and row["note"] == "not known: log images, log classes, share of omniglot"


def planted(rng, truth, n):
    """A study whose size and diversity go together (r about .6), and what its accuracy depends on: `truth`."""
    size = rng.normal(size=n)
    diversity = 0.6 * size + 0.8 * rng.normal(size=n)
    signal = {"size": size, "diversity": diversity, "both": size + diversity}[truth]
    return points(diversity, signal + 0.5 * rng.normal(size=n), np.exp(size))


@pytest.mark.parametrize("truth", ["size", "diversity", "both"])
def test_a_planted_truth_is_found_in_nine_of_ten_studies(truth):
    """100 studies of 20 benchmarks; `bench/correlations.py` has the table over the number of benchmarks."""
    rng = np.random.default_rng(5)
    verdicts = [accuracy_row(controls.size_or_diversity(planted(rng, truth, 20)))["verdict"] for _ in range(100)]
    assert verdicts.count(truth) >= 90


def test_a_raw_correlation_would_have_blamed_diversity_where_only_size_acts():
    rng = np.random.default_rng(6)
    studies = [planted(rng, "size", 20) for _ in range(100)]
    raw = [stats.pearsonr([p["diversity"] for p in s], [p["accuracy"] for p in s]).pvalue < 0.05 for s in studies]
    given = [accuracy_row(controls.partial_correlations(s))["p_value"] < 0.05 for s in studies]
    assert np.mean(raw) > 0.5 and np.mean(given) <= 0.12


def test_equal_sizes_and_unknown_sizes_give_no_verdict_but_a_reason():
    rng = np.random.default_rng(7)
    row = accuracy_row(controls.size_or_diversity(points(rng.normal(size=8), rng.normal(size=8))))
    assert row["verdict"] is None and "one size" in row["note"]
    row = accuracy_row(controls.size_or_diversity(points([1, 2], [1, 2], [5, 7])))
    assert row["verdict"] is None and "too few" in row["note"]
    row = accuracy_row(controls.size_or_diversity(points([1, 2, 3, 4], [1, 2, 3, 5], train_images=[None] * 4)))
    assert row["verdict"] is None and "not known" in row["note"]


def test_matching_keeps_the_largest_group_of_like_complexity():
    rng = np.random.default_rng(8)
    centre = [1.0, 5.0, 5.05, 5.1, 9.0]
    norms = {f"bench{b}": c + rng.normal(0, 0.2, 400) for b, c in enumerate(centre)}
    found = controls.complexity_matched(points([1, 2, 3, 4, 5], [1, 2, 4, 3, 9]), norms)
    assert found["matched"] == ["bench1", "bench2", "bench3"]
    row = accuracy_row(found["rows"])
    assert row["n"] == 3 and row["r2"] == pytest.approx(0.25)
    assert [b["matched"] for b in found["benchmarks"]] == [False, True, True, True, False]
    for b in found["benchmarks"]:
        assert b["low"] < b["complexity"] < b["high"]
    alone = controls.complexity_matched(points([1, 2], [1, 2]), {"bench0": np.ones(4), "bench1": np.full(4, 2.0)})
    assert len(alone["matched"]) == 1 and alone["rows"][0]["r2"] is None and "1 benchmark" in alone["rows"][0]["note"]
    assert controls.complexity_matched([], {}) == {"matched": [], "largest_d": 0.5, "rows": [], "benchmarks": []}


def compared(ours, theirs):
    rows = points([0.1], [0.5]) + points([0.1], [0.5], method="ho_maml_5")
    (row,) = controls.pt_against_maml(rows, {("bench0", "ho_maml_5", "own"): ours, ("bench0", "pt", "own"): theirs})
    return row


def test_effect_size_is_cohens_d_and_the_interval_is_the_paired_t():
    rng = np.random.default_rng(9)
    theirs = rng.normal(0.6, 0.1, 50)
    ours = theirs + rng.normal(0.03, 0.05, 50)
    row = compared(ours, theirs)
    pooled = math.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2)
    assert row["d"] == pytest.approx((ours.mean() - theirs.mean()) / pooled)
    assert row["threshold"] == pytest.approx(0.01 / pooled) and row["rule"] == "MAML"
    limits = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((limits.low, limits.high))
    assert row["verdict"] == ("MAML" if limits.low > 0.01 else "undecided")


def test_the_interval_of_d_holds_the_true_one_in_95_of_100_studies():
    rng = np.random.default_rng(10)
    held = []
    for _ in range(2000):
        shared, noise = rng.normal(size=40), rng.normal(size=(2, 40))
        ours, theirs = 0.8 + math.sqrt(0.6) * shared + math.sqrt(0.4) * noise
        row = controls._compare(ours + 0.0, theirs - 0.8)
        held.append(row["d_low"] <= 0.8 <= row["d_high"])
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.parametrize(
    ("shift", "spread", "rule", "verdict"),
    [
        (0.05, 0.01, "MAML", "MAML"),
        (-0.05, 0.01, "PT", "PT"),
        (0.0, 0.005, "no difference", "within 1%"),
        (0.03, 0.4, "MAML", "undecided"),
    ],
)
def test_the_one_percent_rule_and_what_the_interval_supports(shift, spread, rule, verdict):
    rng = np.random.default_rng(11)
    noise = rng.normal(size=60)
    row = compared(0.5 + shift + spread * (noise - noise.mean()), 0.5 + 0.05 * np.linspace(-1, 1, 60))
    assert row["verdict"] == verdict and row["rule"] == rule


def test_effect_sizes_of_nothing_to_compare():
    constant = compared(np.full(25, 0.3), np.full(25, 0.1))  # whose means round
    assert constant["d"] is None and "undefined" in constant["note"]
    rng = np.random.default_rng(16)
    theirs = rng.uniform(0.2, 0.8, 25)
    assert compared(theirs + 0.05, theirs)["d_paired"] is None
    same = compared(np.full(5, 0.5), np.full(5, 0.5))
    assert same["d"] is None and same["verdict"] == "within 1%" and "undefined" in same["note"]
    assert "no interval" in compared(np.array([0.1, 0.2]), np.array([0.1, 0.3]))["note"]
    assert controls.pt_against_maml(points([0.1], [0.5]), {("bench0", "pt", "own"): np.ones(5)}) == []
    assert controls.d_on_diversity([]) == []


def test_d_against_diversity_is_the_squared_correlation():
    diversity, d = [0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.8, 0.9]
    rows = [
        {"benchmark": f"b{i}", "method": "ho_maml_5", "test_set": "own", "diversity": x, "d": y}
        for i, (x, y) in enumerate(zip(diversity, d, strict=True))
    ]
    (found,) = controls.d_on_diversity([*rows, rows[0] | {"benchmark": "lost", "d": None}])
    assert found["n"] == 4 and found["r2"] == pytest.approx(np.corrcoef(diversity, d)[0, 1] ** 2)


def experiment(rng, effect, blocks=3, seeds=2, sd_subsets=0.01, sd_seeds=0.01, methods=("pt", "ho_maml_5")):
    """Points of a controlled experiment in which MAML gains `effect` per unit of diversity, and PT half of it."""
    rows = []
    for level, base in zip(("low", "middle", "high"), (0.2, 0.3, 0.4), strict=True):
        for block in range(1, blocks + 1):
            diversity = base + 0.02 * rng.normal()
            for method in methods:
                mean = 0.05 * block + diversity * effect * (0.5 if method == "pt" else 1) + sd_subsets * rng.normal()
                of_seeds = [mean + sd_seeds * rng.normal(size=seeds)]
                (row, *others) = points([diversity], of_seeds, method=method, test_set="fixed", seeds=seeds)
                rows += [r | {"benchmark": f"{level}-{block}"} for r in (row, *others)]
    return rows


def test_the_controlled_effect_is_that_of_a_regression_with_blocks():
    rows = experiment(np.random.default_rng(12), 0.5)
    found = accuracy_row(controls.controlled_effect(rows), method="ho_maml_5")
    averaged = [r for r in controls.average_seeds(rows) if r["method"] == "ho_maml_5"]
    design = np.array(
        [[r["diversity"], *(r["benchmark"].endswith(str(b)) for b in (1, 2, 3))] for r in averaged], float
    )
    y = np.array([r["accuracy"] for r in averaged])
    coefficients, left, *_ = np.linalg.lstsq(design, y, rcond=None)
    error = math.sqrt(left[0] / 5 * np.linalg.inv(design.T @ design)[0, 0])
    half = stats.t.ppf(0.975, 5) * error
    ends = (coefficients[0] / 10, (coefficients[0] - half) / 10, (coefficients[0] + half) / 10)
    assert (found["effect"], found["low"], found["high"]) == pytest.approx(ends)
    assert found["p_value"] == pytest.approx(2 * stats.t.sf(abs(coefficients[0]) / error, 5))
    assert (found["subsets"], found["seeds"]) == (9, 2)
    # Balanced: the contrast of levels is the difference of their means.
    assert found["high_minus_low"] == pytest.approx(found["means"]["high"] - found["means"]["low"])


def test_the_interval_of_the_controlled_effect_covers_and_seeds_are_no_subsets():
    """Subsets vary much and seeds little: taking seeds for replicates would cover far less."""
    rng = np.random.default_rng(13)
    held = {"pt": [], "ho_maml_5": [], "maml minus pt": []}
    truth = {"pt": 0.03, "ho_maml_5": 0.06, "maml minus pt": 0.03}
    for _ in range(400):
        rows = controls.controlled_effect(experiment(rng, 0.6, sd_subsets=0.03, sd_seeds=0.002))
        for method in held:
            row = accuracy_row(rows, method=method)
            held[method].append(row["low"] <= truth[method] <= row["high"])
    for values in held.values():
        assert np.mean(values) == pytest.approx(0.95, abs=0.033)  # three standard errors of 400 draws


def test_the_parts_of_the_variance_are_told_apart():
    rng = np.random.default_rng(14)
    rows = [
        accuracy_row(controls.controlled_effect(experiment(rng, 0.5, 5, 4, 0.03, 0.01)), method="pt") for _ in range(60)
    ]
    assert np.mean([r["sd_seeds"] ** 2 for r in rows]) == pytest.approx(0.01**2, rel=0.15)
    assert np.mean([r["sd_subsets"] ** 2 for r in rows]) == pytest.approx(0.03**2, rel=0.15)


def test_a_controlled_experiment_cut_short_says_so():
    rng = np.random.default_rng(15)
    whole = experiment(rng, 0.5, seeds=1)
    row = accuracy_row(controls.controlled_effect(whole), method="pt")
    assert row["sd_seeds"] is None and row["effect"] is not None
    two = [r for r in whole if r["benchmark"] in ("low-1", "high-1")]
    row = accuracy_row(controls.controlled_effect(two), method="pt")
    assert row["effect"] is None and "2 subsets" in row["note"]
    no_high = [r for r in whole if not r["benchmark"].startswith("high")]
    row = accuracy_row(controls.controlled_effect(no_high), method="pt")
    assert row["effect"] is not None and row["high_minus_low"] is None and "high" not in row["means"]
    flat = [r | {"accuracy": 0.2, "loss": 1.0} for r in whole]
    for row in controls.controlled_effect(flat):
        assert row["effect"] is row["p_value"] is None and "have the same" in row["note"]
        numbers = [value for value in row.values() if isinstance(value, float)]
        assert np.isfinite(numbers).all()
    partial = accuracy_row(controls.partial_correlations(flat), method="pt")
    assert partial["covariates_r2"] is None and partial["r"] is None
    assert controls.controlled_effect(points([1, 2, 3], [1, 2, 3])) == []
