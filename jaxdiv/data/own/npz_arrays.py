"""A .npz of images and labels, of which one image at a time is in memory."""

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiv.data.own.found import Found
from jaxdiv.data.own.records import Part, found_in
from jaxdiv.data.own.splits import split_called
from jaxdiv.data.own.text import composed
from jaxdiv.errors import InputError

_IMAGES = {"x", "image", "images", "img", "imgs", "data"}
_LABELS = {"y", "label", "labels", "target", "targets"}
_LABEL_BYTES = 2**30  # of all labels, which are held in memory
_ROW_BYTES = 2**28  # of one image
_WHOLE_BYTES = 2**31  # of an array in Fortran's order, of which no image lies in one piece
_SAVE = "save `images` [n, h, w] or [n, h, w, channels] and `labels` [n] by `np.savez`"


class _Header(NamedTuple):
    """An array of the file: its shape, what its numbers are, whether its first axis is the fastest."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


class _Pair(NamedTuple):
    """Images and their labels, by the names of their arrays."""

    images: str
    labels: str
    split: str


def is_npz(path: Path) -> bool:
    """Whether a file is a .npz, by what it holds: arrays alone."""
    try:
        with path.open("rb") as start:
            if start.read(4) != b"PK\3\4":  # a .tar whose last member is a .npz is none
                return False
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):  # damaged: `layout` says so
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def find_arrays(path: Path) -> Found:
    """The images of a .npz, without reading a pixel.

    Arrays are known by their names (`images` and `labels`, `x` and `y`, `x_train` and `y_train` and so on for each
    split, in either order of the words) or else by their shapes, where there is one of images and one of labels.

    Raises:
      InputError: damaged; pickled objects; no such arrays; labels that do not fit; numbers that are no pixels.
    """
    with _damaged(path):
        headers = _headers(path)
    pairs = _pairs(path, headers)
    plain = ("images", "labels")  # says itself what it is
    notes = [
        f"{pair.images} and {pair.labels} are its images and labels"
        for pair in pairs
        if (pair.images, pair.labels) != plain
    ]
    parts = []
    for pair in pairs:
        header = headers[pair.images]
        first = _check_images(path, pair.images, header, notes)
        labels = _labels(path, pair, headers[pair.labels], header.shape[0])
        parts.append(Part(pair.images, pair.split, labels, partial(_rows, path, pair.images, header, first)))
    return found_in(parts, notes)


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, SyntaxError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({str(error).partition(chr(10))[0]}): save it again") from None


def _headers(path: Path) -> dict[str, _Header]:
    found = {}
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            with file.open(name) as content:
                found[name.removesuffix(".npy")] = _header(content)
    return found


def _header(content: Any) -> _Header:
    version = np.lib.format.read_magic(content)
    if version != (1, 0):  # the later ones are for named fields, and their headers may be of any size
        raise ValueError(f"an array of NumPy's format {version}")
    return _Header(*np.lib.format.read_array_header_1_0(content))


def _pairs(path: Path, headers: dict[str, _Header]) -> list[_Pair]:
    """Which array has the labels of which images."""
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for name in headers:
        words = [word for word in re.split(r"[_\W]+", name.lower()) if word]
        split = next(filter(None, map(split_called, words)), "")
        rest = {word for word in words if not split_called(word)}
        for kind, arrays in ((_IMAGES, images), (_LABELS, labels)):
            if len(rest) == 1 and rest <= kind:
                if split in arrays:
                    raise InputError(f"{path}: its arrays {arrays[split]} and {name} may both be meant: {_SAVE}")
                arrays[split] = name
    both = [_Pair(images[split], labels[split], split) for split in images if split in labels]
    if len(both) == len(images) == len(labels) and both:
        return both
    if lone := sorted({*images} ^ {*labels}):
        name, lacking = (images[lone[0]], "labels") if lone[0] in images else (labels[lone[0]], "images")
        raise InputError(f"{path}: its array {name} has no {lacking}: {_SAVE}")
    wide = [name for name, header in headers.items() if len(header.shape) in (3, 4)]
    for image in wide[:1] if len(wide) == 1 else []:
        count = headers[image].shape[0]
        flat = [name for name, header in headers.items() if header.shape in ((count,), (count, 1))]
        if len(flat) == 1:
            return [_Pair(image, flat[0], "")]
    there = ", ".join(f"{name} {list(header.shape)} of {header.dtype}" for name, header in headers.items())
    raise InputError(f"{path} has the arrays {there}, of which none are clearly images and labels: {_SAVE}")


def _check_images(path: Path, name: str, header: _Header, notes: list[str]) -> bool:
    """Whether the channels come first; raise InputError for an array that is none of images."""
    shape, dtype = header.shape, header.dtype
    channels = (1, 3, 4)
    first = len(shape) == 4 and shape[3] not in channels and shape[1] in channels
    if dtype.hasobject:
        raise _pickled(path, name)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in channels and not first) or not all(shape):
        raise InputError(f"{path}: {name} is {list(shape)}: images are [n, h, w] or [n, h, w, 1, 3 or 4 channels]")
    if not ((dtype.kind == "u" and dtype.itemsize <= 2) or (dtype.kind == "f" and dtype.itemsize <= 8)):
        raise InputError(f"{path}: {name} is of {dtype}: pixels are uint8, uint16 or floats; convert and save it again")
    if int(np.prod(shape[1:])) * dtype.itemsize > _ROW_BYTES:
        raise InputError(f"{path}: {name} is {list(shape)}: an image has at most {_ROW_BYTES >> 20} MiB")
    if first:
        notes.append(f"the channels of {name} come before its rows ({list(shape)})")
    return first


def _labels(path: Path, pair: _Pair, header: _Header, count: int) -> list[str]:
    name, dtype = pair.labels, header.dtype
    if dtype.hasobject:
        raise _pickled(path, name)
    if header.shape not in ((count,), (count, 1)):
        raise InputError(
            f"{path}: {name} is {list(header.shape)}: give one label for each of the {count} images of {pair.images}"
        )
    if dtype.kind not in "iuUSf" or count * dtype.itemsize > _LABEL_BYTES:
        raise InputError(f"{path}: {name} is of {dtype}: labels are whole numbers or names")
    with _damaged(path), np.load(path, allow_pickle=False) as file:
        values = file[name].reshape(-1)
    if dtype.kind == "f":
        if not np.all(values == np.rint(values)):  # also NaN
            raise InputError(f"{path}: {name} has labels that are no whole numbers")
        values = values.astype(np.int64)
    if dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: {name} has labels that are no UTF-8 text") from None
    return [composed(str(value)) for value in values.tolist()]


def _pickled(path: Path, name: str) -> InputError:
    return InputError(f"{path}: {name} has Python objects, which could run code: save plain numbers or text instead")


def _rows(path: Path, name: str, header: _Header, channels_first: bool) -> Iterator[np.ndarray]:
    """The images of an array, one after the other."""
    with _damaged(path):
        yield from _read_rows(path, name, header, channels_first)


def _read_rows(path: Path, name: str, header: _Header, channels_first: bool) -> Iterator[np.ndarray]:

    def image_of(numbers: np.ndarray) -> np.ndarray:
        native = numbers.astype(header.dtype.newbyteorder("="), copy=False)
        return np.moveaxis(native, 0, -1) if channels_first else native

    with zipfile.ZipFile(path) as file, file.open(f"{name}.npy") as content:
        _header(content)
        if header.fortran:
            size = int(np.prod(header.shape)) * header.dtype.itemsize
            if size > _WHOLE_BYTES:
                raise InputError(f"{path}: {name} is {size >> 20} MiB in Fortran's order: save it in C's")
            data = np.frombuffer(_exactly(content, size), header.dtype)
            yield from map(image_of, data.reshape(header.shape[::-1]).T)
            return
        size = int(np.prod(header.shape[1:])) * header.dtype.itemsize
        for _ in range(header.shape[0]):
            yield image_of(np.frombuffer(_exactly(content, size), header.dtype).reshape(header.shape[1:]))


def _exactly(content: Any, size: int) -> bytes:
    data = content.read(size)
    if len(data) < size:
        raise EOFError("it ends too early")
    return data
