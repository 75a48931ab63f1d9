"""What a study found, in sentences that follow from its numbers: the answer first, then every part of it.

Significance is at the 5% level after Holm's correction, unless a sentence says otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import special

from jaxdiv.methods.registry import METHODS
from jaxdiv.report.wording import AGGREGATES, method_name, p_text, r2_cell, r2_text, short, span, test_set_names
from jaxdiv.stats.controls import NOTHING, ONE_SIZE
from jaxdiv.stats.correlate import METRICS, TEST_SETS, average_seeds, in_order, listed
from jaxdiv.stats.regression import r_squared, smallest_significant_r2

Row = Mapping[str, Any]
Section = tuple[str, list[str]]
LEVEL = 0.05
SATURATED = 0.97  # an accuracy above which little room is left


def headline(analysis: Mapping[str, Any], failures: Sequence[Row], fixed_test_set_name: str | None) -> list[str]:
    """The answer in a few sentences: does diversity predict accuracy, for which method more, and is it size?

    The sections of `summary` have the numbers of each, by test set."""
    points, rows = analysis.get("points") or [], analysis.get("correlations") or []
    benchmarks = len({r["benchmark"] for r in [*(analysis.get("diversity") or []), *points]})
    methods, seeds = len({r["method"] for r in [*rows, *points]}), len({r.get("seed") for r in points})
    text = [f"{_many(benchmarks, 'benchmark')}, {_many(methods, 'method')}, {_many(seeds, 'seed')}."]
    if failures:
        text[0] = (
            f"{text[0][:-1]}; {_many(len(failures), 'unit')} failed and {_is(failures)} missing from everything here."
        )
    text.append(conclusion(analysis, fixed_test_set_name))
    of_accuracy = lambda key: [row for row in analysis.get(key) or [] if row["metric"] == "accuracy"]
    if apart := [row for row in of_accuracy("differences") if row.get("p_value") is not None]:
        told = sum(bool(row.get("decided")) for row in apart)
        compared = f"{len(apart)} comparisons of two methods" if len(apart) > 1 else "the one comparison of two methods"
        text.append(
            f"One method's R² is significantly above the other's in {told} of {compared}."
            if told
            else f"No method's R² is significantly above another's ({compared})."
        )
    if judged := [row for row in of_accuracy("verdicts") if row.get("verdict")]:
        count = lambda *verdicts: sum(row["verdict"] in verdicts for row in judged)
        text.append(
            f"Given the size of the data, diversity still explains accuracy in {count('diversity', 'both')} of "
            f"{_many(len(judged), 'case')} (a method on a test set), and size, given diversity, in "
            f"{count('size', 'both')} (p < .05, uncorrected)."
        )
    controlled = [row for row in analysis.get("controlled") or [] if row["metric"] == "accuracy"]
    controlled = [row for row in controlled if row["method"] in AGGREGATES] or controlled
    if controlled:
        text.append(f"And with size held equal by design? Accuracy: {_effects(controlled)}")
    return text


def conclusion(analysis: Mapping[str, Any], fixed_test_set_name: str | None = None) -> str:
    """The answer in one sentence: does accuracy go with diversity, on which test sets and for which methods?"""
    known = [row for row in analysis.get("correlations") or [] if row["metric"] == "accuracy" and row["r2"] is not None]
    if not known:
        return "Whether accuracy goes with diversity cannot be said: no R² is defined."
    alike: dict[Any, list[str]] = {}  # the test sets of one answer
    for test_set in in_order((row["test_set"] for row in known), TEST_SETS):
        mine = [row for row in known if row["test_set"] == test_set]
        answer = frozenset((row["method"], significant(row) and row["slope"] > 0, significant(row)) for row in mine)
        alike.setdefault(answer if any(map(significant, mine)) else None, []).append(test_set)
    names = test_set_names(known, fixed_test_set_name)
    parts = []
    for tests in alike.values():
        where = listed(f"the {names[test]}" for test in tests)
        parts.append(_answer([row for row in known if row["test_set"] in tests], where, len(tests) > 1))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def true_beside_measured(diversity: Sequence[Row]) -> str:
    """What the known true diversity of generated benchmarks has to do with the measured one; nothing if none is
    known."""
    known = [row for row in diversity if row.get("true_diversity") is not None]
    if not known:
        return ""
    cosine = all(row.get("distance") in (None, "task2vec_scale_free", "task2vec", "cosine") for row in known)
    text = (
        "True diversity is the root of the expected squared Hellinger distance of two tasks, known in closed form for "
        f"generated benchmarks; measured is the {'cosine ' * cosine}distance of their Task2Vec embeddings. The two "
        "scales differ: only the order must agree"
    )
    from scipy import stats

    ranks = [stats.rankdata([row[key] for row in known]) for key in ("true_diversity", "diversity")]
    if len(known) < 3 or (rank := r_squared(*ranks).r) is None:
        return f"{text}."
    agrees = "it does" if rank > 1 - 1e-9 else "it does not throughout"
    return f"{text}, and {agrees} (Spearman correlation {short(rank)}, {len(known)} benchmarks)."


def summary(
    analysis: Mapping[str, Any],
    published: tuple[Sequence[Row], Sequence[Row]],
    failures: Sequence[Row] = (),
    fixed_test_set_name: str | None = None,
) -> list[Section]:
    """The study in sections of sentences. published: rows of the paper's Table 2 under the same tests."""
    rows = analysis.get("correlations") or []
    names = test_set_names([*rows, *(analysis.get("points") or [])], fixed_test_set_name)
    sections: list[Section] = []
    if failures:
        lost = [f"{f.get('unit', 'a unit')}: {f.get('reason', 'failed')}" for f in failures]
        sections.append((f"Failed units ({len(lost)}), missing from everything here", lost))
    for test_set, name in names.items():
        for metric, metric_name in METRICS.items():
            lines = _correlations(_of(rows, test_set, metric), metric_name)
            apart = _of(analysis.get("differences"), test_set, metric)
            if any(row.get("p_value") is not None for row in apart):
                lines.append(_ranking(apart))
            if lines:
                sections.append((f"{metric_name.capitalize()}, {name}", lines))
    sections.append(("Diversity, or size?", _controls(analysis, names)))
    sections.append(("PT against MAML, on the same tasks", _against(analysis, names)))
    controlled = analysis.get("controlled") or []
    sections.append(
        (
            "The controlled experiment",
            [
                f"{METRICS[m].capitalize()}: {_effects(mine)}"
                for m in METRICS
                if (mine := [row for row in controlled if row["metric"] == m])
            ],
        )
    )
    sections.append(("What these points can support", _support(analysis)))
    sections.append(("The paper's Table 2 under the same tests", _paper(*published)))
    return [(head, lines) for head, lines in sections if lines]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _is(things: Sequence[Any]) -> str:
    return "are" if len(things) > 1 else "is"


