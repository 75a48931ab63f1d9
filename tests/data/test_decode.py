"""Every kind of image against pixels computed by hand; and that nothing which an image holds is run."""

import io
import os
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from encoded_images import chunk, encoded, pixels, png, refusal, tiff
from PIL import Image, features

from jaxdiv.data import decode as module
from jaxdiv.data.decode import HEAD, decoder, is_image
from jaxdiv.errors import InputError

# Transparency. Red at opacity 51 of 255, a fifth, over white is (255, 204, 204), over black (51, 0, 0).
RED = [[[255, 204, 204]] * 2] * 2
FAINT = Image.new("RGBA", (2, 2), (255, 0, 0, 51))


def palette_png(*more):
    return png([b"\0\0", b"\0\0"], 8, 3, chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255])), *more)


def rgba16(opacity):
    return png([struct.pack(">8H", *([65535, 0, 0, opacity] * 2))] * 2, 16, 6)


@pytest.mark.parametrize(
    "content",
    [
        encoded(FAINT, "PNG"),
        encoded(FAINT, "WEBP", lossless=True, exact=True),
        encoded(FAINT, "TIFF"),
        encoded(FAINT, "ICO", sizes=[(2, 2)]),
        palette_png(chunk(b"tRNS", bytes([51, 255]))),
        rgba16(51 * 257),
        np.array([[[255, 0, 0, 51]] * 2] * 2, np.uint8),
        np.array([[[1, 0, 0, 0.2]] * 2] * 2),
    ],
    ids=["png", "webp", "tiff", "ico", "palette", "16 bits", "array", "floats"],
)
def test_what_is_transparent_lies_over_the_background(content):
    notes = Counter()
    assert pixels(content, notes=notes) == RED
    assert notes["transparent: put over white"] == 1
    assert pixels(content, background="black") == [[[51, 0, 0]] * 2] * 2


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        # The level or colour that tRNS names is transparent, in as many bits as the image has.
        (png([b"\x40", b"\x40"], 2, 0, chunk(b"tRNS", b"\0\1")), [[255, 0], [255, 0]]),
        (png([b"\x40", b"\x40"], 1, 0, chunk(b"tRNS", b"\0\0")), [[255, 255], [255, 255]]),
        (png([b"\x40", b"\x40"], 1, 0, chunk(b"tRNS", b"\0\1")), [[0, 255], [0, 255]]),
        (png([b"\7\6", b"\6\7"], 8, 0, chunk(b"tRNS", b"\0\7")), [[255, 6], [6, 255]]),
        (png([b"\1\2\1\3", b"\1\3\1\2"], 16, 0, chunk(b"tRNS", b"\1\2")), [[255, 1], [1, 255]]),
        (png([b"\1\1\1\2\2\2", bytes(6)], 8, 2, chunk(b"tRNS", bytes([0, 1, 0, 1, 0, 1]))), [[255, 2], [0, 0]]),
        (png([bytes([1, 2] * 3 + [1, 3] * 3), bytes(12)], 16, 2, chunk(b"tRNS", b"\1\2\1\2\1\2")), [[255, 1], [0, 0]]),
        (png([bytes([100, 0, 100, 255]), bytes([0, 255, 0, 0])], 8, 4), [[255, 100], [0, 255]]),
        (png([struct.pack(">4H", 25700, 0, 25700, 65535), bytes(8)], 16, 4), [[255, 100], [255, 255]]),
        (encoded(Image.new("P", (2, 2), 3), "GIF", transparency=3), [[255, 255], [255, 255]]),
    ],
    ids=["2 bits", "1 bit black", "1 bit white", "gray", "gray 16", "rgb", "rgb 16", "LA", "LA 16", "gif"],
)
def test_transparent_levels_and_gray_opacity(content, seen):
    assert pixels(content, gray=True) == seen
    assert pixels(content) == [[[v] * 3 for v in row] for row in seen]


def test_an_opacity_that_hides_nothing_changes_and_counts_nothing():
    notes = Counter()
    content = encoded(Image.new("RGBA", (2, 2), (9, 8, 7, 255)), "PNG")
    assert pixels(content, notes=notes) == [[[9, 8, 7]] * 2] * 2 and not notes


