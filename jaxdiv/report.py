"""What a finished study leaves: tables as CSV, figures, and one HTML page with what they support in words.

Every file is written whole or not at all, and the same input gives the same bytes.
"""

import csv
import io
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdiv import figures
from jaxdiv.correlate import METRICS
from jaxdiv.page import build_page
from jaxdiv.published import PAPER_TABLE2
from jaxdiv.wording import by_method, diversity_cells, method_name, p_cell, r2_cell, short

Row = Mapping[str, Any]
TABLE1_COLUMNS = ("benchmark", "probe", "diversity", "ci_low", "ci_high", "tasks", "estimator")
TABLE1_OPTIONAL = ("head", "distance", "noise_floor", "complexity", "true_diversity")
TABLE2_COLUMNS = ("method", "metric", "test_set", "r2", "ci_low", "ci_high", "p_value", "n")
POINTS_COLUMNS = (
    "benchmark",
    "method",
    "seed",
    "test_set",
    "diversity",
    "accuracy",
    "accuracy_ci",
    "loss",
    "loss_ci",
    "train_images",
    "train_classes",
)


def write_report(
    folder: str | Path,
    diversity_rows: Sequence[Row],
    points: Sequence[Row],
    correlations: Sequence[Row],
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    failures: Sequence[Row] = (),
    fixed_test_set_name: str | None = None,
    contact_sheets: Mapping[str, str | Path] | None = None,
    title: str = "Diversity and performance",
) -> Path:
    """Writes table1.csv, table2.csv, points.csv, figure1–3 (.png, .svg), report.html; returns its path.

    diversity_rows: mappings with TABLE1_COLUMNS, and TABLE1_OPTIONAL where known. points: mappings with
    POINTS_COLUMNS. correlations: rows of `jaxdiv.correlate.correlations(points)`. settings, provenance: any
    JSON values, shown as they are. failures: mappings with `unit` and `reason`. fixed_test_set_name: which
    benchmark the fixed test set is. contact_sheets: PNG files by caption, set into the page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    optional = [c for c in TABLE1_OPTIONAL if any(row.get(c) is not None for row in diversity_rows)]
    _write(folder / "table1.csv", csv_text(diversity_rows, (*TABLE1_COLUMNS, *optional)))
    _write(folder / "table2.csv", csv_text(correlations, TABLE2_COLUMNS))
    _write(folder / "points.csv", csv_text(points, POINTS_COLUMNS))
    data = figures.plot_data(diversity_rows, points, correlations, fixed_test_set_name)
    panels = {}
    for name in ("figure1", "figure2", "figure3"):
        drawn = figures.render(name, data)
        _write(folder / f"{name}.png", drawn.png)
        _write(folder / f"{name}.svg", drawn.svg)
        panels[name] = drawn.panels
    page = build_page(
        title=title,
        data=data,
        panels=panels,
        diversity_rows=diversity_rows,
        points=[{column: row.get(column) for column in POINTS_COLUMNS} for row in points],
        correlations=correlations,
        settings=settings,
        provenance=provenance,
        failures=failures,
        fixed_test_set_name=fixed_test_set_name,
        contact_sheets=contact_sheets or {},
    )
    _write(folder / "report.html", page)
    return folder / "report.html"


def terminal_tables(diversity_rows: Sequence[Row], correlations: Sequence[Row], width: int = 100) -> list[Any]:
    """Tables 1 and 2 as rich tables for a terminal of `width` columns (the paper's columns go below 96)."""
    from rich import box
    from rich.table import Table

    def table(title: str) -> Table:
        return Table(
            title=title,
            box=box.SIMPLE_HEAD,
            title_justify="left",
            title_style="bold",
            pad_edge=False,
            collapse_padding=True,
        )

    # What holds for every row is said once, in the title.
    found = {name: {row.get(name) for row in diversity_rows} for name in ("probe", "tasks", "estimator")}
    varied = [name for name in found if len(found[name]) > 1]
    common = [f"{name} {value}" for name in found if name not in varied for value in found[name] if value is not None]
    first = table("Table 1. Task2Vec diversity coefficient (cosine distance, 0–1)\n" + ", ".join(common))
    texts = [diversity_cells(row) for row in diversity_rows]
    shown = ["diversity", "95% interval"]
    shown += ["noise floor"] * any(row.get("noise_floor") is not None for row in diversity_rows)
    shown += ["true"] * any(row.get("true_diversity") is not None for row in diversity_rows)
    shown += ["paper"] * (width >= 96 and any(text["paper"] for text in texts))
    first.add_column("benchmark", overflow="fold")
    for name in shown:
        # Never folded: a number broken over two lines reads as another number.
        first.add_column(name, justify="right", no_wrap=True)
    for name in varied:
        first.add_column(name, overflow="fold")
    for row, text in zip(diversity_rows, texts, strict=True):
        values = (row["benchmark"], *(text[name] for name in shown), *(row.get(name) for name in varied))
        first.add_row(*("" if v is None else str(v) for v in values))

    second = table("Table 2. R² of performance on diversity [95% interval], p-value")
    for name in ("method", "test set"):
        second.add_column(name, no_wrap=True)
    paper = ["paper"] * (width >= 96)
    for name in (*(c for metric in METRICS.values() for c in (metric, "p")), "n", *paper):
        second.add_column(name, justify="right", no_wrap=True)
    groups = by_method(correlations)
    for i, (method, test_set, metrics) in enumerate(groups):
        line = [method_name(method).removesuffix(" steps"), test_set]
        for metric in METRICS:
            line += [r2_cell(metrics.get(metric)), p_cell(metrics.get(metric))]
        line.append("/".join(dict.fromkeys(str(metrics[m]["n"]) for m in METRICS if m in metrics)))
        if paper:
            published = PAPER_TABLE2.get(method, {})
            line.append(" / ".join(short(published[m], 3) for m in METRICS if m in published))
        second.add_row(*line, end_section=i + 1 < len(groups) and groups[i + 1][1] != test_set)
    return [first, second]


def _write(path: Path, content: str | bytes) -> None:
    """Writes to a temporary file beside `path` and renames it, so that no reader ever sees half a file."""
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep other users of a shared workdir out
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def csv_text(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Rows as CSV: numbers in full precision, an empty cell where a value is undefined (never "nan")."""

    def cell(value: Any) -> Any:
        if hasattr(value, "item"):
            value = value.item()
        return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()
