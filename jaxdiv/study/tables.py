"""Which images of a benchmark a unit takes: read from what was prepared, or outlined before any pixel is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from jaxdiv.data import benchmarks, prepare, registry, store, synthetic
from jaxdiv.data.episodes import check_tasks
from jaxdiv.data.own.outline import Outline
from jaxdiv.data.table import ImageTable, draw_classes, place, table_of, take, union
from jaxdiv.errors import InputError
from jaxdiv.study.flags import in_flags
from jaxdiv.study.sections import NO_RESULT, Task


@dataclass(frozen=True)
class Table:
    """Which images of a benchmark a unit takes.

    Attributes:
      source: the benchmark whose classes they are.
      split: of which split.
      pixels: the side of the images.
      classes: how many classes are drawn, as evenly from its base sets as can be; 0: all.
      images: how many images of each are drawn; 0: all.
      seed: of both draws.
      chosen: its classes are those that a controlled experiment chose.
      own: the names of the user's data sets.
    """

    source: str
    split: str
    pixels: int
    classes: int = 0
    images: int = 0
    seed: int = 0
    chosen: bool = False
    own: tuple[str, ...] = field(default=(), metadata=NO_RESULT)  # the inputs say what they are

    @property
    def bases(self) -> tuple[str, ...]:
        return registry.components(self.source, self.own)

    @property
    def of(self) -> "Table":
        """The same images without what a sampler makes of them."""
        return Table(**{each.name: getattr(self, each.name) for each in fields(Table)})


# The last two tables stay, since all methods of a benchmark run in a row.
@lru_cache(maxsize=2)
def read(table: Table, folders: tuple[Path, ...], rows: tuple[int, ...] = ()) -> ImageTable:
    """The images of `table` on the device, from the prepared tables of its base sets in `folders`.

    rows: the classes that were chosen, by their rows; empty: all, or as many as are drawn.
    """
    stored = [store.read_table(folder) for folder in folders]
    whole = benchmarks.join(table.source, stored, table.split, table.own)
    if rows or table.classes or table.images:
        whole = take(whole, rows or _drawn(table, whole), table.images, table.seed)
    return place(whole)


def outline(
    table: Table, folders: Sequence[Path | None], data: prepare.DataSettings, own: Mapping[str, Outline]
) -> ImageTable | None:
    """The classes and numbers of images that `read` finds, without a cut and without pixels; None: not known yet.

    folders: as in `read`, or None where nothing is prepared yet: of generated base sets and of the user's `own` all is
      known before.
    """
    parts = [_outline(base, table.split, folder, data, own) for base, folder in zip(table.bases, folders, strict=True)]
    known = [part for part in parts if part is not None]
    return union(known) if len(known) == len(parts) else None


def check(table: Table, outlined: ImageTable, task: Task, own: Mapping[str, Outline]) -> ImageTable:
    """The outline of `table` with its cut.

    Raises:
      InputError: a benchmark has too few classes or images for a task, or for its cut.
    """
    if table.classes or table.images:
        outlined = take(outlined, _drawn(table, outlined), table.images, table.seed)
    try:
        check_tasks(f"benchmark {table.source!r} ({table.split} split)", outlined, task.ways, task.shots, task.queries)
    except InputError as error:
        mine = [base for base in table.bases if base in own]
        few = outlined.fewest < task.ways and not table.classes
        raise InputError(f"{error}{_more_classes(own, mine) if mine and few else ''}") from None
    return outlined


def _more_classes(own: Mapping[str, Outline], bases: Sequence[str]) -> str:
    """What gives a split of the user's own sets more classes."""
    told = []
    for base in bases:
        sizes = np.bincount(own[base].split, minlength=3)
        told.append(f"the {sizes.sum()} classes of {base} are split {'/'.join(map(str, sizes))}")
    return (
        f", or give the split more classes ({'; '.join(told)} for {'/'.join(registry.SPLITS)}) by "
        f"`DataSettings.fractions` or a split file"
    )


def _outline(
    base: str, split: str, folder: Path | None, data: prepare.DataSettings, own: Mapping[str, Outline]
) -> ImageTable | None:
    number = registry.SPLITS.index(split)
    if folder is not None:
        stored = store.read_table(folder)
        mine = np.flatnonzero(stored.split == number)
        count, names = stored.count[mine].tolist(), [stored.names[row] for row in mine]
    elif base in own:
        rows = [row for row, of_class in enumerate(own[base].split) if of_class == number]
        count, names = [own[base].count[row] for row in rows], [own[base].names[row] for row in rows]
    elif synthetic.spread(base) is not None:
        prepare.check_inputs(base, data)
        count = [data.images_per_class] * data.classes[number]
        names = [f"class {sum(data.classes[:number]) + row}" for row in range(len(count))]
    else:
        return None
    if not count:
        more = _more_classes(own, [base]).removeprefix(", or") if base in own else ""
        raise InputError(f"data set {base!r} has no class in its {split} split{':' if more else ''}{more}")
    return table_of(np.zeros((sum(count), 1, 1, 1), np.uint8), count, names, (0.0,) * 3, (1.0,) * 3)


def _drawn(table: Table, whole: ImageTable) -> tuple[int, ...]:
    """The rows of the classes that a cut leaves."""
    sets = np.bincount(whole.dataset, minlength=len(whole.rotates))
    even = [table.classes // len(sets) + (number < table.classes % len(sets)) for number in range(len(sets))]
    with in_flags(quotas="--config.data.cut.classes", images="--config.data.cut.images"):
        rows = draw_classes(table.source, whole, even if table.classes else sets.tolist(), table.images, table.seed)
    return tuple(rows.tolist())
