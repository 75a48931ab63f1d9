"""Encoded images -> pixels as networks take them: decoded, gray or RGB, of one size, uint8."""

import io
from collections import Counter
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxdiv.errors import InputError


def decoder(
    pixels: int,
    gray: bool,
    cut_bottom: int = 0,
    background: str = "white",
    value_range: tuple[float, ...] = (),
    notes: Counter[str] | None = None,
) -> Callable[[bytes, str], np.ndarray]:
    """A `decode` for `read_classes`: any format that PIL knows, squeezed to `pixels` x `pixels`, gray or RGB, less the
    lowest `cut_bottom` rows."""

    def decode(data: bytes, name: str) -> np.ndarray:
        try:
            image = Image.open(io.BytesIO(data)).convert("L" if gray else "RGB")
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise InputError(f"{name} is no image that can be decoded ({error}): replace or remove it") from None
        if cut_bottom:
            image = image.crop((0, 0, image.width, max(image.height - cut_bottom, 1)))
        resized = np.asarray(image.resize((pixels, pixels), Image.Resampling.BILINEAR))
        return resized[..., None] if gray else resized

    return decode
