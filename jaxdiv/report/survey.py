"""Diversity without a study: report.html with the coefficients, each benchmark's tasks, and the benchmarks compared."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from jaxdiv.data.folder import is_image
from jaxdiv.files import replacing
from jaxdiv.report import comparison, page
from jaxdiv.report.formats import Column, Table, to_csv, to_terminal
from jaxdiv.report.plotting import INK, Figure, Rendered, render
from jaxdiv.report.published import PAPER_TABLE1, unlike
from jaxdiv.report.tables import TABLE1_COLUMNS, TABLE1_OPTIONAL
from jaxdiv.report.wording import DASH, p_cell, short, span, unbroken
from jaxdiv.stats.correlate import listed
from jaxdiv.task2vec.coefficient import Estimate, pairwise_distances

Row = Mapping[str, Any]
_BLUE, _ORANGE = "#0072B2", "#D55E00"
_UNIT = "Task2Vec distance (cosine, 0–1)"


class Source(NamedTuple):
    """Where a benchmark comes from.

    paths: the user's folders in it. classes: of its train split, by data set. images: in all, None where that is not
    known. left_out: classes and images that were left out.
    """

    paths: tuple[str, ...]
    classes: tuple[int, ...]
    images: int | None
    left_out: tuple[str, ...]


class Survey(NamedTuple):
    """What was measured, by benchmark.

    rows: Table 1's, all measured alike, with what `published.unlike` reads. embeddings: of each benchmark's tasks.
    """

    rows: Sequence[Row]
    embeddings: Mapping[str, Float[np.ndarray, "tasks filters"]]
    sources: Mapping[str, Source]

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
) -> Path:
    """Writes report.html, table1.csv, per benchmark tasks-NAME.png and .svg and distances-NAME.csv, and of several
    benchmarks cross.csv and differences.csv; returns the page's path.

    Args:
      settings, provenance: any JSON values, shown as they are.
      contact_sheets: PNG files by benchmark.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, embeddings, sources = found
    distances = found.distances()
    facts = [_with_source(row, sources[row["benchmark"]]) for row in rows]
    tables = [_coefficients(facts)]
    files: dict[str, str | bytes] = {"table1.csv": to_csv(facts, tables[0].keys)}
    if len(rows) > 1:
        tables += [_cross(comparison.cross_rows(rows, embeddings)), _differences(comparison.difference_rows(distances))]
        files |= {f"{table.name}.csv": to_csv(table.records, table.keys) for table in tables[1:]}
    figures: dict[str, Rendered] = {}
    for number, row in enumerate(rows):
        name = row["benchmark"]
        value = Estimate(row["diversity"], row["ci_low"], row["ci_high"])
        drawn = figures[name] = draw_tasks(name, distances[name], value, row.get("noise_floor"), f"tasks{number}")
        files |= {f"tasks-{name}.png": drawn.png, f"tasks-{name}.svg": drawn.svg}
        lines = [",".join(f"{d:.6g}" for d in line) for line in distances[name]]
        files[f"distances-{name}.csv"] = "\n".join([*lines, ""])
    files["report.html"] = _page(rows, sources, tables, figures, settings, provenance, contact_sheets)
    for name, content in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / "report.html"


def noun(sources: Mapping[str, Source]) -> str:
    """What the benchmarks are to a reader."""
    return "folders" if all(source.paths for source in sources.values()) else "benchmarks"


def _page(rows, sources, tables, figures, settings, provenance, contact_sheets):
    names = [row["benchmark"] for row in rows]
    what = noun(sources)
    title = f"Diversity of {listed(names)}" if len(names) < 4 else f"Diversity of {len(names)} {what}"
    lead = comparison.coefficients(rows)
    if len(rows) > 1:
        lead += [*comparison.between(tables[1].records), *comparison.verdicts(tables[2].records)]
    lead += comparison.shared_classes(rows, {name: source.classes for name, source in sources.items()})
    parts = [(f"The {what}" if len(rows) > 1 else f"The {what[:-1]}", page._table(tables[0]) + _left_out(sources))]
    parts.append(("What may be compared", _bullets(comparison.comparable(rows))))
    if not unlike(rows[0]):
        parts.append(("The paper's values", page._table(paper_table(rows[0]["probe"]))))
    if len(rows) > 1:
        parts.append((f"Between {what}", "".join(f"<h3>{t.title}</h3>{page._table(t)}" for t in tables[1:])))
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
        parts.append(("Contact sheets", page._sheets(contact_sheets)))
    made = (f"jaxdiv {provenance.get('jaxdiv')}", provenance.get("finished"), provenance.get("device"))
    note = ", ".join(str(part) for part in made if part)
    details = [
        page._details(name, f"<pre>{html.escape(page._json(value))}</pre>")
        for name, value in (("Settings", settings), ("Provenance", provenance))
    ]
    parts.append(("Details", "".join(details)))
    return page.assemble(title, note, lead, parts)


