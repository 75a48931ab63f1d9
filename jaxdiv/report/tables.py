"""Every table of a report, once, as data (`report.renderers` makes HTML, CSV, LaTeX and a terminal's table of it)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdiv.report.columns import (
    between_column,
    count_column,
    p_column,
    record,
    span_column,
    value_column,
    value_of,
    words_column,
    yes_column,
)
from jaxdiv.report.prose import Published, true_beside_measured
from jaxdiv.report.published import (
    PAPER_BENCHMARKS,
    PAPER_TABLE1,
    PAPER_TABLE2,
    measured_alike,
    paper_diversity,
    r2_measured_alike,
)
from jaxdiv.report.renderers import Column, Table
from jaxdiv.report.wording import (
    COVARIATES,
    DASH,
    HELPS,
    METRIC_NAMES,
    VERDICTS,
    by_method,
    comparison_word,
    distance_of,
    distance_text,
    effect_name,
    family_names,
    listed,
    method_name,
    notes_text,
    p_cell,
    plain,
    r2_cell,
    shared_sets_name,
    short,
)
from jaxdiv.stats.analysis import Analysis
from jaxdiv.stats.confounders import MatchedComplexity, PartialCorrelation, SizeOrDiversity
from jaxdiv.stats.controlled import ControlledEffect
from jaxdiv.stats.correlation import Correlation, Fit
from jaxdiv.stats.differences import Difference
from jaxdiv.stats.effect_size import EffectSize
from jaxdiv.stats.intervals import r2_interval
from jaxdiv.stats.paired import PairedEffect
from jaxdiv.stats.rows import METRICS, Point, Reason
from jaxdiv.stats.shared_sets import SharedSetsLine

TABLE1_COLUMNS = ("benchmark", "probe", "diversity", "ci_low", "ci_high", "tasks", "estimator")
TABLE1_OPTIONAL = ("head", "distance", "noise_floor", "complexity", "true_diversity")
TABLE2_COLUMNS = ("method", "metric", "test_set", "r2", "ci_low", "ci_high", "p_value", "n")
POINTS_COLUMNS = (
    *("benchmark", "method", "seed", "test_set", "diversity", "accuracy", "accuracy_ci", "loss", "loss_ci"),
    *("train_images", "train_classes"),
)


_METHOD = Column("method", lambda row: method_name(row.method), number=False)
_METRIC = Column("metric", lambda row: METRIC_NAMES[row.metric], number=False)
_TEST, BENCHMARK = words_column("test set", "test_set"), words_column("benchmark", "benchmark")
_NOTE = Column("note", notes_text, number=False)
_N, _R2, _HOLM = count_column("n", "n"), Column("R² [95%]", r2_cell), p_column("p, Holm", "p_holm")
_WHICH = (_METHOD, _TEST, _METRIC, _N)
_ROW = (*_WHICH, _R2, p_column("p", "p_value"), _HOLM)


def _table(name: str, title: str, text: str, columns: Sequence[Column], rows: Sequence[Any]) -> Table:
    """A table whose CSV has every field of its rows."""
    records = [record(row) for row in rows]
    keys = list(dict.fromkeys(key for row in records for key in row))
    return Table(name, title, text, columns, rows, records, keys)


def table1(rows: Sequence[Mapping[str, Any]], numbers: Mapping[str, int] | None = None) -> Table:
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

    def paper(row: Mapping[str, Any]) -> str:
        value = published(row)
        return f"{short(value[0], 4)} ± {short(value[1], 4)}" if value else ""

    columns = [
        Column("#", lambda row: str(numbers.get(row["benchmark"], "")), least=96),
        BENCHMARK,
        value_column(
            "diversity, measured" if known else "diversity", "diversity", 4, brief="measured" if known else ""
        ),
        between_column("95% interval", "ci_low", "ci_high", 4),
        value_column("noise floor", "noise_floor", 4),
        value_column("diversity, true", "true_diversity", 3, brief="true"),
        Column("paper", paper, least=96),
        value_column("complexity", "complexity", 4, least=110),
        *(count_column(key, key) if key == "tasks" else words_column(key, key) for key in varied),
    ]
    distance = distance_of(rows)
    which = f" ({distance_text(distance)})" if distance else ""
    text = f"Mean distance of two tasks{which}, with its interval over tasks."
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


def table2(correlations: Sequence[Fit], alike: bool = False) -> Table:
    """Table 2: one line per method and test set, both metrics in it. alike: beside the published values."""
    lines = by_method(correlations)
    columns = [
        Column("method", lambda line: method_name(line[0]).removesuffix(" steps"), number=False),
        Column("test set", lambda line: line[1], number=False),
    ]
    for metric in METRICS:
        name = METRIC_NAMES[metric]
        columns += [
            Column(f"{name} R² [95%]", _of_metric(metric, r2_cell), brief=name),
            Column("p", _of_metric(metric, lambda row: p_cell(row.p_value))),
            Column("p, Holm", _of_metric(metric, lambda row: p_cell(row.p_holm)), least=96),
            *([Column("paper", _of_metric(metric, _published), least=130)] if alike else []),
        ]
    columns.append(Column("n", lambda line: " / ".join(dict.fromkeys(str(row.n) for row in line[2].values()))))
    text = (
        "R² of the degree-1 fit over n benchmarks, p against zero, and p corrected (Holm) for all tests of this table."
    )
    if alike:
        text += (
            f" Paper: the published R² over {PAPER_BENCHMARKS} benchmarks; its interval was not published and is "
            "computed here from R² and n. Its test set and its training may differ."
        )
    title, records = "Table 2. R² of performance on diversity", list(map(record, correlations))
    return Table("table2", title, text, columns, lines, records, TABLE2_COLUMNS, group=lambda line: line[1])


def _of_metric(metric: str, show: Callable[[Fit], str]) -> Callable[[Any], str]:
    """The cell of one metric in a line of `by_method`."""
    return lambda line: show(line[2][metric]) if metric in line[2] else DASH


def _published(row: Fit) -> str:
    published = PAPER_TABLE2.get(row.method)
    if not published:
        return ""
    low, high = r2_interval(math.sqrt(published[row.metric]), PAPER_BENCHMARKS)
    return f"{short(published[row.metric], 3)} [{short(low)}, {short(high)}]"


def points_table(points: Sequence[Point]) -> Table:
    """Every trained learner on every test set."""
    columns = [
        *(BENCHMARK, _METHOD, count_column("seed", "seed"), _TEST, value_column("diversity", "diversity", 4)),
        Column("accuracy", lambda row: _plus_minus(row, "accuracy")),
        Column("cross-entropy", lambda row: _plus_minus(row, "loss")),
        *(count_column("train images", "train_images"), count_column("train classes", "train_classes")),
    ]
    text = "One trained learner, one seed, one test set per line; ± half the 95% interval over test tasks."
    return Table("points", "All points", text, columns, points, list(map(record, points)), POINTS_COLUMNS)


def _plus_minus(row: Point, key: str) -> str:
    half = plain(value_of(row, f"{key}_ci"))
    return short(value_of(row, key), 3) + ("" if half is None else f" ± {short(half, 3)}")


def correlations_table(rows: Sequence[Correlation]) -> Table:
    """Every way in which one correlation was looked at."""
    columns = [
        *_ROW,
        p_column("p, permutation", "p_permutation"),
        span_column("slope", "slope", "slope_low", "slope_high"),
        span_column("Pearson r", "r", "r_low", "r_high"),
        span_column("Spearman", "spearman", "spearman_low", "spearman_high"),
        p_column("p, Spearman", "spearman_p"),
        between_column("R² bootstrap", "boot_low", "boot_high"),
        between_column("slope bootstrap", "boot_slope_low", "boot_slope_high"),
        between_column("Spearman bootstrap", "boot_spearman_low", "boot_spearman_high"),
        between_column("R², one left out", "loo_low", "loo_high"),
        words_column("most influential", "influential"),
        value_column("R² without it", "influential_r2"),
        value_column("reliability", "reliability"),
        span_column("R², noise corrected", "r2_true", "true_low", "true_high"),
        _NOTE,
    ]
    text = (
        "Slope: change of performance per 1 of diversity. Bootstrap: over benchmarks, diversity and performance "
        "redrawn within their own errors. One left out: the range of R² with each benchmark left out in turn. Noise "
        "corrected: what R² would be without the errors of measurement (Spearman's attenuation)."
    )
    return _table("correlations", "Correlations in full", text, columns, rows)


def differences_table(rows: Sequence[Difference], name: str = "differences", title: str = "") -> Table:
    """Whether one method's R² is above another's."""
    columns = [
        *(_METHOD, Column("against", lambda row: method_name(row.other), number=False), _TEST, _METRIC, _N),
        *(
            value_column("R²", "r2"),
            value_column("other's", "other_r2"),
            span_column("difference [95%]", "difference", "low", "high"),
        ),
        *(between_column("bootstrap", "boot_low", "boot_high"), p_column("p", "p_value"), _HOLM),
        Column("decided", lambda row: "yes" if row.decided else "undecided", number=False),
        _NOTE,
    ]
    text = (
        "The first method's R² minus the other's. Holm: over the differences of the same metric and test set. "
        "Decided: p, Holm < .05 and an interval without 0. Undecided: the data do not tell the two apart, which is not "
        "to say that they are equal."
    )
    return _table(name, title or "Differences between methods' R²", text, columns, rows)


def shared_sets_table(rows: Sequence[SharedSetsLine]) -> Table:
    """The lines that know which benchmarks share data sets."""
    columns = [
        *(Column("method", shared_sets_name, number=False), _TEST, _METRIC, _N, count_column("sets", "sets")),
        *(span_column("per +.1 of diversity [95%]", "effect", "low", "high", 3), p_column("p", "p_value"), _HOLM),
        *(span_column("R² [95%]", "r2", "r2_low", "r2_high"), value_column("sets' share", "sets_share"), _NOTE),
    ]
    text = (
        "Benchmarks that share data sets are not independent; every other test of this report takes them as if they "
        "were. Here every data set has an effect of its own, by its share in a benchmark (a mixed model). The change "
        "of performance per .1 of diversity, with Kenward and Roger's interval; R² is the share of the variance over "
        "benchmarks that diversity explains, and may differ from the R² of the line above. “A minus B” is about the "
        "difference of two methods' performance, and its R² is that of A less that of B. Sets' share: how much of what "
        "diversity leaves unexplained belongs to the data sets. Holm: over the rows of the same metric, test set and "
        "kind (methods, or differences)."
    )
    return _table("shared_sets", "Performance on diversity, given that benchmarks share data sets", text, columns, rows)


def published_table(rows: Sequence[Correlation]) -> Table:
    """The published R² under the tests that this report applies to its own."""
    text = (
        f"The published R² as summaries of {PAPER_BENCHMARKS} benchmarks; the points themselves were never published. "
        "p against zero, and corrected (Holm) for all of them."
    )
    return _table("published", "The paper's Table 2 under the same tests", text, (_METHOD, _METRIC, *_ROW[3:]), rows)


def partial_table(rows: Sequence[PartialCorrelation]) -> Table:
    """Diversity and performance, given the size of the data, where any of it could be given."""
    rows = [row for row in rows if row.given]
    given = Column("given", lambda row: listed(COVARIATES[name] for name in row.given), number=False)
    columns = [
        *(*_WHICH, given, value_column("R², alone", "raw_r2")),
        *(
            value_column("R² of what is given", "covariates_r2"),
            span_column("partial r", "r", "low", "high"),
            value_column("partial R²", "r2"),
        ),
        *(p_column("p", "p_value"), _HOLM, _NOTE),
    ]
    text = (
        "What is given leaves a part of performance unexplained; partial R² is the share of that part which diversity "
        "explains. Sizes enter as logarithms."
    )
    return _table("partial", "Given the size of the data", text, columns, rows)


def verdicts_table(rows: Sequence[SizeOrDiversity]) -> Table:
    """Which of size and diversity explains performance when the other is given, where sizes differ."""
    rows = [row for row in rows if Reason.ONE_SIZE not in {note.reason for note in row.notes}]
    columns = [
        *_WHICH,
        Column("verdict", lambda row: VERDICTS.get(row.verdict, ""), number=False),
        p_column("p of diversity, given size", "p_diversity"),
        p_column("p of size, given diversity", "p_size"),
        _NOTE,
    ]
    text = (
        "Which of diversity and size (log images) still explains performance when the other is given: p < .05, "
        'uncorrected. "Neither" may only mean too few benchmarks.'
    )
    return _table("verdicts", "Size or diversity", text, columns, rows)


def complexity_tables(found: MatchedComplexity) -> list[Table]:
    """The correlation over benchmarks of like complexity, and each benchmark's complexity."""
    most = short(found.largest_d)
    text = f"Only benchmarks whose mean Task2Vec norms differ pairwise by a Cohen's d of at most {most}."
    each = [
        BENCHMARK,
        span_column("complexity [95%]", "complexity", "low", "high", 4),
        yes_column("matched", "matched"),
    ]
    return [
        _table("complexity", "Benchmarks of matched complexity", text, (*_ROW, _NOTE), found.rows),
        _table("complexity_benchmarks", "Complexity of each benchmark", "Mean Task2Vec norm.", each, found.benchmarks),
    ]


