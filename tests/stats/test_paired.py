"""Kinds of tasks against their counterparts: a one-sample t over sources, seeds and draws averaged."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from jaxdiv.stats.paired import Counterpart, Help, paired_effects
from jaxdiv.stats.rows import Note, Point, Reason

SOURCES, SEEDS, DRAWS = ("a", "b", "c"), (0, 1), ("x", "x-1")
DIVERSITY = {"": 0.3, "x": 0.1, "x-1": 0.2, "y": 0.5}
COUNTERPARTS = {
    f"{source}@{name}": Counterpart(name.partition("-")[0], source, (source,))
    for source in SOURCES
    for name in DIVERSITY
    if name
}


def study(gain_x=0.0, gain_y=0.0, noise=0.01, seed=0):
    """Points of three sources: uniform, two draws of kind x, and kind y; a source moves all of its own alike."""
    rng, points = np.random.default_rng(seed), []
    for source in SOURCES:
        level = rng.uniform(0.3, 0.6)
        for name, diversity in DIVERSITY.items():
            for run in SEEDS:
                gain = {"x": gain_x, "y": gain_y}.get(name[:1], 0.0)
                accuracy = level + gain + noise * rng.normal()
                loss = 2 - 3 * accuracy
                benchmark = f"{source}@{name}" if name else source
                points.append(Point(benchmark, "pt", "own", diversity, run, accuracy=accuracy, loss=loss))
    return points


def rows_of(points):
    return {(row.kind, row.metric): row for row in paired_effects(points, COUNTERPARTS)}


def test_a_difference_is_students_t_over_sources_of_seeds_and_draws_averaged():
    points = study(0.02)
    at = {(point.benchmark, point.seed): point.accuracy for point in points}
    cells = [
        (at[f"{source}@x", seed] + at[f"{source}@x-1", seed]) / 2 - at[source, seed]
        for source in SOURCES
        for seed in SEEDS
    ]
    expected = stats.ttest_1samp(np.reshape(cells, (3, 2)).mean(1), 0)
    row = rows_of(points)["x", "accuracy"]
    assert (row.difference, row.p_value) == pytest.approx((np.mean(cells), expected.pvalue))
    assert (row.low, row.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert (row.sources, row.seeds, row.method, row.test_set) == (3, 2, "pt", "own")
    assert row.by_source == pytest.approx({source: np.mean(cells[2 * i : 2 * i + 2]) for i, source in enumerate("abc")})
    assert (row.diversity, row.other_diversity) == pytest.approx((0.15, 0.3))


def test_holm_is_over_the_kinds_of_a_method_metric_and_test_set():
    found = rows_of(study(0.02, 0.004))
    x, y = found["x", "accuracy"], found["y", "accuracy"]
    small, large = sorted([x, y], key=lambda row: row.p_value)
    assert small.p_holm == pytest.approx(min(2 * small.p_value, 1))
    assert large.p_holm == pytest.approx(max(large.p_value, small.p_holm))


def test_better_and_worse_need_significance_and_not_better_an_interval_below_a_hundredth():
    found = rows_of(study(0.1, -0.1))
    assert found["x", "accuracy"].found == found["x", "loss"].found == Help.BETTER  # a smaller loss is better
    assert found["y", "accuracy"].found == found["y", "loss"].found == Help.WORSE
    exact = rows_of(study(noise=0.002))
    assert exact["x", "accuracy"].found == Help.NOT_BETTER and exact["x", "loss"].found == Help.UNDECIDED
    assert rows_of(study(noise=0.1))["x", "accuracy"].found == Help.UNDECIDED


def test_a_value_that_is_not_finite_leaves_out_its_seed_and_is_named():
    points = study()
    points = [
        replace(point, accuracy=math.nan) if (point.benchmark, point.seed) == ("b@x-1", 1) else point
        for point in points
    ]
    found = rows_of(points)
    row = found["x", "accuracy"]
    assert row.notes == (Note(Reason.LEFT_OUT, ("b",)),) and math.isfinite(row.difference)
    assert not found["y", "accuracy"].notes and not found["x", "loss"].notes
    whole = [point for point in points if not (point.seed == 1 and point.benchmark.startswith("b"))]
    assert row.difference == pytest.approx(rows_of(whole)["x", "accuracy"].difference)


def test_one_cell_has_no_interval_and_a_kind_without_its_counterpart_no_row():
    one = [point for point in study() if point.benchmark in ("a", "a@y") and point.seed == 0]
    (row, _) = paired_effects(one, COUNTERPARTS)
    assert row.kind == "y" and row.difference is None and row.notes == (Note(Reason.TOO_FEW_PAIRS),)
    assert paired_effects([point for point in one if point.benchmark == "a"], COUNTERPARTS) == []
    assert paired_effects(study(), {}) == []


def test_of_one_source_the_interval_is_over_its_seeds():
    points = [point for point in study(0.02) if point.benchmark in ("a", "a@y")]
    at = {(point.benchmark, point.seed): point.accuracy for point in points}
    expected = stats.ttest_1samp([at["a@y", seed] - at["a", seed] for seed in SEEDS], 0)
    row = rows_of(points)["y", "accuracy"]
    assert row.sources == 1 and row.p_value == pytest.approx(expected.pvalue) and math.isfinite(row.low)
