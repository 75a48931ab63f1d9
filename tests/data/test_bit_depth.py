"""Images of more than 8 bits, and arrays, against pixels computed by hand."""

import zlib
from collections import Counter

import numpy as np
import pytest
from encoded_images import encoded, pixels, png, refusal, tiff
from PIL import Image

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
