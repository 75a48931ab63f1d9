"""Every table of a report, once, as data (`report.formats` makes HTML, CSV, LaTeX and a terminal's table of it)."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jaxdiv.report.findings import true_beside_measured
from jaxdiv.report.formats import Column, Table
from jaxdiv.report.published import (
    PAPER_BENCHMARKS,
    PAPER_TABLE1,
    PAPER_TABLE2,
    measured_alike,
    paper_diversity,
    r2_measured_alike,
)
from jaxdiv.report.wording import DASH, by_method, method_name, p_cell, plain, r2_cell, short, span
from jaxdiv.stats.controls import NOTHING, ONE_SIZE
from jaxdiv.stats.correlate import METRICS
from jaxdiv.stats.inference import r2_interval

Row = Mapping[str, Any]
TABLE1_COLUMNS = ("benchmark", "probe", "diversity", "ci_low", "ci_high", "tasks", "estimator")
TABLE1_OPTIONAL = ("head", "distance", "noise_floor", "complexity", "true_diversity")
TABLE2_COLUMNS = ("method", "metric", "test_set", "r2", "ci_low", "ci_high", "p_value", "n")
POINTS_COLUMNS = (
    "benchmark",
    "method",
    "seed",
    "test_set",
    "diversity",
    "accuracy",
    "accuracy_ci",
    "loss",
    "loss_ci",
    "train_images",
    "train_classes",
)


def _words(heading: str, key: str) -> Column:
    return Column(heading, lambda row: "" if row.get(key) is None else str(row[key]), number=False)


def _count(heading: str, key: str) -> Column:
    return Column(heading, lambda row: DASH if (value := plain(row.get(key))) is None else f"{value:g}")


def _value(heading: str, key: str, digits: int = 2, **more: Any) -> Column:
    return Column(heading, lambda row: short(row.get(key), digits), **more)


def _span(heading: str, key: str, low: str, high: str, digits: int = 2) -> Column:
    return Column(heading, lambda row: span(row.get(key), row.get(low), row.get(high), digits))


def _between(heading: str, low: str, high: str, digits: int = 2) -> Column:
    """An interval without the number it belongs to."""

    def cell(row: Row) -> str:
        if plain(row.get(low)) is None or plain(row.get(high)) is None:
            return DASH
        return f"[{short(row[low], digits)}, {short(row[high], digits)}]"

    return Column(heading, cell)


def _p(heading: str, key: str) -> Column:
    return Column(heading, lambda row: p_cell(row.get(key)))


def _yes(heading: str, key: str) -> Column:
    return Column(heading, lambda row: "yes" if row.get(key) else "no", number=False)


_METHOD = Column("method", lambda row: method_name(row["method"]), number=False)
_METRIC = Column("metric", lambda row: METRICS[row["metric"]], number=False)
_TEST, _NOTE, _BENCHMARK = _words("test set", "test_set"), _words("note", "note"), _words("benchmark", "benchmark")
_N, _R2, _HOLM = _count("n", "n"), Column("R² [95%]", r2_cell), _p("p, Holm", "p_holm")
_WHICH = (_METHOD, _TEST, _METRIC, _N)
_ROW = (*_WHICH, _R2, _p("p", "p_value"), _HOLM)


def _table(name: str, title: str, text: str, columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    """A table whose CSV has every column of its rows."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return Table(name, title, text, columns, rows, rows, keys)


