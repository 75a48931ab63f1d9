"""Tables as a terminal, LaTeX and a reader see them."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from made_up import analysis, study
from rich.console import Console

from jaxdiv.report import figures, plotting, renderers, report, tables, wording
from jaxdiv.stats.analysis import Analysis
from jaxdiv.stats.effect_size import Comparison, EffectSize
from jaxdiv.task2vec.coefficient import DISTANCES, Distance, pairwise_distances


def test_a_number_above_zero_never_reads_as_zero():
    assert wording.short(0.42) == ".42" and wording.short(1.0) == "1.00" and wording.short(0.0) == ".00"
    assert wording.short(0.001) == ".001" and wording.short(1e-5) == "<.001"
    assert wording.p_text(0.0496) == "= .050" and wording.p_text(1e-9) == "< .001"
    assert wording.short(None) == wording.short(math.nan) == "–"
    assert wording.short(-0.42) == "-.42" and wording.short(-1e-5) == ">-.001" and wording.short(12345.6) == "1.23e+04"


@pytest.mark.parametrize("width", [80, 100, 140])
def test_terminal_tables_fit_and_show_every_number(width):
    rows, points = study()
    rows = [row | {"true_diversity": 0.5, "noise_floor": 0.01, "complexity": 0.2} for row in rows]
    console = Console(width=width, record=True, file=io.StringIO())
    for table in report.terminal_tables(analysis(rows, points), width):
        console.print(table)
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    assert text.count("HO-MAML 10") == 2 and "bench-7" in text
    assert ("Holm" in text) == (width >= 100) and ".416" not in text
    assert "measured" in text and "true" in text


PAPERS = {"estimator": "reference", "head": "adam", "distance": "task2vec", "interval": "iid_pairs"}
PAPERS |= {"weights": "imagenet", "augment": True, "pixels": 84, "ways": 5, "shots": 5, "queries": 15}


@pytest.mark.parametrize("other", [{}, {"estimator": "exact"}, {"benchmark": "mine"}, {"net": "conv4"}])
def test_the_papers_values_stand_only_beside_values_that_were_measured_alike(other):
    rows, points = study(4, ("pt", "ho_maml_10"), ("own",), names=["dtd", "aircraft", "flower", "omniglot"])
    rows = [row | PAPERS for row in rows]
    points = [replace(point, net=other.get("net", "resnet12"), pixels=84) for point in points]
    rows[0] |= {key: value for key, value in other.items() if key != "net"}
    console = Console(width=140, record=True, file=io.StringIO())
    for table in report.terminal_tables(analysis(rows, points), 140):
        console.print(table)
    text = console.export_text()
    assert (".416" in text) == (other == {})  # the paper's R² of HO-MAML 10
    assert (".1290 ± .0023" in text) == (other in ({}, {"net": "conv4"}))  # its DTD
    assert ".1380 ± .0029" in text  # its Flower


def test_table1_says_once_what_holds_for_every_benchmark():
    rows, _ = study()
    rows[0] = rows[0] | {"tasks": 7}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.terminal_tables(Analysis(tuple(rows)), 80)[0])
    text = console.export_text()
    assert text.count(rows[0]["probe"]) == 1
    assert any(line.rstrip().endswith(" 7") for line in text.splitlines())


def test_latex_escapes_what_a_user_may_call_a_benchmark():
    assert renderers.latex(r"50%_a&b$#{x}~^\y") == (
        r"50\%\_a\&b\$\#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}y"
    )


def test_a_column_that_says_nothing_is_left_out_of_what_is_read_and_kept_in_the_csv(tmp_path):
    found = analysis(*study(2, ("pt",), ("own",)))
    table = tables.correlations_table(found.correlations)
    headings = [column.heading for column in renderers.grid(table)[0]]
    assert "note" in headings and "Pearson r" not in headings
    assert "r_low" in table.keys


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        ("cosine", "cosine distance, 0–1"),
        ("kl", "symmetric KL divergence, ≥ 0 nats"),
        ("correlation", "correlation distance of variances, 0–2"),
        ("entropy", "entropy distance, 0–0.693 nats"),
    ],
)
def test_tables_and_axes_name_the_distance_and_its_range(distance, said):
    rows, points = study(3, ("pt",), ("own",))
    rows = [row | {"distance": distance} for row in rows]
    assert f"Mean distance of two tasks ({said})" in tables.table1(rows).text
    data = plotting.plot_data(analysis(rows, points))
    assert figures._labels(data, "loss")[0] == f"Task2Vec diversity coefficient\n({said})"


def test_a_new_distance_is_one_entry(monkeypatch):
    def manhattan(a, b):
        return np.abs(a - b).sum(-1)

    monkeypatch.setitem(DISTANCES, "manhattan", Distance(manhattan, "Manhattan distance"))
    assert pairwise_distances(np.eye(2), "manhattan")[0, 1] == 2
    rows, _ = study(2, ("pt",))
    text = tables.table1([row | {"distance": "manhattan"} for row in rows]).text
    assert "Mean distance of two tasks (Manhattan distance, ≥ 0)" in text


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Comparison.BETTER, "MAML"),
        (Comparison.WORSE, "PT"),
        (Comparison.ALIKE, "within 1%"),
        (Comparison.UNDECIDED, "undecided"),
        (None, ""),
    ],
)
def test_the_better_of_two_is_named_by_its_family(found, said):
    row = EffectSize("a", "ho_maml_5", "pt", "own", 0.1, tasks=9, difference=0.1, verdict=found)
    table = tables.effect_tables([row], [])[0]
    assert [column.cell(row) for column in table.columns if column.heading == "verdict"] == [said]
