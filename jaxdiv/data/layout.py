"""A user's data set as it lies: which images it has, of which class and split each is, and what was left out.

Any source -> `Found`, without reading a pixel; `prepare` then reads the images, in the source's own order, and stores
them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from jaxdiv.data import folder
from jaxdiv.data.archives import members
from jaxdiv.errors import InputError

_EXPECTED = "a folder (or .zip, .tar) with one sub-folder of images for each class"


@dataclass(frozen=True)
class OwnSet:
    """One of the user's data sets, as the configuration or a caller describes it.

    Attributes:
      path: a folder, a .zip or .tar (also compressed), a .npz, `tfds:NAME` or the folder of a prepared TFDS data set,
        `hf:NAME` or the folder of a saved Hugging Face data set.
      split: a file with a line `SPLIT CLASS` for each class; empty: the set's own split, or by fractions and a seed.
      labels: the CSV of a folder of images, inside it or beside it; empty: the only one there is.
      columns: what the CSV calls an image's file, its class and its split.
      background: what shows through transparent pixels, "white" or "black".
      value_range: the values of black and white in 16-bit and float images; empty: those of the images' type.
      normalisation: "imagenet", "measured" (from the train split), or (mean, std) of each channel, of pixels in 0..1.
    """

    path: str
    split: str = ""
    labels: str = ""
    columns: tuple[str, str, str] = ("filename", "label", "split")
    background: str = "white"
    value_range: tuple[float, ...] = ()
    normalisation: str | tuple[tuple[float, ...], tuple[float, ...]] = "imagenet"


class Item(NamedTuple):
    """One image: its name inside the set, its class, and its split ("train", "val", "test"; "": the set has none)."""

    name: str
    of_class: str
    split: str = ""


@dataclass(frozen=True)
class Found:
    """What a data set holds.

    Attributes:
      items: every image, in the order of (class, name).
      read: yields (number of an item, its encoded bytes or its array), each once, in the order in which the source is
        read fastest; one image is in memory at a time.
      left_out: names of files and classes that are not images of the set, by the reason in words.
      notes: what was recognised, in words: "train/, val/ and test/ are its splits".
    """

    items: Sequence[Item]
    read: Callable[[], Iterator[tuple[int, bytes | np.ndarray]]]
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def find(own: OwnSet) -> Found:
    """What is at `own.path`, by its layout.

    Raises:
      InputError: missing; damaged or unsafe; of no layout that is known; of two readings, which the message names.
    """
    path = Path(own.path)  # a stand-in: the branch `layout` has the real one
    if not path.exists():
        raise folder.missing(path, _EXPECTED)
    names = [name for name, _ in members(path, folder.is_image, _EXPECTED)]
    if not names:
        raise InputError(f"{path} holds no image in a folder of its class: expected {_EXPECTED}")
    items = sorted((Item(name, str(PurePosixPath(name).parent)) for name in names), key=lambda item: item[1::-1])
    numbers = {item.name: number for number, item in enumerate(items)}

    def read() -> Iterator[tuple[int, bytes | np.ndarray]]:
        for name, file in members(path, numbers.__contains__, _EXPECTED):
            yield numbers[name], file.read()

    return Found(items, read)


def split_items(
    found: Found, own: OwnSet, fractions: Sequence[float], seed: int, splits: Sequence[str]
) -> dict[str, str]:
    """The split of each class: by the split file, by the set itself, or by fractions and a seed."""
    mine = {item.of_class: item.split for item in found.items}
    if not own.split and all(mine.values()):
        return mine
    return folder.split_classes(list(mine), fractions, seed, own.split, splits)
