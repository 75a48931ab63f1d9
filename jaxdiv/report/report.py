"""What a finished study leaves: tables as CSV and LaTeX, figures, and one HTML page with what they support in words.

Every file is written whole or not at all, and the same input gives the same bytes.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdiv.files import replacing
from jaxdiv.report.figures import draw_all
from jaxdiv.report.html import FIGURES, build_page
from jaxdiv.report.plotting import plot_data
from jaxdiv.report.prose import headline, so_far, summary
from jaxdiv.report.published import PAPER_BENCHMARKS, PAPER_TABLE2, r2_measured_alike
from jaxdiv.report.renderers import to_csv, to_latex, to_terminal
from jaxdiv.report.tables import all_tables, table1, table2
from jaxdiv.report.unfinished import unfinished_table
from jaxdiv.report.wording import family_names, listed
from jaxdiv.stats.analysis import Analysis
from jaxdiv.stats.differences import from_summaries


def write_report(
    folder: str | Path,
    found: Analysis,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    failures: Sequence[Mapping[str, Any]] = (),
    fixed_test_set_name: str | None = None,
    contact_sheets: Mapping[str, str | Path] | None = None,
    title: str = "Diversity and performance",
    generated: Collection[str] = (),
    unfinished: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Writes report.html, figure1–3 (4 and 5 where there is something to show; .png, .svg) and every table that has
    rows (.csv, .tex); returns the page's path. Other tables and figures of an earlier report are removed.

    Args:
      found: a part that is empty is left out of the report. Its `diversity` has `tables.TABLE1_COLUMNS`, and
        TABLE1_OPTIONAL where known.
      settings, provenance: any JSON values, shown as they are; `finished` of the provenance is when the study ended.
      failures: mappings with `unit` and `reason`.
      fixed_test_set_name: which benchmark the fixed test set is.
      contact_sheets: PNG files by benchmark, whose beginnings are set into the page.
      generated: which benchmarks are no data sets but generated for their diversity.
      unfinished: of a study that still runs, a mapping for each benchmark: its `benchmark`, and by `diversity` and
        by method [how many results are there, how many there will be].
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    published = from_summaries(PAPER_TABLE2, PAPER_BENCHMARKS)
    data = plot_data(found, fixed_test_set_name)
    possible = all_tables(found, published, data.numbers) | {"unfinished": unfinished_table(unfinished)}
    tables = {name: table for name, table in possible.items() if table.rows or name in ("table1", "table2", "points")}
    files: dict[str, str | bytes] = {}
    for name, table in tables.items():
        files |= {f"{name}.csv": to_csv(table.records, table.keys), f"{name}.tex": to_latex(table)}
    figures = draw_all(data)
    for name, drawn in figures.items():
        files |= {f"{name}.png": drawn.png, f"{name}.svg": drawn.svg}
    files["report.html"] = build_page(
        title=title,
        subtitle=_subtitle(found, generated, {} if unfinished else provenance),
        answer=[*so_far(unfinished), *headline(found, failures, fixed_test_set_name)],
        sections=summary(found, published, failures, fixed_test_set_name),
        tables=tables,
        panels={name: drawn.panels for name, drawn in figures.items()},
        families=listed(family_names(row.method for row in found.effect_sizes)),
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


def terminal_tables(found: Analysis, width: int = 100) -> list[Any]:
    """Tables 1 and 2 as rich tables for a terminal of `width` columns (what there is no room for is left out)."""
    second = table2(found.correlations, r2_measured_alike(found.diversity, found.points))
    return [to_terminal(table, width) for table in (table1(found.diversity), second)]


def _subtitle(found: Analysis, generated: Collection[str], provenance: Mapping[str, Any]) -> str:
    """What the study is of, and when it ended, as far as that is known."""
    names = {row["benchmark"] for row in found.diversity} | {point.benchmark for point in found.points}
    made = names & set(generated)
    text = f"Finished {provenance['finished']}." if provenance.get("finished") else ""
    if len(where := provenance.get("results_from", {})) > 1:
        text += f" Computed on {listed(sorted(where))}, which round differently."
    if made and made == names:
        text += " Every benchmark is generated: images made for a known diversity, no real data set."
    elif made:
        text += f" Generated, no real data sets: {listed(sorted(made))}."
    return text.strip()
