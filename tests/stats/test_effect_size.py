"""Cohen's d over pre-training on the same tasks, the group's 1% rule, and what the interval supports."""

import math
from dataclasses import replace

import numpy as np
import pytest
from made_up import benchmarks
from scipy import stats

from jaxdiv.methods.registry import METHODS
from jaxdiv.stats.effect_size import Comparison, EffectSize, effect_size_trends, effect_sizes
from jaxdiv.stats.rows import Note, Reason


def compared(ours, theirs):
    rows = benchmarks([0.1], [0.5]) + benchmarks([0.1], [0.5], method="ho_maml_5")
    (row,) = effect_sizes(rows, {("bench0", "ho_maml_5", "own"): ours, ("bench0", "pt", "own"): theirs})
    return row


def test_effect_size_is_cohens_d_and_the_interval_is_the_paired_t():
    rng = np.random.default_rng(9)
    theirs = rng.normal(0.6, 0.1, 50)
    ours = theirs + rng.normal(0.03, 0.05, 50)
    row = compared(ours, theirs)
    pooled = math.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2)
    assert row.d == pytest.approx((ours.mean() - theirs.mean()) / pooled)
    assert row.threshold == pytest.approx(0.01 / pooled) and row.rule is Comparison.BETTER
    limits = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx((limits.low, limits.high))
    assert row.verdict is (Comparison.BETTER if limits.low > 0.01 else Comparison.UNDECIDED)


def test_the_interval_of_d_holds_the_true_one_in_95_of_100_studies():
    rng = np.random.default_rng(10)
    held = []
    for _ in range(2000):
        shared, noise = rng.normal(size=40), rng.normal(size=(2, 40))
        ours, theirs = 0.8 + math.sqrt(0.6) * shared + math.sqrt(0.4) * noise
        row = compared(ours, theirs - 0.8)
        held.append(row.d_low <= 0.8 <= row.d_high)
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.parametrize(
    ("shift", "spread", "rule", "verdict"),
    [
        (0.05, 0.01, Comparison.BETTER, Comparison.BETTER),
        (-0.05, 0.01, Comparison.WORSE, Comparison.WORSE),
        (0.0, 0.005, Comparison.ALIKE, Comparison.ALIKE),
        (0.03, 0.4, Comparison.BETTER, Comparison.UNDECIDED),
    ],
)
def test_the_one_percent_rule_and_what_the_interval_supports(shift, spread, rule, verdict):
    rng = np.random.default_rng(11)
    noise = rng.normal(size=60)
    row = compared(0.5 + shift + spread * (noise - noise.mean()), 0.5 + 0.05 * np.linspace(-1, 1, 60))
    assert row.verdict is verdict and row.rule is rule


def test_effect_sizes_of_nothing_to_compare():
    constant = compared(np.full(25, 0.3), np.full(25, 0.1))  # whose means round
    assert constant.d is None and constant.notes == (Note(Reason.SAME_TASKS),)
    rng = np.random.default_rng(16)
    theirs = rng.uniform(0.2, 0.8, 25)
    assert compared(theirs + 0.05, theirs).d_paired is None
    same = compared(np.full(5, 0.5), np.full(5, 0.5))
    assert same.d is None and same.verdict is Comparison.ALIKE and same.notes == (Note(Reason.SAME_TASKS),)
    assert compared(np.array([0.1, 0.2]), np.array([0.1, 0.3])).notes == (Note(Reason.TOO_FEW_TASKS),)
    assert effect_sizes(benchmarks([0.1], [0.5]), {("bench0", "pt", "own"): np.ones(5)}) == []
    assert effect_size_trends([]) == []


def test_d_against_diversity_is_the_squared_correlation():
    diversity, d = [0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.8, 0.9]
    rows = [
        EffectSize(f"b{i}", "ho_maml_5", "pt", "own", x, tasks=20, difference=0.0, d=y)
        for i, (x, y) in enumerate(zip(diversity, d, strict=True))
    ]
    (found,) = effect_size_trends([*rows, replace(rows[0], benchmark="lost", d=None)])
    assert found.n == 4 and found.r2 == pytest.approx(np.corrcoef(diversity, d)[0, 1] ** 2)


def test_every_family_but_pre_trainings_is_compared_with_pre_training(monkeypatch):
    monkeypatch.setitem(METHODS, "relation", replace(METHODS["pt"], family="relations", label="RelationNet"))
    tasks = np.random.default_rng(17).uniform(size=(3, 9))
    per_task = {("bench0", m, "own"): of for m, of in zip(("relation", "ho_maml_5", "pt"), tasks, strict=True)}
    rows = effect_sizes(benchmarks([0.1], [0.5]), per_task)
    assert [(row.method, row.baseline) for row in rows] == [("ho_maml_5", "pt"), ("relation", "pt")]
    assert rows[1].difference == pytest.approx(tasks[0].mean() - tasks[2].mean())
    alone = {key: of for key, of in per_task.items() if key[1] != "pt"}
    assert effect_sizes(benchmarks([0.1], [0.5]), alone) == []
