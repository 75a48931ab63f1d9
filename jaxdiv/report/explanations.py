"""Sentences about what else could explain the numbers: size and mixture, the methods, the design, the noise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import special

from jaxdiv.methods.registry import METHODS, family, family_label
from jaxdiv.report.wording import (
    COVARIATES,
    HELPS,
    METRIC_NAMES,
    VERDICTS,
    effect_name,
    family_names,
    listed,
    many,
    method_name,
    method_names,
    note_text,
    r2_text,
    shared_sets_name,
    short,
    significant,
    span,
    uncorrected_text,
)
from jaxdiv.stats.analysis import Analysis
from jaxdiv.stats.confounders import Covariate, SizeOrDiversity
from jaxdiv.stats.controlled import ControlledEffect
from jaxdiv.stats.correlation import Fit
from jaxdiv.stats.effect_size import BASELINE, Comparison, EffectSize
from jaxdiv.stats.paired import Help, PairedEffect
from jaxdiv.stats.regression import smallest_significant_r2
from jaxdiv.stats.rows import LEVEL, METRICS, TEST_SETS, Point, Reason, average_seeds, in_order
from jaxdiv.stats.shared_sets import SharedSetsLine

SATURATED = 0.97  # an accuracy above which little room is left


def confounding(found: Analysis, names: Mapping[str, str]) -> list[str]:
    """Whether size, mixture or complexity explain what diversity seems to. names: of the test sets."""
    lines = []
    for notes in dict.fromkeys(row.notes for row in found.partial if not row.given and row.notes):
        known = all(note.reason is Reason.COVARIATES_CONSTANT for note in notes)
        why = "; ".join(note_text(note, None) for note in notes)
        so = ", so that these explain no correlation here" if known else ""
        lines.append(f"No correlation is shown given the size or the mixture of the data: {why}{so}.")
    partial = [row for row in found.partial if row.p_value is not None]
    for given in dict.fromkeys(row.given for row in partial):
        mine = [row for row in partial if row.given == given]
        left = [row for row in mine if significant(row)]
        lines.append(
            f"Given {listed(f'the {COVARIATES[name]}' for name in given)}, diversity still explains performance "
            f"significantly in {len(left) or 'none'} of {many(len(mine), 'case')}{_cases(left)}."
        )
    for test_set, name in names.items():
        for metric in METRICS:
            told = [row for row in found.verdicts if (row.test_set, row.metric) == (test_set, metric) and row.verdict]
            if told:
                lines.append(f"{METRIC_NAMES[metric].capitalize()}, {name}: {_verdicts(told)}")
    if rows := found.complexity.rows:
        defined = [row for row in rows if row.p_value is not None]
        differ = [row for row in defined if significant(row)]
        how_many = f"{len(differ) or 'none'} of {len(defined)} R² differ{'s' * (len(differ) < 2)} from zero"
        result = how_many if defined else "no R² is defined"
        matched = listed(found.complexity.matched or ["none"])
        lines.append(f"Among benchmarks of matched complexity ({matched}), {result}{_cases(differ)}.")
    return lines


def _verdicts(rows: Sequence[SizeOrDiversity]) -> str:
    everyone = f"each of {len(rows)} methods"
    parts = [
        f"{text}, for {everyone if len(mine) == len(rows) > 2 else method_names(mine)}"
        for verdict, text in VERDICTS.items()
        if (mine := [row for row in rows if row.verdict is verdict])
    ]
    return f"{'; '.join(parts)} (p < .05, uncorrected)."


def _cases(rows: Sequence[Any], most: int = 4) -> str:
    """Rows named with their R², if there are few; the table has them all."""
    if not 0 < len(rows) <= most:
        return ""
    where = lambda row: f"{method_name(row.method)}, {METRIC_NAMES[row.metric]}, {row.test_set}"
    return ": " + "; ".join(f"{where(row)} ({short(row.r2)})" for row in rows)


def shared_sets(rows: Sequence[SharedSetsLine], names: Mapping[str, str]) -> list[str]:
    """What diversity does once it is known which benchmarks share data sets. names: of the test sets."""
    lines = []
    for test_set, name in names.items():
        for metric in METRICS:
            mine = [row for row in rows if (row.test_set, row.metric) == (test_set, metric) and row.p_value is not None]
            for kind in ([row for row in mine if not row.minus], [row for row in mine if row.minus]):
                if kind:
                    lines.append(f"{METRIC_NAMES[metric].capitalize()}, {name}: {_per_tenth(kind)}")
    return lines


def _per_tenth(rows: Sequence[SharedSetsLine]) -> str:
    """What changes with +.1 of diversity and what does not, after Holm's correction."""

    def each(row: SharedSetsLine) -> str:
        change = "+" * ((row.effect or 0.0) >= 0.0005) + span(row.effect, row.low, row.high, 3)
        return f"{shared_sets_name(row)} {change}{uncorrected_text(row)}"

    found, rest = ([row for row in rows if significant(row) is which] for which in (True, False))
    text = [f"+.1 of diversity changes it significantly for {'; '.join(map(each, found))}."] if found else []
    if rest:
        text.append(f"No significant effect of +.1 of diversity for {'; '.join(map(each, rest))}.")
    return " ".join(text)


