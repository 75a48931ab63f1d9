"""Words: what a reader calls a method, a metric, a distance, a reason or a verdict; and how numbers are written."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxdiv.methods.registry import METHODS, family, family_label, label
from jaxdiv.stats.confounders import Covariate, Verdict
from jaxdiv.stats.controlled import ControlledEffect
from jaxdiv.stats.correlation import Fit
from jaxdiv.stats.effect_size import BASELINE, Comparison
from jaxdiv.stats.paired import MARGIN, Help
from jaxdiv.stats.rows import LEVEL, TEST_SETS, Note, Reason, in_order
from jaxdiv.stats.shared_sets import SharedSetsLine
from jaxdiv.task2vec.coefficient import DISTANCES

DASH = "–"
METRIC_NAMES = {"accuracy": "accuracy", "loss": "cross-entropy", "d": "d"}
COVARIATES: Mapping[str, str] = {
    Covariate.LOG_IMAGES: "number of images",
    Covariate.LOG_CLASSES: "number of classes",
    Covariate.OMNIGLOT_SHARE: "share of Omniglot",
}
VERDICTS = {
    Verdict.DIVERSITY: "diversity, given size",
    Verdict.SIZE: "size, given diversity",
    Verdict.BOTH: "both, each given the other",
    Verdict.NEITHER: "undecided, neither given the other",
}
HELPS = {
    Help.BETTER: "better",
    Help.WORSE: "worse",
    Help.NOT_BETTER: f"not better by {MARGIN:g}",
    Help.UNDECIDED: "undecided",
}
REASONS = {
    Reason.TOO_FEW_POINTS: "undefined: {n}, fewer than 3",
    Reason.SAME_X: "undefined: all {n} have the same diversity",
    Reason.SAME_Y: "undefined: all {n} have the same {metric}",
    Reason.NO_INTERVAL: "with {n} the interval is all of [0, 1] and says nothing",
    Reason.LEFT_OUT: "left out, diversity or {metric} missing or not finite: {names}",
    Reason.NOT_IN_BOTH: "not in both, or not finite: {names}",
    Reason.NOISE_IS_ALL: "R² cannot be corrected for noise: the errors are as large as the spread of the values",
    Reason.NOTHING_TO_TEST: "the methods' values leave nothing to test a difference against",
    Reason.FROM_SUMMARY: "from R² and n alone; r taken as positive",
    Reason.AS_INDEPENDENT: "from R² and n alone, as if the methods shared no benchmarks; r taken as positive",
    Reason.COVARIATES_NOT_DISTINCT: "these benchmarks do not tell apart: {names}",
    Reason.COVARIATES_UNKNOWN: "not known: {names}",
    Reason.COVARIATES_CONSTANT: "all benchmarks have the same {names}",
    Reason.TOO_MANY_COVARIATES: "{n}: too few to account for {names}",
    Reason.COVARIATES_ARE_DIVERSITY: "what is given leaves nothing of diversity",
    Reason.COVARIATES_ARE_PERFORMANCE: "what is given leaves nothing of performance",
    Reason.ONE_SIZE: "all benchmarks have one size",
    Reason.NO_BENCHMARKS: "no benchmarks",
    Reason.TOO_FEW_TASKS: "{n}: no interval",
    Reason.SAME_TASKS: "no task differs from another: Cohen's d is undefined",
    Reason.SETS_NOT_TOLD_APART: "undefined: {n} cannot tell the effects of the data sets from the rest",
    Reason.TOO_FEW_PAIRS: "undefined: fewer than two differences",
    Reason.SAME_DIFFERENCE: "undefined: every difference is the same",
    Reason.TOO_FEW_SUBSETS: "undefined: {n} cannot tell diversity from the rest",
}


def method_name(method: str) -> str:
    """The name a reader sees: "fo_maml_5" is "FO-MAML 5 steps"."""
    return label(method)


def method_names(rows: Iterable[Any]) -> str:
    """The methods of rows in the study's order, listed."""
    return listed(method_name(method) for method in in_order((row.method for row in rows), METHODS))


def family_names(methods: Iterable[str]) -> list[str]:
    """What the families of the methods are called, pre-training's left out: "MAML"."""
    families = dict.fromkeys(family(method) for method in in_order(methods, METHODS))
    return [family_label(name) for name in families if name != BASELINE]


def effect_name(row: ControlledEffect) -> str:
    """Whose effect a row of the controlled experiment is: a method's, the mean of all, or a family's less another's."""
    if row.minus:
        return f"{family_label(family(row.methods[0]))} minus {family_label(family(row.minus[0]))}"
    return method_name(row.methods[0]) if row.method else "all methods on average"


def shared_sets_name(row: SharedSetsLine) -> str:
    """Whose performance a line is about: a method's, or one's less another's."""
    return f"{method_name(row.method)} minus {method_name(row.minus)}" if row.minus else method_name(row.method)


def comparison_word(found: Comparison | None, method: str, baseline: str) -> str:
    """Which of two is better, by its family's name: "MAML", "PT", "within 1%" or "undecided"."""
    better = {Comparison.BETTER: method, Comparison.WORSE: baseline}
    if found in better:
        return family_label(family(better[found]))
    return {Comparison.ALIKE: "within 1%", Comparison.UNDECIDED: "undecided", None: ""}[found]


