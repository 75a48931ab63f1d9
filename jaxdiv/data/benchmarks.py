"""Prepared tables of base sets -> a benchmark's split as an `ImageTable`."""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxdiv.data import store
from jaxdiv.data.prepare import DataSettings, prepare_base_set
from jaxdiv.data.registry import BASE_SETS, SPLITS, components, native_pixels, preprocessing
from jaxdiv.data.store import Stored
from jaxdiv.data.table import ImageTable, place, table_of, union
from jaxdiv.errors import InputError, check_known


def table(base: str, stored: Stored, split: str, alone: bool = True) -> ImageTable:
    """One split of a prepared base set, `alone` or preprocessed as in a union. No pixel is read."""
    check_known("split", split, SPLITS)
    chosen = np.flatnonzero(stored.split == SPLITS.index(split))
    if not len(chosen):
        raise InputError(f"data set {base!r} has no class in its {split} split")
    # The classes of a split follow each other, so that its images are one piece of the memory map.
    assert (np.diff(chosen) == 1).all()
    ends = np.cumsum(stored.count)
    start, end = ends[chosen[0]] - stored.count[chosen[0]], ends[chosen[-1]]
    seen, facts = preprocessing(base, alone), BASE_SETS.get(base)
    mean, std = stored.statistics or (seen.mean, seen.std)
    return table_of(
        stored.images[start:end],
        stored.count[chosen].tolist(),
        [stored.names[i] for i in chosen],
        mean,
        std,
        bool(facts and facts.rotates),
        seen.augmentation,
    )


def join(name: str, stored: Sequence[Stored], split: str, own: Collection[str] = ()) -> ImageTable:
    """A benchmark's split from the prepared tables of its components, on the host: a lone one a memory map."""
    bases = components(name, own)
    tables = [table(base, of_base, split, len(bases) == 1) for base, of_base in zip(bases, stored, strict=True)]
    return tables[0] if len(tables) == 1 else union(tables)


def load_benchmark(
    name: str, split: str = "train", pixels: int | None = None, settings: DataSettings | None = None
) -> ImageTable:
    """A benchmark's split as an `ImageTable`, from its archives.

    Args:
      pixels: the side of the images; None: as in the study (`native_pixels`).

    Raises:
      InputError: unknown name or split; an archive that is missing, broken or of the wrong kind.
    """
    check_known("split", split, SPLITS)
    settings = settings or DataSettings()
    with tempfile.TemporaryDirectory() as folder_name:
        stored = []
        for number, base in enumerate(components(name, settings.own)):
            into = Path(folder_name) / str(number)
            prepare_base_set(base, native_pixels(name, settings.own) if pixels is None else pixels, settings, into)
            stored.append(store.read_table(into))
        made = place(join(name, stored, split, settings.own))
        # What stays on the host is read into memory, since its file is not kept.
        return replace(made, images=np.array(made.images)) if isinstance(made.images, np.memmap) else made
