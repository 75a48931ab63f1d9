"""Mini-ImageNet in every form in which it is passed around: which one lies in a folder, and how to read it.

Pickles of few-shot-ssl-public (`mini-imagenet-cache-*.pkl`) and of MetaOptNet (`*category_split_*.pickle`), folders by
WordNet id, or files named by it, each loose, in a folder, or in an archive of any name. Which images belong to which
split is the usual list's, whatever folder or table they come in.
"""

import csv
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxdiv.data.archives import IMAGE_BYTES, Readable, members
from jaxdiv.data.public.array_pickle import load_arrays
from jaxdiv.data.public.sources import Example, fields, is_image, numbers, png, text
from jaxdiv.errors import InputError

_CACHE = re.compile(r"mini-?imagenet-cache-(train|val|validation|test)\.pkl", re.IGNORECASE)
# Their `train_phase_val` and `train_phase_test` hold other images of the training classes: no part of the set.
_SPLIT = re.compile(r"mini-?imagenet_category_split_(train_phase_train|val|test)(_ordered)?\.pickle", re.IGNORECASE)
_NAMED = re.compile(r"mini[-_ ]?imagenet(?!.*bookkeeping)", re.IGNORECASE)
_ARCHIVE = re.compile(r"(?<!\.pth)\.(zip|tgz|tbz2?|txz|tar(\.(gz|bz2|xz))?)$", re.IGNORECASE)
_WORDNET = re.compile(r"n\d{8}")
_PICKLE_BYTES = 3 * 2**29  # the largest has 1,145,461,190
_LOOKED_AT = 4000  # names of an archive, in which seven classes of 600 images each show
_TABLES = {"train.csv", "val.csv", "test.csv"}
_SPLITS = {"train", "val", "validation", "test", "images"}


class _Enough(Exception):
    """The names seen so far tell what it is."""


def find(archive_dir: Path, classes: frozenset[str], not_these: frozenset[str]) -> dict[str, Path]:
    """What in a folder is Mini-ImageNet, by name; nothing where nothing is.

    Args:
      classes: the WordNet ids of its classes, which tell it from other cuts of ImageNet.
      not_these: names of files that are other things.

    Raises:
      InputError: two archives or folders could be it.
    """
    entries = [path for path in sorted(archive_dir.iterdir()) if path.name not in not_these and path.name[0] != "."]
    loose = {path.name: path for path in entries if path.is_file() and _SPLIT.fullmatch(path.name)}
    if len(loose) >= 3:
        return loose
    archives = [path for path in entries if path.is_file() and _ARCHIVE.search(path.name)]
    found = [path for path in archives if form_of(path, classes)]
    folders = [path for path in entries if path.is_dir() and form_of(path, classes)]
    if folders and not found and {path.name for path in folders} <= _SPLITS:
        return {path.name: path for path in folders}
    found += folders
    if len(found) > 1:
        usual = [path for path in found if path.name == "mini-imagenet.tar.gz"]
        if not usual:
            both = f"{found[0].name} and {found[1].name}"
            raise InputError(f"{archive_dir} has {both}, and either may be Mini-ImageNet: leave one of them there")
        found = usual
    if not found and form_of(archive_dir, classes) == "images":  # a folder for each class, right there
        found = [archive_dir]
    if not found:  # what bears the name is meant, whatever is wrong with it: reading it says what
        found = [path for path in archives if _NAMED.search(path.name)][:1]
    return loose or {path.name: path for path in found}


def form_of(path: Path, classes: frozenset[str]) -> str:
    """Its form, by the names inside: "cache", "split" or "images"; "" for anything else, or what cannot be opened."""
    stat = path.stat()
    return _form_of(path, classes, stat.st_mtime_ns, stat.st_size)


@cache
def _form_of(path: Path, classes: frozenset[str], changed: int, size: int) -> str:
    names = _names(path)
    for form, pattern in (("cache", _CACHE), ("split", _SPLIT)):
        if any(pattern.fullmatch(PurePosixPath(name).name) for name in names):
            return form
    seen = {of_class for name in names if (_is_image(name) or name.endswith("/")) and (of_class := _class_of(name))}
    listed = {PurePosixPath(name).name for name in names} >= _TABLES
    if _NAMED.search(path.name) and listed and any(map(_is_image, names)):  # only the tables tell its classes, perhaps
        return "images"
    return "images" if len(seen) >= 5 and seen <= classes else ""


def _names(path: Path) -> list[str]:
    """The first names inside a folder or an archive, to the first pickle of the set; a folder's end with a slash.

    Of what is damaged, or no archive: those that are there. Reading it will say so, where it is meant.
    """
    names: list[str] = []

    def note(name: str) -> bool:
        if not PurePosixPath(name).name.startswith("."):
            names.append(name)
        if len(names) == _LOOKED_AT or _is_pickle(name):
            raise _Enough
        return False

    try:
        if not path.is_dir():
            for _ in members(path, note, "Mini-ImageNet"):
                pass
        else:
            for top, folders, files in os.walk(path):
                folders.sort()
                for name in (*(f"{folder}/" for folder in folders), *sorted(files)):
                    note((Path(top).relative_to(path) / name).as_posix() + "/" * name.endswith("/"))
    except (_Enough, InputError, OSError):
        pass
    return names