def table1(rows: Sequence[Row], numbers: Mapping[str, int] | None = None) -> Table:
    """Table 1. numbers: each benchmark's number in the figures."""
    numbers = numbers or {}
    known = any(row.get("true_diversity") is not None for row in rows)
    facts = ("probe", "tasks", "estimator", "head", "distance")
    found = {key: {row.get(key) for row in rows} for key in facts}
    common = [
        f"{key} {values.copy().pop()}" for key, values in found.items() if len(values) == 1 and None not in values
    ]
    varied = [key for key in facts if len(found[key]) > 1]

    published = lambda row: paper_diversity(row["benchmark"], row["probe"]) if measured_alike(row) else None

    def paper(row: Row) -> str:
        value = published(row)
        return f"{short(value[0], 4)} ± {short(value[1], 4)}" if value else ""

    columns = [
        Column("#", lambda row: str(numbers.get(row["benchmark"], "")), least=96),
        _BENCHMARK,
        _value("diversity, measured" if known else "diversity", "diversity", 4, brief="measured" if known else ""),
        _between("95% interval", "ci_low", "ci_high", 4),
        _value("noise floor", "noise_floor", 4),
        _value("diversity, true", "true_diversity", 3, brief="true"),
        Column("paper", paper, least=96),
        _value("complexity", "complexity", 4, least=110),
        *(_count(key, key) if key == "tasks" else _words(key, key) for key in varied),
    ]
    text = "Mean distance of two tasks (cosine, 0–1), with its interval over tasks."
    if numbers:
        text += " # is the benchmark's number in the figures, least diverse first."
    if any(paper(row) for row in rows):
        text += " Paper: the published coefficient, ± half its interval."
    if any(published(row) in PAPER_TABLE1["MIO"].values() for row in rows):
        text += " The paper's MIO value equals its group's own Mini-ImageNet value: probably mislabelled."
    text += f" {true_beside_measured(rows)}".rstrip()
    keys = [*TABLE1_COLUMNS, *(key for key in TABLE1_OPTIONAL if any(row.get(key) is not None for row in rows))]
    ordered = sorted(rows, key=lambda row: (str(row["probe"]), numbers.get(row["benchmark"], 0)))
    title = "Table 1. Task2Vec diversity coefficient"
    return Table("table1", title, text, columns, ordered, rows, keys, ", ".join(common))


def table2(correlations: Sequence[Row], alike: bool = False) -> Table:
    """Table 2: a line a method and test set, both metrics in it. alike: beside the published values."""
    lines = [{"method": m, "test_set": t, **metrics} for m, t, metrics in by_method(correlations)]
    columns = [_METHOD._replace(cell=lambda row: method_name(row["method"]).removesuffix(" steps")), _TEST]
    for metric, name in METRICS.items():
        columns += [
            Column(f"{name} R² [95%]", partial(_of_metric, metric=metric, show=r2_cell), brief=name),
            Column("p", partial(_of_metric, metric=metric, show=lambda row: p_cell(row.get("p_value")))),
            Column("p, Holm", partial(_of_metric, metric=metric, show=lambda row: p_cell(row.get("p_holm"))), least=96),
            Column("n", partial(_of_metric, metric=metric, show=lambda row: str(row["n"]))),
            *([Column("paper", partial(_published, metric=metric), least=130)] if alike else []),
        ]
    text = (
        "R² of the degree-1 fit over n benchmarks, p against zero, and p corrected (Holm) for all tests of this table."
    )
    if alike:
        text += (
            f" Paper: the published R² over {PAPER_BENCHMARKS} benchmarks; its interval was not published and is "
            "computed here from R² and n. Its test set and its training may differ."
        )
    return Table(
        "table2", "Table 2. R² of performance on diversity", text, columns, lines, correlations, TABLE2_COLUMNS
    )


def _of_metric(row: Row, metric: str, show: Callable[[Row], str]) -> str:
    return show(row[metric]) if metric in row else DASH


def _published(row: Row, metric: str) -> str:
    published = PAPER_TABLE2.get(row["method"])
    if not published:
        return ""
    low, high = r2_interval(math.sqrt(published[metric]), PAPER_BENCHMARKS)
    return f"{short(published[metric], 3)} [{short(low)}, {short(high)}]"


def points_table(points: Sequence[Row]) -> Table:
    """Every trained learner on every test set."""
    columns = [
        *(_BENCHMARK, _METHOD, _count("seed", "seed"), _TEST, _value("diversity", "diversity", 4)),
        Column("accuracy", lambda row: _plus_minus(row, "accuracy")),
        Column("cross-entropy", lambda row: _plus_minus(row, "loss")),
        *(_count("train images", "train_images"), _count("train classes", "train_classes")),
    ]
    text = "One trained learner, one seed, one test set a line; ± half the 95% interval over test tasks."
    return Table("points", "All points", text, columns, points, points, POINTS_COLUMNS)


def _plus_minus(row: Row, key: str) -> str:
    half = plain(row.get(f"{key}_ci"))
    return short(row.get(key), 3) + ("" if half is None else f" ± {short(half, 3)}")


