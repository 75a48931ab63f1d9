"""Columns of tables: a row's field as words, a number, an interval or a p-value; and a row as a line of a CSV."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdiv.report.renderers import Column
from jaxdiv.report.wording import DASH, notes_text, p_cell, plain, short, span


def value_of(row: Any, key: str) -> Any:
    """A row's value, whether it is a mapping (Table 1's) or a dataclass."""
    return row.get(key) if isinstance(row, Mapping) else getattr(row, key)


def record(row: Any) -> dict[str, Any]:
    """A row as one line of a CSV: enums become their values, notes words, and tuples lists with commas."""
    if isinstance(row, Mapping):
        return dict(row)
    found = dataclasses.asdict(row)
    if "notes" in found:
        del found["notes"]
        found["note"] = notes_text(row)
    return {key: ", ".join(value) if isinstance(value, tuple) else value for key, value in found.items()}


def words_column(heading: str, key: str) -> Column:
    """A field as it is; empty where it is undefined."""
    return Column(heading, lambda row: "" if (value := value_of(row, key)) is None else str(value), number=False)


def count_column(heading: str, key: str) -> Column:
    """A whole number."""
    return Column(heading, lambda row: DASH if (value := plain(value_of(row, key))) is None else f"{value:g}")


def value_column(heading: str, key: str, digits: int = 2, **more: Any) -> Column:
    """A number, as `short` writes it."""
    return Column(heading, lambda row: short(value_of(row, key), digits), **more)


def span_column(heading: str, key: str, low: str, high: str, digits: int = 2) -> Column:
    """A number with its interval."""
    return Column(heading, lambda row: span(value_of(row, key), value_of(row, low), value_of(row, high), digits))


def between_column(heading: str, low: str, high: str, digits: int = 2) -> Column:
    """An interval without the number it belongs to."""

    def cell(row: Any) -> str:
        ends = value_of(row, low), value_of(row, high)
        if None in map(plain, ends):
            return DASH
        return f"[{short(ends[0], digits)}, {short(ends[1], digits)}]"

    return Column(heading, cell)


def p_column(heading: str, key: str) -> Column:
    """A p-value."""
    return Column(heading, lambda row: p_cell(value_of(row, key)))


def yes_column(heading: str, key: str) -> Column:
    """ "yes" or "no"."""
    return Column(heading, lambda row: "yes" if value_of(row, key) else "no", number=False)
