"""Prepared tables on disk: uint8 images grouped by class, to be memory-mapped; written whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from jaxdiv.files import locked, writing


@dataclass(frozen=True)
class Stored:
    """A table of one data set. `images` is memory-mapped; `split` is 0, 1, 2 for train, val, test."""

    images: UInt8[np.ndarray, "n h w c"]
    count: Int[np.ndarray, " classes"]
    split: Int[np.ndarray, " classes"]
    names: tuple[str, ...]


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
    with writing(folder, "`folder`"), locked(folder):
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
        unfinished.mkdir(parents=True)
        try:
            # Not through a memory map: where the disk is full, that kills the process.
            with (unfinished / "images.npy").open("wb") as file:
                for number, piece in enumerate(images):
                    if number == 0:
                        shape = (sum(count), *piece.shape[1:])
                        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)
                    digest.update(piece.tobytes())
                    file.write(piece.tobytes())
                file.flush()
                os.fsync(file.fileno())
            classes = {"count": list(map(int, count)), "split": list(map(int, split)), "names": list(names)}
            (unfinished / "classes.json").write_text(json.dumps(classes))
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return digest.hexdigest()


def read_table(folder: Path) -> Stored:
    """A table that `write_table` wrote. No pixel is read before it is used."""
    classes = json.loads((folder / "classes.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r")
    return Stored(images, np.array(classes["count"]), np.array(classes["split"]), tuple(classes["names"]))
