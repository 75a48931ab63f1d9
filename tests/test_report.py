"""What a finished study leaves on disk: columns, figures, one page that opens offline and hides nothing."""

import csv
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from jaxdiv import correlate, figures, report, wording

METHODS = tuple(correlate.METHODS)


def study(benchmarks=8, methods=METHODS, test_sets=("own", "fixed"), seeds=1, spread=0.03):
    """Rows of Table 1 and of points.csv of a made-up study whose accuracy rises with diversity."""
    rng = np.random.default_rng(7)
    diversity = {f"bench-{b}": 0.1 + spread * b for b in range(benchmarks)}
    rows = [
        {
            "benchmark": name,
            "probe": "resnet18",
            "diversity": value,
            "ci_low": value - 0.004,
            "ci_high": value + 0.005,
            "tasks": 20,
            "estimator": "exact",
        }
        for name, value in diversity.items()
    ]
    points = [
        {
            "benchmark": name,
            "method": method,
            "seed": seed,
            "test_set": test_set,
            "diversity": value,
            "accuracy": 0.3 + value + 0.05 * rng.normal(),
            "accuracy_ci": 0.01,
            "loss": 1.5 - value + 0.1 * rng.normal(),
            "loss_ci": 0.03,
            "train_images": 1000,
            "train_classes": 20,
        }
        for method in methods
        for test_set in test_sets
        for name, value in diversity.items()
        for seed in range(seeds)
    ]
    return rows, points