def effect_tables(rows: Sequence[EffectSize], trends: Sequence[Fit]) -> list[Table]:
    """Every other family against pre-training on the same tasks, and the effect size against diversity."""
    families = listed(family_names(row.method for row in rows))
    told = lambda key: lambda row: comparison_word(getattr(row, key), row.method, row.baseline)
    columns = [
        *(BENCHMARK, _METHOD, _TEST, count_column("tasks", "tasks"), value_column("diversity", "diversity", 3)),
        span_column("difference [95%]", "difference", "low", "high", 3),
        *(
            span_column("Cohen's d [95%]", "d", "d_low", "d_high"),
            value_column("d, paired", "d_paired"),
            value_column("d of 1%", "threshold"),
        ),
        *(Column("1% rule", told("rule"), number=False), Column("verdict", told("verdict"), number=False), _NOTE),
    ]
    text = (
        "Accuracy of the method minus that of PT, paired over the same test tasks. 1% rule: Cohen's d against the d "
        "that a difference of .01 would be. Verdict: what the paired interval supports, one better by more than .01, "
        "both within .01, or neither (undecided)."
    )
    about = f"R² of Cohen's d ({families} over PT) on diversity, over n benchmarks; slope per 1 of diversity."
    of_trends = (_METHOD, _TEST, _N, _R2, value_column("slope", "slope"), p_column("p", "p_value"), _HOLM, _NOTE)
    return [
        _table("effect_sizes", f"PT against {families}", text, columns, rows),
        _table("effect_size_trends", f"PT against {families}, by diversity", about, of_trends, trends),
    ]