def effect_sizes(found: Analysis, names: Mapping[str, str]) -> list[str]:
    """Which family is better than pre-training, and whether that changes with diversity. names: of the test sets."""
    lines = []
    rows = [row for row in found.effect_sizes if row.verdict]
    families = list(dict.fromkeys(family(row.method) for row in rows))
    for test_set, name in names.items():
        for which in families:
            if mine := [row for row in rows if (row.test_set, family(row.method)) == (test_set, which)]:
                lines.append(f"{name[0].upper()}{name[1:]}, {_compared(mine, family_label(which))}")
    trends = [row for row in found.effect_size_trends if row.p_value is not None]
    if trends:
        whose = f"The advantage of {listed(family_names(row.method for row in trends))} over {family_label(BASELINE)}"
        each = lambda row: f"{method_name(row.method)}, {row.test_set} ({r2_text(row)})"
        if changing := [row for row in trends if significant(row)]:
            way = lambda row: "rising" if row.slope > 0 else "falling"
            lines.append(
                f"{whose} changes with diversity for {listed(f'{each(row)}, {way(row)}' for row in changing)}."
            )
        else:
            best: Fit = max(trends, key=lambda row: row.r2 or 0.0)
            lines.append(
                f"{whose} (Cohen's d) does not change significantly with diversity in any of "
                f"{many(len(trends), 'case')}; the closest: {each(best)}."
            )
    return lines


def _compared(rows: Sequence[EffectSize], name: str) -> str:
    """How often one family beats pre-training on a test set."""
    baseline = family_label(BASELINE)
    verdict, rule = ([getattr(row, key) for row in rows].count for key in ("verdict", "rule"))
    return (
        f"{many(len(rows), 'comparison')} of {name} with {baseline} (a method on a benchmark), as these networks were "
        f"trained: {name} is better by more than 1% in {verdict(Comparison.BETTER)}, {baseline} in "
        f"{verdict(Comparison.WORSE)}, they are within 1% in {verdict(Comparison.ALIKE)}, undecided in "
        f"{verdict(Comparison.UNDECIDED)}. By the 1% rule on Cohen's d: {name} {rule(Comparison.BETTER)}, {baseline} "
        f"{rule(Comparison.WORSE)}, no difference {rule(Comparison.ALIKE)}."
    )


def controlled_effects(rows: Sequence[ControlledEffect]) -> str:
    """The controlled effects of one metric: what changes with diversity, and by how much."""
    known = [row for row in rows if row.effect is not None]
    if not known:
        return "No effect could be estimated."
    several = len({row.test_set for row in rows}) > 1

    def each(row: ControlledEffect) -> str:
        where = f" ({row.test_set})" if several else ""
        change = "+" * ((row.effect or 0.0) >= 0.0005) + span(row.effect, row.low, row.high, 3)
        return f"{effect_name(row)}{where} {change}{uncorrected_text(row)}"

    found = [row for row in known if significant(row)]
    rest = [row for row in known if not significant(row)]
    text = []
    if found:
        text.append(f"+.1 of diversity changes it significantly for {'; '.join(map(each, found))}.")
    if rest:
        text.append(f"No significant effect of +.1 of diversity for {'; '.join(map(each, rest))}.")
    return " ".join(text)


def paired(rows: Sequence[PairedEffect]) -> list[str]:
    """Each method's differences from the counterparts, in a sentence; the rows are of one metric."""
    several = len({row.test_set for row in rows}) > 1
    text = []
    for method, test_set in dict.fromkeys((row.method, row.test_set) for row in rows if row.difference is not None):
        mine = [row for row in rows if (row.method, row.test_set) == (method, test_set) and row.difference is not None]
        parts = []
        for found in Help:
            if of := [row for row in mine if row.found == found]:
                parts.append(f"{HELPS[found]}: {', '.join(map(_signed, of))}")
        where = f" ({test_set})" if several else ""
        text.append(f"{method_name(method)}{where}. {'; '.join(parts)}.".replace("..", "."))
    return text


