"""Every kind of image against pixels computed by hand; and that nothing which an image holds is run."""

import io
import os
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image, features
from sample_archives import check_one_line

from jaxdiv.data import decode as module
from jaxdiv.data.decode import HEAD, decoder, is_image
from jaxdiv.errors import InputError


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(content, size=2, gray=False, **options):
    """As [h][w] numbers or [h][w] of [r, g, b]; at their own size nothing is resampled."""
    found = decoder(size, gray, **options)(content, "set: class/it")
    assert found.dtype == np.uint8 and found.shape == (size, size, 1 if gray else 3)
    return (found[..., 0] if gray else found).tolist()


def refusal(content, **options):
    with pytest.raises(InputError) as error:
        decoder(2, False, **options)(content, "set: class/it")
    return check_one_line(error, "set: class/it")


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(rows, bits, colour, *more, size=(2, 2)):
    """A PNG of packed rows of bytes."""
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(data, bits, colours=1, order="<", photometric=None, sample_format=1, planes=1, size=(2, 2), **more):
    """An uncompressed TIFF of one strip."""
    photometric = (1 if colours == 1 else 2) if photometric is None else photometric
    tags = {256: size[0], 257: size[1], 259: 1, 262: photometric, 273: 8, 277: colours, 278: size[1], 279: len(data)}
    tags |= {284: planes} | {int(tag[1:]): value for tag, value in more.items()}
    many = {258: [bits] * colours, 339: [sample_format] * colours}
    at = 8 + len(data)
    lists, entries = b"", []
    for tag in sorted({**tags, **many}):
        values = many.get(tag) or [tags[tag]]
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if len(packed) > 4:
            where, lists = at + len(lists), lists + packed
            packed = struct.pack(f"{order}I", where)
        entries.append(struct.pack(f"{order}HHI", tag, 3, len(values)) + packed.ljust(4, b"\0"))
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at + len(lists))
    return head + data + lists + directory


# 16-bit and float images. 257 * n is the 16-bit number of n; 300 / 257 = 1.17, 65150 / 257 = 253.5019.
DEEP = np.array([[0, 257 * 100], [300, 65150]])
SEEN = [[0, 100], [1, 254]]


def deep(order):
    return DEEP.astype(f"{order}u2").tobytes()


