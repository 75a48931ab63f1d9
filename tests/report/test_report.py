"""What a finished study leaves on disk: columns, figures, one page that opens offline and hides nothing."""

import base64
import csv
import html
import io
import math
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up import analysis, controlled_analysis, full_analysis, study
from PIL import Image

from jaxdiv.methods.registry import METHODS
from jaxdiv.report import prose, report, tables
from jaxdiv.stats.analysis import Analysis
from jaxdiv.stats.confounders import partial_correlations, size_or_diversity
from jaxdiv.stats.paired import Help, PairedEffect


def write(folder, found, **more):
    return report.write_report(
        folder, found, **({"settings": {"ways": 5}, "provenance": {"time": "2026-01-01"}} | more)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole report with everything in it, shared by the tests that only read it."""
    folder = tmp_path_factory.mktemp("report")
    found = full_analysis(benchmarks=6, seeds=2)
    rows = [row | {"true_diversity": 2 * row["diversity"], "head": "logistic"} for row in found.diversity]
    found = replace(found, diversity=tuple(rows))
    write(
        folder,
        found,
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
    figure_files = {f"figure{i}.{kind}" for i in (1, 2, 3, 4) for kind in ("png", "svg")}
    made = [
        "table1",
        "table2",
        "points",
        "correlations",
        "differences",
        "published",
        "published_differences",
        "partial",
    ]
    made += ["verdicts", "complexity", "complexity_benchmarks", "effect_sizes", "effect_size_trends"]
    table_files = {f"{name}.{kind}" for name in made for kind in ("csv", "tex")}
    assert {path.name for path in finished.iterdir()} == figure_files | table_files | {"report.html"}
    assert (finished / "figure4.png").read_bytes().startswith(b"\x89PNG")


def test_csv_columns_are_those_of_the_contract(finished, tmp_path):
    table1 = ["benchmark", "probe", "diversity", "ci_low", "ci_high", "tasks", "estimator"]
    assert columns(finished / "table1.csv") == [*table1, "head", "true_diversity"]
    table2 = ["method", "metric", "test_set", "r2", "ci_low", "ci_high", "p_value", "n"]
    assert columns(finished / "table2.csv") == table2
    points = ["benchmark", "method", "seed", "test_set", "diversity", "accuracy", "accuracy_ci"]
    assert columns(finished / "points.csv") == [*points, "loss", "loss_ci", "train_images", "train_classes"]
    write(tmp_path, analysis(*study(3, ("pt",), ("own",))))
    assert columns(tmp_path / "table1.csv") == table1


def test_table_two_has_five_methods_two_metrics_two_test_sets(finished):
    with open(finished / "table2.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert all(0 <= float(r["ci_low"]) <= float(r["r2"]) <= float(r["ci_high"]) <= 1 for r in rows)


def test_csv_keeps_numbers_in_full_precision_and_never_says_nan(tmp_path):
    rows, points = study(4, ("pt",), ("own",))
    points[0] = replace(points[0], accuracy=np.float64(1 / 3), loss=math.nan, loss_ci=None)
    write(tmp_path, analysis(rows, points))
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
    assert text.count("<svg") == 10 + 2 + 10 + 8


def test_failed_units_are_named_and_their_reason_is_escaped(finished):
    text = (finished / "report.html").read_text()
    assert "train bench-3 ho_maml_10 seed 1: loss is &lt;NaN&gt; at step 310" in text
    assert "Failed units" in text


def test_page_names_the_fixed_test_set_and_the_check_against_true_diversity(finished):
    text = (finished / "report.html").read_text()
    assert "fixed test set (bench-0)" in text
    assert "Spearman correlation 1.00" in text


def test_same_input_gives_the_same_bytes(tmp_path):
    found = full_analysis(benchmarks=4, methods=("pt", "ho_maml_5"), test_sets=("own",))
    for name in ("a", "b"):
        write(tmp_path / name, found)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 2 * (13 + 4) + 1
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_an_existing_report_is_replaced_whole(tmp_path):
    write(tmp_path, full_analysis(benchmarks=3, methods=("pt", "fo_maml_5"), test_sets=("own",)))
    (tmp_path / "notes.csv").write_text("a user's own")
    assert (tmp_path / "figure4.svg").exists() and (tmp_path / "partial.tex").exists()
    write(tmp_path, analysis(*study(5, ("pt",), ("own",))))
    assert len((tmp_path / "points.csv").read_text().splitlines()) == 6
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not (tmp_path / "figure4.svg").exists() and not (tmp_path / "partial.tex").exists()
    assert (tmp_path / "notes.csv").exists()


def test_a_missing_benchmark_and_a_missing_method_leave_the_rest_whole(tmp_path):
    rows, points = study(5, ("pt", "ho_maml_10"))
    kept = [p for p in points if (p.method, p.benchmark) != ("ho_maml_10", "bench-2")]
    kept = [p for p in kept if (p.method, p.test_set) != ("pt", "fixed")]
    text = write(tmp_path, analysis(rows[1:], kept)).read_text()
    with open(tmp_path / "table2.csv", newline="") as file:
        used = {(row["method"], row["test_set"]): row["n"] for row in csv.DictReader(file)}
    assert used == {("pt", "own"): "5", ("ho_maml_10", "own"): "4", ("ho_maml_10", "fixed"): "4"}
    assert text.count("<svg") == 3 + 2 + 3  # no panel of PT on the fixed test set, which it has no point on


def test_the_top_of_the_page_says_which_study_when_and_that_its_benchmarks_are_generated(tmp_path):
    found = analysis(*study(3, ("pt",), ("own",)))
    top = lambda **more: re.sub(r"<[^>]*>", " ", write(tmp_path, found, **more).read_text().split("<nav")[0])
    names = [row["benchmark"] for row in found.diversity]
    when = {"finished": "2026-01-02 03:04:05 UTC"}
    whole = top(title="Diversity: mine", provenance=when, generated=names)
    assert "Diversity: mine" in whole and "Finished 2026-01-02 03:04:05 UTC. Every benchmark is generated" in whole
    assert "Generated, no real data sets: bench-0 and bench-2." in top(generated=["bench-2", "bench-0", "elsewhere"])
    assert "enerated" not in top() and "Finished" not in top(provenance={})


def test_rows_that_cannot_be_are_in_no_table_and_the_page_says_why(tmp_path):
    rows, points = study(6, ("pt", "ho_maml_5"), ("own",))
    points = [replace(point, train_images=640, share={}) for point in points]
    more = {"partial": tuple(partial_correlations(points)), "verdicts": tuple(size_or_diversity(points))}
    found = replace(analysis(rows, points), **more)
    text = write(tmp_path, found).read_text()
    assert not list(tmp_path.glob("partial.*")) and not list(tmp_path.glob("verdicts.*"))
    assert text.count("all benchmarks have the same number of images and number of classes") == 1
    assert "mniglot" not in text and "&gt;-.001" not in text


def test_every_csv_has_every_column_and_value_of_its_rows(finished):
    found = full_analysis(benchmarks=6, seeds=2)
    for name, rows in (("correlations", found.correlations), ("effect_sizes", found.effect_sizes)):
        fields = [name for name in vars(rows[0]) if name != "notes"]
        assert columns(finished / f"{name}.csv") == [*fields, "note"]
        with open(finished / f"{name}.csv", newline="") as file:
            for written, row in zip(csv.DictReader(file), rows, strict=True):
                for key in fields:
                    value = getattr(row, key)
                    assert (float(written[key]) if isinstance(value, float) else written[key] or None) == (
                        value if isinstance(value, float) else None if value in ("", None) else str(value)
                    )
    assert "p_holm" in columns(finished / "partial.csv")


def cells_of(line):
    return re.split(r"(?<!\\)&", line)


def test_latex_has_as_many_cells_a_line_as_columns_and_nothing_unescaped(finished):
    for path in finished.glob("*.tex"):
        text = path.read_text()
        side = re.search(r"\\begin\{longtable\}\{([lr]+)\}", text).group(1)
        body = text[text.index(r"\toprule") : text.index(r"\end{longtable}")]
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert lines and all(len(cells_of(line)) == len(side) for line in lines), path
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}"), path
        assert not re.search(r"(?<!\\)[#%_]", text[text.index(r"\caption") : text.index(r"\label")] + body), path
        assert text.isascii(), path


def test_contact_sheets_are_cut_to_size_and_say_what_part_they_show(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (1500, 750, 3), dtype=np.uint8)  # nothing compresses worse
    Image.fromarray(noise).save(tmp_path / "large.png", compress_level=1)
    Image.fromarray(noise[:100, :100]).save(tmp_path / "small.png")
    sheets = {name: tmp_path / f"{name}.png" for name in ("large", "small", "lost")}
    text = write(tmp_path / "out", Analysis(), contact_sheets=sheets).read_text()
    images = [base64.b64decode(data) for data in re.findall(r"data:image/webp;base64,([^\"]+)", text)]
    assert len(images) == 2 and all(len(image) <= 120_000 for image in images)
    assert Image.open(io.BytesIO(images[0])).size[0] <= 500 and Image.open(io.BytesIO(images[1])).size == (100, 100)
    assert (
        re.search(r"large: the first \d+% of the sheet large.png", text) and "small: the whole sheet small.png" in text
    )
    assert "lost: no contact sheet was left" in text


def test_the_controlled_experiment_has_its_table_its_figure_and_a_mean_a_level(tmp_path):
    found = controlled_analysis(subsets=2)
    points = tuple(point for point in found.points if point.method == "pt")
    controlled = tuple(row for row in found.controlled if row.method == "pt")
    found = Analysis(diversity=found.diversity, points=points, controlled=controlled)
    text = write(tmp_path, found).read_text()
    assert "Figure 5. The controlled experiment" in text and (tmp_path / "figure5.png").exists()
    assert {"mean_low", "mean_middle", "mean_high"} < set(columns(tmp_path / "controlled.csv"))


WORDLESS = re.compile(r">[^<]*\b(nan|NaN|None|inf)\b[^<]*<")


def degenerate():
    """Studies with next to nothing in them, by name, and what their page must say."""

    def changed(found, **change):
        return analysis(found.diversity, [replace(p, **change) for p in found.points])

    two = ("pt", "ho_maml_10")
    small = full_analysis(benchmarks=4, methods=two, test_sets=("own",))
    blank = lambda row: replace(row, **{field.name: None for field in fields(row) if field.default is None})
    parts = ("correlations", "differences", "partial", "verdicts", "effect_sizes", "effect_size_trends")
    nothing_known = {part: tuple(map(blank, getattr(small, part))) for part in parts}
    return {
        "nothing": (Analysis(), "No R² is defined"),
        "one benchmark": (analysis(*study(1, two, ("own",))), "1 benchmark, fewer than 3"),
        "two benchmarks": (full_analysis(benchmarks=2, methods=two, test_sets=("own",)), "2 benchmarks, fewer than 3"),
        "three benchmarks": (
            full_analysis(benchmarks=3, methods=two, test_sets=("own",)),
            "all of [0, 1] and says nothing",
        ),
        "one method": (full_analysis(benchmarks=4, methods=("pt",), test_sets=("own",)), "1 method, 1 seed"),
        "equal diversities": (
            full_analysis(benchmarks=4, methods=two, test_sets=("own",), spread=0.0),
            "same diversity",
        ),
        "equal accuracies": (changed(small, accuracy=0.2), "same accuracy"),
        "diverged": (changed(small, accuracy=math.nan, loss=math.inf), "missing or not finite: bench-0"),
        "undefined numbers": (replace(small, **nothing_known), "No R² is defined"),
    }


DEGENERATE = degenerate()


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_input_is_said_in_words_without_a_number_that_is_none(case, tmp_path):
    found, said = DEGENERATE[case]
    text = write(tmp_path, found).read_text()
    assert said in text
    shown = text[: text.index("<summary>Settings")]
    assert not WORDLESS.search(shown), WORDLESS.search(shown)
    for path in [*tmp_path.glob("*.csv"), *tmp_path.glob("*.tex")]:
        assert not re.search(r"\b(nan|None|inf)\b", path.read_text()), path


def test_a_third_family_has_its_r2_its_effects_and_its_words_and_is_never_called_maml(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "relation", replace(METHODS["pt"], family="relations", label="RelationNet"))
    found = full_analysis(benchmarks=4, methods=("pt", "relation"), test_sets=("own",))
    text = write(tmp_path, found).read_text()
    assert "PT against RelationNet, on the same tasks" in text and "RelationNet over PT against diversity" in text
    assert "4 comparisons of RelationNet with PT" in text and "The advantage of RelationNet over PT" in text
    said = [
        prose.headline(found),
        prose.summary(found),
        [table.text for table in tables.all_tables(found, ((), ()), {}).values()],
    ]
    assert "MAML" not in str(said)
    names = {row["method"] for row in csv.DictReader((tmp_path / "effect_sizes.csv").open())}
    assert names == {"relation"}


def test_other_tasks_of_the_same_data_have_their_table_figure_and_sentences(tmp_path):
    what = {"method": "pt", "test_set": "own", "sources": 2, "seeds": 3, "diversity": 0.1, "other_diversity": 0.3}
    what |= {"p_value": 0.2, "p_holm": 0.4, "by_source": {"a": 0.01, "b": -0.02}}
    rows = (
        PairedEffect("one_task", metric="accuracy", difference=-0.1, low=-0.12, high=-0.08, found=Help.WORSE, **what),
        PairedEffect(
            "k_dpp", metric="accuracy", difference=-0.001, low=-0.007, high=0.005, found=Help.NOT_BETTER, **what
        ),
        PairedEffect("k_dpp", metric="loss", difference=0.03, low=-0.1, high=0.16, found=Help.UNDECIDED, **what),
    )
    text = html.unescape(write(tmp_path, Analysis(paired=rows)).read_text()).replace("\xa0", " ")
    assert "accuracy against the ordinary ones: one_task worse; k_dpp not better by 0.01." in text
    assert "PT. worse: one_task -.100 [-.120, -.080]; not better by 0.01: k_dpp -.001 [-.007, .005]." in text
    assert "Figure 6. Other tasks of the same data" in text and (tmp_path / "figure6.svg").exists()
    assert {"difference_a", "difference_b", "found"} < set(columns(tmp_path / "paired.csv"))