def _bullets(sentences):
    return f"<ul>{''.join(f'<li>{page._sentence(line)}</li>' for line in sentences)}</ul>"


def _with_source(row: Row, source: Source) -> dict[str, Any]:
    counts = {"train_classes": sum(source.classes), "train_images": source.images}
    return {**row, "path": ", ".join(source.paths), **counts}


def _coefficients(rows: Sequence[Row]) -> Table:
    own = all(row["path"] for row in rows)
    columns = [
        Column("name" if own else "benchmark", lambda row: row["benchmark"], number=False),
        Column("diversity", lambda row: short(row["diversity"], comparison.DIGITS)),
        Column("95% interval", lambda row: _interval(row)),
        Column("noise floor", lambda row: short(row.get("noise_floor"), comparison.DIGITS)),
        Column("true", lambda row: short(row.get("true_diversity"), comparison.DIGITS)),
        Column("classes", lambda row: f"{row['train_classes']:,}"),
        Column("images", lambda row: DASH if row["train_images"] is None else f"{row['train_images']:,}"),
        Column("folder", lambda row: row["path"], number=False),
    ]
    text = "Diversity is the mean Task2Vec distance (cosine, 0–1) of two tasks; its interval is over tasks."
    if any(row.get("noise_floor") is not None for row in rows):
        text += " The noise floor is the mean distance of two embeddings of the same task."
    more = ("path", "train_classes", "train_images", "pixels", "weights", "augment", "interval")
    keys = [*TABLE1_COLUMNS, *(key for key in TABLE1_OPTIONAL if any(row.get(key) is not None for row in rows)), *more]
    return Table("table1", "Diversity", text, columns, rows, rows, keys, comparison.how(rows[0]))


def _interval(row: Row) -> str:
    return f"[{short(row['ci_low'], comparison.DIGITS)}, {short(row['ci_high'], comparison.DIGITS)}]"


def _cross(records: Sequence[Row]) -> Table:
    """The distances between benchmarks as a square."""
    names = list(dict.fromkeys(row["benchmark"] for row in records))
    cells = {(row["benchmark"], row["other"]): row for row in records}
    told = lambda row: span(row["distance"], row["ci_low"], row["ci_high"], comparison.DIGITS)
    columns = [Column("", lambda row: row["benchmark"], number=False)]
    columns += [
        Column(name, partial(lambda row, name: told(cells[row["benchmark"], name]), name=name)) for name in names
    ]
    text = (
        "The mean distance of a task of the row from a task of the column, with its 95% interval over the tasks of "
        "both. On the diagonal: the coefficient. A cross distance above both coefficients means that tasks differ more "
        "between the two than within either."
    )
    lines = [{"benchmark": name} for name in names]
    return Table("cross", "Cross distances [95%]", text, columns, lines, records, comparison.CROSS_KEYS)


def _differences(records: Sequence[Row]) -> Table:
    columns = [
        Column("first", lambda row: row["benchmark"], number=False),
        Column("second", lambda row: row["other"], number=False),
        Column(
            "difference [95%]", lambda row: span(row["difference"], row["ci_low"], row["ci_high"], comparison.DIGITS)
        ),
        Column("p", lambda row: p_cell(row["p_value"])),
        *([Column("p, Holm", lambda row: p_cell(row["p_holm"]))] if len(records) > 1 else []),
        Column("more diverse", lambda row: row["more_diverse"] or "undecided", number=False),
    ]
    text = (
        "The first's coefficient minus the second's. Their tasks are drawn independently, so the variance is the sum "
        "of both jackknife variances; Student's t with Welch's degrees of freedom."
    )
    if len(records) > 1:
        text += " Intervals and p are of one pair; Holm's p is corrected for all pairs and decides."
    return Table("differences", "Which is more diverse", text, columns, records, records, comparison.DIFFERENCE_KEYS)


def _left_out(sources: Mapping[str, Source]) -> str:
    """What was left out of each, folded."""
    return "".join(
        page._details(f"Left out of {name}: {len(lost)}", f"<p>{html.escape(', '.join(lost))}</p>")
        for name, lost in _lost(sources).items()
    )


def _lost(sources: Mapping[str, Source]) -> dict[str, list[str]]:
    """By benchmark "class A" and "image A/1.jpg", where something was left out."""
    told = lambda name: f"{'image' if is_image(name) else 'class'} {name}"
    return {name: list(map(told, source.left_out)) for name, source in sources.items() if source.left_out}


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
    rows, embeddings, sources = found
    own = _coefficients([_with_source(row, sources[row["benchmark"]]) for row in rows])
    own = own._replace(columns=[column for column in own.columns if column.heading != "folder"], fixed="")
    shown: list[Any] = [to_terminal(own, width)]
    reasons = unlike(rows[0])
    if not reasons:
        shown.append(to_terminal(paper_table(rows[0]["probe"]), width))
    said = []
    for name, lost in _lost(sources).items():
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        said.append(f"{name}: left out {', '.join(lost[:5])}{more}")
    if reasons:
        said.append("The paper's values were measured otherwise and are not shown; the report says how.")
    said += [*comparison.coefficients(rows), *comparison.between(comparison.cross_rows(rows, embeddings))]
    said += comparison.verdicts(comparison.difference_rows(found.distances()))
    said += comparison.shared_classes(rows, {name: source.classes for name, source in sources.items()})
    return [*shown, *(_wrapped(line, width) for line in said)]


