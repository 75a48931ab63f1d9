"""Images, encoded or as arrays -> pixels as networks take them: gray or RGB, of one size, uint8.

Nothing that is in an image is run. Its first bytes alone decide what reads it, among formats that need no outside
program: left to itself, Pillow hands a `cat.png` that holds PostScript to Ghostscript.
"""

import io
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from jaxdiv.data.bit_depth import eight_bits, numbers_of, of_array
from jaxdiv.errors import InputError

HEAD = 64  # how many of a file's first bytes `is_image` wants
MOST_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb: 256 MiB as RGB
_DRAFT_PIXELS = 2**25  # beyond these a JPEG is read at a half, a quarter or an eighth of its size
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's name of a format -> how its files begin. Never EPS, WMF, MIC, FPX, IPTC and PDF, which open other formats or
# programs.
_FORMATS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00",
    "TIFF": rb"II[*+]\x00|MM\x00[*+]",
    "WEBP": rb"RIFF.{4}WEBP",
    "AVIF": rb".{4}ftyp(?:avi[fs]|(?:mif1|msf1).{4}.*avif)",
    "PPM": rb"P(?:[1-6]\s*(?:#|\s\d)|f\s)",
    "JPEG2000": rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  \r\n\x87\n",
    "ICO": rb"\x00\x00\x01\x00[^\x00]\x00",
    "PSD": rb"8BPS\x00\x01",
    "DDS": rb"DDS \x7c\x00\x00\x00",
    "QOI": rb"qoif",
    "SGI": rb"\x01\xda[\x00\x01][\x01\x02]\x00[\x01\x02\x03]",
    "PCX": rb"\x0a[\x00\x02\x03\x05]\x01[\x01\x02\x04\x08]",
    # Without a magic number: a header in which all is as it can be (colour map, kind, bits, and a width and height).
    "TGA": rb".(?:\x00[\x02\x03\x0a\x0b]|\x01[\x01\x09]).{9}"
    rb"(?!\x00\x00)..(?!\x00\x00)..[\x08\x0f\x10\x18\x20][\x00-\x3f]",
}
_FOREIGN = {  # images that cannot be read here, and what to do
    "a HEIC photograph": (rb".{4}ftyp(?:he[iv]|mi|ms)", "convert it to JPEG or AVIF"),
    "a JPEG XL image": (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "convert it to JPEG or PNG"),
    "PostScript, a program": (rb"%!|\xc5\xd0\xd3\xc6", "remove it"),
    "a PDF": (rb"%PDF", "remove it"),
    "a web page or an SVG": (rb"(?i)\s*<(?:!doctype|html|\?xml|svg)", "get the image itself"),
}
_IMAGES = {name: re.compile(pattern, re.DOTALL) for name, pattern in _FORMATS.items()}
_OTHERS = {name: (re.compile(pattern, re.DOTALL), advice) for name, (pattern, advice) in _FOREIGN.items()}

Decode = Callable[[bytes | np.ndarray, str], UInt8[np.ndarray, "p p c"]]


