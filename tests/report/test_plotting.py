"""What every figure shares: numbers beside points, and a look of its own for every method."""

import numpy as np
import pytest
from made_up import analysis, study

from jaxdiv.methods.registry import METHODS
from jaxdiv.report import plotting, report


@pytest.mark.parametrize("clumped", [False, True])
def test_numbers_in_a_figure_cover_neither_each_other_nor_a_marker(clumped):
    rng = np.random.default_rng(0)
    anchors = rng.uniform(30, 160, (20, 2))
    if clumped:
        anchors[:, 0] = 60 + rng.normal(size=20)
    sizes = np.full((20, 2), (9.4, 6.2))
    centres = plotting.place_labels(anchors, sizes, (0.0, 0.0, 190.0, 190.0), np.zeros((0, 2)))
    gaps = np.abs(centres[:, None] - centres[None])
    overlap = (gaps < sizes[0]).all(-1) & ~np.eye(20, dtype=bool)
    assert not overlap.any()
    on_marker = (np.abs(centres[:, None] - anchors[None]) < sizes[0] / 2 + 2).all(-1)
    assert not on_marker.any()
    assert (centres - sizes / 2 >= 0).all() and (centres + sizes / 2 <= 190).all()


def test_every_method_has_a_look_of_its_own_and_keeps_it_whichever_others_are_shown():
    few, many = plotting.styles(["pt"]), plotting.styles(["mine", "pt", "fo_maml_3"])
    assert len(set(map(str, many.values()))) == len(many) == len(METHODS) + 2
    assert {name: many[name] for name in METHODS} == few


def test_a_method_of_ones_own_gets_a_style_of_its_own(tmp_path):
    rows, points = study(4, ("pt", "mine", "theirs"))
    report.write_report(tmp_path, analysis(rows, points), {}, {})
    assert "mine" in (tmp_path / "report.html").read_text() and (tmp_path / "figure1.png").stat().st_size > 10_000