@pytest.mark.parametrize(
    "content",
    [
        png([row.astype(">u2").tobytes() for row in DEEP], 16, 0),
        tiff(deep("<"), 16),
        tiff(deep(">"), 16, order=">"),
        encoded(Image.fromarray(DEEP.astype(np.uint16)), "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(DEEP.astype(np.uint16)), "JPEG2000", irreversible=False),
        b"P5\n2 2\n65535\n" + deep(">"),
        tiff((65535 - DEEP).astype("<u2").tobytes(), 16, photometric=0),
        DEEP.astype(np.uint16),
        (DEEP / 65535).astype(np.float16)[..., None],
        tiff((DEEP / 65535).astype("<f4").tobytes(), 32, sample_format=3),
    ],
    ids=["png", "tiff", "tiff MM", "tiff lzw", "jpeg 2000", "pgm", "white is 0", "uint16", "float16", "float tiff"],
)
def test_deep_gray_images_are_scaled_by_their_types_range(content):
    notes = Counter()
    assert pixels(content, notes=notes) == [[[v] * 3 for v in row] for row in SEEN]
    assert pixels(content, gray=True) == SEEN
    assert notes == {"scaled to 8 bits": 1}


COLOURS = np.stack([DEEP, DEEP.T, 65535 - DEEP], -1)
# 65235 / 257 = 253.8, whose upper byte is 254; 39835 / 257 = 155 by its upper byte, too; 385 / 257 = 1.498.
SEEN_COLOURS = np.stack([SEEN, np.transpose(SEEN), [[255, 155], [254, 1]]], -1).tolist()


@pytest.mark.parametrize(
    "content",
    [
        png([row.astype(">u2").tobytes() for row in COLOURS], 16, 2),
        tiff(COLOURS.astype("<u2").tobytes(), 16, 3),
        tiff(COLOURS.astype(">u2").tobytes(), 16, 3, order=">"),
        COLOURS.astype(np.uint16),
        COLOURS / 65535,
    ],
    ids=["png", "tiff", "tiff MM", "uint16", "float64"],
)
def test_deep_colours_are_rounded_not_cut(content):
    assert pixels(content) == SEEN_COLOURS


def test_a_compressed_deep_tiff_reads_as_a_plain_one():
    for order in "<>":  # 8: Adobe's deflate, which libtiff unpacks into this machine's order
        packed = zlib.compress(COLOURS.astype(f"{order}u2").tobytes())
        assert pixels(tiff(packed, 16, 3, order, t259=8)) == SEEN_COLOURS


def test_a_given_range_is_black_and_white_and_what_is_beyond_is_clipped_and_counted():
    notes = Counter()
    content = png([row.astype(">u2").tobytes() for row in np.array([[0, 1000], [2000, 5000]])], 16, 0)
    assert pixels(content, gray=True, value_range=(1000, 4000), notes=notes) == [[0, 0], [85, 255]]
    assert notes == {"scaled to 8 bits": 1, "pixels beyond the given range: clipped": 1}
    assert pixels(np.array([[-1, 0], [0.5, 1]]), gray=True, value_range=(-1, 1)) == [[0, 128], [191, 255]]
    assert pixels(np.array([[0, 16], [4, 8]]), gray=True, value_range=(16, 0)) == [[255, 0], [191, 128]]
    assert pixels(encoded(Image.new("L", (2, 2), 7), "PNG"), gray=True, value_range=(0, 9)) == [[7, 7], [7, 7]]


@pytest.mark.parametrize(
    "content",
    [
        tiff(np.array([[0, 1], [2, 255]], "<f4").tobytes(), 32, sample_format=3),
        tiff(np.array([[0, 1], [2, 255]], "<i4").tobytes(), 32, sample_format=2),
        tiff(np.array([[0, 1], [2, 255]], "<i2").tobytes(), 16, sample_format=2),
        np.array([[0, 1], [2, 255]]),
        np.array([[0, 1], [2, 255.0]]),
    ],
    ids=["float tiff", "int32 tiff", "int16 tiff", "int64", "float64"],
)
def test_numbers_without_a_known_black_and_white_are_refused_and_the_setting_named(content):
    message = refusal(content)
    assert "pixels from 0 to 255" in message and "`OwnSet.value_range`" in message
    assert pixels(content, gray=True, value_range=(0, 255)) == [[0, 1], [2, 255]]


def test_unsigned_32_bits_are_not_taken_for_negative_numbers():
    content = tiff(np.array([[0, 2**32 - 1], [2**31, 2**30]], "<u4").tobytes(), 32)
    assert pixels(content, gray=True, value_range=(0, 2**32 - 1)) == [[0, 255], [128, 64]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_float_image_that_is_not_finite_is_refused(value):
    numbers = np.array([[0, 1], [value, 0]], "<f4")
    for content in (numbers, tiff(numbers.tobytes(), 32, sample_format=3)):
        assert "NaN or infinite" in refusal(content, value_range=(0, 1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tiff(COLOURS.transpose(2, 0, 1).astype("<u2").tobytes(), 16, 3, planes=2), "planes of 16 bits"),
        (tiff(bytes(4), 8, sample_format=2), "signed bytes"),
    ],
)
def test_a_tiff_that_pillow_reads_wrongly_is_refused(content, says):
    assert says in refusal(content)


@pytest.mark.parametrize("shape", [(3, 4, 5), (4,), (2, 2, 2), (0, 3, 3), (1, 2, 2, 3)])
def test_an_array_that_is_no_image_is_refused(shape):
    assert f"is an array {shape}" in refusal(np.zeros(shape, np.uint8))
    assert "is an array of <U1" in refusal(np.array([["a", "b"]]))


def test_arrays_of_bytes_and_of_booleans_are_pixels():
    values = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert pixels(values) == values.tolist()
    assert pixels(values[..., 0], gray=True) == pixels(values[..., :1], gray=True) == [[0, 3], [6, 9]]
    assert pixels(np.array([[True, False], [False, True]]), gray=True) == [[255, 0], [0, 255]]


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
