"""report.html: the whole study as one file that opens offline, on a phone, printed, in light and in dark."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from jaxdiv.report.prose import Section
from jaxdiv.report.renderers import Table, to_html
from jaxdiv.report.wording import unbroken

_POINT = (
    "One point per benchmark (mean over seeds; small dots: single seeds). Bars: 95% intervals of diversity (over "
    "tasks) and of performance (over test tasks). Line: least squares, with its pointwise 95% band. p is uncorrected."
)
FIGURES = {
    "figure1": ("Figure 1. Test accuracy against diversity", _POINT),
    "figure2": (
        "Figure 2. All trend lines",
        "Least-squares lines over the range of each method's points; the interval of R² is in brackets.",
    ),
    "figure3": ("Figure 3. Cross-entropy against diversity", _POINT),
    "figure4": (
        "Figure 4. {families} over PT against diversity",
        "Cohen's d of the method's accuracy over PT's on the same test tasks; above the line the method is better. "
        "Bars: 95% intervals. Grey: the d of a difference below 1%. Line: least squares, with its pointwise 95% band. "
        "p is uncorrected.",
    ),
    "figure5": (
        "Figure 5. The controlled experiment",
        "One point per subset of equal size (mean over seeds; small dots: single seeds), its level by colour and "
        "marker. Line: least squares, with its pointwise 95% band. Above: the effect in the table's model. "
        "p is uncorrected.",
    ),
    "figure6": (
        "Figure 6. Other tasks of the same data",
        "One point for each way to take tasks or classes: its measured diversity and its performance, both less those "
        "of its counterpart on the same test tasks. Bars: 95% intervals over sources.",
    ),
}
# What the page shows, in order: heading, figures, open tables, folded tables.
_SECTIONS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    ("Not finished", (), ("unfinished",), ()),
    ("Diversity", (), ("table1",), ()),
    ("Performance on diversity", (), ("table2", "shared_sets"), ("correlations", "differences")),
    ("Figures", ("figure1", "figure2", "figure3"), (), ()),
    ("Size, mixture and complexity", (), (), ("partial", "verdicts", "complexity", "complexity_benchmarks")),
    ("Against pre-training", ("figure4",), ("effect_size_trends",), ("effect_sizes",)),
    ("The controlled experiment", ("figure5",), ("controlled",), ()),
    ("Other tasks of the same data", ("figure6",), ("paired",), ()),
    ("The paper under the same tests", (), (), ("published", "published_differences")),
)


def build_page(
    title: str,
    subtitle: str,
    answer: Sequence[str],
    sections: Sequence[Section],
    tables: Mapping[str, Table],
    panels: Mapping[str, list[list[str]]],
    families: str,
    numbers: Mapping[str, int],
    test_sets: Mapping[str, str],
    failed: bool,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    contact_sheets: Mapping[str, str | Path],
) -> str:
    """The page as text.

    Args:
      subtitle: which study, when, and of what; empty: no such line.
      answer: the headline's sentences.
      sections: the summary's, the first of them about failures if `failed`.
      panels: SVG elements by figure (`plotting.render`).
      families: what figure 4 compares with pre-training.
      numbers: each benchmark's number in the figures.
      test_sets: their names.
    """
    parts = [("Summary", _words(sections, failed))]
    for head, figures, shown, folded in _SECTIONS:
        inner = [_figure(name, panels[name], families, numbers, test_sets) for name in figures if name in panels]
        for name in (*shown, *folded):
            if (table := tables.get(name)) and name in shown:
                inner.append(f"<h3>{html.escape(table.title)}</h3>{table_part(table)}")
            elif table:
                inner.append(folded_part(table.title, table_part(table)))
        if inner:
            parts.append((head, "".join(inner)))
    if contact_sheets:
        parts.append(("Contact sheets", contact_sheets_part(contact_sheets)))
    details = [
        folded_part(tables["points"].title, table_part(tables["points"])),
        folded_part("Settings", json_part(settings)),
        folded_part("Provenance", json_part(provenance)),
    ]
    parts.append(("Details", "".join(details)))
    return assemble(title, subtitle, answer, parts)


def assemble(title: str, subtitle: str, answer: Sequence[str], parts: Sequence[tuple[str, str]]) -> str:
    """A whole page: its title, a line of what it is about, the answer's sentences, and parts (a heading and its HTML)
    under a list of links to them. All but the parts' HTML is escaped here."""
    links = "".join(f'<li><a href="#part-{i}">{html.escape(head)}</a></li>' for i, (head, _) in enumerate(parts))
    body = [
        f"<h1>{html.escape(title)}</h1>",
        *([f'<p class="subtitle">{html.escape(subtitle)}</p>'] if subtitle else []),
        *(f'<p class="lead">{sentence(line)}</p>' for line in answer),
        f'<nav aria-label="contents"><ul>{links}</ul></nav>',
        *(f'<h2 id="part-{i}">{html.escape(head)}</h2>{inner}' for i, (head, inner) in enumerate(parts)),
    ]
    return _PAGE.format(title=html.escape(title), body="\n".join(body))


