"""What a finished study leaves: tables as CSV and LaTeX, figures, and one HTML page with what they support in words.

Every file is written whole or not at all, and the same input gives the same bytes.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdiv.files import replacing
from jaxdiv.report.figures import draw_all
from jaxdiv.report.findings import headline, summary
from jaxdiv.report.formats import to_csv, to_latex, to_terminal
from jaxdiv.report.page import FIGURES, build_page
from jaxdiv.report.plotting import plot_data
from jaxdiv.report.published import PAPER_BENCHMARKS, PAPER_TABLE2, r2_measured_alike
from jaxdiv.report.tables import all_tables, table1, table2
from jaxdiv.stats.correlate import from_summaries, listed
from jaxdiv.stats.inference import holm

Row = Mapping[str, Any]


def write_report(
    folder: str | Path,
    analysis: Mapping[str, Any],
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    failures: Sequence[Row] = (),
    fixed_test_set_name: str | None = None,
    contact_sheets: Mapping[str, str | Path] | None = None,
    title: str = "Diversity and performance",
    generated: Collection[str] = (),
) -> Path:
    """Writes report.html, figure1–3 (4 and 5 where there is something to show; .png, .svg) and every table that has
    rows (.csv, .tex); returns the page's path. Tables and figures of an earlier report that this one lacks are removed.

    analysis: what was found, each a list of rows; a part that is missing or empty is left out of the report.
      diversity: `jaxdiv.report.tables.TABLE1_COLUMNS`, and TABLE1_OPTIONAL where known. points: POINTS_COLUMNS.
      correlations, differences: of `jaxdiv.stats.correlate`. partial, verdicts, complexity, effect_sizes,
      effect_size_trends, controlled: of `jaxdiv.stats.controls`.
    settings, provenance: any JSON values, shown as they are. failures: mappings with `unit` and `reason`.
    fixed_test_set_name: which benchmark the fixed test set is. contact_sheets: PNG files by benchmark, whose
    beginnings are set into the page. generated: which benchmarks are no data sets but generated for their diversity.
    When the study ended is the provenance's `finished`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    analysis = _corrected(analysis)
    published = from_summaries(PAPER_TABLE2, PAPER_BENCHMARKS)
    data = plot_data(analysis, fixed_test_set_name)
    possible = all_tables(analysis, published, data.numbers)
    tables = {name: table for name, table in possible.items() if table.rows or name in ("table1", "table2", "points")}
    files: dict[str, str | bytes] = {}
    for name, table in tables.items():
        files |= {f"{name}.csv": to_csv(table.records, table.keys), f"{name}.tex": to_latex(table)}
    figures = draw_all(data)
    for name, drawn in figures.items():
        files |= {f"{name}.png": drawn.png, f"{name}.svg": drawn.svg}
    files["report.html"] = build_page(
        title=title,
        subtitle=_subtitle(analysis, generated, provenance),
        answer=headline(analysis, failures, fixed_test_set_name),
        sections=summary(analysis, published, failures, fixed_test_set_name),
        tables=tables,
        panels={name: drawn.panels for name, drawn in figures.items()},
        numbers=data.numbers,
        test_sets=data.test_sets,
        failed=bool(failures),
        settings=settings,
        provenance=provenance,
        contact_sheets=contact_sheets or {},
    )
    for name, content in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    known = [f"{name}.{kind}" for name in possible for kind in ("csv", "tex")]
    known += [f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")]
    for name in set(known) - set(files):
        (folder / name).unlink(missing_ok=True)
    return folder / "report.html"


def terminal_tables(
    diversity_rows: Sequence[Row], correlations: Sequence[Row], width: int = 100, points: Sequence[Row] = ()
) -> list[Any]:
    """Tables 1 and 2 as rich tables for a terminal of `width` columns (what there is no room for is left out)."""
    second = table2(correlations, r2_measured_alike(diversity_rows, points))
    return [to_terminal(table, width) for table in (table1(diversity_rows), second)]


def _subtitle(analysis: Mapping[str, Any], generated: Collection[str], provenance: Mapping[str, Any]) -> str:
    """What the study is of, and when it ended, as far as that is known."""
    names = {row["benchmark"] for part in ("diversity", "points") for row in analysis.get(part) or []}
    made = names & set(generated)
    text = f"Finished {provenance['finished']}." if provenance.get("finished") else ""
    if made and made == names:
        text += " Every benchmark is generated: images made for a known diversity, no real data set."
    elif made:
        text += f" Generated, no real data sets: {listed(sorted(made))}."
    return text.strip()


def _corrected(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """The analysis with Holm's correction, over their own table, of those rows that came without it."""

    def correct(rows: Sequence[Row]) -> Sequence[Row]:
        if not rows or all("p_holm" in row for row in rows) or not any("p_value" in row for row in rows):
            return rows
        adjusted = holm([row.get("p_value") for row in rows])
        return [{**row, "p_holm": p} for row, p in zip(rows, adjusted, strict=True)]

    found: dict[str, Any] = {key: correct(rows) if isinstance(rows, list) else rows for key, rows in analysis.items()}
    if complexity := found.get("complexity"):
        found["complexity"] = {**complexity, "rows": correct(complexity.get("rows") or [])}
    return found
