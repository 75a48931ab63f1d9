"""What a study found, in sentences that follow from its numbers: the answer first, then every part of it.

Significance is at the 5% level after Holm's correction, unless a sentence says otherwise. `explanations` has the
sentences about what else could explain the numbers, `wording` the words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdiv.methods.registry import METHODS
from jaxdiv.report.explanations import (
    ceiling,
    confounding,
    controlled_effects,
    effect_sizes,
    paired,
    paired_in_short,
    shared_sets,
    support,
)
from jaxdiv.report.published import PAPER_CLAIM
from jaxdiv.report.wording import (
    METRIC_NAMES,
    distance_name,
    distance_of,
    family_names,
    listed,
    many,
    method_name,
    method_names,
    notes_text,
    p_text,
    r2_cell,
    r2_text,
    short,
    significant,
    span,
    test_set_names,
    uncorrected,
    uncorrected_text,
)
from jaxdiv.stats.analysis import Analysis
from jaxdiv.stats.confounders import Verdict
from jaxdiv.stats.correlation import Correlation
from jaxdiv.stats.differences import Difference
from jaxdiv.stats.regression import r_squared, smallest_significant_r2
from jaxdiv.stats.rows import LEVEL, METRICS, TEST_SETS, in_order

Section = tuple[str, list[str]]
Published = tuple[Sequence[Correlation], Sequence[Difference]]


def headline(
    found: Analysis, failures: Sequence[Mapping[str, Any]] = (), fixed_test_set_name: str | None = None
) -> list[str]:
    """The answer in a few sentences: does diversity predict accuracy, for which method more, and is it size?

    The sections of `summary` have the numbers of each, by test set.
    """
    benchmarks = {row["benchmark"] for row in found.diversity} | {point.benchmark for point in found.points}
    methods = {row.method for row in found.correlations} | {point.method for point in found.points}
    seeds = {point.seed for point in found.points}
    studied = ", ".join(many(len(of), what) for of, what in ((benchmarks, "benchmark"), (methods, "method")))
    studied += f", {many(len(seeds), 'seed')}"
    if failures:
        are = "are" if len(failures) > 1 else "is"
        studied += f"; {many(len(failures), 'unit')} failed and {are} missing from everything here"
    text = [f"{studied}.", conclusion(found, fixed_test_set_name)]
    if compared := [row for row in found.differences if row.metric == "accuracy" and row.p_value is not None]:
        decided = sum(row.decided for row in compared)
        one = "the one comparison of two methods"
        comparisons = f"{len(compared)} comparisons of two methods" if len(compared) > 1 else one
        text.append(
            f"One method's R² is significantly above the other's in {decided} of {comparisons}."
            if decided
            else f"No method's R² is significantly above another's ({comparisons})."
        )
    for differing in (False, True):
        lines = [row for row in found.shared_sets if row.metric == "accuracy" and row.p_value is not None]
        if lines := [row for row in lines if bool(row.minus) is differing]:
            cases = f"{sum(map(significant, lines)) or 'none'} of {many(len(lines), 'case')}"
            text.append(
                f"The difference of a method's accuracy from PT's changes significantly with diversity in {cases}, by "
                "the same model."
                if differing
                else "These tests take benchmarks as independent, but some share data sets. By the model that allows "
                f"for it, accuracy changes significantly with diversity in {cases} (a method on a test set)."
            )
    if judged := [row.verdict for row in found.verdicts if row.metric == "accuracy" and row.verdict]:
        count = lambda *verdicts: sum(verdict in verdicts for verdict in judged)
        text.append(
            "Given the size of the data, diversity still explains accuracy in "
            f"{count(Verdict.DIVERSITY, Verdict.BOTH)} of {many(len(judged), 'case')} (a method on a test set), and "
            f"size, given diversity, in {count(Verdict.SIZE, Verdict.BOTH)} (p < .05, uncorrected)."
        )
    if effects := [row for row in found.controlled if row.metric == "accuracy"]:
        averages = [row for row in effects if row.method is None]
        text.append(f"With size held equal by design, accuracy: {controlled_effects(averages or effects)}")
    if others := paired_in_short([row for row in found.paired if row.metric == "accuracy"]):
        text.append(f"Other tasks of the same data, accuracy against the ordinary ones: {others}.")
    return text


def so_far(unfinished: Sequence[Mapping[str, Any]]) -> list[str]:
    """That the study is not finished, in a sentence; nothing where it is. unfinished: as in `report.write_report`."""
    if not unfinished:
        return []
    counts = [count for row in unfinished for name, count in row.items() if name != "benchmark"]
    done, of = (sum(column) for column in zip(*counts, strict=True))
    return [f"This study is not finished: {done} of {of} results are there, and all that follows is of these alone."]


def conclusion(found: Analysis, fixed_test_set_name: str | None = None) -> str:
    """The answer in one sentence: does accuracy go with diversity, on which test sets and for which methods?"""
    known = [row for row in found.correlations if row.metric == "accuracy" and row.r2 is not None]
    if not known:
        return "Whether accuracy goes with diversity cannot be said: no R² is defined."
    alike: dict[Any, list[str]] = {}  # the test sets of one answer
    for test_set in in_order((row.test_set for row in known), TEST_SETS):
        mine = [row for row in known if row.test_set == test_set]
        answer = frozenset((row.method, significant(row) and _rises(row), significant(row)) for row in mine)
        alike.setdefault(answer if any(map(significant, mine)) else None, []).append(test_set)
    names = test_set_names((row.test_set for row in known), fixed_test_set_name)
    parts = []
    for tests in alike.values():
        where = listed(f"the {names[test]}" for test in tests)
        parts.append(_answer([row for row in known if row.test_set in tests], where, len(tests) > 1))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _answer(known: Sequence[Correlation], where: str, several: bool) -> str:
    """Whether accuracy goes with diversity on test sets of one answer, as a clause. several: more than one of them."""
    label = lambda row: method_name(row.method) + (f", {row.test_set}" if several else "")
    found = [row for row in known if significant(row)]
    least, best = (end(found or known, key=lambda row: row.r2 or 0.0) for end in (min, max))
    if not found:
        almost = [row for row in known if uncorrected(row)]
        note = f" (that of {method_names(almost)} does before Holm's correction)" if almost else ""
        which = f" ({'largest: ' * (len(known) > 1)}{r2_cell(best)}, {label(best)})"
        start = "whether accuracy goes with diversity on"
        return f"{start} {where} is undecided, since no R² differs significantly from zero{note}{which}"
    rises = {_rises(row) for row in found}
    verb = "changes" if len(rises) > 1 else "rises" if rises.pop() else "falls"
    methods = in_order((row.method for row in found), METHODS)
    rest = method_names([row for row in known if row.method not in methods])
    who = f"each of {len(methods)} methods" if len(methods) > 2 and not rest else method_names(found)
    values = f"R² {r2_cell(best)}"
    if len(found) > 1 and r2_cell(least) != r2_cell(best):
        values = f"R² from {r2_cell(least)} ({label(least)}) to {r2_cell(best)} ({label(best)})"
    undecided = f"; for {rest} this is undecided" if rest else ""
    return f"accuracy {verb} significantly with diversity on {where} for {who}, with {values}{undecided}"


def _rises(row: Correlation) -> bool:
    return row.slope is not None and row.slope > 0


def true_beside_measured(diversity: Sequence[Mapping[str, Any]]) -> str:
    """How the known true diversity of generated benchmarks relates to the measured one; nothing if none is known."""
    known = [row for row in diversity if row.get("true_diversity") is not None]
    if not known:
        return ""
    text = (
        "True diversity is the root of the expected squared Hellinger distance of two tasks, known in closed form for "
        f"generated benchmarks; measured is the mean {distance_name(distance_of(known))} of two tasks' embeddings. The "
        "two scales differ: only the order must agree"
    )
    from scipy import stats

    ranks = [stats.rankdata([row[key] for row in known]) for key in ("true_diversity", "diversity")]
    if len(known) < 3 or (rank := r_squared(*ranks).r) is None:
        return f"{text}."
    agrees = "it does" if rank > 1 - 1e-9 else "it does not throughout"
    return f"{text}, and {agrees} (Spearman correlation {short(rank)}, {len(known)} benchmarks)."


def summary(
    found: Analysis,
    published: Published = ((), ()),
    failures: Sequence[Mapping[str, Any]] = (),
    fixed_test_set_name: str | None = None,
) -> list[Section]:
    """The study in sections of sentences. published: rows of the paper's Table 2 under the same tests."""
    tests = {row.test_set for row in found.correlations} | {point.test_set for point in found.points}
    names = test_set_names(tests, fixed_test_set_name)
    sections: list[Section] = []
    if failures:
        lost = [f"{f.get('unit', 'a unit')}: {f.get('reason', 'failed')}" for f in failures]
        sections.append((f"Failed units ({len(lost)}), missing from everything here", lost))
    for test_set, name in names.items():
        for metric in METRICS:
            mine = [row for row in found.correlations if (row.test_set, row.metric) == (test_set, metric)]
            lines = _correlations(mine, METRIC_NAMES[metric])
            apart = [row for row in found.differences if (row.test_set, row.metric) == (test_set, metric)]
            if any(row.p_value is not None for row in apart):
                lines.append(_ranking(apart))
            sections.append((f"{METRIC_NAMES[metric].capitalize()}, {name}", lines))
    families = listed(family_names(row.method for row in found.effect_sizes))
    controlled = {metric: [row for row in found.controlled if row.metric == metric] for metric in METRICS}
    effects = [f"{METRIC_NAMES[m].capitalize()}: {controlled_effects(rows)}" for m, rows in controlled.items() if rows]
    of_metric = lambda metric: [row for row in found.paired if row.metric == metric]
    sections += [
        ("Given that benchmarks share data sets", shared_sets(found.shared_sets, names)),
        ("Diversity, or size?", confounding(found, names)),
        (f"PT against {families}, on the same tasks", effect_sizes(found, names)),
        ("The controlled experiment", effects),
        *((f"Other tasks of the same data: {METRIC_NAMES[m]}", paired(of_metric(m))) for m in METRICS),
        ("What these points can support", [*support(found), *ceiling(found.points)]),
        ("The paper's Table 2 under the same tests", _paper(*published)),
    ]
    return [(head, lines) for head, lines in sections if lines]


