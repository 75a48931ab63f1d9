"""What a file is, by its first bytes and its name: an image, a system's own file, or what no data set is."""

import re
from pathlib import PurePosixPath

HEAD = 32  # bytes of a file that tell what it is
_IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm",
    ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
_IMAGES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|II[*+]\0|MM\0[*+]|RIFF....WEBP|....ftyp(avi[fs]|mif1|msf1|hei[cxms]|hev[cx])"
    rb"|P[1-6]\s+[\d#]|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|\0\0\1\0[^\0]\0...\0"
    rb"|BM....\0\0\0\0....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # BM alone begins many a text
    re.DOTALL,
)
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


def is_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (its first 32 bytes will do) is an image."""
    return bool(_IMAGES.match(head))


def has_image_suffix(name: str) -> bool:
    """Whether `name` is that of an image."""
    return PurePosixPath(name).suffix.lower() in _IMAGE_SUFFIXES


def is_image_in_folder(name: str) -> bool:
    """Whether `name` is that of an image in some folder, and not a hidden one's."""
    path = PurePosixPath(name)
    return has_image_suffix(name) and len(path.parts) > 1 and not path.name.startswith(".")


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