def _lie(things: Sequence[Any]) -> str:
    return "lie" if len(things) > 1 else "lies"


def _of(rows: Sequence[Row] | None, test_set: str, metric: str) -> list[Row]:
    return [row for row in rows or [] if row["test_set"] == test_set and row["metric"] == metric]


def _names(rows: Sequence[Row]) -> str:
    return listed(method_name(m) for m in in_order((row["method"] for row in rows), METHODS))


def significant(row: Row) -> bool:
    """Whether a row's number differs from zero after Holm's correction."""
    return row.get("p_holm") is not None and row["p_holm"] < LEVEL


def _uncorrected(row: Row) -> bool:
    return row.get("p_value") is not None and row["p_value"] < LEVEL and not significant(row)


def _uncorrected_note(row: Row) -> str:
    return f" (p {p_text(row['p_value'])} uncorrected)" if _uncorrected(row) else ""


def _answer(known: Sequence[Row], where: str, several: bool) -> str:
    """Whether accuracy goes with diversity on test sets of one answer, as a clause. several: more than one of them."""
    label = lambda row: method_name(row["method"]) + (f", {row['test_set']}" if several else "")
    found = [row for row in known if significant(row)]
    least, best = (end(found or known, key=lambda row: row["r2"]) for end in (min, max))
    if not found:
        almost = [row for row in known if _uncorrected(row)]
        note = f" (that of {_names(almost)} does before Holm's correction)" if almost else ""
        which = f" ({'largest: ' * (len(known) > 1)}{r2_cell(best)}, {label(best)})"
        start = "whether accuracy goes with diversity on"
        return f"{start} {where} is undecided, since no R² differs significantly from zero{note}{which}"
    rises = {row["slope"] > 0 for row in found}
    verb = "changes" if len(rises) > 1 else "rises" if rises.pop() else "falls"
    methods = in_order((row["method"] for row in found), METHODS)
    rest = _names([row for row in known if row["method"] not in methods])
    who = f"each of {len(methods)} methods" if len(methods) > 2 and not rest else _names(found)
    values = f"R² {r2_cell(best)}"
    if len(found) > 1 and r2_cell(least) != r2_cell(best):
        values = f"R² from {r2_cell(least)} ({label(least)}) to {r2_cell(best)} ({label(best)})"
    undecided = f"; for {rest} this is undecided" if rest else ""
    return f"accuracy {verb} significantly with diversity on {where} for {who}, with {values}{undecided}"


