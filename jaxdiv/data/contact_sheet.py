"""A picture to see at a glance that the data are right: a row is a class."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxdiv.data.registry import BASE_SETS, SPLITS, components
from jaxdiv.data.store import Stored

_THUMBNAIL, _LABEL, _TITLE = 48, 150, 18  # pixels of a sheet


def contact_sheet(
    name: str, stored: Sequence[Stored], own: Collection[str] = (), notes: Mapping[str, Sequence[str]] | None = None
) -> Image.Image:
    """The contact sheet of a benchmark from the prepared tables of its components: a row is a class.

    notes: lines about a component, shown above its images.
    """
    sections: list[tuple[str, Stored | None, int, bool]] = []
    for base, of_base in zip(components(name, own), stored, strict=True):
        sections += [(_shortened(line), None, 0, False) for line in (notes or {}).get(base, ())]
        inverted = bool(base in BASE_SETS and BASE_SETS[base].gray)
        for number, split in enumerate(SPLITS):
            mine = of_base.split == number
            count = of_base.count[mine]
            title = f"{base} {split}: {len(count)} classes, {count.sum()} images{_spread(count)}"
            sections.append((title, of_base, number, inverted))
    return _draw(sections)


def _spread(count: np.ndarray) -> str:
    """The least, median and greatest number of images of a class, where they differ."""
    if not len(count) or count.min() == count.max():
        return ""
    return f", {count.min()} to {count.max()} a class, median {np.median(count):g}"


def _shortened(line: str, most: int = 118) -> str:
    """What fits the sheet's width."""
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _draw(sections: Sequence[tuple[str, Stored | None, int, bool]], classes: int = 8, images: int = 12) -> Image.Image:
    """A picture to see at a glance that data are right: a row is a class, some classes of each section.

    Args:
      sections: title, table (None: the title alone), which split of it, and whether to invert it (drawings that are
        dark on bright).
    """
    rows: list[tuple[str, list[np.ndarray]]] = []
    for title, table, split, inverted in sections:
        rows.append((title, []))
        if table is None:
            continue
        chosen = np.flatnonzero(table.split == split)
        first = np.cumsum(table.count) - table.count
        for i in chosen[np.unique(np.linspace(0, len(chosen) - 1, min(classes, len(chosen))).astype(int))]:
            shown = table.images[first[i] : first[i] + min(images, table.count[i])]
            rows.append((table.names[i], list(255 - shown if inverted else shown)))
    heights = [_THUMBNAIL + 2 if of_class else _TITLE for _, of_class in rows]
    sheet = Image.new("RGB", (_LABEL + images * (_THUMBNAIL + 2), sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (title, of_class), height in zip(rows, heights, strict=True):
        draw.text((4, top + (height - 12) // 2), title if not of_class else title[-24:], fill="black")
        for column, pixels in enumerate(of_class):
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            picture = picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
            sheet.paste(picture, (_LABEL + column * (_THUMBNAIL + 2), top))
        top += height
    return sheet