def json_part(value: Any) -> str:
    """A value as indented JSON."""
    return f"<pre>{html.escape(json.dumps(value, indent=2, default=str, ensure_ascii=False))}</pre>"


def _words(sections: Sequence[Section], failed: bool) -> str:
    def one(head: str, lines: Sequence[str], style: str) -> str:
        items = "".join(f"<li>{sentence(line)}</li>" for line in lines)
        return f"<section{style}><h3>{html.escape(head)}</h3><ul>{items}</ul></section>"

    styles = [' class="failed"' if failed and i == 0 else "" for i in range(len(sections))]
    inner = "".join(one(head, lines, style) for (head, lines), style in zip(sections, styles, strict=True))
    return f'<div class="words">{inner}</div>'


def sentence(text: str) -> str:
    """Escaped, and no line broken within "p = .02" or ".42 [.01, .79]"."""
    return html.escape(unbroken(text))


def folded_part(name: str, inner: str) -> str:
    return f"<details><summary>{html.escape(name)}</summary>{inner}</details>"


def table_part(table: Table) -> str:
    fixed = f" Everywhere: {table.fixed}." if table.fixed else ""
    return f"<p>{html.escape(table.text + fixed)}</p>{to_html(table)}"


def _figure(
    name: str, panels: list[list[str]], families: str, numbers: Mapping[str, int], test_sets: Mapping[str, str]
) -> str:
    title, text = FIGURES[name]
    title = title.format(families=families)
    if "fixed" in test_sets:
        text += f" Own test split: the benchmark's own; {test_sets['fixed']}: the same for every learner."
    key = ""
    if name != "figure2":
        items = sorted(numbers.items(), key=lambda item: item[1])
        key = "".join(f"<span><b>{i}</b> {html.escape(b)}</span>" for b, i in items)
        # The last of a row of panels: it takes the room that they leave.
        key = f'<div class="key"><p>Benchmarks, least diverse first:</p><div>{key}</div></div>'
    rows = ""
    for row in panels:
        # Of three columns, one panel alone would leave two empty.
        style = "panels large" if name == "figure2" or len(row) % 3 == 1 else "panels"
        rows += f'<div class="{style}">{"".join(f"<div>{svg}</div>" for svg in row)}{key}</div>'
    shown = rows or "<p>No points to show.</p>"
    return f'<section id="{name}"><h3>{title}</h3><p>{html.escape(text)}</p>{shown}</section>'


_SHEET = (500, 836)  # of a sheet's pixels, those shown: 7 images of 8 classes, of the first two splits
_SHEET_BYTES = 120_000


