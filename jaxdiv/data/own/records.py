"""Sets that are stored as numbered records, an image and its label each: .npz, TFDS, Hugging Face."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxdiv.data.own.class_folders import check_alike
from jaxdiv.data.own.found import Found, Item
from jaxdiv.data.own.splits import by_class
from jaxdiv.data.own.text import composed
from jaxdiv.errors import InputError

_NO_LABEL = "a record without a class"


@dataclass(frozen=True)
class Part:
    """Records that are read in one go.

    Attributes:
      name: of the part; a record is called `name[number]`.
      split: "train", "val", "test", or "" for none.
      labels: the class of each record; "" for one that has none.
      read: the images of all records in their order, each encoded or as an array.
    """

    name: str
    split: str
    labels: Sequence[str]
    read: Callable[[], Iterator[bytes | np.ndarray]]


def found_in(parts: Sequence[Part], notes: Sequence[str]) -> Found:
    """What a set of records holds.

    Raises:
      InputError: no record that has a class; classes that the letters' case alone tells apart.
    """
    notes = list(notes)
    items: list[Item] = []
    left_out: list[str] = []
    digits = len(str(max((len(part.labels) for part in parts), default=0)))
    for part in parts:
        for number, label in enumerate(part.labels):
            name = f"{part.name}[{number:0{digits}}]"
            if label:
                items.append(Item(name, composed(label), part.split))
            else:
                left_out.append(name)
    if not items:
        raise InputError("holds no image that has a class")
    check_alike({item.of_class for item in items}, "label", notes)
    split_of, note = by_class(items)
    named = (item._replace(split=split_of.get(item.of_class, "")) for item in items)
    ordered = sorted(named, key=lambda item: (item.of_class, item.name))
    place = {item.name: number for number, item in enumerate(ordered)}
    number_of = np.array([place[item.name] for item in items])  # in the order of the records

    def read() -> Iterator[tuple[int, bytes | np.ndarray]]:
        numbers = iter(number_of)
        for part in parts:
            for label, image in zip(part.labels, part.read(), strict=True):
                if label:
                    yield int(next(numbers)), image

    return Found(ordered, read, {_NO_LABEL: left_out} if left_out else {}, [*notes, note] if note else notes)


def choose_feature(kind: str, asked: str, fit: Mapping[str, bool], usual: Sequence[str]) -> str:
    """The feature of a set that is its image, or its class: the one asked for, or the one whose name is usual, or the
    only one that fits.

    Args:
      kind: "image" or "class", for the error message.
      asked: its name in `OwnSet.columns`, which counts where there is such a feature.
      fit: whether each feature may be it.

    Raises:
      InputError: none fits, or several do.
    """
    fits = sorted(name for name, does in fit.items() if does)
    for name in (asked, *usual):
        if name in fits:
            return name
    if len(fits) != 1:
        which = f"{', '.join(fits)}: name one by `OwnSet.columns`" if fits else f"none of {', '.join(sorted(fit))}"
        raise InputError(f"which feature is its {kind}? It may be {which}")
    return fits[0]