def _ranking(rows: Sequence[Row]) -> str:
    """Which methods' R² are told apart; if none are, the study's own claim (or the largest difference)."""
    known = [row for row in rows if row.get("p_value") is not None]
    decided = [row for row in known if row.get("decided")]

    def words(row: Row, joint: str) -> str:
        """The pair, the one of larger R² first, and the difference."""
        pair, values = (row["method"], row["other"]), (row["difference"], row.get("low"), row.get("high"))
        if row["difference"] < 0:
            low, high = (None if value is None else -value for value in (row.get("high"), row.get("low")))
            pair, values = pair[::-1], (-row["difference"], low, high)
        return joint.join(map(method_name, pair)) + f" {span(*values)}"

    if decided:
        left = len(known) - len(decided)
        rest = f"; {_many(left, 'other pair')} undecided" if left else ""
        return f"R² differs: {listed(words(row, ' above ') for row in decided)}{rest}."
    claimed = [row for row in known if {row["method"], row["other"]} == {"ho_maml_10", "pt"}]
    shown = claimed[0] if claimed else max(known, key=lambda row: abs(row["difference"]))
    several = f"none of {len(known)} differences of R² is" if len(known) > 1 else "the difference of R² is not"
    return f"Undecided: {several} significant ({words(shown, ' minus ')}, p {p_text(shown['p_value'])} uncorrected)."


def _correlations(rows: Sequence[Row], metric: str) -> list[str]:
    """One metric on one test set: what differs from zero, what does not, and what a single benchmark decides."""
    known = [row for row in rows if row["r2"] is not None]
    lines = []
    found = [row for row in known if significant(row)]
    if found:
        step = lambda row: f"{'+' if row['slope'] > 0 else '-'}{abs(row['slope']) * 0.01:.2g}".replace("0.", ".", 1)
        each = "; ".join(
            f"{method_name(row['method'])} {r2_cell(row)}, {step(row)} (Holm's p {p_text(row['p_holm'])})"
            for row in found
        )
        lines.append(f"R² differs from zero; change of {metric} per .01 of diversity: {each}.")
    rest = [row for row in known if not significant(row)]
    if rest:
        each = "; ".join(f"{method_name(row['method'])} {r2_cell(row)}{_uncorrected_note(row)}" for row in rest)
        lines.append(f"No significant difference from zero: {each}.")
    for note in dict.fromkeys(row["note"] for row in rows if row.get("note")):
        mine = [row for row in rows if row.get("note") == note]
        lines.append(f"{_names(mine)}: {note}.")
    for row in known:
        limit = smallest_significant_r2(row["n"] - 1)
        without = row.get("influential_r2")
        if row.get("influential") is None or without is None or limit is None:
            continue
        before, after = row["p_value"] < LEVEL, without >= limit
        if before != after:
            verdict = "would differ" if after else "would not differ"
            lines.append(
                f"One benchmark decides: without {row['influential']} the R² of {method_name(row['method'])} is "
                f"{short(without)} instead of {short(row['r2'])}, and {verdict} from zero (uncorrected)."
            )
    return lines


def _verdict(rows: Sequence[Row]) -> str:
    says = {
        "diversity": "diversity, given size, for",
        "size": "size, given diversity, for",
        "both": "both, each given the other, for",
        "neither": "undecided, neither given the other, for",
    }
    everyone = f"each of {len(rows)} methods"
    parts = [
        f"{text} {everyone if len(mine) == len(rows) > 2 else _names(mine)}"
        for verdict, text in says.items()
        if (mine := [row for row in rows if row.get("verdict") == verdict])
    ]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]} (p < .05, uncorrected)."


