"""What a user's data set gives before a pixel is read: its classes, their split, and what is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from jaxdiv.data.own.found import Found, OwnSet
from jaxdiv.data.own.layout import find
from jaxdiv.data.own.splits import check_split, split_items
from jaxdiv.data.registry import SPLITS
from jaxdiv.errors import InputError

TOO_SMALL = "a class with too few images"
UNLISTED = "a class without a split"


@dataclass(frozen=True)
class Outline:
    """A user's data set before a pixel is read.

    Attributes:
      found: all that is there.
      names, split, count: of each class: those of the train split first. 0, 1, 2 for train, val, test.
      items: the image (its number in `found.items`) of each row of the table to be, class after class.
      left_out: names of files and classes by the reason in words.
    """

    found: Found
    names: tuple[str, ...]
    split: tuple[int, ...]
    count: tuple[int, ...]
    items: Int[np.ndarray, " images"]
    left_out: Mapping[str, Sequence[str]]


def outline(
    own: OwnSet, min_images: int, partial: bool, fractions: Sequence[float], split_seed: int, label: str = ""
) -> Outline:
    """The outline of a user's data set.

    Args:
      min_images, partial: classes of fewer images are left out where `partial`, otherwise an error.
      fractions, split_seed: how classes are split where neither the set nor a split file says it.
      label: what an error calls the set; empty: its path.

    Raises:
      InputError: as `layout.find`; a class that is too small; a split file that does not fit.
    """
    check_split(fractions, own.split, SPLITS)
    found = find(own)
    by_class: dict[str, list[int]] = {}
    for number, item in enumerate(found.items):
        by_class.setdefault(item.of_class, []).append(number)
    left_out = {reason: tuple(names) for reason, names in found.left_out.items()}
    small = check_small(label or own.path, {name: len(mine) for name, mine in by_class.items()}, min_images, partial)
    whole = (
        found if not small else replace(found, items=[each for each in found.items if each.of_class not in {*small}])
    )
    split_of = split_items(whole, own, fractions, split_seed, SPLITS)
    unlisted = [name for name in by_class if name not in split_of and name not in small]
    for reason, names in ((TOO_SMALL, small), (UNLISTED, unlisted)):
        if names:
            left_out[reason] = tuple(names)
    kept = sorted(split_of, key=lambda name: (SPLITS.index(split_of[name]), name))
    items = [number for name in kept for number in by_class[name]]
    return Outline(
        found,
        tuple(kept),
        tuple(SPLITS.index(split_of[name]) for name in kept),
        tuple(len(by_class[name]) for name in kept),
        np.array(items, int),
        left_out,
    )


def check_small(label: str, count: Mapping[str, int], min_images: int, partial: bool, why: str = "") -> list[str]:
    """The classes with fewer than `min_images` images.

    Raises:
      InputError: there are some and not `partial`, or no class is left. `why` says what made them small.
    """
    small = [name for name, images in count.items() if images < min_images]
    if small and not partial:
        raise InputError(
            f"{label}: {len(small)} of {len(count)} classes are smaller than `DataSettings.min_images` = {min_images} "
            f"(class {small[0]!r} is of {count[small[0]]}){why}: lower that, or leave such classes out by "
            f"`DataSettings.partial=True`"
        )
    if len(small) == len(count):
        raise InputError(f"{label}: none of its {len(count)} classes has {min_images} images{why}")
    return small