def _correlations(rows: Sequence[Correlation], metric: str) -> list[str]:
    """One metric on one test set: what differs from zero, what does not, and what a single benchmark decides."""
    known = [row for row in rows if row.r2 is not None]
    lines = []
    found = [row for row in known if significant(row)]
    if found:
        each = "; ".join(
            f"{method_name(row.method)} {r2_cell(row)}, {_step(row)} (Holm's p {p_text(row.p_holm)})" for row in found
        )
        lines.append(f"R² differs from zero; change of {metric} per .01 of diversity: {each}.")
    if rest := [row for row in known if not significant(row)]:
        each = "; ".join(f"{method_name(row.method)} {r2_cell(row)}{uncorrected_text(row)}" for row in rest)
        lines.append(f"No significant difference from zero: {each}.")
    for note in dict.fromkeys(notes_text(row) for row in rows if row.notes):
        lines.append(f"{method_names([row for row in rows if notes_text(row) == note])}: {note}.")
    return [*lines, *filter(None, map(_decisive, known))]


def _step(row: Correlation) -> str:
    """The change of performance per .01 of diversity."""
    slope = row.slope or 0.0
    return f"{'+' if slope > 0 else '-'}{abs(slope) * 0.01:.2g}".replace("0.", ".", 1)


def _decisive(row: Correlation) -> str:
    """The sentence that a single benchmark decides whether an R² differs from zero, where one does."""
    limit, without = smallest_significant_r2(row.n - 1), row.influential_r2
    if row.influential is None or without is None or limit is None or row.p_value is None:
        return ""
    before, after = row.p_value < LEVEL, without >= limit
    if before == after:
        return ""
    return (
        f"One benchmark decides: without {row.influential} the R² of {method_name(row.method)} is {short(without)} "
        f"instead of {short(row.r2)}, and {'would differ' if after else 'would not differ'} from zero (uncorrected)."
    )


