"""A table as data, and what is made of it: the page's HTML, CSV, LaTeX and a table for the terminal."""

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdiv.report.wording import DASH, plain


class Column(NamedTuple):
    """One column: its heading, the text of a row's cell, whether it is a number (set to the right), the heading in a
    terminal where it differs, and the narrowest terminal that has room for it."""

    heading: str
    cell: Callable[[Any], str]
    number: bool = True
    brief: str = ""
    least: int = 0


class Table(NamedTuple):
    """One table.

    name: of its files. text: a sentence that explains it. rows: what the columns show. records, keys: the rows and
    columns of the CSV. fixed: what holds for every row and is said once. group: a terminal sets rows of another group
    apart.
    """

    name: str
    title: str
    text: str
    columns: Sequence[Column]
    rows: Sequence[Any]
    records: Sequence[Mapping[str, Any]]
    keys: Sequence[str]
    fixed: str = ""
    group: Callable[[Any], Any] = lambda row: None


def grid(table: Table, width: int | None = None) -> tuple[list[Column], list[list[str]]]:
    """The columns that say something and fit `width` characters of terminal (None: any), and the text of every cell."""
    texts = [[column.cell(row) for row in table.rows] for column in table.columns]
    fits = [width is None or column.least <= width for column in table.columns]
    kept = [i for i, fit in enumerate(fits) if fit and set(texts[i]) - {"", DASH}]
    kept = kept or list(range(min(2, len(table.columns))))
    return [table.columns[i] for i in kept], [[texts[i][r] for i in kept] for r in range(len(table.rows))]


def to_html(table: Table) -> str:
    """The table as HTML that scrolls sideways, and says so, on a narrow screen; numbers and their headings go right."""
    columns, lines = grid(table)
    side = [' class="num"' if column.number else "" for column in columns]
    head = "".join(f'<th scope="col"{s}>{html.escape(c.heading)}</th>' for c, s in zip(columns, side, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{s}>{html.escape(t)}</td>' for t, s in zip(line, side, strict=True))}</tr>"
        for line in lines
    )
    if not lines:
        return "<p>No rows.</p>"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(table.title)}">'
        '<p class="hint" aria-hidden="true">scroll sideways →</p>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def to_csv(rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """Rows as CSV: numbers in full precision, an empty cell where a value is undefined (never "nan")."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    writer.writerows(["" if (value := plain(row.get(key))) is None else value for key in keys] for row in rows)
    return out.getvalue()


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_TEX |= {"<": "$<$", ">": "$>$", "²": "$^2$", "±": r"$\pm$", "–": "--", "−": "$-$", "·": r"$\cdot$"}


def latex(text: str) -> str:
    """Text with every character that means something else to LaTeX escaped."""
    return "".join(_TEX.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    """The table as a booktabs `longtable`, small enough to read in a paper; one over many pages breaks by itself."""
    columns, lines = grid(table)
    line = lambda cells: " & ".join(map(latex, cells)) + r" \\"
    side = "".join("r" if column.number else "l" for column in columns)
    text = f"{table.title.split('. ', 1)[-1]}. {table.text}" + (f" Everywhere: {table.fixed}." if table.fixed else "")
    widths = [max(map(len, cells)) for cells in zip([c.heading for c in columns], *lines, strict=True)]
    wide = sum(widths) + 2 * len(widths)  # in characters: a page holds about 110 of scriptsize across, 170 turned
    rotate, look = wide > 110, r"\scriptsize\setlength{\tabcolsep}{3pt}"
    if wide > 170:
        look = r"\tiny\setlength{\tabcolsep}{1.5pt}"
    return "\n".join(
        [
            r"% \usepackage{booktabs,longtable" + (",pdflscape}" if rotate else "}"),
            *([r"\begin{landscape}"] if rotate else []),
            "{" + look,
            rf"\begin{{longtable}}{{{side}}}",
            rf"\caption{{{latex(text)}}}\label{{tab:{re.sub('_', '-', table.name)}}}\\",
            r"\toprule",
            line([column.heading for column in columns]),
            r"\midrule\endhead",
            r"\bottomrule\endfoot",
            *map(line, lines),
            r"\end{longtable}}",
            *([r"\end{landscape}"] if rotate else []),
            "",
        ]
    )


def to_terminal(table: Table, width: int) -> Any:
    """The table as a rich table for a terminal of `width` columns. A number is never folded: broken over two lines it
    would read as another."""
    from rich import box
    from rich.table import Table as RichTable

    title = f"{table.title}\n{table.fixed}".strip()
    shown = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    shown.collapse_padding = True
    columns, lines = grid(table, width)
    for column in columns:
        side: Any = "right" if column.number else "left"
        shown.add_column(column.brief or column.heading, justify=side, no_wrap=column.number, overflow="fold")
    of = list(map(table.group, table.rows))
    for i, line in enumerate(lines):
        shown.add_row(*line, end_section=of[i] != of[min(i + 1, len(of) - 1)])
    return shown