def contact_sheets_part(sheets: Mapping[str, str | Path]) -> str:
    """The beginning of each contact sheet: whole ones are megabytes."""
    parts = []
    for name, path in sheets.items():
        image, caption = "", f"{name}: no contact sheet was left"
        if Path(path).is_file():
            encoded, share = _reduced(Path(path))
            image = f'<img alt="sample images of {html.escape(name)}" src="data:image/webp;base64,{encoded}">'
            part = f"the first {share:.0%} of the sheet" if share < 0.995 else "the whole sheet"
            caption = f"{name}: {part} {Path(path).name}, one row per class"
        parts.append(f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>")
    style = "panels four" if len(parts) % 4 == 0 else "panels"  # rows that are full
    return folded_part("Sample images of each benchmark", f'<div class="{style}">{"".join(parts)}</div>')


def _reduced(path: Path) -> tuple[str, float]:
    """The upper left of an image as base64 of a WebP of at most _SHEET_BYTES, and which share of the image that is."""
    with Image.open(path) as whole:
        wide, tall = min(whole.width, _SHEET[0]), min(whole.height, _SHEET[1])
        share = wide * tall / (whole.width * whole.height)
        part = whole.convert("RGB").crop((0, 0, wide, tall))
    while True:
        for quality in (80, 50):
            out = io.BytesIO()
            part.save(out, "WEBP", quality=quality)
            if out.tell() <= _SHEET_BYTES:
                return base64.b64encode(out.getvalue()).decode(), share
        part = part.reduce(2)


# The policy forbids every request, so that no later change can make the page depend on the network unseen.
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #1b1c1e; --paper: #fff; --grid: #dcdddf; --soft: #5b5f66; --shade: #0004; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e7e9; --paper: #17181b; --grid: #3a3d42; --soft: #a4a9b1; --shade: #fff5; }}
}}
body {{ color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 1180px; padding: 1rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.25rem; margin-top: 2.2rem; }}
h3 {{ font-size: 1rem; margin: 1rem 0 .2rem; }}
p {{ max-width: 48rem; }} ul {{ margin: .2rem 0; padding-left: 1.2rem; }}
.subtitle {{ color: var(--soft); margin: -.7rem 0 1rem; }}
.lead {{ font-size: 1.1rem; margin: .5rem 0; }} 
.words {{ display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 470px), 1fr)); }}
.words section:only-of-type, .failed {{ grid-column: 1 / -1; }}
/* A shadow at an edge beyond which there is more: covers of paper that scroll with the table lie over both shadows. */
.wide {{ overflow-x: auto; background:
  linear-gradient(to right, var(--paper) 30%, transparent) left / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--paper) 30%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / .9rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / .9rem 100% no-repeat scroll; }}
/* Shown where the table scrolls: what does not scroll has no timeline. Older browsers: on every narrow screen. */
.hint {{ position: sticky; left: 0; width: max-content; height: 0; overflow: hidden; margin: 0;
  color: var(--soft); font-size: .8rem; line-height: 1.5; }}
@keyframes shown {{ from, to {{ height: 1.5em; }} }}
@media screen {{
  .hint {{ animation: shown linear both; animation-timeline: scroll(nearest inline); }}
  @supports not (animation-timeline: scroll(nearest inline)) {{ .hint {{ animation: none; }} }}
}}
@media screen and (max-width: 45rem) {{
  @supports not (animation-timeline: scroll(nearest inline)) {{ .hint {{ height: 1.5em; }} }}
}}
table {{ border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid var(--grid); text-align: left;
  white-space: nowrap; }}
th {{ white-space: normal; overflow-wrap: normal; vertical-align: bottom; }}
nav ul {{ display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: .6rem 0;
  border-block: 1px solid var(--grid); }}
a {{ color: inherit; }} h2 {{ scroll-margin-top: .5rem; }}
td.num, th.num {{ text-align: right; }}
.panels {{ display: flex; flex-wrap: wrap; gap: .5rem; --columns: 3; }}
.panels > * {{ flex: 0 0 calc((100% - (var(--columns) - 1) * .5rem) / var(--columns)); }}
.large {{ --columns: 2; }} .four {{ --columns: 4; }}
.panels .key {{ flex: 1 1 0; min-width: min(100%, 12rem); color: var(--soft); font-size: .85rem; align-self: center; }}
.key p {{ margin: 0 0 .3rem; }} .key div {{ display: flex; flex-wrap: wrap; gap: .1rem .9rem; }}
.panels svg, .panels img {{ width: 100%; max-width: 520px; height: auto; display: block; }}
@media (max-width: 1060px) {{ .panels {{ --columns: 2; }} }}
@media (max-width: 710px) {{ .panels {{ --columns: 1; }} }}
figure {{ margin: 0; }} figcaption {{ font-size: .85rem; color: var(--soft); }}
details {{ margin-top: 1rem; }} summary {{ cursor: pointer; font-weight: 600; }}
pre {{ font-size: .8rem; white-space: pre-wrap; }}
@media print {{
  body {{ max-width: none; font-size: 10pt; padding: 0; }}
  nav {{ display: none; }} .wide {{ overflow: visible; background: none; }}
  table {{ font-size: 6.5pt; }} th, td {{ padding: .1rem .25rem; }}
  .panels {{ --columns: 3; }} .large {{ --columns: 2; }}
  .panels > *, tr, .words section {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
}}
</style></head><body>
{body}
</body></html>
"""
