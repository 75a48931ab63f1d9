"""Which split each class of a user's set belongs to: as a file says, as the set has it, or drawn by fractions."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdiv.data.own.found import Found, Item, OwnSet
from jaxdiv.data.own.text import composed, decoded
from jaxdiv.errors import InputError, unknown

_CALLED = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing", "tst"),
}
_SPLIT_OF = {called: split for split, names in _CALLED.items() for called in names}
_FILE = "`OwnSet.split`"


def split_called(name: str) -> str:
    """Which split a folder, a file or an array called `name` means: "train", "val", "test", or "" for none."""
    return _SPLIT_OF.get(name.strip().lower(), "")


def by_class(items: Iterable[Item]) -> tuple[dict[str, str], str]:
    """The split of each class that has one, and what is to be said of it.

    Tasks are drawn from the classes of a split. Splits that divide each class's images are none of classes: then no
    class has one.
    """
    found: dict[str, set[str]] = {}
    for item in items:
        found.setdefault(item.of_class, set()).add(item.split)
    named = sorted({split for splits in found.values() for split in splits if split}, key=list(_CALLED).index)
    if not named:
        return {}, ""
    if len(named) == 1:
        return {}, f"all its classes are in one split ({named[0]}): they are split again"
    shared = [name for name, splits in found.items() if len(splits) > 1]
    if shared:
        return {}, (
            f"its splits ({', '.join(named)}) share {len(shared)} of {len(found)} classes ({min(shared)!r}), and tasks "
            f"need splits of classes: all images of a class are taken together, and classes are split again"
        )
    split_of = {name: split for name, (split,) in found.items() if split}
    counts = ", ".join(f"{list(split_of.values()).count(split)} {split}" for split in named)
    return split_of, f"its own splits of the classes are taken: {counts}"


def split_items(
    found: Found, own: OwnSet, fractions: Sequence[float], seed: int, splits: Sequence[str]
) -> dict[str, str]:
    """Which of `splits` each class of a set belongs to: as `own.split` says; else as the set itself has it; else drawn
    by `fractions` and `seed` (`split_classes`). A class that the former two do not name belongs to none.

    Raises:
      InputError: as `split_classes`.
    """
    names = sorted({item.of_class for item in found.items})
    theirs, _ = by_class(found.items)
    if theirs and not own.split:
        return theirs
    return split_classes(names, fractions, seed, own.split, splits)


def split_classes(
    names: Sequence[str], fractions: Sequence[float], seed: int, file: str, splits: Sequence[str]
) -> dict[str, str]:
    """Which of `splits` each class belongs to.

    Args:
      fractions: the share of the classes that each split gets, in a random order given by `seed`.
      file: a text file with a line `SPLIT CLASS` for each class, instead; other classes belong to no split.

    Raises:
      InputError: fractions that do not sum to 1; a file that is missing, or has a line, split or class that is wrong.
    """
    check_split(fractions, file, splits)
    if file:
        return _read_splits(Path(file), names, splits)
    shuffled = np.random.default_rng(seed).permutation(sorted(names))
    ends = np.rint(np.cumsum(fractions) * len(names)).astype(int)
    parts = np.split(shuffled, ends[:-1])
    return {str(name): split for split, part in zip(splits, parts, strict=True) for name in part}


def check_split(fractions: Sequence[float], file: str, splits: Sequence[str]) -> None:
    """Raise InputError where `split_classes` could split no classes at all: wrong fractions, or no such file."""
    if file:
        _lines(Path(file))
    elif len(fractions) != len(splits) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"`DataSettings.fractions` is {tuple(fractions)}: give {len(splits)} shares ({', '.join(splits)}) "
            f"that sum to 1"
        )


def _lines(file: Path) -> list[str]:
    try:
        data = file.expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"{_FILE}: {file} cannot be read ({error.strerror or error})") from None
    return decoded(data, f"{_FILE}: {file}").splitlines()


def _read_splits(file: Path, names: Sequence[str], splits: Sequence[str]) -> dict[str, str]:
    # A class may be a path of folders: its last part will do where that is unique.
    short: dict[str, list[str]] = {}
    for name in names:
        short.setdefault(composed(name.rsplit("/", 1)[-1]), []).append(name)
    whole = {composed(name): name for name in names}
    split_of: dict[str, str] = {}
    for number, line in enumerate(_lines(file), 1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{file}, line {number}"
        given, *rest = line.split(maxsplit=1)  # at spaces or tabs, as many as there are
        split, name = split_called(given) or given, composed("".join(rest).strip().rstrip("/"))
        if split not in splits:
            raise InputError(f"{where}: {unknown('split', given, splits)}; a line is SPLIT CLASS")
        called = [whole[name]] if name in whole else short.get(name, [])
        if not called:
            raise InputError(f"{where}: {unknown('class', name, _some(short, name))}")
        if len(called) > 1:
            raise InputError(f"{where}: class {name!r} may be {called[0]!r} or {called[1]!r}: give its whole path")
        if called[0] in split_of:
            raise InputError(f"{where}: class {name!r} is listed twice")
        split_of[called[0]] = split
    return split_of


def _some(names: Mapping[str, list[str]], like: str) -> list[str]:
    """Names to name in an error: all of them, or of very many the first and those that begin alike."""
    return [name for number, name in enumerate(names) if number < 20 or name[:3] == like[:3]][:200]