def controlled_table(rows: Sequence[ControlledEffect]) -> Table:
    """The controlled experiment: subsets of equal size that differ in diversity."""
    levels = list(dict.fromkeys(level for row in rows for level in row.means))
    columns = [
        Column("method", effect_name, number=False),
        *(_TEST, _METRIC, count_column("subsets", "subsets"), count_column("seeds", "seeds")),
        *(span_column("per +.1 of diversity [95%]", "effect", "low", "high", 3), p_column("p", "p_value"), _HOLM),
        *(Column(f"mean, {level}", _mean_of(level)) for level in levels),
        span_column("high − low [95%]", "high_minus_low", "hl_low", "hl_high", 3),
        *(value_column("sd of subsets", "sd_subsets", 3), value_column("sd of seeds", "sd_seeds", 3), _NOTE),
    ]
    text = (
        "Subsets of one pool with equal numbers of classes and images: the change of performance per .1 of diversity "
        "in a linear model over subsets, seeds averaged, with a block for subsets that were chosen from the same "
        "classes. Holm: over the rows of the same metric and test set."
    )
    records = [{"method": row.method or effect_name(row), **_flat(row, "means", "mean")} for row in rows]
    keys = list(dict.fromkeys(key for row in records for key in row))
    return Table("controlled", "The controlled experiment", text, columns, rows, records, keys)


