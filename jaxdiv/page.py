"""report.html: the whole study as one file that opens offline, on a phone, printed, in light and in dark."""

import base64
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdiv.correlate import METRICS, r2_interval
from jaxdiv.figures import PlotData
from jaxdiv.published import PAPER_BENCHMARKS, PAPER_TABLE1, PAPER_TABLE2, paper_diversity
from jaxdiv.wording import by_method, diversity_cells, headline, method_name, p_cell, r2_cell, short, summary

Row = Mapping[str, Any]
_CAPTIONS = {
    "figure1": "Figure 1. Test accuracy against diversity",
    "figure2": "Figure 2. All trend lines",
    "figure3": "Figure 3. Cross-entropy against diversity",
}


def build_page(
    title: str,
    data: PlotData,
    panels: Mapping[str, list[list[str]]],
    diversity_rows: Sequence[Row],
    points: Sequence[Row],
    correlations: Sequence[Row],
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    failures: Sequence[Row],
    fixed_test_set_name: str | None,
    contact_sheets: Mapping[str, str | Path],
) -> str:
    """The page as text. `panels`: SVG elements by figure (`figures.render`); the rest as `write_report`'s."""
    words = summary(diversity_rows, correlations, failures, fixed_test_set_name)
    columns = list(dict.fromkeys(key for row in points for key in row))
    lead = headline(len(data.numbers), correlations, failures, data.test_sets)
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="lead">{html.escape(lead)}</p>',
        '<h2>Summary</h2><div class="words">',
        *(_section(head, lines, bool(failures) and i == 0) for i, (head, lines) in enumerate(words)),
        "</div>",
        _table1(diversity_rows, data),
        _table2(correlations),
        *(_figure(name, panels[name], data) for name in panels),
        _sheets(contact_sheets),
        _details("All points", _table(points, columns)),
        _details("Settings", f"<pre>{html.escape(_json(settings))}</pre>"),
        _details("Provenance", f"<pre>{html.escape(_json(provenance))}</pre>"),
    ]
    return _PAGE.format(title=html.escape(title), body="\n".join(body))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str, ensure_ascii=False)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _section(head: str, lines: Sequence[str], failed: bool) -> str:
    style = ' class="failed"' if failed else ""
    return f"<section{style}><h3>{html.escape(head)}</h3>{_list(lines)}</section>"


def _details(name: str, inner: str) -> str:
    return f"<details><summary>{html.escape(name)}</summary>{inner}</details>"


def _text(value: Any) -> str:
    if hasattr(value, "item"):
        value = value.item()
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _side(text: str) -> str:
    return ' class="num"' if re.match(r"[<\[]?[-.]?\d", text) else ""


def _table(rows: Sequence[Row], columns: Sequence[str], heads: Sequence[str] | None = None) -> str:
    """Rows as an HTML table that scrolls sideways on a narrow screen; numbers and their headings go right."""
    texts = [[_text(row.get(column)) for column in columns] for row in rows]
    first = texts[0] if texts else [""] * len(columns)
    head = "".join(
        f'<th scope="col"{_side(text)}>{html.escape(name)}</th>'
        for name, text in zip(heads or columns, first, strict=True)
    )
    body = "".join(f"<tr>{''.join(f'<td{_side(t)}>{html.escape(t)}</td>' for t in row)}</tr>" for row in texts)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _table1(rows: Sequence[Row], data: PlotData) -> str:
    table = [{**row, **diversity_cells(row), "#": data.numbers.get(row["benchmark"])} for row in rows]
    table.sort(key=lambda row: (str(row["probe"]), row["#"] or 0))
    have = {key for row in rows for key, value in row.items() if value is not None}
    columns = ["#", "benchmark", "probe", "diversity", "95% interval"]
    columns += ["noise floor"] * ("noise_floor" in have)
    columns += ["true"] * ("true_diversity" in have) + ["paper"] * any(row["paper"] for row in table)
    columns += [key for key in ("tasks", "estimator", "head", "distance", "complexity") if key in have]
    note = ""
    if any(paper_diversity(row["benchmark"], row["probe"]) in PAPER_TABLE1["MIO"].values() for row in rows):
        note = "The paper's MIO value equals its group's own Mini-ImageNet value: probably mislabelled."
        note = f'<p class="note">{note}</p>'
    text = "# is the benchmark's number in the figures, least diverse first."
    return f"<h2>Table 1. Task2Vec diversity coefficient</h2><p>{text}</p>{_table(table, columns)}{note}"


