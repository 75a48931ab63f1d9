"""Prepared tables on disk: uint8 images grouped by class, to be memory-mapped; written whole or not at all."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxdiv.errors import InputError
from jaxdiv.files import locked, writing

# A mean and a standard deviation of each channel, of pixels in 0..1; None: what the registry says.
Statistics = tuple[tuple[float, ...], tuple[float, ...]] | None
_CHUNK = 256  # images that are moved at once


@dataclass(frozen=True)
class Stored:
    """A table of one data set. `images` is memory-mapped; `split` is 0, 1, 2 for train, val, test."""

    images: UInt8[np.ndarray, "n h w c"]
    count: Int[np.ndarray, " classes"]
    split: Int[np.ndarray, " classes"]
    names: tuple[str, ...]
    statistics: Statistics = None


class Settled(NamedTuple):
    """Which of the rows of `write_rows` make the table, in order, and each class's images, split and name."""

    rows: Int[np.ndarray, " images"]
    counts: Sequence[int]
    split: Sequence[int]
    names: Sequence[str]


def write_table(
    folder: Path, images: Iterable[np.ndarray], count: Sequence[int], split: Sequence[int], names: Sequence[str]
) -> str:
    """Write a table to `folder`, which appears only once it is whole. Returns the sha256 of its pixels.

    Args:
      images: all images in the order of the classes, in pieces `[*, h, w, c]` uint8; one piece is in memory at a time.

    Raises:
      InputError: the disk is full, or the folder cannot be written.
    """
    digest = hashlib.sha256()
    # Not through a memory map: where the disk is full, that kills the process.
    with _made(folder) as unfinished, (unfinished / "images.npy").open("wb") as file:
        for number, piece in enumerate(images):
            if number == 0:
                file.write(_header((sum(count), *piece.shape[1:])))
            digest.update(piece.tobytes())
            file.write(piece.tobytes())
        _end(file, unfinished, count, split, names, None)
    return digest.hexdigest()


def write_rows(
    folder: Path,
    images: Iterable[tuple[int, np.ndarray]],
    shape: tuple[int, int, int, int],
    settle: Callable[[], Settled],
    look: Callable[[np.ndarray, np.ndarray], None],
    statistics: Callable[[], Statistics],
) -> tuple[str, Settled]:
    """As `write_table`, of images that come in any order, some of which may turn out to be none of the table.

    Args:
      images: row and image `[h, w, c]` uint8, each row at most once.
      shape: of the table if every row is kept.
      settle: called when all images have come.
      look: called with the rows that are kept and their images, some at a time and in order.
      statistics: called last.

    Returns:
      The sha256 of its pixels, and what `settle` gave.
    """
    digest, size, start = hashlib.sha256(), int(np.prod(shape[1:])), len(_header(shape))
    with _made(folder) as unfinished, (unfinished / "images.npy").open("w+b") as file:

        def at(row: int) -> BinaryIO:
            file.seek(start + row * size)
            return file

        for row, image in images:
            at(row).write(image.tobytes())
        settled = settle()
        # Holes are closed in place: a row moves up or stays.
        for low in range(0, len(settled.rows), _CHUNK):
            rows = settled.rows[low : low + _CHUNK]
            chunk = b"".join(at(int(row)).read(size) for row in rows)
            digest.update(chunk)
            look(rows, np.frombuffer(chunk, np.uint8).reshape(-1, *shape[1:]))
            if rows[0] != low or rows[-1] != low + len(rows) - 1:
                at(low).write(chunk)
        file.truncate(start + len(settled.rows) * size)
        header = _header((len(settled.rows), *shape[1:]))
        assert len(header) == start  # NumPy pads it
        file.seek(0)
        file.write(header)
        _end(file, unfinished, *settled[1:], statistics())
    return digest.hexdigest(), settled


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when the block ends without an error."""
    with writing(folder, "`folder`"), locked(folder):
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _header(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return out.getvalue()


def _end(
    file: BinaryIO,
    folder: Path,
    count: Sequence[int],
    split: Sequence[int],
    names: Sequence[str],
    statistics: Statistics,
) -> None:
    """The images are on the disk; the classes follow."""
    file.flush()
    os.fsync(file.fileno())
    classes = {"count": list(map(int, count)), "split": list(map(int, split)), "names": list(names)}
    (folder / "classes.json").write_text(json.dumps({**classes, "statistics": statistics}))


def read_table(folder: Path) -> Stored:
    """A table that `write_table` or `write_rows` wrote. No pixel is read before it is used.

    Raises:
      InputError: it is not whole.
    """
    try:
        classes = json.loads((folder / "classes.json").read_bytes())
        images = np.load(folder / "images.npy", mmap_mode="r")
        given = classes.get("statistics")
        statistics = given and (tuple(given[0]), tuple(given[1]))
        count, split, names = (classes[name] for name in ("count", "split", "names"))
        if images.dtype != np.uint8 or not len(count) == len(split) == len(names) or sum(count) != len(images):
            raise ValueError("its images and classes do not agree")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"the table {folder} is damaged ({reason}): delete the folder, and prepare it again") from None
    return Stored(images, np.array(count), np.array(split), tuple(names), statistics)
