"""Points, their means over seeds, and rows that become JSON and come back."""

import json
import math
from dataclasses import replace

import pytest
from made_up import controlled_analysis, points

from jaxdiv.stats.analysis import Analysis
from jaxdiv.stats.rows import Point, average_seeds, from_json, groups


def test_an_analysis_comes_back_from_json_with_its_enums_and_notes():
    found = controlled_analysis(subsets=2, seeds=1)
    assert Analysis.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert any(row.verdict for row in found.effect_sizes) and any(row.notes for row in found.partial)


def test_a_field_that_json_does_not_have_keeps_its_default_and_one_that_is_unknown_is_ignored():
    row = {"benchmark": "dtd", "method": "pt", "test_set": "own", "diversity": 0.1, "batch_norm": "running"}
    assert from_json(Point, row) == Point("dtd", "pt", "own", 0.1)


def test_a_mean_over_seeds_has_their_mean_half_width_and_keeps_the_values():
    rows = points(1, ("pt",), ("own",), seeds=3)
    rows = [replace(row, accuracy_ci=0.01 * (row.seed + 1)) for row in rows]
    (found,) = average_seeds(rows)
    measured = found.measured["accuracy"]
    assert measured.value == pytest.approx(sum(row.accuracy for row in rows) / 3)
    assert measured.half_width == pytest.approx(0.02) and measured.seeds == tuple(row.accuracy for row in rows)
    assert found.seeds == 3 and found.value("diversity") == pytest.approx(0.1)


def test_a_seed_that_diverged_leaves_no_mean_of_the_others():
    rows = points(2, ("pt",), ("own",), seeds=2)
    rows[0] = replace(rows[0], loss=math.nan)
    (of_loss,) = [group for group in groups(rows) if group.metric == "loss"]
    assert of_loss.names == ("bench1",) and of_loss.lost == ("bench0",)