# Colours


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (palette_png(), (255, 0, 0)),
        # (255 - c) (255 - k) / 255 with c, m, y, k = 255, 0, 51, 51
        (encoded(Image.new("CMYK", (2, 2), (255, 0, 51, 51)), "TIFF"), (0, 204, 163)),
        (encoded(Image.new("CMYK", (8, 8), (255, 0, 51, 51)), "JPEG", quality=100, subsampling=0), (0, 204, 163)),
        # ITU-R BT.601: r = y + 1.402 (cr - 128), g = y - .344 (cb - 128) - .714 (cr - 128), b = y + 1.772 (cb - 128)
        (encoded(Image.new("YCbCr", (2, 2), (100, 120, 160)), "JPEG", quality=100), (145, 80, 86)),
        # CIE L* = 50: (66 / 116)^3 = .1842 of white, in sRGB 1.055 .1842^(1/2.4) - .055 = .466
        (encoded(Image.new("LAB", (2, 2), (128, 128, 128)), "TIFF"), (119, 119, 119)),
        (png([b"\x80", b"\x80"], 1, 0), (255, 255, 255)),
    ],
    ids=["palette", "cmyk tiff", "cmyk jpeg", "ycbcr", "lab", "1 bit"],
)
def test_every_way_to_write_a_colour(content, seen):
    assert np.abs(np.array(pixels(content)[0][0]) - seen).max() <= 2


def test_a_colours_gray_is_its_luma():
    content = encoded(Image.new("RGB", (2, 2), (200, 100, 50)), "PNG")
    assert pixels(content, gray=True) == [[124, 124], [124, 124]]  # .299 * 200 + .587 * 100 + .114 * 50 = 124.2


# EXIF. The upright image is 2 wide and 3 high; how a camera stores it that was held in each of eight ways.
UPRIGHT = np.array([[10, 50], [90, 130], [170, 210]], np.uint8)
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT),  # shown after a quarter turn clockwise
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


def exif(orientation):
    return b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_images_are_turned_as_exif_says(kind, orientation):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    if kind == "TIFF":
        content = tiff(stored.tobytes(), 8, size=stored.size, t274=orientation)
    else:
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}, "AVIF": {"quality": 100}}.get(kind, {})
        large = stored.resize((16 * stored.width, 16 * stored.height), Image.Resampling.NEAREST)
        content = encoded(large.convert("RGB") if kind == "AVIF" else large, kind, exif=exif(orientation), **options)
    found = decoder(48, gray=True)(content, "it")[8::16, 12::24, 0]
    if kind == "TIFF":
        found = decoder(6, gray=True)(content, "it")[:, :, 0]
        expected = decoder(6, gray=True)(encoded(Image.fromarray(UPRIGHT), "PNG"), "it")[:, :, 0]
    else:
        expected = UPRIGHT
    assert np.abs(found.astype(int) - expected).max() <= 3
    if kind == "JPEG" and orientation > 1:
        notes = Counter()
        decoder(48, gray=True, notes=notes)(content, "it")
        assert notes == {"turned as its EXIF says": 1}
        kept = decoder(48, gray=True, upright=False)(content, "it")
        np.testing.assert_array_equal(kept, decoder(48, gray=True)(encoded(large, kind, quality=100), "it"))


def test_damaged_exif_leaves_an_image_as_it_is():
    content = encoded(Image.new("L", (2, 2), 7), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\xff" + bytes(range(40)))
    assert pixels(content, gray=True) == [[7, 7], [7, 7]]


# Frames, and what a benchmark cuts


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_counted(kind):
    frames = [Image.new("RGB", (2, 2), (value, 0, 0)) for value in (200, 100, 0)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    notes = Counter()
    assert pixels(content, notes=notes) == [[[200, 0, 0]] * 2] * 2
    assert notes == {"several frames: the first one taken": 1}


def test_the_lowest_rows_are_left_out():
    content = encoded(Image.fromarray(np.array([[1, 2], [3, 4], [0, 0]], np.uint8)), "PNG")
    assert pixels(content, gray=True, cut_bottom=1) == [[1, 2], [3, 4]]


# By content, not by name

KINDS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "ICO", "TGA", "DDS", "SGI", "PCX", "AVIF"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_known_by_its_first_bytes(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    content = encoded(Image.new("RGB", (16, 16), (200, 100, 50)), kind)
    assert is_image(content[:HEAD])
    assert np.abs(np.array(pixels(content)) - (200, 100, 50)).max() <= 8


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"filename,label\n",
        b"BMI,age\n1,2\n",
        b"P1 is the first\n",
        b"%!PS-Adobe",
        b"%PDF-1.7",
        b"<svg ",
        b"PK\3\4",
    ],
)
def test_what_is_no_image_is_not_taken_for_one(content):
    assert not is_image(content + bytes(60)) and not is_image(content)
    assert (
        "replace or remove it" in refusal(content) or "remove it" in refusal(content) or "get the" in refusal(content)
    )


def test_a_heic_photograph_is_known_and_what_to_do_is_said():
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    assert is_image(content)
    assert "is a HEIC photograph, which is not read here: convert it to JPEG" in refusal(content)


POSTSCRIPT = """%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
(MARKER) (w) file closefile (VICTIM) deletefile
showpage
"""


def test_postscript_under_an_images_name_reaches_no_other_program(tmp_path, monkeypatch):
    marker, victim, called = (tmp_path / name for name in ("marker", "victim", "called"))
    victim.write_text("kept")
    # Whatever Ghostscript this machine has, the one that is found first tells that it was called.
    fake = tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {called}\nrm -f {victim}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None, raising=False)  # looked up anew
    content = POSTSCRIPT.replace("MARKER", str(marker)).replace("VICTIM", str(victim)).encode()
    binary = struct.pack("<4sII", b"\xc5\xd0\xd3\xc6", 32, len(content)) + bytes(20) + content  # the DOS form of EPS
    for hidden in (content, binary):
        assert not is_image(hidden) and "PostScript, a program" in refusal(hidden)
    assert victim.exists() and not marker.exists() and not called.exists()
    with pytest.raises(OSError):
        Image.open(io.BytesIO(content)).load()  # Pillow by itself does call it
    assert called.exists() and not victim.exists()


