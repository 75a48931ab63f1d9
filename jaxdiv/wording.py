"""The study in words: names and numbers as a reader sees them, and what the points support, in sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdiv.correlate import (
    METHODS,
    METRICS,
    TEST_SETS,
    in_order,
    r2_interval,
    r_squared,
    smallest_significant_r2,
)
from jaxdiv.published import paper_diversity

Row = Mapping[str, Any]


def method_name(method: str) -> str:
    """The name a reader sees: "fo_maml_5" is "FO-MAML 5 steps"."""
    return METHODS.get(method, method)


def test_set_names(rows: Sequence[Row], fixed_test_set_name: str | None = None) -> dict[str, str]:
    """Each test set of the rows, own first, and the name a reader sees."""
    fixed = f"fixed test set ({fixed_test_set_name})" if fixed_test_set_name else "fixed test set"
    names = {"own": "own test split", "fixed": fixed}
    return {name: names.get(name, name) for name in in_order((r["test_set"] for r in rows), TEST_SETS)}


def short(value: float | None, digits: int = 2) -> str:
    """A number between 0 and 1 as .42, without its leading zero; a dash where it is undefined.

    What is above zero never reads as .00: whether an interval reaches zero is what it is read for.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if 0 < value < 0.5 * 10**-digits:
        return short(value, 3) if digits < 3 else f"<.{'0' * (digits - 1)}1"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def p_text(p: float | None) -> str:
    """A p-value in words: "= .02", "< .001"; a dash where it is undefined."""
    if p is None:
        return "–"
    # Two digits would print .049 as .05, on the wrong side of the level it is read against.
    return "< .001" if p < 0.001 else f"= {short(p, 3 if p < 0.1 else 2)}"


def r2_text(row: Row | None) -> str:
    """One row of Table 2 in words: "R² = .42 [.01, .79], p = .023, n = 12", or why there is no R²."""
    if row is None or row["r2"] is None:
        return f"R² {row['note'].split(';')[0]}" if row and row.get("note") else "R² undefined"
    return f"R² = {r2_cell(row)}, p {p_text(row['p_value'])}, n = {row['n']}"


def r2_cell(row: Row | None) -> str:
    """R² and its interval for a table: ".42 [.01, .79]"."""
    if row is None or row["r2"] is None:
        return "–"
    return f"{short(row['r2'])} [{short(row['ci_low'])}, {short(row['ci_high'])}]"


def p_cell(row: Row | None) -> str:
    """The p-value for a table: ".023", "<.001"."""
    return p_text(row["p_value"] if row else None).removeprefix("= ").replace(" ", "")


def diversity_cells(row: Row) -> dict[str, str]:
    """One row of Table 1 as text, with the published value where benchmark and probe have one."""
    paper = paper_diversity(row["benchmark"], row["probe"])
    return {
        "diversity": short(row["diversity"], 4),
        "95% interval": f"[{short(row.get('ci_low'), 4)}, {short(row.get('ci_high'), 4)}]",
        "noise floor": short(row.get("noise_floor"), 4),
        "true": short(row.get("true_diversity"), 3),
        "paper": f"{short(paper[0], 4)} ± {short(paper[1], 4)}" if paper else "",
    }