def _controls(analysis: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    lines = []
    partial = [row for row in analysis.get("partial") or [] if row.get("p_value") is not None]
    for note in {row["note"]: 0 for row in analysis.get("partial") or [] if row["given"] == NOTHING and row["note"]}:
        so = "" if "not known" in note else ", so that these explain no correlation here"
        lines.append(f"No correlation is shown given the size or the mixture of the data: {note}{so}.")
    for given in dict.fromkeys(row["given"] for row in partial):
        mine = [row for row in partial if row["given"] == given]
        found = [row for row in mine if significant(row)]
        lines.append(
            f"Given {given}, diversity still explains performance significantly in {len(found) or 'none'} of "
            f"{_many(len(mine), 'case')}{_cases(found)}."
        )
    verdicts = [row for row in analysis.get("verdicts") or [] if row.get("verdict")]
    for test_set, name in names.items():
        for metric, metric_name in METRICS.items():
            if mine := _of(verdicts, test_set, metric):
                lines.append(f"{metric_name.capitalize()}, {name}: {_verdict(mine)}")
    complexity = analysis.get("complexity") or {}
    if rows := complexity.get("rows"):
        known = [row for row in rows if row.get("p_value") is not None]
        matched = listed(complexity.get("matched") or ["none"])
        found = [row for row in known if significant(row)]
        how_many = f"{len(found) or 'none'} of {len(known)}"
        result = f"{how_many} R² differ{'s' * (len(found) < 2)} from zero" if known else "no R² is defined"
        lines.append(f"Among benchmarks of matched complexity ({matched}), {result}{_cases(found)}.")
    return lines


def _cases(rows: Sequence[Row], most: int = 4) -> str:
    """Rows named with their R², if there are few; the table has them all."""
    if not 0 < len(rows) <= most:
        return ""
    where = lambda row: f"{method_name(row['method'])}, {METRICS[row['metric']]}, {row['test_set']}"
    return ": " + "; ".join(f"{where(row)} ({short(row['r2'])})" for row in rows)


def _against(analysis: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    lines = []
    rows = [row for row in analysis.get("effect_sizes") or [] if row.get("verdict")]
    for test_set, name in names.items():
        mine = [row for row in rows if row["test_set"] == test_set]
        if not mine:
            continue
        count = lambda key, value, mine=mine: sum(row.get(key) == value for row in mine)
        lines.append(
            f"{name[0].upper()}{name[1:]}, {_many(len(mine), 'comparison')} of a MAML method with PT on a benchmark, "
            "as these networks were trained: "
            f"MAML is better by more than 1% in {count('verdict', 'MAML')}, PT in {count('verdict', 'PT')}, they are "
            f"within 1% in {count('verdict', 'within 1%')}, undecided {count('verdict', 'undecided')}. "
            f"By the 1% rule on Cohen's d: MAML {count('rule', 'MAML')}, PT {count('rule', 'PT')}, "
            f"no difference {count('rule', 'no difference')}."
        )
    trends = [row for row in analysis.get("effect_size_trends") or [] if row.get("p_value") is not None]
    if trends:
        found = [row for row in trends if significant(row)]
        each = lambda row: f"{method_name(row['method'])}, {row['test_set']} ({r2_text(row)})"
        if found:
            ways = listed(f"{each(row)}, {'rising' if row['slope'] > 0 else 'falling'}" for row in found)
            lines.append(f"The advantage of MAML over PT changes with diversity for {ways}.")
        else:
            best = max(trends, key=lambda row: row["r2"])
            lines.append(
                f"The advantage of MAML over PT (Cohen's d) does not change significantly with diversity in any of "
                f"{_many(len(trends), 'case')}; the closest: {each(best)}."
            )
    return lines


def _effects(rows: Sequence[Row]) -> str:
    """The controlled effects of one metric: what changes with diversity, and by how much."""
    known = [row for row in rows if row.get("effect") is not None]
    if not known:
        return "No effect could be estimated."
    several = len({row["test_set"] for row in rows}) > 1
    where = lambda row: method_name(row["method"]) + (f" ({row['test_set']})" if several else "")
    change = lambda row: "+" * (row["effect"] >= 0.0005) + span(row["effect"], row.get("low"), row.get("high"), 3)
    each = lambda row: f"{where(row)} {change(row)}{_uncorrected_note(row)}"
    found = [row for row in known if significant(row)]
    rest = [row for row in known if not significant(row)]
    text = []
    if found:
        text.append(f"+.1 of diversity changes it significantly for {'; '.join(map(each, found))}.")
    if rest:
        text.append(f"No significant effect of +.1 of diversity for {'; '.join(map(each, rest))}.")
    return " ".join(text)


def detectable_r2(n: int, power: float = 0.8) -> float | None:
    """The true R² over `n` points that a two-sided 5% test finds with probability `power`; None if n < 4.

    By Fisher's z: artanh r = (1.96 + z_power) / √(n-3).
    """
    if n < 4:
        return None
    return math.tanh((special.ndtri(0.975) + special.ndtri(power)) / math.sqrt(n - 3)) ** 2


def _support(analysis: Mapping[str, Any]) -> list[str]:
    """What the number of benchmarks and their noise allow to be said, whatever the values are."""
    rows = analysis.get("correlations") or []
    known = [row for row in rows if row["r2"] is not None]
    text = []
    if not known:
        text.append("No R² is defined: it takes 3 benchmarks or more that differ in diversity and performance.")
    else:
        n = max(row["n"] for row in known)
        text.append(
            f"With {n} benchmarks an R² must exceed {short(smallest_significant_r2(n))} to differ from zero in a "
            "single test at the 5% level, and more after Holm's correction."
        )
        if (seen := detectable_r2(n)) is not None:
            text.append(f"To be found in 4 of 5 such studies, even uncorrected, a true R² must be {short(seen)}.")
        raw, corrected = sum(row["p_value"] < LEVEL for row in known), sum(map(significant, known))
        text.append(
            f"{raw} of {len(known)} correlations have p < .05 before Holm's correction, {corrected} after it; without "
            f"any relation about {LEVEL * len(known):.1g} would before it, by chance."
        )
        noisy = [row for row in known if row.get("reliability") is not None and row.get("r2_true") is not None]
        if noisy:
            ends = sorted(short(row["reliability"]) for row in noisy)
            between = " to ".join(dict.fromkeys((ends[0], ends[-1])))
            best = max(noisy, key=lambda row: row["r2"])
            text.append(
                f"Errors of measurement lower R² (reliability {between}); without them the largest, "
                f"{short(best['r2'])} of {method_name(best['method'])}, would be "
                f"{span(best['r2_true'], best.get('true_low'), best.get('true_high'))}."
            )
        if analysis.get("controlled"):
            text.append("The subsets are of one size and one mixture of data sets by design.")
        else:
            partial, verdicts = analysis.get("partial") or [], analysis.get("verdicts") or []
            given = any(row.get("p_value") is not None and "log images" in row["given"] for row in partial)
            equal = any(row.get("note") == ONE_SIZE for row in verdicts)
            owed = "" if given or equal else ", and the size of the data is not controlled here"
            shared = "Benchmarks that share images are not independent"
            text.append(f"{shared}{owed}: a correlation is not an effect of diversity.")
        if any(row["test_set"] == "own" for row in known):
            text.append("On own test splits a benchmark's difficulty moves its accuracy too.")
    return [*text, *_ceiling(analysis.get("points") or [])]


def _ceiling(points: Sequence[Row]) -> list[str]:
    """Where accuracy is so near 1 that it can hardly rise, and what that does to R²."""
    known = [point for point in average_seeds(points) if point["accuracy"] is not None]
    high = [point for point in known if point["accuracy"] > SATURATED]
    if not high:
        return []
    each = []
    for test_set in in_order((point["test_set"] for point in high), TEST_SETS):
        of = lambda points, test=test_set: [point["method"] for point in points if point["test_set"] == test]
        mine, every = of(high), of(known)
        counts = (f"{method_name(m)} {mine.count(m)} of {every.count(m)}" for m in in_order(mine, METHODS))
        each.append(f"{test_set}: {', '.join(counts)}")
    return [
        f"{len(high)} of {_many(len(known), 'point')} {_lie(high)} above an accuracy of {short(SATURATED)} "
        f"({'; '.join(each)}). So near to 1 accuracy can hardly rise: differences shrink, the relation bends, and a "
        "straight line's R² says too little of how closely accuracy follows diversity; cross-entropy has no such "
        "ceiling."
    ]


def _paper(rows: Sequence[Row], differences: Sequence[Row]) -> list[str]:
    """Which of the published R² differ from zero and from each other."""
    if not rows:
        return []
    raw, corrected = [row for row in rows if row["p_value"] < LEVEL], [row for row in rows if significant(row)]
    which = listed(f"{_pair(row)} ({r2_text(row)})" for row in raw)
    text = [
        f"Of {len(rows)} published R², {len(raw)} differ{'s' * (len(raw) == 1)} from zero before Holm's correction"
        + (f": {which}" if raw else "")
        + f"; {len(corrected) or 'none'} after it."
    ]
    decided = [row for row in differences if row.get("decided")]
    text.append(
        f"Of {len(differences)} differences between its methods, {len(decided) or 'none'} {_is(decided)} decided."
    )
    for row in differences:
        if (row["method"], row["other"], row["metric"]) == ("ho_maml_10", "pt", "accuracy"):
            state = "decided" if row.get("decided") else "undecided"
            text.append(
                f"Whether {method_name('ho_maml_10')} is above PT in accuracy ({short(row['r2'])} and "
                f"{short(row['other_r2'])}) is {state}: z = {short(row['statistic'])}, p {p_text(row['p_value'])}."
            )
    return text


def _pair(row: Row) -> str:
    return f"{method_name(row['method'])}, {METRICS[row['metric']]}"
