"""Names and numbers as a reader sees them: in the tables, under the figures and in the sentences."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdiv.methods.registry import METHODS, label
from jaxdiv.stats.correlate import TEST_SETS, in_order

Row = Mapping[str, Any]
DASH = "–"


# What the controlled experiment estimates beside each method
AGGREGATES = {"all": "all methods on average", "maml minus pt": "MAML minus PT"}


def method_name(method: str) -> str:
    """The name a reader sees: "fo_maml_5" is "FO-MAML 5 steps"."""
    return AGGREGATES.get(method) or label(method)


def test_set_names(rows: Sequence[Row], fixed_test_set_name: str | None = None) -> dict[str, str]:
    """Each test set of the rows, own first, and the name a reader sees."""
    fixed = f"fixed test set ({fixed_test_set_name})" if fixed_test_set_name else "fixed test set"
    names = {"own": "own test split", "fixed": fixed}
    return {name: names.get(name, name) for name in in_order((r["test_set"] for r in rows), TEST_SETS)}


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


def unbroken(text: str) -> str:
    """With spaces where no line may break: within "p = .02" and ".42 [.01, .79]"."""
    text = re.sub(r"(\S) (\[[^\]]*), ([^\]]*\])", "\\1\u00a0\\2,\u00a0\\3", text)
    return re.sub(r"\b(p|z|n|R²) ([=<]) ", "\\1\u00a0\\2\u00a0", text)


def p_cell(p: float | None) -> str:
    """The p-value for a table: ".023", "<.001"."""
    return p_text(p).removeprefix("= ").replace(" ", "")


def r2_cell(row: Row | None) -> str:
    """R² and its interval for a table: ".42 [.01, .79]"."""
    return span(row["r2"], row.get("ci_low"), row.get("ci_high")) if row else DASH


def r2_text(row: Row | None) -> str:
    """One R² in words: "R² = .42 [.01, .79], p = .023, n = 12", or why there is none. The p is uncorrected."""
    if row is None or row["r2"] is None:
        return f"R² {row['note'].split(';')[0]}" if row and row.get("note") else "R² undefined"
    return f"R² = {r2_cell(row)}, p {p_text(row['p_value'])}, n = {row['n']}"


def by_method(correlations: Sequence[Row]) -> list[tuple[str, str, dict[str, Row]]]:
    """Table 2's lines in the study's order: (method, test set, its row of each metric)."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in correlations:
        groups.setdefault((row["test_set"], row["method"]), {})[row["metric"]] = row
    tests = in_order((test for test, _ in groups), TEST_SETS)
    methods = in_order((method for _, method in groups), METHODS)
    return [(m, t, groups[t, m]) for t in tests for m in methods if (t, m) in groups]