def write(folder, rows, points, **more):
    given = {"settings": {"ways": 5}, "provenance": {"time": "2026-01-01"}} | more
    return report.write_report(folder, rows, points, correlate.correlations(points), **given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole report with everything in it, shared by the tests that only read it."""
    folder = tmp_path_factory.mktemp("report")
    rows, points = study(6, seeds=2)
    rows = [row | {"true_diversity": 2 * row["diversity"], "head": "logistic"} for row in rows]
    write(
        folder,
        rows,
        points,
        failures=[{"unit": "train bench-3 ho_maml_10 seed 1", "reason": "loss is <NaN> at step 310"}],
        fixed_test_set_name="bench-0",
    )
    return folder


def columns(path):
    with open(path, newline="") as file:
        return next(csv.reader(file))


class Parsed(HTMLParser):
    """Every attribute that makes a browser fetch, and the tags left open."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.open, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]
        self.fetched += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data", "srcset")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_finished_study_leaves_exactly_the_files_of_the_contract(finished):
    figure_files = {f"figure{i}.{kind}" for i in (1, 2, 3) for kind in ("png", "svg")}
    expected = figure_files | {"table1.csv", "table2.csv", "points.csv", "report.html"}
    assert {path.name for path in finished.iterdir()} == expected
    assert (finished / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_csv_columns_are_those_of_the_contract(finished, tmp_path):
    table1 = ["benchmark", "probe", "diversity", "ci_low", "ci_high", "tasks", "estimator"]
    assert columns(finished / "table1.csv") == [*table1, "head", "true_diversity"]
    table2 = ["method", "metric", "test_set", "r2", "ci_low", "ci_high", "p_value", "n"]
    assert columns(finished / "table2.csv") == table2
    points = ["benchmark", "method", "seed", "test_set", "diversity", "accuracy", "accuracy_ci"]
    assert columns(finished / "points.csv") == [*points, "loss", "loss_ci", "train_images", "train_classes"]
    write(tmp_path, *study(3, ("pt",), ("own",)))
    assert columns(tmp_path / "table1.csv") == table1


def test_table_two_has_five_methods_two_metrics_two_test_sets(finished):
    with open(finished / "table2.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert all(0 <= float(r["ci_low"]) <= float(r["r2"]) <= float(r["ci_high"]) <= 1 for r in rows)


def test_csv_keeps_numbers_in_full_precision_and_never_says_nan(tmp_path):
    rows, points = study(4, ("pt",), ("own",))
    points[0] |= {"accuracy": np.float64(1 / 3), "loss": math.nan, "loss_ci": None}
    write(tmp_path, rows, points)
    with open(tmp_path / "points.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["accuracy"]) == 1 / 3
    assert first["loss"] == "" and first["loss_ci"] == ""
    text = "".join((tmp_path / name).read_text() for name in ("table1.csv", "table2.csv", "points.csv"))
    assert "nan" not in text.lower()


def test_page_fetches_nothing(finished):
    text = (finished / "report.html").read_text()
    page = Parsed(text)
    assert page.fetched and all(value.startswith(("#", "data:")) for value in page.fetched)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\((?!#)|<script", text)


def test_page_is_well_formed_and_every_reference_in_its_figures_resolves(finished):
    page = Parsed((finished / "report.html").read_text())
    assert page.open == []
    assert {value[1:] for value in page.fetched if value.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_page_shows_a_panel_per_method_test_set_and_figure(finished):
    text = (finished / "report.html").read_text()
    assert text.count("<svg") == 10 + 2 + 10


def test_failed_units_are_named_and_their_reason_is_escaped(finished):
    text = (finished / "report.html").read_text()
    assert "train bench-3 ho_maml_10 seed 1: loss is &lt;NaN&gt; at step 310" in text
    assert "Failed units" in text


def test_page_names_the_fixed_test_set_and_the_check_against_true_diversity(finished):
    text = (finished / "report.html").read_text()
    assert "fixed test set (bench-0)" in text
    assert "Spearman correlation 1.00" in text


def test_same_input_gives_the_same_bytes(tmp_path):
    rows, points = study(4, ("pt", "ho_maml_5"), ("own",))
    for name in ("a", "b"):
        write(tmp_path / name, rows, points)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 10
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_an_existing_report_is_replaced_whole(tmp_path):
    write(tmp_path, *study(3, ("pt",), ("own",)))
    write(tmp_path, *study(5, ("pt",), ("own",)))
    assert len((tmp_path / "points.csv").read_text().splitlines()) == 6
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("benchmarks", [0, 1, 2])
def test_too_few_benchmarks_are_said_in_words_and_break_nothing(tmp_path, benchmarks):
    page = write(tmp_path, *study(benchmarks, ("pt", "ho_maml_10")))
    assert "No R² is defined" in page.read_text()


def test_a_missing_benchmark_and_a_missing_method_leave_the_rest_whole(tmp_path):
    rows, points = study(5, ("pt", "ho_maml_10"))
    kept = [p for p in points if (p["method"], p["benchmark"]) != ("ho_maml_10", "bench-2")]
    kept = [p for p in kept if (p["method"], p["test_set"]) != ("pt", "fixed")]
    text = write(tmp_path, rows[1:], kept).read_text()
    assert "n = 5" in text and "n = 4" in text
    assert text.count("<svg") == 4 + 2 + 4


def test_equal_diversities_and_flat_accuracy_are_said_in_words(tmp_path):
    rows, points = study(4, ("pt",), ("own",), spread=0.0)
    assert "have the same diversity" in write(tmp_path / "x", rows, points).read_text()
    rows, points = study(4, ("pt",), ("own",))
    flat = [p | {"accuracy": 0.2} for p in points]
    assert "have the same accuracy" in write(tmp_path / "y", rows, flat).read_text()


def test_no_significant_difference_is_said_when_so():
    row = {"method": "pt", "metric": "accuracy", "test_set": "own", "r2": 0.149, "ci_low": 0.0}
    row |= {"ci_high": 0.62, "p_value": 0.2153, "n": 12, "slope": 1.0, "note": ""}
    words = dict(wording.summary([], [row]))
    assert words["Accuracy, own test split"] == [
        "PT: R² = .15 [.00, .62], p = .22, n = 12; no significant difference from zero."
    ]
    row |= {"method": "ho_maml_10", "r2": 0.416, "ci_low": 0.012, "ci_high": 0.79, "p_value": 0.023}
    words = dict(wording.summary([], [row]))
    assert words["Accuracy, own test split"] == [
        "HO-MAML 10 steps: R² = .42 [.01, .79], p = .023, n = 12; accuracy rises by .01 per .01 of diversity."
    ]


def test_a_number_above_zero_never_reads_as_zero():
    assert wording.short(0.42) == ".42" and wording.short(1.0) == "1.00" and wording.short(0.0) == ".00"
    assert wording.short(0.001) == ".001" and wording.short(1e-5) == "<.001"
    assert wording.p_text(0.0496) == "= .050" and wording.p_text(1e-9) == "< .001"
    assert wording.short(None) == wording.short(math.nan) == "–"


@pytest.mark.parametrize("clumped", [False, True])
def test_numbers_in_a_figure_cover_neither_each_other_nor_a_marker(clumped):
    rng = np.random.default_rng(0)
    anchors = rng.uniform(30, 160, (20, 2))
    if clumped:
        anchors[:, 0] = 60 + rng.normal(size=20)
    sizes = np.full((20, 2), (9.4, 6.2))
    centres = figures.place_labels(anchors, sizes, (0, 0, 190, 190), np.zeros((0, 2)))
    gaps = np.abs(centres[:, None] - centres[None])
    overlap = (gaps < sizes[0]).all(-1) & ~np.eye(20, dtype=bool)
    assert not overlap.any()
    on_marker = (np.abs(centres[:, None] - anchors[None]) < sizes[0] / 2 + 2).all(-1)
    assert not on_marker.any()
    assert (centres - sizes / 2 >= 0).all() and (centres + sizes / 2 <= 190).all()


@pytest.mark.parametrize("width", [80, 100])
def test_terminal_tables_fit_and_show_every_number(width):
    rows, points = study()
    rows = [row | {"true_diversity": 0.5} for row in rows]
    console = Console(width=width, record=True, file=io.StringIO())
    for table in report.terminal_tables(rows, correlate.correlations(points), width):
        console.print(table)
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    assert text.count("HO-MAML 10") == 2 and "bench-7" in text


def test_table1_says_once_what_holds_for_every_benchmark():
    rows, points = study()
    rows[0] = rows[0] | {"tasks": 7}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.terminal_tables(rows, correlate.correlations(points), 80)[0])
    text = console.export_text()
    assert text.count(rows[0]["probe"]) == 1
    assert any(line.rstrip().endswith(" 7") for line in text.splitlines())
