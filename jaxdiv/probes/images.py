"""What every probe of images asks of a batch: its shape, finite numbers, and a warning where nobody normalised it."""

import sys
import warnings
from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxdiv.errors import InputError
from jaxdiv.probes.base import check_count, count_unusable

# Normalised images are within a few units of 0: `(pixel / 255 - mean) / std` with any data set's own numbers.
_HIGHEST = 20.0
# At least this share of pixels exactly 0: drawings. Omniglot's tasks have .44 and more at 8 px, .86 at 84 px.
_DRAWN = 1 / 3
_IMAGENET = "for ImageNet weights mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225)"
_UNNORMALISED = {
    "bytes": f"images look like pixels of 0..255: give (images / 255 - mean) / std, {_IMAGENET}",
    "shares": "images look unnormalised, all in 0..1 and none negative: give (images - mean) / std, of images / 255 "
    f"where those are bytes, {_IMAGENET}",
}


class Seen(NamedTuple):
    """What is seen of the numbers of images; of several batches, with an axis of batches first."""

    low: Float[ArrayLike, "*batches"]
    high: Float[ArrayLike, "*batches"]
    zeros: Float[ArrayLike, "*batches"]  # the share of numbers that are 0
    unusable: Int[ArrayLike, "*batches 2"]


def check_images(images: Array, multiple: int = 1) -> None:
    """Check that images are a batch of floats [images, h, w, 3]; their values are not looked at.

    Args:
      images: arrays, or what stands for them inside `jax.jit`.
      multiple: both sides must be multiples of it.

    Raises:
      InputError: another shape, or integers.
    """
    if getattr(images, "ndim", 0) != 4 or images.shape[-1] != 3 or images.size == 0:
        found = getattr(images, "shape", type(images).__name__)
        raise InputError(f"images must be [images, h, w, 3] with at least one image, not {found}")
    if images.shape[1] % multiple or images.shape[2] % multiple:
        h, w = images.shape[1:3]
        raise InputError(f"images are {h} x {w} pixels: this probe takes multiples of {multiple} only, resize them")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images must be normalised floats, not {images.dtype}")


def inspect(images: Float[Array, "images h w 3"]) -> Seen:
    """What `check_numbers` judges, in one pass."""
    return Seen(images.min(), images.max(), (images == 0).mean(), count_unusable(images))


def check_numbers(seen: Seen) -> None:
    """Warn, once a process and kind, where images look unnormalised: beyond what normalised pixels reach, or all in
    0..1. Drawings, strokes of 1 on a background of 0 as the study has Omniglot, are as they should be.

    Raises:
      InputError: NaN or infinity.
    """
    check_count(seen.unusable, "images")
    if np.max(seen.high) > _HIGHEST:
        _warn_once("bytes")
    elif np.min(seen.low) >= 0 and np.max(seen.high) <= 1 and np.mean(seen.zeros) < _DRAWN:
        _warn_once("shares")


@cache  # Python's own memory of what it warned of is lost whenever somebody catches warnings, as NumPy and JAX do
def _warn_once(kind: str) -> None:
    level = 1  # up to the first line that is not jaxdiv's: the user's
    while sys._getframe(level).f_globals.get("__name__", "").startswith(("jaxdiv.", "jaxtyping.", "beartype.")):
        level += 1
    warnings.warn(_UNNORMALISED[kind], UserWarning, stacklevel=level + 1)