# Images that are broken, and how

GOOD = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)), "PNG")


def long_text():
    return png([b"\0\0"] * 2, 8, 0, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(70 * 2**20), 1)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (long_text(), "arge"),
        (png([], 8, 0, size=(200_000, 200_000)), "decompression bomb"),
        (png([], 8, 0, size=(10_000, 9_000)), "has 10000 x 9000 pixels, more than 89478485"),
        (GOOD[:-60], "replace or remove it"),
        (GOOD[:30], "replace or remove it"),
        (b"P6\n2 2\n99999999\n" + bytes(12), "replace or remove it"),
        (b"P6\n-2 x\n", "replace or remove it"),
        (b"GIF89a\2\0\2\0\0\0\0,", "replace or remove it"),
        (tiff(bytes(4), 8)[:30], "replace or remove it"),
        (tiff(bytes(4), 8, size=(60_000, 60_000)), "replace or remove it"),
        (b"8BPS\0\1" + bytes(60), "replace or remove it"),
        (b"DDS \x7c\0\0\0" + bytes(200), "replace or remove it"),
        (b"\0\0\1\0\1\0" + bytes(16) + b"\xff" * 20, "replace or remove it"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xff" * 40, "replace or remove it"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_broken_or_lying_image_is_one_line_about_that_image(content, says):
    assert says in refusal(content)


def test_what_a_decoder_raises_is_the_images_error(monkeypatch):
    for error in (MemoryError(), IndexError("x"), OverflowError("y"), struct.error("z"), RecursionError("w")):

        def load(*_, error=error, **__):
            raise error

        monkeypatch.setattr(module.Image, "open", load)
        assert (str(error) or type(error).__name__) in refusal(GOOD)


def test_bytes_changed_anywhere_give_an_image_or_one_line():
    rng = np.random.default_rng(0)
    samples = [encoded(Image.new("RGB", (16, 16), (200, 100, 50)), kind) for kind in KINDS[:-1]]
    for content in samples:
        for _ in range(15):
            changed = bytearray(content)
            for at in rng.integers(0, min(len(changed), 200), 3):
                changed[at] = rng.integers(256)
            try:
                pixels(bytes(changed))
            except InputError as error:
                assert "\n" not in str(error)


def test_a_large_jpeg_is_read_at_a_smaller_scale_and_looks_the_same(monkeypatch):
    waves = np.add.outer(np.sin(np.arange(400) / 40), np.cos(np.arange(600) / 50))
    content = encoded(Image.fromarray((127 + 60 * waves).astype(np.uint8)), "JPEG", quality=95)
    whole = decoder(12, gray=True)(content, "it")
    monkeypatch.setattr(module, "_DRAFT_PIXELS", 400 * 600 - 1)
    opened = []
    load = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: (opened.append(self.size), load(self, *a, **k))[1])
    small = decoder(12, gray=True)(content, "it")
    assert opened == [(75, 50)]
    assert np.abs(whole.astype(int) - small).max() <= 2


def test_settings_that_are_none_are_refused():
    with pytest.raises(InputError, match=r"`OwnSet.background` is 'green'"):
        decoder(2, False, background="green")
    for wrong in ((1,), (1, 1), (0, np.nan), (0, 1, 2)):
        with pytest.raises(InputError, match=r"`OwnSet.value_range` is"):
            decoder(2, False, value_range=wrong)
