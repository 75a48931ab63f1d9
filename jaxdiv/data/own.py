"""A user's own data sets: arrays as a table; which folders were given, and what each of them is called."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxdiv.data.registry import OWN, preprocessing
from jaxdiv.data.table import ImageTable, place, table_of
from jaxdiv.errors import InputError

_GIVEN = "`DataSettings.own`"
_LONGEST = 60  # characters of a name: it becomes part of file names
_ARCHIVE = re.compile(r"\.(npz|zip|tgz|tbz2?|txz|tar(\.(gz|bz2|xz))?)$", re.IGNORECASE)
_NAMED = re.compile(r"(tfds|hf):(?=.)")  # a data set by its name in place of a path


def table_from(
    images: ArrayLike,
    labels: ArrayLike | Sequence[int] | Sequence[str],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    value_range: Sequence[float] = (),
) -> ImageTable:
    """A table of images and their labels, on the device if it fits there.

    Args:
      images: [n, h, w], gray, or [n, h, w, c], gray (`c` = 1) or RGB (`c` = 3), in any order. Bytes stay as they are;
        16-bit numbers are scaled from 0..65535, floats from 0..1, all others by `value_range`.
      labels: the class of each image: whole numbers or names. The table's classes are in the order of these.
      mean, std: pixel statistics of each of the three channels, of pixels scaled to 0..1; None: ImageNet's, as for a
        folder of images.
      value_range: the values of black and white in `images`; what is beyond them becomes black or white. Empty: those
        of their type.

    Raises:
      InputError: `images` are no such array, of no known range or not finite; `labels` is not one label for each of
        them, or of floats.
    """
    pixels = _as_bytes(np.asarray(images), tuple(value_range))
    named = _as_names(np.asarray(labels))
    if named.ndim != 1 or named.shape != pixels.shape[:1]:
        raise InputError(f"`labels` has shape {named.shape}: give one label for each image of {pixels.shape}")
    classes, of_image, count = np.unique(named, return_inverse=True, return_counts=True)
    pixels = pixels[np.argsort(of_image, kind="stable")]
    usual = preprocessing(OWN, alone=True)
    statistics = (usual.mean if mean is None else mean, usual.std if std is None else std)
    names = [str(name) for name in classes]
    return place(table_of(pixels, count.tolist(), names, *statistics, augmentation=usual.augmentation))


def _as_bytes(images: np.ndarray, value_range: tuple[float, ...]) -> np.ndarray:
    """Images [n, h, w, c] of any numbers as bytes."""
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or not images.size or images.dtype.kind not in "buif":
        raise InputError(f"`images` must be numbers [n, h, w] or [n, h, w, 1 or 3], not {images.dtype} {images.shape}")
    ends = value_range
    if not ends:
        if images.dtype == np.uint8:
            return images
        ends = (0, 65535) if images.dtype == np.uint16 else (0, 1) if images.dtype.kind in "bf" else ()
    if value_range and (len(ends) != 2 or not np.isfinite(ends).all() or ends[0] == ends[1]):
        raise InputError(f"`value_range` is {value_range!r}: give the values of black and white, such as (0, 255)")
    least, most = images.min().item(), images.max().item()
    if not np.isfinite([least, most]).all():
        raise InputError("`images` has NaN or infinite pixels: replace or remove such images")
    if not value_range and (not ends or least < ends[0] or most > ends[1]):
        raise InputError(
            f"`images` are {images.dtype} from {least:.6g} to {most:.6g}: give the values of black and white by "
            f"`value_range`, such as (0, 255)"
        )
    made = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), 256):  # floats of some images at a time
        part = np.asarray(images[start : start + 256], np.float32 if images.dtype.itemsize <= 2 else np.float64)
        made[start : start + 256] = np.rint(255 * ((part - ends[0]) / (ends[1] - ends[0])).clip(0, 1))
    return made


def _as_names(labels: np.ndarray) -> np.ndarray:
    """Labels as whole numbers or texts, which sort."""
    if labels.dtype.kind == "O":  # a list of Python's own, or a column of pandas
        for kind in (str, int):
            if all(isinstance(label, kind) for label in labels.flat):
                return labels.astype(kind)
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8")
    if labels.dtype.kind not in "biuUT":
        raise InputError(f"`labels` are {labels.dtype}: give whole numbers, or all of them names")
    return labels


def parse(given: str, taken: Callable[[str], bool]) -> dict[str, str]:
    """The path of each of the user's data sets by its name, in the order given.

    Args:
      given: `DIR` or `NAME=DIR`, or several of these with commas between them, where DIR is any path of
        `OwnSet.path`. A comma or an equals sign inside a path that exists is part of the path.
      taken: whether a name already means another data set.

    A folder without a name is called by the last part of its path, in ASCII letters, digits, `.`, `_` and `-`; two such
    folders by as many parts as tell them apart (`2023/birds,2024/birds`: `2023-birds` and `2024-birds`).

    Raises:
      InputError: a name that is taken, given twice or not fit for a file, or a folder given twice.
    """
    sets = [_split(piece) for piece in _pieces(given)]
    named = [name for name, _ in sets if name]
    unnamed = [path for name, path in sets if not name]
    for name in named:
        if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST - 1}}}", name):
            raise InputError(
                f"{_GIVEN}: the name {name!r} must be at most {_LONGEST} letters, digits, '.', '_' or '-', a letter or "
                f"digit first"
            )
        if taken(name):
            raise InputError(f"{_GIVEN}: the name {name!r} already means a benchmark: choose another one")
    for what, values in (("name", [name.lower() for name in named]), ("folder", list(map(_whole, unnamed)))):
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise InputError(f"{_GIVEN} has the {what} {twice!r} twice: give each once")
    derived = iter(_names(unnamed, taken, named))
    return {name or next(derived): path for name, path in sets}


def _pieces(given: str) -> Iterator[str]:
    """What stands between commas; where a comma is part of a path that exists, the longest such path."""
    parts = given.split(",")
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((end for end in ends if os.path.exists(_split(",".join(parts[:end]).strip())[1])), 1)
        if piece := ",".join(parts[:end]).strip():
            yield piece
        del parts[:end]


def _split(piece: str) -> tuple[str, str]:
    """Its name ("" where it has none) and its path."""
    path = os.path.expanduser(piece)
    name, equals, rest = piece.partition("=")
    if os.path.exists(path) or not equals or not rest or "/" in name or os.sep in name:
        return "", path
    return name.strip(), os.path.expanduser(rest.strip())


def _is_name(path: str) -> bool:
    return bool(_NAMED.match(path)) and not os.path.exists(path)


def _whole(path: str) -> str:
    """`path` from the root on; of tfds:NAME, from NAME's whose it is."""
    return path.replace(":", "/") if _is_name(path) else os.path.abspath(path)