def _wrapped(text: str, width: int) -> str:
    """In lines of at most `width` characters, none of which breaks "p = .02" or an interval."""
    return textwrap.fill(unbroken(text), width, break_on_hyphens=False).replace("\u00a0", " ")


def draw_tasks(
    name: str,
    distances: Float[np.ndarray, "tasks tasks"],
    diversity: Estimate,
    noise_floor: float | None = None,
    prefix: str = "tasks",
) -> Rendered:
    """A benchmark's tasks: a histogram of their distances, a clustered heat map and a map in 2-D.

    prefix: of the identifiers in its SVG, so that one page can hold several.
    """
    grid = [
        [
            lambda ax: _histogram(ax, distances, diversity, noise_floor),
            lambda ax: _heat_map(ax, distances),
            lambda ax: _map(ax, distances),
        ]
    ]
    return render(Figure(prefix, grid, (4.2, 3.7), 0.5, [("", "")], [f"{name}: {len(distances)} tasks"]))


def _histogram(ax, distances, diversity, noise_floor):
    pairs = distances[np.triu_indices(len(distances), 1)]
    ax.hist(pairs, bins=min(40, max(8, round(len(pairs) ** 0.5))), color=_BLUE, alpha=0.6, label="pairs of tasks")
    ax.axvline(diversity.value, color=INK, lw=1.4, label=f"coefficient {short(diversity.value, 3)}")
    if np.isfinite([diversity.low, diversity.high]).all():
        interval = f"95% interval [{short(diversity.low, 3)}, {short(diversity.high, 3)}]"
        ax.axvspan(diversity.low, diversity.high, color=INK, alpha=0.15, lw=0, label=interval)
    if noise_floor is not None:
        ax.axvline(noise_floor, color=_ORANGE, lw=1.4, ls="--", label=f"noise floor {short(noise_floor, 3)}")
    ax.set_xlim(left=0)
    ax.margins(y=0.45)  # room for the legend above the bars
    ax.set(title="distances between tasks", xlabel=_UNIT, ylabel="pairs of tasks (count)")
    ax.legend(loc="upper left", fontsize=7.5, framealpha=0.92, edgecolor="none")


def _heat_map(ax, distances):
    order = cluster_order(distances)
    image = ax.imshow(distances[np.ix_(order, order)], cmap="viridis", vmin=0)
    ax.grid(visible=False)
    ax.locator_params(integer=True)
    ax.set(title="the same, similar tasks together", xlabel="task (clustered order)", ylabel="task (clustered order)")
    _colour_bar(ax, image, _UNIT)


def _map(ax, distances):
    at, share = classical_mds(distances)
    others = distances.sum(1) / (len(distances) - 1)
    points = ax.scatter(*at.T, c=others, cmap="viridis", s=26, edgecolors=INK, linewidths=0.4)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(title=f"a map of the tasks ({share:.0%} of squared distances)", xlabel="first axis (distance)")
    ax.set_ylabel("second axis (distance)")
    _colour_bar(ax, points, "mean distance from the other tasks")


def _colour_bar(ax, shown, label):
    """Inside the panel, of which it takes the right, so that it stays with it on the page."""
    place = ax.get_position()
    wide = 0.7 / ax.figure.get_figwidth()
    ax.set_position([place.x0, place.y0, place.width - wide, place.height])
    bar = ax.figure.colorbar(shown, cax=ax.inset_axes([1.04, 0.05, 0.05, 0.9]), label=label)
    bar.solids.set_rasterized(True)  # else hundreds of paths
    bar.outline.set_visible(False)


def cluster_order(distances: Float[np.ndarray, "tasks tasks"]) -> np.ndarray:
    """The order of tasks in which like ones (average linkage) stand side by side."""
    condensed = squareform(distances, checks=False)
    return hierarchy.leaves_list(hierarchy.linkage(condensed, "average", optimal_ordering=True))


def classical_mds(distances: Float[np.ndarray, "tasks tasks"]) -> tuple[Float[np.ndarray, "tasks 2"], float]:
    """Points in the plane whose distances come nearest, and the share of the squared ones kept (Torgerson 1952)."""
    n = len(distances)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    kept = np.clip(values[-2:][::-1], 0, None)
    total = np.clip(values, 0, None).sum()
    return vectors[:, -2:][:, ::-1] * np.sqrt(kept), float(kept.sum() / total) if total > 0 else 1.0
