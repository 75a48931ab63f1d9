"""Arrays of images and their labels as a table."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxdiv.data.registry import OWN, preprocessing
from jaxdiv.data.table import ImageTable, place, table_of
from jaxdiv.errors import InputError


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
      value_range: the values for black and white in `images`; what is beyond them becomes black or white. Empty: those
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
        raise InputError(f"`value_range` is {value_range!r}: give the values for black and white, such as (0, 255)")
    least, most = images.min().item(), images.max().item()
    if not np.isfinite([least, most]).all():
        raise InputError("`images` has NaN or infinite pixels: replace or remove such images")
    if not value_range and (not ends or least < ends[0] or most > ends[1]):
        raise InputError(
            f"`images` are {images.dtype} from {least:.6g} to {most:.6g}: give the values for black and white by "
            f"`value_range`, such as (0, 255)"
        )
    made = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), 256):  # floats of some images at a time
        some = images[start : start + 256]
        part = some.astype(np.float32) if images.dtype.itemsize <= 2 else some.astype(np.float64)
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
