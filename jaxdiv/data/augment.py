"""The study's train augmentation: pure, keyed, on the device, one image at a time under `vmap`.

As torchvision's `RandomResizedCrop`, `RandomCrop` with padding, `ColorJitter` and `RandomHorizontalFlip` in this order,
on pixels of 0..1. The three geometric ones become one bilinear resampling: a crop is never larger than its image, so
that PIL's antialiasing has no part in it. The study's code crops the original file, this the table's image of it, which
is already at the size that the network sees: the same boxes, with less detail in the small ones.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

_ATTEMPTS = 10  # as torchvision: then the whole image
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's "L"


class Augmentation(NamedTuple):
    """What a data set's train images go through; the defaults leave them as they are.

    Attributes:
      scale: least share of the area that a random resized crop keeps; 1: none. Its aspect ratio is 3/4 to 4/3.
      padding: black border on each side, in shares of the side, from which a crop of the image's size is taken.
      jitter: brightness, contrast and saturation are scaled by 1 ± this.
      flip: mirrored left to right, half of the time.
    """

    scale: float = 1.0
    padding: float = 0.0
    jitter: float = 0.0
    flip: bool = False


class Draw(NamedTuple):
    """One image's random numbers: `box` (top, left, height, width) and `shift` (down, right) in pixels, whether to
    `flip`, the `order` of the three adjustments (0 brightness, 1 contrast, 2 saturation) and the `factors` of each."""

    box: Int[Array, "4"]
    shift: Int[Array, "2"]
    flip: Array
    order: Int[Array, "3"]
    factors: Float[Array, "3"]


_NUMBERS = 2 * _ATTEMPTS + 2 + 2 + 1 + 3 + 3


def draw(numbers: Float[Array, " numbers"], kind: Augmentation, pixels: int) -> Draw:
    """What becomes of one image of `pixels` x `pixels`, from uniform `numbers`; `kind` may hold traced values.

    One block of numbers for all images, instead of a key for each: that compiles and runs several times as fast.
    """
    areas, ratios, place, move, flip, order, factors = jnp.split(
        numbers, [_ATTEMPTS, 2 * _ATTEMPTS, 2 * _ATTEMPTS + 2, _NUMBERS - 7, _NUMBERS - 6, _NUMBERS - 3]
    )
    # In float32 under JAX_ENABLE_X64 too, here and below, so that the same key draws the same.
    between = lambda number, low, high: (low + number * (high - low)).astype(jnp.float32)
    area = jnp.float32(pixels) ** 2 * between(areas, kind.scale, 1.0)
    ratio = jnp.exp(between(ratios, math.log(3 / 4), math.log(4 / 3)))
    sizes = jnp.round(jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], -1)).astype(jnp.int32)
    fits = (sizes <= pixels).all(-1) & jnp.asarray(kind.scale < 1)
    size = jnp.where(fits.any(), sizes[fits.argmax()], pixels)
    corner = jnp.floor(place * (pixels - size + 1)).astype(jnp.int32)
    border = jnp.round(pixels * jnp.float32(kind.padding))
    return Draw(
        box=jnp.concatenate([jnp.minimum(corner, pixels - size), size]),
        shift=(jnp.floor(move * (2 * border + 1)) - border).astype(jnp.int32),
        flip=(flip[0] < 0.5) & jnp.asarray(kind.flip),
        order=jnp.argsort(order),
        factors=between(factors, 1 - kind.jitter, 1 + kind.jitter),
    )


def apply(image: UInt8[Array, "h w c"], drawn: Draw) -> Float[Array, "h w c"]:
    """The image, in 0..1, with what was drawn for it."""
    return adjust(resample(image, drawn), drawn)


def resample(image: UInt8[Array, "h w c"], drawn: Draw) -> Float[Array, "h w c"]:
    """The drawn box stretched to the image's size, shifted over a black border, mirrored, in 0..1: bilinear, as PIL."""
    side = image.shape[0]
    row, row_weight, row_inside = _neighbours(drawn.box[0], drawn.box[2], drawn.shift[0], jnp.bool_(False), side)
    column, column_weight, column_inside = _neighbours(drawn.box[1], drawn.box[3], drawn.shift[1], drawn.flip, side)
    # Whole rows are gathered, of the image and of its transpose: on a CPU, pixel by pixel or as two products with
    # matrices of weights takes several times as long.
    turned = jnp.swapaxes(image, 0, 1)
    lower, upper = turned[column[0]].astype(jnp.float32), turned[column[1]].astype(jnp.float32)
    weight, inside = column_weight[:, None, None], column_inside[:, None, None]
    image = jnp.swapaxes((lower + weight * (upper - lower)) * (inside.astype(jnp.float32) / 255), 0, 1)
    weight, inside = row_weight[:, None, None], row_inside[:, None, None]
    return image[row[0]] * ((1 - weight) * inside) + image[row[1]] * (weight * inside)


def _neighbours(start, size, shift, flip, side):
    """Of each output pixel along an axis: its two input pixels [2, side], the second's weight, whether it is inside."""
    at = jnp.arange(side, dtype=jnp.int32)
    at = jnp.where(flip, at[::-1], at) + shift
    scale = size.astype(jnp.float32) / side
    source = jnp.clip((at.astype(jnp.float32) + 0.5) * scale - 0.5, 0, size - 1) + start
    low = jnp.floor(source).astype(jnp.int32)
    return jnp.stack([low, jnp.minimum(low + 1, side - 1)]), source - low, (at >= 0) & (at < side)


def adjust(image: Float[Array, "h w c"], drawn: Draw) -> Float[Array, "h w c"]:
    """Brightness, contrast and saturation in the drawn order: each mixes the image with black, its mean gray or its
    own gray, and clips."""

    def step(image: Array, drawn: tuple[Array, Array]) -> tuple[Array, None]:
        kind, factor = drawn
        gray = _LUMA[0] * image[..., 0] + _LUMA[1] * image[..., 1] + _LUMA[2] * image[..., 2]
        target = jnp.where(kind == 2, gray, jnp.where(kind == 1, gray.mean(), 0.0))
        return jnp.clip(factor * image + (1 - factor) * target[..., None], 0, 1), None

    # A loop, since XLA would otherwise compute a step again for each channel of the next: that takes twice as long.
    return jax.lax.scan(step, image, (drawn.order, drawn.factors[drawn.order]))[0]


def augment_images(
    key: PRNGKeyArray, images: UInt8[Array, "images h w c"], kinds: Augmentation
) -> Float[Array, "images h w 3"]:
    """Every image with a draw of its own, in 0..1; gray ones as RGB. `kinds` has an array `[images]` in each field."""
    if images.shape[-1] == 1:
        images = jnp.repeat(images, 3, -1)
    numbers = jax.random.uniform(key, (len(images), _NUMBERS), jnp.float32)
    drawn = jax.vmap(lambda of_image, kind: draw(of_image, kind, images.shape[1]))(numbers, kinds)
    return jax.vmap(apply)(images, drawn)