def _ranking(rows: Sequence[Difference]) -> str:
    """Which methods' R² are told apart; if none are, the paper's own claim (or the largest difference)."""
    known = [row for row in rows if row.p_value is not None and row.difference is not None]
    if decided := [row for row in known if row.decided]:
        left = len(known) - len(decided)
        rest = f"; {many(left, 'other pair')} undecided" if left else ""
        return f"R² differs: {listed(_pair(row, ' above ') for row in decided)}{rest}."
    claimed = [row for row in known if (row.method, row.other) == PAPER_CLAIM]
    shown = claimed[0] if claimed else max(known, key=lambda row: abs(row.difference or 0.0))
    several = f"none of {len(known)} differences of R² is" if len(known) > 1 else "the difference of R² is not"
    return f"Undecided: {several} significant ({_pair(shown, ' minus ')}, p {p_text(shown.p_value)} uncorrected)."


def _pair(row: Difference, joint: str) -> str:
    """Two methods, the one of larger R² first, and the difference."""
    gap, low, high = row.difference or 0.0, row.low, row.high
    if gap >= 0:
        return f"{method_name(row.method)}{joint}{method_name(row.other)} {span(gap, low, high)}"
    turned_low, turned_high = (None if value is None else -value for value in (high, low))
    return f"{method_name(row.other)}{joint}{method_name(row.method)} {span(-gap, turned_low, turned_high)}"


def _paper(rows: Sequence[Correlation], differences: Sequence[Difference]) -> list[str]:
    """Which of the published R² differ from zero and from each other."""
    if not rows:
        return []
    raw = [row for row in rows if row.p_value is not None and row.p_value < LEVEL]
    which = listed(f"{method_name(row.method)}, {METRIC_NAMES[row.metric]} ({r2_text(row)})" for row in raw)
    text = [
        f"Of {len(rows)} published R², {len(raw)} differ{'s' * (len(raw) == 1)} from zero before Holm's correction"
        + (f": {which}" if raw else "")
        + f"; {sum(map(significant, rows)) or 'none'} after it."
    ]
    decided = sum(row.decided for row in differences)
    are = "are" if decided > 1 else "is"
    text.append(f"Of {len(differences)} differences between its methods, {decided or 'none'} {are} decided.")
    for row in differences:
        if (row.method, row.other) == PAPER_CLAIM and row.metric == "accuracy":
            state = "decided" if row.decided else "undecided"
            text.append(
                f"Whether {method_name(row.method)} is above {method_name(row.other)} in accuracy ({short(row.r2)} and "
                f"{short(row.other_r2)}) is {state}: z = {short(row.statistic)}, p {p_text(row.p_value)}."
            )
    return text
