"""Diversity without a study: report.html with the coefficients, each benchmark's tasks, and the benchmarks compared."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdiv.files import replacing
from jaxdiv.report import comparison
from jaxdiv.report import html as page
from jaxdiv.report.choice import Choice, choice_sentences, choice_table, choice_title, draw_choice
from jaxdiv.report.columns import between_column, p_column, record, span_column
from jaxdiv.report.comparison import CrossDistance, DiversityDifference
from jaxdiv.report.data_sets import left_out
from jaxdiv.report.heatmap import draw_tasks
from jaxdiv.report.plotting import Rendered
from jaxdiv.report.prose import so_far
from jaxdiv.report.published import PAPER_TABLE1, unlike
from jaxdiv.report.renderers import Column, Table, to_csv, to_terminal
from jaxdiv.report.tables import TABLE1_COLUMNS, TABLE1_OPTIONAL
from jaxdiv.report.wording import DASH, distance_of, distance_text, listed, short, span, unbroken
from jaxdiv.task2vec.coefficient import Estimate, pairwise_distances

Row = Mapping[str, Any]
_OPEN_ROWS = 30  # of a list that is shown open


class Source(NamedTuple):
    """Where a benchmark comes from.

    paths: the user's folders in it. classes: of its train split, by data set. images: in all, None where that is not
    known. left_out: names of what was left out, by the reason.
    """

    paths: tuple[str, ...]
    classes: tuple[int, ...]
    images: int | None
    left_out: Mapping[str, Sequence[str]]


class Survey(NamedTuple):
    """What was measured, by benchmark.

    rows: Table 1's, all measured alike, with what `published.unlike` reads. embeddings: of each benchmark's tasks.
    choice: of classes, where one was asked for.
    """

    rows: Sequence[Row]
    embeddings: Mapping[str, Float[np.ndarray, "tasks filters"]]
    sources: Mapping[str, Source]
    choice: Choice | None = None

    def distances(self) -> dict[str, Float[np.ndarray, "tasks tasks"]]:
        """Of every two tasks of each benchmark."""
        return {
            row["benchmark"]: pairwise_distances(self.embeddings[row["benchmark"]], row["distance"])
            for row in self.rows
        }


def write_survey(
    folder: Path,
    found: Survey,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    contact_sheets: Mapping[str, str | Path],
    unfinished: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Writes report.html, table1.csv, per benchmark tasks-NAME.png and .svg and distances-NAME.csv, of several
    benchmarks cross.csv and differences.csv, and of a choice choice.csv, .png and .svg; returns the page's path.

    Args:
      settings, provenance: any JSON values, shown as they are.
      contact_sheets: PNG files by benchmark.
      unfinished: as in `report.write_report`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, embeddings, sources = found.rows, found.embeddings, found.sources
    distances = found.distances()
    facts = [_with_source(row, sources[row["benchmark"]]) for row in rows]
    tables = [_coefficients(facts)]
    files: dict[str, str | bytes] = {"table1.csv": to_csv(facts, tables[0].keys)}
    cross = comparison.cross_distances(rows, embeddings)
    differences = comparison.diversity_differences(distances)
    if len(rows) > 1:
        tables += [_cross(cross), _differences(differences)]
        files |= {f"{table.name}.csv": to_csv(table.records, table.keys) for table in tables[1:]}
    figures: dict[str, Rendered] = {}
    largest = max(float(of_tasks.max()) for of_tasks in distances.values())
    for number, row in enumerate(rows):
        name = row["benchmark"]
        value = Estimate(row["diversity"], row["ci_low"], row["ci_high"])
        look = {"distance": row["distance"], "limit": largest, "prefix": f"tasks{number}"}  # one scale of colours
        drawn = figures[name] = draw_tasks(name, distances[name], value, row.get("noise_floor"), **look)
        files |= {f"tasks-{name}.png": drawn.png, f"tasks-{name}.svg": drawn.svg}
        lines = [",".join(f"{d:.6g}" for d in line) for line in distances[name]]
        files[f"distances-{name}.csv"] = "\n".join([*lines, ""])
    drawn_choice = None
    if found.choice:
        drawn_choice, list_of_choice = draw_choice(found.choice), choice_table(found.choice)
        files |= {"choice.csv": to_csv(list_of_choice.records, list_of_choice.keys)}
        files |= {"choice.png": drawn_choice.png, "choice.svg": drawn_choice.svg}
    files["report.html"] = _page(
        found,
        tables,
        [*so_far(unfinished), *_lead(found, cross, differences)],
        figures,
        drawn_choice,
        settings,
        provenance,
        contact_sheets,
    )
    for name, content in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / "report.html"


def noun(sources: Mapping[str, Source]) -> str:
    """What the benchmarks are to a reader."""
    return "folders" if all(source.paths for source in sources.values()) else "benchmarks"


def _lead(found: Survey, cross: Sequence[CrossDistance], differences: Sequence[DiversityDifference]) -> list[str]:
    """What the survey says, in sentences."""
    classes = {name: source.classes for name, source in found.sources.items()}
    text = choice_sentences(found.choice) if found.choice else []
    text += [*comparison.coefficients(found.rows), *comparison.between(cross), *comparison.verdicts(differences)]
    images = {name: source.images for name, source in found.sources.items()}
    return text + comparison.shared_classes(found.rows, classes) + comparison.same_images(found.rows, classes, images)


def _page(
    found: Survey,
    tables: Sequence[Table],
    lead: Sequence[str],
    figures: Mapping[str, Rendered],
    drawn_choice: Rendered | None,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    contact_sheets: Mapping[str, str | Path],
) -> str:
    rows, sources = found.rows, found.sources
    names = [row["benchmark"] for row in rows]
    what = noun(sources)
    title = f"Diversity of {listed(names)}" if len(names) < 4 else f"Diversity of {len(names)} {what}"
    parts = []
    if found.choice and drawn_choice:
        title = choice_title(found.choice)
        parts.append(("The choice", _choice_part(found.choice, drawn_choice)))
    parts += [(f"The {what}" if len(rows) > 1 else f"The {what[:-1]}", page.table_part(tables[0]) + _left_out(sources))]
    parts.append(("What may be compared", _bullets(comparison.comparable(rows))))
    if not unlike(rows[0]):
        parts.append(("The paper's values", page.table_part(paper_table(rows[0]["probe"]))))
    if len(rows) > 1:
        parts.append((f"Between {what}", "".join(f"<h3>{t.title}</h3>{page.table_part(t)}" for t in tables[1:])))
    drawn = [
        f"<h3>{html.escape(name)}</h3>"
        f'<div class="panels">{"".join(f"<div>{svg}</div>" for svg in figure.panels[0])}</div>'
        for name, figure in figures.items()
    ]
    text = (
        "Three views of one folder's tasks: the distances of every two; the same as a matrix, similar tasks side by "
        "side; and the tasks as points in a plane that keeps their distances as well as a plane can."
    )
    parts.append(("Tasks", f"<p>{text}</p>{''.join(drawn)}"))
    if contact_sheets:
        parts.append(("Contact sheets", page.contact_sheets_part(contact_sheets)))
    made = (f"jaxdiv {provenance.get('jaxdiv')}", provenance.get("finished"), provenance.get("device"))
    where = provenance.get("results_from", {})
    note = ", ".join(
        [*(str(part) for part in made if part), *(f"{n} results from {p}" for p, n in where.items() if len(where) > 1)]
    )
    details = [
        page.folded_part(name, page.json_part(value))
        for name, value in (("Settings", settings), ("Provenance", provenance))
    ]
    parts.append(("Details", "".join(details)))
    return page.assemble(title, note, lead, parts)


def _choice_part(found: Choice, drawn: Rendered) -> str:
    table = choice_table(found)
    told = f"<p>{html.escape(table.text)} The list is also choice.csv.</p>"
    curve = f'<div class="panels large"><div>{drawn.panels[0][0]}</div></div>'
    classes = page.to_html(table)
    return told + curve + (page.folded_part(table.title, classes) if len(table.rows) > _OPEN_ROWS else classes)


def _bullets(sentences):
    return f"<ul>{''.join(f'<li>{page.sentence(line)}</li>' for line in sentences)}</ul>"


def _with_source(row: Row, source: Source) -> dict[str, Any]:
    counts = {"train_classes": sum(source.classes), "train_images": source.images}
    return {**row, "path": ", ".join(source.paths), **counts}


def _coefficients(rows: Sequence[Row]) -> Table:
    own = all(row["path"] for row in rows)
    columns = [
        Column("name" if own else "benchmark", lambda row: row["benchmark"], number=False),
        Column("diversity", lambda row: short(row["diversity"], comparison.DIGITS)),
        between_column("95% interval", "ci_low", "ci_high", comparison.DIGITS),
        Column("noise floor", lambda row: short(row.get("noise_floor"), comparison.DIGITS)),
        Column("true", lambda row: short(row.get("true_diversity"), comparison.DIGITS)),
        Column("classes", lambda row: f"{row['train_classes']:,}"),
        Column("images", lambda row: DASH if row["train_images"] is None else f"{row['train_images']:,}"),
        Column("folder", lambda row: row["path"], number=False),
    ]
    measured = distance_text(distance_of(rows))
    text = f"Diversity is the mean distance of two tasks ({measured}); its interval is over tasks."
    if any(row.get("noise_floor") is not None for row in rows):
        text += " The noise floor is the mean distance of two embeddings of the same task."
    more = ("path", "train_classes", "train_images", "pixels", "weights", "augment", "interval")
    keys = [*TABLE1_COLUMNS, *(key for key in TABLE1_OPTIONAL if any(row.get(key) is not None for row in rows)), *more]
    return Table("table1", "Diversity", text, columns, rows, rows, keys, comparison.how(rows[0]))


def _cross(found: Sequence[CrossDistance]) -> Table:
    """The distances between benchmarks as a square."""
    names = list(dict.fromkeys(row.benchmark for row in found))
    cells = {(row.benchmark, row.other): row for row in found}
    told = lambda row: span(row.distance, row.ci_low, row.ci_high, comparison.DIGITS)
    columns = [Column("", lambda name: name, number=False)]
    columns += [Column(name, partial(lambda row, name: told(cells[row, name]), name=name)) for name in names]
    text = (
        "The mean distance of a task of the row from a task of the column, with its 95% interval over the tasks of "
        "both. On the diagonal: the coefficient. A cross distance above both coefficients means that tasks differ more "
        "between the two than within either."
    )
    records = list(map(record, found))
    return Table("cross", "Cross distances [95%]", text, columns, names, records, list(records[0]))


def _differences(found: Sequence[DiversityDifference]) -> Table:
    columns = [
        Column("first", lambda row: row.benchmark, number=False),
        Column("second", lambda row: row.other, number=False),
        span_column("difference [95%]", "difference", "ci_low", "ci_high", comparison.DIGITS),
        p_column("p", "p_value"),
        *([p_column("p, Holm", "p_holm")] if len(found) > 1 else []),
        Column("more diverse", lambda row: row.more_diverse or "undecided", number=False),
    ]
    text = (
        "The first's coefficient minus the second's. Their tasks are drawn independently, so the variance is the sum "
        "of both jackknife variances; Student's t with Welch's degrees of freedom."
    )
    if len(found) > 1:
        text += " Intervals and p are of one pair; Holm's p is corrected for all pairs and decides."
    records = list(map(record, found))
    return Table("differences", "Which is more diverse", text, columns, found, records, list(records[0]))


def _left_out(sources: Mapping[str, Source]) -> str:
    """What was left out of each, folded."""
    parts = []
    for name, source in sources.items():
        told = "".join(
            f"<p>{html.escape(f'{reason}: ' + ', '.join(names))}</p>" for reason, names in source.left_out.items()
        )
        number = sum(map(len, source.left_out.values()))
        parts += [page.folded_part(f"Left out of {name}: {number}", told)] if number else []
    return "".join(parts)


def paper_table(probe: str) -> Table:
    """The paper's Table 1 of one probe, to stand beside values that are measured alike."""
    rows = [{"benchmark": name, "value": values[probe]} for name, values in PAPER_TABLE1.items()]
    columns = [
        Column("benchmark", lambda row: row["benchmark"], number=False),
        Column("diversity", lambda row: " ± ".join(short(value, 4) for value in row["value"])),
    ]
    title = f"The paper's Table 1, {probe}, measured alike"
    text = "± half its 95% interval. MIO's value equals its group's own for Mini-ImageNet: probably mislabelled."
    return Table("paper", title, text, columns, rows, rows, ("benchmark", "value"))


def terminal(found: Survey, width: int) -> list[Any]:
    """What a terminal of `width` columns shows at the end: tables, what was left out, and the conclusion."""
    rows, embeddings, sources = found.rows, found.embeddings, found.sources
    own = _coefficients([_with_source(row, sources[row["benchmark"]]) for row in rows])
    own = own._replace(columns=[column for column in own.columns if column.heading != "folder"], fixed="")
    shown: list[Any] = [to_terminal(own, width)]
    reasons = unlike(rows[0])
    if not reasons:
        shown.append(to_terminal(paper_table(rows[0]["probe"]), width))
    said = []
    said += [f"{name}: {left_out(each.left_out)}" for name, each in sources.items() if each.left_out]
    if reasons:
        said.append("The paper's values were measured otherwise and are not shown; the report says how.")
    cross = comparison.cross_distances(rows, embeddings)
    said += _lead(found, cross, comparison.diversity_differences(found.distances()))
    return [*shown, *(_wrapped(line, width) for line in said)]


def _wrapped(text: str, width: int) -> str:
    """In lines of at most `width` characters, none of which breaks "p = .02" or an interval."""
    return textwrap.fill(unbroken(text), width, break_on_hyphens=False).replace("\u00a0", " ")