def correlations_table(rows: Sequence[Row]) -> Table:
    """Every way in which one correlation was looked at."""
    columns = [
        *_ROW,
        _p("p, permutation", "p_permutation"),
        _span("slope", "slope", "slope_low", "slope_high"),
        _span("Pearson r", "r", "r_low", "r_high"),
        _span("Spearman", "spearman", "spearman_low", "spearman_high"),
        _p("p, Spearman", "spearman_p"),
        _between("R² bootstrap", "boot_low", "boot_high"),
        _between("slope bootstrap", "boot_slope_low", "boot_slope_high"),
        _between("Spearman bootstrap", "boot_spearman_low", "boot_spearman_high"),
        _between("R², one left out", "loo_low", "loo_high"),
        _words("most influential", "influential"),
        _value("R² without it", "influential_r2"),
        _value("reliability", "reliability"),
        _span("R², noise corrected", "r2_true", "true_low", "true_high"),
        _NOTE,
    ]
    text = (
        "Slope: change of performance per 1 of diversity. Bootstrap: over benchmarks, diversity and performance "
        "redrawn within their own errors. One left out: the range of R² when any one benchmark is. Noise corrected: "
        "what R² would be without the errors of measurement (Spearman's attenuation)."
    )
    return _table("correlations", "Correlations in full", text, columns, rows)


def differences_table(rows: Sequence[Row], name: str = "differences", title: str = "") -> Table:
    """Whether one method's R² is above another's."""
    columns = [
        *(_METHOD, Column("against", lambda row: method_name(row["other"]), number=False), _TEST, _METRIC, _N),
        *(_value("R²", "r2"), _value("other's", "other_r2"), _span("difference [95%]", "difference", "low", "high")),
        *(_between("bootstrap", "boot_low", "boot_high"), _p("p", "p_value"), _HOLM),
        Column("decided", lambda row: "yes" if row.get("decided") else "undecided", number=False),
        _NOTE,
    ]
    text = (
        "The first method's R² minus the other's. Holm: over the differences of the same metric and test set. "
        "Decided: p, Holm < .05 and an interval without 0. Undecided: the data do not tell the two apart, which is not "
        "to say that they are equal."
    )
    return _table(name, title or "Differences between methods' R²", text, columns, rows)


def published_table(rows: Sequence[Row]) -> Table:
    """The published R² under the tests that this report applies to its own."""
    text = (
        f"The published R² as summaries of {PAPER_BENCHMARKS} benchmarks; the points themselves were never published. "
        "p against zero, and corrected (Holm) for all of them."
    )
    return _table("published", "The paper's Table 2 under the same tests", text, (_METHOD, _METRIC, *_ROW[3:]), rows)


def partial_table(rows: Sequence[Row]) -> Table:
    """Diversity and performance, given the size of the data, where any of it could be given."""
    rows = [row for row in rows if row["given"] != NOTHING]
    columns = [
        *(*_WHICH, _words("given", "given"), _value("R², alone", "raw_r2")),
        *(
            _value("R² of the given", "covariates_r2"),
            _span("partial r", "r", "low", "high"),
            _value("partial R²", "r2"),
        ),
        *(_p("p", "p_value"), _HOLM, _NOTE),
    ]
    text = "Partial R²: the share of what the given leave unexplained that diversity explains."
    return _table("partial", "Given the size of the data", text, columns, rows)


def verdicts_table(rows: Sequence[Row]) -> Table:
    """Which of size and diversity explains performance when the other is given, where sizes differ."""
    rows = [row for row in rows if row.get("note") != ONE_SIZE]
    columns = [
        *(*_WHICH, _words("verdict", "verdict"), _p("p of diversity, given size", "p_diversity")),
        *(_p("p of size, given diversity", "p_size"), _NOTE),
    ]
    text = (
        "Which of diversity and size (log images) still explains performance when the other is given: p < .05, "
        "uncorrected. Neither is also what too few benchmarks say."
    )
    return _table("verdicts", "Size or diversity", text, columns, rows)