def _signed(row: PairedEffect) -> str:
    return f"{row.kind} {'+' * ((row.difference or 0.0) >= 0.0005)}{span(row.difference, row.low, row.high, 3)}"


def paired_in_short(rows: Sequence[PairedEffect]) -> str:
    """What each kind does, whoever learns: "one_task worse; k_dpp undecided (PT), not better by .01 (ProtoNet)"."""
    parts = []
    for kind in dict.fromkeys(row.kind for row in rows):
        by_verdict: dict[Help, list[PairedEffect]] = {}
        for row in rows:
            if row.kind == kind and row.difference is not None:
                by_verdict.setdefault(row.found, []).append(row)
        who = {found: f" ({method_names(of)})" if len(by_verdict) > 1 else "" for found, of in by_verdict.items()}
        if by_verdict:
            parts.append(f"{kind} {', '.join(HELPS[found] + who[found] for found in Help if found in by_verdict)}")
    return "; ".join(parts)


def detectable_r2(n: int, power: float = 0.8) -> float | None:
    """The true R² over `n` points that a two-sided 5% test finds with probability `power`; None if n < 4.

    By Fisher's z: artanh r = (1.96 + z_power) / √(n-3).
    """
    if n < 4:
        return None
    return math.tanh((special.ndtri(0.975) + special.ndtri(power)) / math.sqrt(n - 3)) ** 2


def support(found: Analysis) -> list[str]:
    """What the number of benchmarks and their noise allow to be said, whatever the values are."""
    known = [row for row in found.correlations if row.r2 is not None]
    if not known:
        return ["No R² is defined: it takes 3 benchmarks or more that differ in diversity and performance."]
    n = max(row.n for row in known)
    text = [
        f"With {n} benchmarks an R² must exceed {short(smallest_significant_r2(n))} to differ from zero in a single "
        "test at the 5% level, and more after Holm's correction."
    ]
    if (seen := detectable_r2(n)) is not None:
        text.append(f"To be found in 4 of 5 such studies, even uncorrected, a true R² must be {short(seen)}.")
    raw = sum(row.p_value is not None and row.p_value < LEVEL for row in known)
    text.append(
        f"{raw} of {len(known)} correlations have p < .05 before Holm's correction, {sum(map(significant, known))} "
        f"after it; without any relation about {LEVEL * len(known):.1g} would before it, by chance."
    )
    if noisy := [row for row in known if row.reliability is not None and row.r2_true is not None]:
        ends = sorted(short(row.reliability) for row in noisy)
        between = " to ".join(dict.fromkeys((ends[0], ends[-1])))
        best = max(noisy, key=lambda row: row.r2 or 0.0)
        text.append(
            f"Errors of measurement lower R² (reliability {between}); without them the largest, {short(best.r2)} of "
            f"{method_name(best.method)}, would be {span(best.r2_true, best.true_low, best.true_high)}."
        )
    if found.controlled:
        text.append("The subsets are of one size and one mixture of data sets by design.")
    else:
        given = any(row.p_value is not None and Covariate.LOG_IMAGES in row.given for row in found.partial)
        equal = any(note.reason is Reason.ONE_SIZE for row in found.verdicts for note in row.notes)
        size = "" if given or equal else ", and the size of the data is not controlled here"
        sharing = "Benchmarks that share images are not independent"
        if found.shared_sets:
            sharing += " (“Given that benchmarks share data sets” allows for it, no other test does)"
        text.append(f"{sharing}{size}: a correlation is not an effect of diversity.")
    if any(row.test_set == "own" for row in known):
        text.append("On own test splits a benchmark's difficulty moves its accuracy too.")
    return text


def ceiling(points: Sequence[Point]) -> list[str]:
    """Where accuracy is so near 1 that it can hardly rise, and what that does to R²."""
    known = [(row, value) for row in average_seeds(points) if (value := row.value("accuracy")) is not None]
    high = [row for row, value in known if value > SATURATED]
    if not high:
        return []
    each = []
    for test_set in in_order((row.test_set for row in high), TEST_SETS):
        mine = [row.method for row in high if row.test_set == test_set]
        every = [row.method for row, _ in known if row.test_set == test_set]
        counts = (f"{method_name(m)} {mine.count(m)} of {every.count(m)}" for m in in_order(mine, METHODS))
        each.append(f"{test_set}: {', '.join(counts)}")
    return [
        f"{len(high)} of {many(len(known), 'point')} {'are' if len(high) > 1 else 'is'} above an accuracy of "
        f"{short(SATURATED)} ({'; '.join(each)}). So near to 1 accuracy can hardly rise: differences shrink, the "
        "relation bends, and a straight line's R² says too little of how closely accuracy follows diversity; "
        "cross-entropy has no such ceiling."
    ]
