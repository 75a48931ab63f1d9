"""The figure of how training went."""

import json

from jaxdiv.report.curves import Curve, read_curve, write_curves


def test_a_curve_is_the_validations_of_a_runs_metrics(tmp_path):
    lines = [
        {"step": 1, "loss": 2.0},
        {"step": 5, "validation": {"accuracy": 0.4, "loss": 1.0}},
        {"step": 6, "loss": 1},
    ]
    lines += [{"step": 10, "validation": {"accuracy": 0.7, "loss": 0.6}}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_curve("a", "pt", tmp_path / "metrics.jsonl") == Curve("a", "pt", [5, 10], [0.4, 0.7])
    assert read_curve("a", "pt", tmp_path / "absent") == Curve("a", "pt", [], [])


def test_every_validated_benchmark_has_a_panel_and_nothing_is_drawn_of_none(tmp_path):
    curves = [Curve(name, method, [1, 2], [0.3, 0.5]) for name in "abcd" for method in ("pt", "ho_maml_5")]
    drawn = write_curves(tmp_path, [*curves, Curve("unvalidated", "pt", [], [])])
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "training.svg").read_text().count('id="axes_') == 6  # three a row, two of them left empty
    assert write_curves(tmp_path / "none", [Curve("a", "pt", [], [])]) is None
    assert not (tmp_path / "none").exists()