def _class_of(name: str) -> str:
    """The WordNet id in an image's name (`n0153282900000005.jpg`), or else of its nearest folder that has one."""
    for part in reversed(PurePosixPath(name).parts):
        if found := _WORDNET.match(part):
            return found[0]
    return ""


def read(paths: dict[str, Path]) -> Iterator[Example]:
    """Every image of the set: encoded files as they are, pixels as PNG.

    A pickle's array is in memory whole, 0.8 GB for the training images, and freed before the next one is read.
    """
    for path in paths.values():
        if path.is_file() and path.suffix in (".pkl", ".pickle"):
            try:
                file = path.open("rb")
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror})") from None
            with file:
                yield from _read_pickle(file, path.name, str(path))
            continue
        listed: dict[str, str] | None = None
        wanted = lambda name: _is_pickle(name) or _is_image(name)
        for name, inside in members(path, wanted, "Mini-ImageNet", most=_PICKLE_BYTES):
            if _is_pickle(name):
                yield from _read_pickle(inside, name, f"{path}: {name}")
                continue
            if not (of_class := _class_of(name)):
                listed = _tables(path) if listed is None else listed
                of_class = listed.get(PurePosixPath(name).name, "")
            if not of_class:
                raise InputError(
                    f"{path}: {name} names no WordNet class such as n01532829, and is in no train.csv, val.csv or "
                    f"test.csv: is it Mini-ImageNet?"
                )
            if len(image := inside.read(IMAGE_BYTES + 1)) > IMAGE_BYTES:
                raise InputError(f"{path}: {name} is larger than any image: is it Mini-ImageNet?")
            yield Example(image, of_class, "", name)


def _is_pickle(name: str) -> bool:
    base = PurePosixPath(name).name
    return bool(_CACHE.fullmatch(base) or _SPLIT.fullmatch(base))


def _is_image(name: str) -> bool:
    return is_image(name) and "__MACOSX" not in PurePosixPath(name).parts


def _tables(path: Path) -> dict[str, str]:
    """The class of each file in train.csv, val.csv and test.csv (`filename,label`): inside, or beside a folder."""
    of_file: dict[str, str] = {}
    places = [path.parent, path] if path.is_dir() else [path]
    for place in places:
        wanted = lambda name, flat=place != path: PurePosixPath(name).name in _TABLES and not (flat and "/" in name)
        for name, file in members(place, wanted, "Mini-ImageNet"):
            try:
                rows = csv.DictReader(file.read().decode("utf-8-sig").splitlines())
                of_file |= {row["filename"]: row["label"] for row in rows}
            except (ValueError, KeyError, csv.Error):
                raise InputError(f"{place}: {name} is no table of `filename,label`") from None
    return of_file


def _read_pickle(file: Readable, name: str, where: str) -> Iterator[Example]:
    batch = load_arrays(file, where)
    is_cache = bool(_CACHE.fullmatch(PurePosixPath(name).name))
    (images,) = fields(batch, where, **{"image_data" if is_cache else "data": np.ndarray})
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise InputError(f"{where}: its images are {images.dtype} of shape {images.shape}, not bytes [n, h, w, 3]")
    rows_of = (_rows_by_class if is_cache else _rows_by_label)(batch, where, len(images))
    del batch
    for of_class, rows in rows_of.items():
        for row in rows:
            yield Example(png(images[row]), of_class, "", f"{PurePosixPath(name).name}/{row:05}")


def _rows_by_class(batch: Any, where: str, images: int) -> dict[str, list[int]]:
    """Which images each class has, as few-shot-ssl-public says it."""
    (rows_of,) = fields(batch, where, class_dict=dict)
    wrong = InputError(f"{where}: its classes have images twice, or that are not there: get it again")
    # Counted before they are looked at: one list may stand for a million classes.
    if sum(len(rows) if type(rows) is list else np.size(rows) for rows in rows_of.values()) > images:
        raise wrong
    found = {text(of_class): numbers(rows, where) for of_class, rows in rows_of.items()}
    taken = [row for rows in found.values() for row in rows]
    if len(set(taken)) < len(taken) or not all(0 <= row < images for row in taken):
        raise wrong
    return found


def _rows_by_label(batch: Any, where: str, images: int) -> dict[str, list[int]]:
    """Which images each class has, as MetaOptNet says it: numbered labels, and the classes' numbers."""
    labels, number_of = fields(batch, where, labels=(list, np.ndarray), catname2label=dict)
    labels = numbers(labels, where)
    name_of = dict(zip(numbers(list(number_of.values()), where), map(text, number_of), strict=True))
    if len(labels) != images or not name_of.keys() >= set(labels):
        raise InputError(f"{where} has {images} images and labels of other classes or images: get it again")
    found: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        found.setdefault(name_of[label], []).append(row)
    return found