def complexity_tables(found: Mapping[str, Any]) -> list[Table]:
    """The correlation over benchmarks of like complexity, and each benchmark's complexity."""
    rows, benchmarks = found.get("rows") or [], found.get("benchmarks") or []
    least = short(found.get("largest_d"))
    text = f"Only benchmarks whose mean Task2Vec norms differ pairwise by a Cohen's d of at most {least}."
    each = [_BENCHMARK, _span("complexity [95%]", "complexity", "low", "high", 4), _yes("matched", "matched")]
    return [
        _table("complexity", "Benchmarks of matched complexity", text, (*_ROW, _NOTE), rows),
        _table("complexity_benchmarks", "Complexity of each benchmark", "Mean Task2Vec norm.", each, benchmarks),
    ]


def effect_tables(rows: Sequence[Row], trends: Sequence[Row]) -> list[Table]:
    """PT against MAML on the same tasks, and the effect size against diversity."""
    columns = [
        *(_BENCHMARK, _METHOD, _TEST, _count("tasks", "tasks"), _value("diversity", "diversity", 3)),
        _span("MAML − PT [95%]", "difference", "low", "high", 3),
        *(
            _span("Cohen's d [95%]", "d", "d_low", "d_high"),
            _value("d, paired", "d_paired"),
            _value("d of 1%", "threshold"),
        ),
        *(_words("1% rule", "rule"), _words("verdict", "verdict"), _NOTE),
    ]
    text = (
        "Accuracy of MAML minus that of PT, paired over the same test tasks. 1% rule: Cohen's d against the d that a "
        "difference of .01 would be. Verdict: what the paired interval supports, one better by more than .01, both "
        "within .01, or neither (undecided)."
    )
    slope = _value("slope", "slope")
    about = "R² of Cohen's d (MAML over PT) on diversity, over n benchmarks; slope per 1 of diversity."
    return [
        _table("effect_sizes", "PT against MAML", text, columns, rows),
        _table(
            *("effect_size_trends", "PT against MAML, by diversity", about),
            (_METHOD, _TEST, _N, _R2, slope, _p("p", "p_value"), _HOLM, _NOTE),
            trends,
        ),
    ]


def controlled_table(rows: Sequence[Row]) -> Table:
    """The controlled experiment: subsets of equal size that differ in diversity."""
    levels = list(dict.fromkeys(level for row in rows for level in row.get("means") or {}))
    columns = [
        *(_METHOD, _TEST, _METRIC, _count("subsets", "subsets"), _count("seeds", "seeds")),
        *(_span("per +.1 of diversity [95%]", "effect", "low", "high", 3), _p("p", "p_value"), _HOLM),
        *(_value(f"mean, {level}", f"mean_{level}", 3) for level in levels),
        _span("high − low [95%]", "high_minus_low", "hl_low", "hl_high", 3),
        *(_value("sd of subsets", "sd_subsets", 3), _value("sd of seeds", "sd_seeds", 3), _NOTE),
    ]
    text = (
        "Subsets of one pool with equal numbers of classes and images: the change of performance per .1 of diversity "
        "in a linear model over subsets, seeds averaged, with a block for subsets that were chosen from the same "
        "classes. Holm: over the rows of the same metric and test set."
    )
    flat = [
        {key: value for key, value in row.items() if key != "means"}
        | {f"mean_{level}": value for level, value in (row.get("means") or {}).items()}
        for row in rows
    ]
    return _table("controlled", "The controlled experiment", text, columns, flat)


def all_tables(
    analysis: Mapping[str, Any], published: tuple[Sequence[Row], Sequence[Row]], numbers: Mapping[str, int]
) -> dict[str, Table]:
    """Every table that an analysis can have, by name; one without rows where it lacks them."""
    of = lambda key: analysis.get(key) or []
    title = "The paper's methods against each other"
    found = [
        table1(of("diversity"), numbers),
        table2(of("correlations"), r2_measured_alike(of("diversity"), of("points"))),
        points_table(of("points")),
        *(correlations_table(of("correlations")), differences_table(of("differences"))),
        *(published_table(published[0]), differences_table(published[1], "published_differences", title)),
        *(partial_table(of("partial")), verdicts_table(of("verdicts"))),
        *complexity_tables(analysis.get("complexity") or {}),
        *effect_tables(of("effect_sizes"), of("effect_size_trends")),
        controlled_table(of("controlled")),
    ]
    return {table.name: table for table in found}
