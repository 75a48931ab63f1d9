"""What describes a user's data set, and what was found in it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class OwnSet:
    """One of the user's data sets, as the configuration or a caller describes it.

    Attributes:
      path: a folder, a .zip or .tar (also compressed), a .npz, `tfds:NAME` or the folder of a prepared TFDS data set,
        `hf:NAME` or the folder of a saved Hugging Face data set.
      split: a file with a line `SPLIT CLASS` for each class; empty: the set's own split, or by fractions and a seed.
      labels: the CSV of a folder of images, inside it or beside it; empty: the only one there is.
      columns: what the CSV calls an image's file, its class and its split; of a TFDS or Hugging Face data set, its
        features for the image and its class, where it has several.
      nested: which folder is the class where folders are nested: "outer" (the others are parts of it), "inner" (the
        others are not part of the name), or "path" (every folder of images is a class); empty: where that is plain.
      background: what shows through transparent pixels, "white" or "black".
      value_range: the values for black and white in 16-bit and float images; empty: those of the images' type.
      normalisation: "imagenet", "measured" (from the train split), or (mean, std) of each channel, of pixels in 0..1.
    """

    path: str
    split: str = ""
    labels: str = ""
    columns: tuple[str, str, str] = ("filename", "label", "split")
    nested: str = ""
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
      path: where its files are; None: no files of its own (`hf:NAME`).
    """

    items: Sequence[Item]
    read: Callable[[], Iterator[tuple[int, bytes | np.ndarray]]]
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    path: Path | None = None