def _table2(correlations: Sequence[Row]) -> str:
    rows = []
    for method, test_set, metrics in by_method(correlations):
        row: dict[str, Any] = {"method": method_name(method), "test set": test_set}
        for metric in METRICS:
            found = metrics.get(metric)
            row |= {
                metric: r2_cell(found),
                f"{metric} p": p_cell(found),
                f"{metric} n": found["n"] if found else 0,
            }
            published = PAPER_TABLE2.get(method)
            if published:
                low, high = r2_interval(math.sqrt(published[metric]), PAPER_BENCHMARKS)
                row[f"{metric} paper"] = f"{short(published[metric], 3)} [{short(low)}, {short(high)}]"
        rows.append(row)
    columns, heads = ["method", "test set"], ["method", "test set"]
    for metric, name in METRICS.items():
        columns += [metric, f"{metric} p", f"{metric} n", f"{metric} paper"]
        heads += [f"{name} R² [95%]", "p", "n", "paper"]
    text = (
        f"R² of the degree-1 fit over n benchmarks. Paper: the published R² over "
        f"{PAPER_BENCHMARKS} benchmarks; its interval was not published and is computed here from R² and n. "
        "Its probe, learner and images may differ."
    )
    table = _table(rows, columns, heads)
    return f"<h2>Table 2. R² of performance on diversity</h2><p>{text}</p>{table}"


def _figure(name: str, panels: list[list[str]], data: PlotData) -> str:
    if name == "figure2":
        text = "Least-squares lines over the range of each method's points; the interval of R² is in brackets."
    else:
        text = (
            "One point a benchmark (mean over seeds; small dots: single seeds). Bars: 95% intervals of "
            "diversity (over tasks) and of performance (over test tasks). Line: least squares, with its "
            "pointwise 95% band."
        )
    if "fixed" in data.test_sets:
        fixed = data.test_sets["fixed"]
        text += f" Own test split: the benchmark's own; {fixed}: the same for every learner."
    key = ""
    if name != "figure2":
        items = sorted(data.numbers.items(), key=lambda item: item[1])
        key = " ".join(f'<span class="key"><b>{i}</b> {html.escape(b)}</span>' for b, i in items)
        key = f'<p class="note">{key}</p>'
    grid = "panels large" if name == "figure2" else "panels"
    rows = "".join(f'<div class="{grid}">{"".join(f"<div>{svg}</div>" for svg in row)}</div>' for row in panels)
    shown = rows or "<p>No points to show.</p>"
    return f"<h2>{_CAPTIONS[name]}</h2><p>{html.escape(text)}</p>{key}{shown}"


def _sheets(sheets: Mapping[str, str | Path]) -> str:
    parts = []
    for caption, path in sheets.items():
        text = html.escape(caption)
        image = "<p>(no contact sheet was left)</p>"
        if Path(path).is_file():
            data = base64.b64encode(Path(path).read_bytes()).decode()
            image = f'<img alt="sample images of {text}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    return f'<h2>Contact sheets</h2><div class="panels">{"".join(parts)}</div>' if parts else ""


# The policy forbids every request, so that no later change can make the page depend on the network unseen.
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #1b1c1e; --paper: #fff; --grid: #dcdddf; --soft: #5b5f66; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e7e9; --paper: #17181b; --grid: #3a3d42; --soft: #a4a9b1; }}
}}
body {{ color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 1180px; padding: 1rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.25rem; margin-top: 2.2rem; }}
h3 {{ font-size: 1rem; margin: 1rem 0 .2rem; }}
p {{ max-width: 48rem; }} ul {{ margin: .2rem 0; padding-left: 1.2rem; }}
.lead {{ font-size: 1.1rem; }} .note {{ color: var(--soft); font-size: .9rem; max-width: none; }}
.key {{ white-space: nowrap; margin-right: .7rem; }}
.words {{ display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 470px), 1fr)); }}
.words section:only-of-type, .failed {{ grid-column: 1 / -1; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid var(--grid); text-align: left;
  white-space: nowrap; }}
td.num, th.num {{ text-align: right; }}
.panels {{ display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }}
.panels svg, .panels img {{ width: 100%; max-width: 520px; height: auto; display: block; }}
.large {{ grid-template-columns: repeat(auto-fill, minmax(min(100%, 470px), 1fr)); }}
figure {{ margin: 0; }}
details {{ margin-top: 1rem; }} summary {{ cursor: pointer; font-weight: 600; }}
pre {{ font-size: .8rem; white-space: pre-wrap; }}
@media print {{
  body {{ max-width: none; font-size: 10pt; padding: 0; }}
  .wide {{ overflow: visible; }} table {{ font-size: 6.5pt; }} th, td {{ padding: .1rem .25rem; }}
  .panels {{ grid-template-columns: repeat(3, 1fr); }} .large {{ grid-template-columns: 1fr 1fr; }}
  .panels > *, tr, section {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
}}
</style></head><body>
{body}
</body></html>
"""