def _mean_of(level: str) -> Callable[[Any], str]:
    return lambda row: short(row.means.get(level), 3)


def _flat(row: Any, key: str, prefix: str) -> dict[str, Any]:
    """A row as a line of a CSV, whose mapping `key` becomes columns of its own."""
    flat = record(row)
    spread = {f"{prefix}_{name}": value for name, value in flat.pop(key).items()}
    return flat | spread


def paired_table(rows: Sequence[PairedEffect]) -> Table:
    """Other tasks or classes of the same data, against the ordinary ones."""
    sources = list(dict.fromkeys(source for row in rows for source in row.by_source))
    columns = [
        words_column("tasks or classes", "kind"),
        *(_METHOD, _TEST, _METRIC, value_column("diversity", "diversity", 3)),
        *(value_column("diversity, counterpart", "other_diversity", 3), count_column("sources", "sources")),
        *(count_column("seeds", "seeds"), span_column("difference [95%]", "difference", "low", "high", 3)),
        *(p_column("p", "p_value"), _HOLM, Column("found", lambda row: HELPS[row.found], number=False)),
        *(Column(f"difference, {source}", _difference_of(source)) for source in sources),
        _NOTE,
    ]
    text = (
        "The same data, with other training tasks or other classes, against their counterpart: a sampler against its "
        "source's uniform tasks, a choice of classes against as many random ones. Both are tested on the same tasks. "
        "Difference: performance less the counterpart's, with Student's t over sources (of a single one, over seeds). "
        "Holm: over the rows of the same method, metric and test set."
    )
    records = [_flat(row, "by_source", "difference") for row in rows]
    keys = list(dict.fromkeys(key for row in records for key in row))
    return Table("paired", "Other tasks of the same data", text, columns, rows, records, keys)


def _difference_of(source: str) -> Callable[[Any], str]:
    return lambda row: short(row.by_source.get(source), 3)


def all_tables(found: Analysis, published: Published, numbers: Mapping[str, int]) -> dict[str, Table]:
    """Every table that an analysis can have, by name; one without rows where there are none."""
    title = "The paper's methods against each other"
    tables = [
        table1(found.diversity, numbers),
        table2(found.correlations, r2_measured_alike(found.diversity, found.points)),
        points_table(found.points),
        *(correlations_table(found.correlations), differences_table(found.differences)),
        shared_sets_table(found.shared_sets),
        *(published_table(published[0]), differences_table(published[1], "published_differences", title)),
        *(partial_table(found.partial), verdicts_table(found.verdicts)),
        *complexity_tables(found.complexity),
        *effect_tables(found.effect_sizes, found.effect_size_trends),
        *(controlled_table(found.controlled), paired_table(found.paired)),
    ]
    return {table.name: table for table in tables}