def _names(paths: Sequence[str], taken: Callable[[str], bool], used: Sequence[str]) -> list[str]:
    """A name for each of `paths`, different from each other, from `used` and from what is taken."""
    parts = [list(map(_plain, _ARCHIVE.sub("", _whole(path)).replace(os.sep, "/").split("/"))) for path in paths]
    parts = [[*filter(None, of_path[:-1]), of_path[-1] or "folder"] for of_path in parts]
    names = []
    for mine in parts:
        alike = [other for other in parts if other[-1].lower() == mine[-1].lower()]  # for some file systems a is A
        depths = range(1, max(map(len, alike)) + 1)
        apart = lambda depth, alike=alike: len({"-".join(part[-depth:]).lower() for part in alike}) == len(alike)
        names.append("-".join(mine[-next(filter(apart, depths), 1) :]))
    found: list[str] = []
    for name in names:
        name = name[:_LONGEST]
        base = f"{name}-images" if taken(name) else name
        others = {other.lower() for other in (*used, *found)}
        tries = (base if number == 1 else f"{base}-{number}" for number in range(1, len(paths) + len(used) + 2))
        found.append(next(name for name in tries if name.lower() not in others))
    return found


def _plain(text: str) -> str:
    """`text` without what could trouble a file system, a shell, LaTeX or a figure's font."""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", letters).strip("-._")