def is_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (its first `HEAD` bytes) is an image, whatever it is called: of a format
    that `decoder` reads, or a HEIC or JPEG XL photograph, for which it says what to do."""
    photographs = ("a HEIC photograph", "a JPEG XL image")
    return bool(_kind(head)) or any(_OTHERS[name][0].match(head[:HEAD]) for name in photographs)


def _kind(head: bytes) -> str:
    return next((name for name, pattern in _IMAGES.items() if pattern.match(head[:HEAD])), "")


def decoder(
    pixels: int,
    gray: bool,
    cut_bottom: int = 0,
    background: str = "white",
    value_range: Sequence[float] = (),
    upright: bool = True,
    notes: Counter[str] | None = None,
) -> Decode:
    """A function of an image, encoded or an array, and its name for errors -> its pixels, `pixels` x `pixels`, uint8.

    Args:
      cut_bottom: the lowest rows of an image, which are left out.
      background: what shows through transparent pixels, "white" or "black".
      value_range: the values for black and white in arrays, and in encoded images of more than 8 bits a channel; empty:
        those of the type, which are 0 and 1 for floats. Others are an error.
      upright: turn an image as its EXIF says; studies of the public data sets did not. (A TIFF always is.)
      notes: counts in words what was done to images besides: the first of several frames taken, turned, put over the
        background, scaled to 8 bits, clipped.

    Raises:
      InputError: `background` or `value_range` is none; in what is returned, an image that is damaged, of no format
        that is known, larger than 89,478,485 pixels, or whose numbers have no black and white.
    """
    if background not in ("white", "black"):
        raise InputError(f'`OwnSet.background` is {background!r}: "white" or "black"')
    ends = tuple(map(float, value_range))
    if ends and (len(ends) != 2 or not np.isfinite(ends).all() or ends[0] == ends[1]):
        raise InputError(
            f"`OwnSet.value_range` is {value_range!r}: give the values for black and white, such as (0, 4095)"
        )
    lock = threading.Lock()

    def decode(content: bytes | np.ndarray, name: str) -> UInt8[np.ndarray, "p p c"]:
        done: list[str] = []
        kind = ""
        try:
            if isinstance(content, np.ndarray):
                image = eight_bits(*of_array(content), ends, done)
            else:
                kind = _kind(content)
                image = _open(content, kind, 0 if cut_bottom else 4 * pixels, ends, upright, done)
            image = _flat(image, background, done)
            if image.mode != (mode := "L" if gray else "RGB"):
                image = image.convert(mode)
            if cut_bottom:
                image = image.crop((0, 0, image.width, max(image.height - cut_bottom, 1)))
            resized = np.asarray(image.resize((pixels, pixels), Image.Resampling.BILINEAR))
        except InputError as error:
            raise InputError(f"{name} {error}") from None
        except UnidentifiedImageError:
            raise InputError(
                f"{name} is no image that can be decoded (a damaged {kind}): replace or remove it"
            ) from None
        except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{name} is no image that can be decoded ({reason}): replace or remove it") from None
        if notes is not None and done:
            with lock:
                notes.update(done)
        return resized[..., None] if gray else resized

    return decode


def _open(
    content: bytes, kind: str, draft: int, ends: tuple[float, ...], upright: bool, done: list[str]
) -> Image.Image:
    """The first image of a file, at 8 bits a channel, turned as its EXIF says where it is to be `upright`."""
    if not kind:
        for name, (pattern, advice) in _OTHERS.items():
            if pattern.match(content[:HEAD]):
                raise InputError(f"is {name}, which is not read here: {advice}")
        raise InputError("is no image that can be decoded (it begins as no known format does): replace or remove it")
    image: Image.Image = Image.open(io.BytesIO(content), formats=(kind,))
    size = image.width * image.height
    if size > MOST_PIXELS:
        raise InputError(
            f"has {image.width} x {image.height} pixels, more than {MOST_PIXELS}: make it smaller, or remove it"
        )
    # Of a PSD the frames are layers, of a JPEG previews.
    if kind not in ("PSD", "JPEG") and getattr(image, "is_animated", False):
        done.append("several frames: the first one taken")
    if size > _DRAFT_PIXELS and draft:
        image.draft(None, (draft, draft))  # does nothing to other formats
    found = numbers_of(image, content, kind)
    image.load()
    orientation = _orientation(image) if upright and kind != "TIFF" else 1  # Pillow turns a TIFF itself
    image = image if found is None else eight_bits(*found, ends, done)
    if orientation not in _UPRIGHT:
        return image
    done.append("turned as its EXIF says")
    return image.transpose(_UPRIGHT[orientation])


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # of damaged EXIF, which every viewer ignores
        return 1


def _flat(image: Image.Image, background: str, done: list[str]) -> Image.Image:
    """Without transparency, and in a mode that Pillow converts rightly."""
    if image.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(*profiles, "LAB", "RGB").apply(image)
    palette = image.palette if image.mode == "P" else None
    if not (
        image.mode in ("LA", "PA", "RGBA", "RGBa")
        or "transparency" in image.info
        or (palette and palette.mode == "RGBA")
    ):
        return image
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        done.append(f"transparent: put over {background}")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("RGB")
