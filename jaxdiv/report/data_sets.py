"""What a user's data sets hold, in lines: before anything is computed, in the terminal and on contact sheets."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdiv.data.own.outline import Outline
from jaxdiv.data.registry import SPLITS
from jaxdiv.report.comparison import one_task
from jaxdiv.report.wording import listed

_SOME = 3  # names that are told one by one


def found(name: str, outlined: Outline, ways: int, images: int) -> list[str]:
    """A few lines: its classes, how many images they have, its splits; what was recognised and left out.

    ways, images: classes of a task, and images of each.
    """
    count, split = np.array(outlined.count), np.array(outlined.split)
    classes = [f"{(split == number).sum()} {title}" for number, title in enumerate(SPLITS) if (split == number).any()]
    spread = f"{count.min()} to {count.max()}" if count.min() < count.max() else f"{count.min()}"
    first = (
        f"{name}: {len(count):,} classes ({listed(classes)}) of {spread} images"
        f"{f' (median {np.median(count):g})' if count.min() < count.max() else ''}, {count.sum():,} in all"
    )
    more = [*outlined.found.notes, *([left_out(outlined.left_out)] if outlined.left_out else [])]
    lines = [first, *([f"{name}: {'; '.join(more)}"] if more else [])]
    trains = count[split == 0]
    return [*lines, *([one_task(name, ways * images)] if len(trains) == ways and (trains == images).all() else [])]


def left_out(lost: Mapping[str, Sequence[str]], most: int = _SOME) -> str:
    """What was left out, by the reason: how many, and the names of the first ones."""
    told = []
    for reason, names in lost.items():
        more = f" and {len(names) - most} more" if len(names) > most else ""
        told.append(f"{reason} ({len(names)}: {', '.join(names[:most])}{more})")
    return f"left out: {'; '.join(told)}"


def read(changed: Mapping[str, int], lost: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines of what reading the images showed: how many were changed and how, and what was left out."""
    told = [f"{how} ({images:,} image{'s' if images > 1 else ''})" for how, images in changed.items()]
    return [*([f"changed: {'; '.join(told)}"] if told else []), *([left_out(lost)] if lost else [])]
