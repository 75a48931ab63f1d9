"""The controlled experiment: a regression with blocks, whose interval covers and whose seeds are no subsets."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from made_up import benchmarks
from scipy import stats

from jaxdiv.methods.registry import METHODS
from jaxdiv.stats.confounders import (
    partial_correlations,
)
from jaxdiv.stats.controlled import controlled_experiment
from jaxdiv.stats.rows import Note, Reason, average_seeds


def accuracy_row(rows, method):
    (row,) = [row for row in rows if row.metric == "accuracy" and row.method == method]
    return row


def experiment(rng, effect, blocks=3, seeds=2, sd_subsets=0.01, sd_seeds=0.01, methods=("pt", "ho_maml_5")):
    """Points of a controlled experiment in which MAML gains `effect` per unit of diversity, and PT half of it."""
    rows = []
    for level, base in zip(("low", "middle", "high"), (0.2, 0.3, 0.4), strict=True):
        for block in range(1, blocks + 1):
            diversity = base + 0.02 * rng.normal()
            for method in methods:
                mean = 0.05 * block + diversity * effect * (0.5 if method == "pt" else 1) + sd_subsets * rng.normal()
                of_seeds = [mean + sd_seeds * rng.normal(size=seeds)]
                (row, *others) = benchmarks([diversity], of_seeds, method=method, test_set="fixed", seeds=seeds)
                rows += [replace(r, benchmark=f"{level}-{block}") for r in (row, *others)]
    return rows


def test_the_controlled_effect_is_that_of_a_regression_with_blocks():
    rows = experiment(np.random.default_rng(12), 0.5)
    found = accuracy_row(controlled_experiment(rows), method="ho_maml_5")
    averaged = [r for r in average_seeds(rows) if r.method == "ho_maml_5"]
    design = np.array(
        [[r.value("diversity"), *(r.benchmark.endswith(str(b)) for b in (1, 2, 3))] for r in averaged], float
    )
    y = np.array([r.value("accuracy") for r in averaged])
    coefficients, left, *_ = np.linalg.lstsq(design, y, rcond=None)
    error = math.sqrt(left[0] / 5 * np.linalg.inv(design.T @ design)[0, 0])
    half = stats.t.ppf(0.975, 5) * error
    ends = (coefficients[0] / 10, (coefficients[0] - half) / 10, (coefficients[0] + half) / 10)
    assert (found.effect, found.low, found.high) == pytest.approx(ends)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(coefficients[0]) / error, 5))
    assert (found.subsets, found.seeds) == (9, 2)
    # Balanced: the contrast of levels is the difference of their means.
    assert found.high_minus_low == pytest.approx(found.means["high"] - found.means["low"])


def test_the_interval_of_the_controlled_effect_covers_and_seeds_are_no_subsets():
    """Subsets vary much and seeds little: taking seeds for replicates would cover far less."""
    rng = np.random.default_rng(13)
    truth = {("pt", ()): 0.03, ("ho_maml_5", ()): 0.06, ("ho_maml_5", ("pt",)): 0.03}
    held = {which: [] for which in truth}
    for _ in range(400):
        rows = controlled_experiment(experiment(rng, 0.6, sd_subsets=0.03, sd_seeds=0.002))
        found = {(row.methods[0], row.minus): row for row in rows if row.metric == "accuracy" and len(row.methods) == 1}
        for which, effect in truth.items():
            held[which].append(found[which].low <= effect <= found[which].high)
    for values in held.values():
        assert np.mean(values) == pytest.approx(0.95, abs=0.033)  # three standard errors of 400 draws


def test_the_parts_of_the_variance_are_told_apart():
    rng = np.random.default_rng(14)
    rows = [accuracy_row(controlled_experiment(experiment(rng, 0.5, 5, 4, 0.03, 0.01)), method="pt") for _ in range(60)]
    assert np.mean([r.sd_seeds**2 for r in rows]) == pytest.approx(0.01**2, rel=0.15)
    assert np.mean([r.sd_subsets**2 for r in rows]) == pytest.approx(0.03**2, rel=0.15)


def test_a_controlled_experiment_cut_short_says_so():
    rng = np.random.default_rng(15)
    whole = experiment(rng, 0.5, seeds=1)
    row = accuracy_row(controlled_experiment(whole), method="pt")
    assert row.sd_seeds is None and row.effect is not None
    two = [r for r in whole if r.benchmark in ("low-1", "high-1")]
    row = accuracy_row(controlled_experiment(two), method="pt")
    assert row.effect is None and row.subsets == 2 and row.notes == (Note(Reason.TOO_FEW_SUBSETS),)
    no_high = [r for r in whole if not r.benchmark.startswith("high")]
    row = accuracy_row(controlled_experiment(no_high), method="pt")
    assert row.effect is not None and row.high_minus_low is None and "high" not in row.means
    flat = [replace(r, accuracy=0.2, loss=1.0) for r in whole]
    for row in controlled_experiment(flat):
        assert row.effect is row.p_value is None and row.notes == (Note(Reason.SAME_Y),)
        numbers = [value for value in asdict(row).values() if isinstance(value, float)]
        assert np.isfinite(numbers).all()
    partial = accuracy_row(partial_correlations(flat), method="pt")
    assert partial.covariates_r2 is None and partial.r is None
    assert controlled_experiment(benchmarks([1, 2, 3], [1, 2, 3])) == []


def test_each_family_stands_against_pre_training_alone(monkeypatch):
    monkeypatch.setitem(METHODS, "relation", replace(METHODS["pt"], family="relations", label="RelationNet"))
    methods = ("pt", "fo_maml_5", "ho_maml_5", "relation")
    rows = controlled_experiment(experiment(np.random.default_rng(16), 0.5, methods=methods))
    found = [(row.methods, row.minus) for row in rows if row.metric == "accuracy"]
    assert found[:4] == [((method,), ()) for method in methods] and found[4] == (methods, ())
    assert found[5:] == [(("fo_maml_5", "ho_maml_5"), ("pt",)), (("relation",), ("pt",))]