def by_method(correlations: Sequence[Row]) -> list[tuple[str, str, dict[str, Row]]]:
    """Table 2's lines in the study's order: (method, test set, its row of each metric)."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in correlations:
        groups.setdefault((row["test_set"], row["method"]), {})[row["metric"]] = row
    tests = in_order((test for test, _ in groups), TEST_SETS)
    methods = in_order((method for _, method in groups), METHODS)
    return [(m, t, groups[t, m]) for t in tests for m in methods if (t, m) in groups]


def headline(
    benchmarks: int, correlations: Sequence[Row], failures: Sequence[Row], test_sets: Mapping[str, str]
) -> str:
    """The study in a paragraph: the range of R² on each test set, how many differ from zero, what failed."""
    methods = len({row["method"] for row in correlations})
    text = f"{benchmarks} benchmarks, {methods} method{'s' * (methods != 1)}."
    for test_set, name in test_sets.items():
        rows = [r for r in correlations if r["test_set"] == test_set and r["metric"] == "accuracy"]
        known = [r for r in rows if r["r2"] is not None]
        if not known:
            text += f" On the {name}, no R² of accuracy on diversity is defined."
            continue
        ends = [min(known, key=lambda r: r["r2"]), max(known, key=lambda r: r["r2"])]
        span = " to ".join(dict.fromkeys(f"{short(r['r2'])} ({method_name(r['method'])})" for r in ends))
        found = sum(r["p_value"] < 0.05 for r in known)
        text += f" On the {name}, R² of accuracy on diversity is {span}; {found or 'none'} of {len(known)} "
        text += f"differ{'s' * (found == 1)} from zero at the 5% level."
    if failures:
        text += f" Failed units, named below: {len(failures)}."
    return text


def summary(
    diversity_rows: Sequence[Row],
    correlations: Sequence[Row],
    failures: Sequence[Row] = (),
    fixed_test_set_name: str | None = None,
) -> list[tuple[str, list[str]]]:
    """The study in sentences, by heading: failed units, every correlation, and what n can support."""
    sections: list[tuple[str, list[str]]] = []
    if failures:
        lost = [f"{f.get('unit', 'a unit')}: {f.get('reason', 'failed')}" for f in failures]
        sections.append((f"Failed units ({len(lost)}), missing from everything here", lost))
    for test_set, test_name in test_set_names(correlations, fixed_test_set_name).items():
        for metric, name in METRICS.items():
            rows = [c for c in correlations if c["test_set"] == test_set and c["metric"] == metric]
            sentences = [_sentence(row, name) for row in rows]
            known = [row for row in rows if row["r2"] is not None]
            if len(known) > 1:
                overlap = max(row["ci_low"] for row in known) <= min(row["ci_high"] for row in known)
                is_or_not = "all overlap" if overlap else "do not all overlap"
                sentences.append(
                    f"The methods' intervals {is_or_not}; whether one R² is above another is not tested here."
                )
            if sentences:
                sections.append((f"{name.capitalize()}, {test_name}", sentences))
    sections.append(("What these points can support", _support(correlations, diversity_rows)))
    return sections


def _sentence(row: Row, metric: str) -> str:
    """One correlation in words, with its direction, or why it is undefined."""
    text, note = f"{method_name(row['method'])}: {r2_text(row)}", row.get("note") or ""
    if row["r2"] is None:
        note = "; ".join(note.split("; ")[1:])
    elif row["p_value"] < 0.05:
        step = f"{abs(row['slope']) * 0.01:.2g}".removeprefix("0")
        text += f"; {metric} {'rises' if row['slope'] > 0 else 'falls'} by {step} per .01 of diversity"
    else:
        text += "; no significant difference from zero"
    return f"{text} ({note})." if note else f"{text}."


def _support(correlations: Sequence[Row], diversity_rows: Sequence[Row]) -> list[str]:
    """What the number of benchmarks allows to be said, whatever the values are."""
    known = [row for row in correlations if row["r2"] is not None]
    text = []
    if not known:
        text.append("No R² is defined: it takes 3 benchmarks or more that differ in diversity and performance.")
    else:
        n = max(row["n"] for row in known)
        low, high = r2_interval(0.645, n)
        text.append(
            f"With {n} benchmarks an R² must exceed {short(smallest_significant_r2(n))} to differ from zero "
            "at the 5% level; one of .42, the paper's highest, has a 95% interval of "
            f"[{short(low)}, {short(high)}]."
        )
        found = sum(row["p_value"] < 0.05 for row in known)
        text.append(
            f"{found} of {len(known)} correlations differ from zero at the 5% level, uncorrected; without "
            f"any relation about {0.05 * len(known):.1g} would by chance."
        )
        text.append(
            "The intervals are Fisher's z over benchmarks taken as independent draws, each value as exact. "
            "Benchmarks that share images are not independent, and data-set size is not controlled here: a "
            "correlation is not an effect of diversity."
        )
        if any(row["test_set"] == "own" for row in known):
            text.append("On own test splits a benchmark's difficulty moves its accuracy too.")
    truth = [row for row in diversity_rows if row.get("true_diversity") is not None]
    if len(truth) > 2:
        from scipy import stats

        ranks = [stats.rankdata([row[key] for row in truth]) for key in ("true_diversity", "diversity")]
        rank = r_squared(*ranks).r
        if rank is not None:
            text.append(
                f"Measured diversity against the known true one, {len(truth)} generated benchmarks: Spearman "
                f"correlation {short(rank)}."
            )
    return text
