"""Pixels of more than 8 bits, or an array of any type -> an image of 8 bits a channel. Black becomes 0, white 255."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from jaxdiv.errors import InputError

# TIFF's tags.
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339
_WHITE_IS_ZERO, _APART, _SIGNED = 0, 2, 2
# Of a big-endian 16-bit number Pillow takes the first byte. Read as if it were little-endian, it takes the other one.
_OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if np.little_endian else ";16L"}

Range = tuple[float, ...]  # the values for black and white; (): the type does not say


def numbers_of(image: Image.Image, content: bytes, kind: str) -> tuple[np.ndarray, np.ndarray | None, Range] | None:
    """Of an opened image of more than 8 bits a channel: its numbers [h, w] or [h, w, 3], its opacity (0..255), and the
    values for black and white in its type. None: an image of 8 bits.

    Raises:
      InputError: a TIFF that Pillow would read wrongly.
    """
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(_BITS, (16,)))
    signed = _SIGNED in tags.get(_SAMPLE_FORMAT, ())
    if kind == "TIFF" and (
        (bits > 8 and len(image.getbands()) > 1 and tags.get(_PLANES) == _APART) or (signed and bits == 8)
    ):
        raise InputError(
            "is a TIFF of a kind that is not read here (planes of 16 bits, or signed bytes): save it as PNG"
        )
    raw = _rawmode(image)
    opacity = None
    ends: Range = (0.0, 2.0**bits - 1)
    if image.mode.startswith("I;16"):
        numbers = _loaded(image)
    elif image.mode == "I":
        numbers = _loaded(image)
        if kind == "TIFF":
            numbers, ends = numbers if signed else numbers.view(np.uint32), ()
    elif image.mode == "F":
        numbers, ends = _loaded(image), (0.0, 1.0)
    elif raw in ("RGB;16", "RGBX;16", "RGBA;16"):
        numbers = _both_bytes(image, content, kind)
        if image.mode == "RGBA":
            opacity = _opacity(numbers[..., 3])
        numbers = numbers[..., :3]
    elif raw == "LA;16":
        _set_rawmode(image, lambda raw: "RGBA")  # both bytes of both channels
        both = _loaded(image).view(">u2")
        numbers, opacity = both[..., 0], _opacity(both[..., 1])
    else:
        _scale_transparent_gray(image, content, kind)
        return None
    if (transparent := image.info.get("transparency")) is not None:
        opacity = np.where((numbers == np.asarray(transparent)).reshape(*numbers.shape[:2], -1).all(-1), 0, 255)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        ends = ends[::-1]
    return numbers, opacity, ends


def of_array(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, Range]:
    """As `numbers_of`, of an array [h, w] or [h, w, c] of 1, 3 (RGB) or 4 (RGBA) channels.

    Raises:
      InputError: another shape, or no numbers.
    """
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)) or not array.size:
        raise InputError(
            f"is an array {shape}: an image is [height, width] or [height, width, channels], with 1, 3 or 4 channels"
        )
    if array.dtype.kind not in "buif":
        raise InputError(f"is an array of {array.dtype}: an image is of whole numbers, floats or booleans")
    bits = 8 * array.dtype.itemsize
    ends: Range = {"b": (0.0, 1.0), "f": (0.0, 1.0)}.get(array.dtype.kind, ())
    if array.dtype.kind == "u" and bits <= 16:
        ends = (0.0, 2.0**bits - 1)
    if array.ndim == 3 and shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and shape[2] == 4:
        if not ends:
            raise InputError(
                f"is an array of {array.dtype} with opacity, of unknown range: give 8 or 16 bits, or floats in 0..1"
            )
        return array[..., :3], np.asarray(eight_bits(array[..., 3], None, ends, (), [])), ends
    return array, None, ends


def eight_bits(
    numbers: np.ndarray, opacity: np.ndarray | None, usual: Range, ends: Range, done: list[str]
) -> Image.Image:
    """An image of 8 bits a channel.

    Args:
      usual: black and white in the numbers' type. Numbers outside of it are an error.
      ends: black and white as the user names them instead; what is beyond becomes black or white.
      done: takes what was done, in words.

    Raises:
      InputError: NaN or infinity; numbers of no known black and white.
    """
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise InputError("has NaN or infinite pixels: replace or remove it")
    if not ends:
        least, most = numbers.min().item(), numbers.max().item()
        if not usual or least < min(usual) or most > max(usual):
            raise InputError(
                f"has {numbers.dtype.newbyteorder('=')} pixels from {least:.6g} to {most:.6g}, and nothing says "
                f"which values are black and white: give both by `OwnSet.value_range`"
            )
    black, white = ends or usual
    if numbers.dtype != np.uint8 or (black, white) != (0, 255):
        wide = numbers.astype(np.float64) if numbers.dtype.itemsize > 2 else numbers.astype(np.float32)
        shares = (wide - black) / (white - black)
        if ends and (shares.min() < 0 or shares.max() > 1):
            done.append("pixels beyond the given range: clipped")
        numbers = np.rint(255 * shares.clip(0, 1)).astype(np.uint8)
        done.append("scaled to 8 bits")
    if opacity is not None:
        colour = numbers if numbers.ndim == 3 else np.repeat(numbers[..., None], 3, -1)
        numbers = np.concatenate([colour, opacity[..., None].astype(np.uint8)], -1)
    return Image.fromarray(np.ascontiguousarray(numbers))


def _loaded(image: Image.Image) -> np.ndarray:
    image.load()  # inside `np.asarray` its errors would get lost
    return np.asarray(image)


def _opacity(numbers: np.ndarray) -> np.ndarray:
    return np.rint(numbers / 257).astype(np.uint8)


def _both_bytes(image: Image.Image, content: bytes, kind: str) -> np.ndarray:
    """The 16-bit numbers of an image whose upper bytes alone Pillow takes."""
    again = Image.open(io.BytesIO(content), formats=(kind,))
    _set_rawmode(again, lambda raw: raw[:-4] + _OTHER_BYTE[raw[-4:]])
    return 256 * _loaded(image).astype(np.uint16) + _loaded(again)


def _rawmode(image: Image.Image) -> str:
    """How a file's bytes are laid out, in Pillow's words, without the order of bytes: "RGB;16"."""
    tile = getattr(image, "tile", None)
    given = tile[0][3] if tile else ""
    raw = given[0] if isinstance(given, tuple) and given else given
    return raw[:-1] if isinstance(raw, str) and raw[-4:] in _OTHER_BYTE else ""


def _set_rawmode(image: Image.Image, change: Callable[[str], str]) -> None:
    new = lambda given: (change(given[0]), *given[1:]) if isinstance(given, tuple) else change(given)
    tiles = image.tile  # type: ignore[attr-defined]  # a file's own
    make = getattr(type(tiles[0]), "_make", tuple)  # a named tuple in newer Pillows
    image.tile = [make((*tile[:3], new(tile[3]))) for tile in tiles]  # type: ignore[attr-defined]


def _scale_transparent_gray(image: Image.Image, content: bytes, kind: str) -> None:
    """Pillow scales gray PNGs of 1, 2 or 4 bits to 8, but not their transparent level."""
    level = image.info.get("transparency")
    if kind == "PNG" and image.mode in ("1", "L") and isinstance(level, int) and content[24] < 8:
        image.info["transparency"] = 255 if image.mode == "1" and level else level * 255 // (2 ** content[24] - 1)
