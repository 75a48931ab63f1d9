"""What a file is, by its first bytes and its name: an image, a system's own file, or what no data set is."""

import re
from pathlib import PurePosixPath

from jaxdiv.data.decode import is_image

_IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm",
    ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
# What people have in place of a data set, and what helps.
_OTHERS = (
    (rb"Rar!\x1a\x07", "a RAR archive", "unpack it and give the folder"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it and give the folder"),
    (rb"%PDF", "a PDF document", "give a folder of images"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page, not the file behind it", "get the file again"),
    (rb"\x93NUMPY", "one array", "save images and labels together as a .npz"),
    (rb"\x89HDF", "an HDF5 file", "save its images and labels as a .npz"),
    (rb"MATLAB", "a MATLAB file", "save its images and labels as a .npz"),
    (rb"PAR1", "a Parquet file", "load it by the package `datasets` and use its `save_to_disk`"),
    (rb"\x80[\x02-\x05]", "a pickle, which could run code", "save its images and labels as a .npz"),
    (rb"SQLite format 3", "a database", "give a folder of images"),
)
_SYSTEM = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db",
    "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip


def has_image_suffix(name: str) -> bool:
    """Whether `name` is that of an image."""
    return PurePosixPath(name).suffix.lower() in _IMAGE_SUFFIXES


def hidden_part(name: str) -> str:
    """The path in `name` up to the first folder or file that is hidden or a system's own; "" where nothing is."""
    parts = PurePosixPath(name).parts
    for number, part in enumerate(parts):
        if part.startswith(".") or part.lower() in _SYSTEM:
            return "/".join(parts[: number + 1])
    return ""


def other_kind(head: bytes) -> tuple[str, str] | None:
    """What a file is that is no data set, and what to do; None where that is not known."""
    if is_image(head):
        return "one image", "give the folder that has a folder of images for each class"
    return next(((what, instead) for magic, what, instead in _OTHERS if re.match(magic, head)), None)
