"""Images as the bytes of a file, written by hand where Pillow cannot; and how jaxdiv reads or refuses them."""

import io
import struct
import zlib

import numpy as np
import pytest
from sample_archives import check_one_line

from jaxdiv.data.decode import decoder
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
