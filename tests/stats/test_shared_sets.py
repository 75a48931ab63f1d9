"""Diversity against performance where benchmarks share data sets: which rows there are, and what they are of."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from jaxdiv.stats.analysis import Analysis, analyse
from jaxdiv.stats.intervals import holm
from jaxdiv.stats.mixed_model import mixed_line
from jaxdiv.stats.rows import Note, Point, Reason
from jaxdiv.stats.shared_sets import share_matrix, shared_sets

SETS = "abcdef"
SHARES = {name: {name: 1.0} for name in SETS} | {f"{a}+{b}": {a: 0.5, b: 0.5} for a, b in combinations(SETS, 2)}


def study(shares=SHARES, methods=("pt", "ho_maml_5", "protonet"), slopes=(0.0, 1.0, 2.0)):
    """Accuracy by method: slope · diversity, and noise."""
    rng = np.random.default_rng(0)
    points = []
    for i, (benchmark, share) in enumerate(shares.items()):
        diversity = 0.3 + 0.01 * i
        for method, slope in zip(methods, slopes, strict=True):
            accuracy = 0.2 + slope * diversity + 0.01 * rng.normal()
            points.append(Point(benchmark, method, "own", diversity, accuracy=accuracy, share=share))
    return points


def accuracy(rows, **what):
    return [row for row in rows if row.metric == "accuracy" and all(getattr(row, k) == v for k, v in what.items())]


def test_every_method_has_a_line_and_every_other_one_a_line_less_pre_training():
    rows = accuracy(shared_sets(study()))
    assert [(row.method, row.minus) for row in rows] == [
        *(("pt", None), ("ho_maml_5", None), ("protonet", None)),
        *(("ho_maml_5", "pt"), ("protonet", "pt")),
    ]
    assert {(row.n, row.sets) for row in rows} == {(21, 6)}
    pt, maml, protonet, *_ = rows
    assert pt.low < 0 < pt.high and maml.effect == pytest.approx(0.1, abs=0.01)
    assert 0.19 < protonet.low < 0.2 < protonet.high < 0.22 and protonet.r2 > 0.95


def test_the_line_of_a_difference_is_that_of_performance_less_pre_trainings():
    points = study()
    row = accuracy(shared_sets(points), method="ho_maml_5", minus="pt")[0]
    names = sorted(SHARES)
    of = {(p.benchmark, p.method): p for p in points}
    x = np.array([of[name, "pt"].diversity for name in names])
    ys = [np.array([of[name, method].accuracy for name in names]) for method in ("ho_maml_5", "pt")]
    shares = share_matrix(names, SHARES)
    line, *each = (mixed_line(x, y, shares) for y in (ys[0] - ys[1], *ys))
    assert (row.effect, row.low, row.high) == pytest.approx((line.slope / 10, line.low / 10, line.high / 10))
    assert row.r2 == pytest.approx(each[0].r ** 2 - each[1].r ** 2) and row.r2_low < row.r2 < row.r2_high


def test_holms_correction_is_apart_for_methods_and_for_differences():
    rows = accuracy(shared_sets(study()))
    for kind in (rows[:3], rows[3:]):
        assert [row.p_holm for row in kind] == pytest.approx(holm([row.p_value for row in kind]))


def test_two_methods_of_equal_values_leave_no_difference_to_test():
    points = [p for p in study() if p.method == "pt"]
    row = accuracy(shared_sets([*points, *(replace(p, method="protonet") for p in points)]), minus="pt")[0]
    assert row.p_value is None and row.notes == (Note(Reason.SETS_NOT_TOLD_APART),)


@pytest.mark.parametrize(
    "why, shares",
    [
        ("no set is shared", {name: {name: 1.0} for name in "abcdefgh"}),
        ("all are of one mixture", {f"b{i}": {"a": 0.4, "b": 0.3, "c": 0.3} for i in range(9)}),
        ("two sets", {f"b{i}": {"a": i / 8, "b": 1 - i / 8} for i in range(9)}),
        ("shares unknown", {f"b{i}": None for i in range(9)}),
    ],
)
def test_there_are_no_rows_where_nothing_can_be_said_of_sets(why, shares):
    assert shared_sets(study(shares)) == [], why


def test_a_benchmark_without_a_value_is_left_out_and_named():
    points = [replace(p, accuracy=None) if (p.benchmark, p.method) == ("a+b", "pt") else p for p in study()]
    row, difference = accuracy(shared_sets(points), method="pt") + accuracy(shared_sets(points), method="protonet")[1:]
    for each in (row, difference):
        assert each.n == 20 and each.notes == (Note(Reason.LEFT_OUT, ("a+b",)),)


def test_an_analysis_has_them_and_keeps_them_as_json():
    points = study(methods=("pt",), slopes=(1.0,))
    diversity = [
        {"benchmark": p.benchmark, "diversity": p.diversity, "ci_low": p.diversity, "ci_high": p.diversity, "tasks": 20}
        for p in points
    ]
    tested = [{"benchmark": p.benchmark, "method": "pt", "test_set": "own", "accuracy": p.accuracy} for p in points]
    norms = {p.benchmark: np.arange(1.0, 21) for p in points}
    found = analyse(diversity, tested, norms, {}, SHARES)
    assert found.shared_sets == tuple(shared_sets(found.points)) and found.shared_sets[0].effect is not None
    assert Analysis.from_json(found.to_json()) == found