def note_text(note: Note, row: Any) -> str:
    """A note about a row in words; the row's `n`, `tasks` or `subsets` says of how many."""
    of = next((what for what in ("n", "tasks", "subsets") if hasattr(row, what)), "n")
    n = many(getattr(row, of, 0), {"n": "benchmark", "tasks": "task", "subsets": "subset"}[of])
    names = listed(COVARIATES.get(name, name) for name in note.names)
    return REASONS[note.reason].format(n=n, names=names, metric=METRIC_NAMES.get(getattr(row, "metric", ""), ""))


def notes_text(row: Any) -> str:
    """All notes of a row."""
    return "; ".join(note_text(note, row) for note in row.notes)


def test_set_names(tests: Iterable[str], fixed_test_set_name: str | None = None) -> dict[str, str]:
    """Each test set, own first, and the name a reader sees."""
    fixed = f"fixed test set ({fixed_test_set_name})" if fixed_test_set_name else "fixed test set"
    names = {"own": "own test split", "fixed": fixed}
    return {name: names.get(name, name) for name in in_order(tests, TEST_SETS)}


def distance_of(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """The one distance that rows of Table 1 were measured with; None where they do not say, or not alike."""
    found = {row.get("distance") for row in rows}
    return found.pop() if len(found) == 1 else None


def distance_name(name: str | None) -> str:
    """What a distance is called: "scale-free Task2Vec distance"."""
    return DISTANCES[name].label if name is not None and name in DISTANCES else name or "distance"


def distance_text(name: str | None) -> str:
    """A distance with its range and its unit: "cosine distance, 0–1", "KL divergence, ≥ 0 nats"."""
    if (found := DISTANCES.get(name or "")) is None:
        return distance_name(name)
    ends = "≥ 0" if math.isinf(found.high) else f"0–{found.high:.3g}"
    return f"{found.label}, {ends} {found.unit}".rstrip()


def listed(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"; nothing where there are none."""
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def many(count: int, what: str) -> str:
    """A number of things: "1 benchmark", "2 benchmarks"."""
    return f"{count} {what}{'s' * (count != 1)}"


def plain(value: Any) -> Any:
    """A value as plain Python, None where it is a number that is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def short(value: float | None, digits: int = 2) -> str:
    """A number between -1 and 1 as .42, without its leading zero; a dash where it is undefined.

    What is above zero never reads as .00: whether an interval reaches zero is what it is read for.
    """
    value = plain(value)
    if value is None:
        return DASH
    if value < 0:
        text = short(-value, digits)
        return f">-{text[1:]}" if text.startswith("<") else f"-{text}"
    if 0 < value < 0.5 * 10**-digits:
        return short(value, 3) if digits < 3 else f"<.{'0' * (digits - 1)}1"
    if value >= 1000:
        return f"{value:.3g}"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith("0.") else text


def span(value: float | None, low: float | None, high: float | None, digits: int = 2) -> str:
    """A number and its interval: ".42 [.01, .79]"; the number alone where it has no interval."""
    if plain(value) is None or plain(low) is None or plain(high) is None:
        return short(value, digits)
    return f"{short(value, digits)} [{short(low, digits)}, {short(high, digits)}]"


def p_text(p: float | None) -> str:
    """A p-value in words: "= .02", "< .001"; a dash where it is undefined."""
    p = plain(p)
    if p is None:
        return DASH
    # Two digits would print .049 as .05, on the wrong side of the level it is read against.
    return "< .001" if p < 0.001 else f"= {short(p, 3 if p < 0.1 else 2)}"


def significant(row: Any) -> bool:
    """Whether a row's number differs from zero after Holm's correction."""
    return row.p_holm is not None and row.p_holm < LEVEL


def uncorrected(row: Any) -> bool:
    """Whether it does so before the correction alone."""
    return row.p_value is not None and row.p_value < LEVEL and not significant(row)


def uncorrected_text(row: Any) -> str:
    """The p-value of a row whose significance Holm's correction takes away."""
    return f" (p {p_text(row.p_value)} uncorrected)" if uncorrected(row) else ""


def p_cell(p: float | None) -> str:
    """The p-value for a table: ".023", "<.001"."""
    return p_text(p).removeprefix("= ").replace(" ", "")


def r2_cell(row: Fit | None) -> str:
    """R² and its interval for a table: ".42 [.01, .79]"."""
    return span(row.r2, row.ci_low, row.ci_high) if row else DASH


def r2_text(row: Fit | None) -> str:
    """One R² in words: "R² = .42 [.01, .79], p = .023, n = 12", or why there is none. The p is uncorrected."""
    if row is None or row.r2 is None:
        return f"R² {note_text(row.notes[0], row)}" if row and row.notes else "R² undefined"
    return f"R² = {r2_cell(row)}, p {p_text(row.p_value)}, n = {row.n}"


def unbroken(text: str) -> str:
    """With spaces where no line may break: within "p = .02" and ".42 [.01, .79]"."""
    text = re.sub(r"(\S) (\[[^\]]*), ([^\]]*\])", "\\1\u00a0\\2,\u00a0\\3", text)
    return re.sub(r"\b(p|z|n|R²) ([=<]) ", "\\1\u00a0\\2\u00a0", text)


def by_method(correlations: Sequence[Fit]) -> list[tuple[str, str, dict[str, Fit]]]:
    """Table 2's lines in the study's order: (method, test set, its row of each metric)."""
    groups: dict[tuple[str, str], dict[str, Fit]] = {}
    for row in correlations:
        groups.setdefault((row.test_set, row.method), {})[row.metric] = row
    tests = in_order((test for test, _ in groups), TEST_SETS)
    methods = in_order((method for _, method in groups), METHODS)
    return [(m, t, groups[t, m]) for t in tests for m in methods if (t, m) in groups]
