"""Class-per-folder images, in a folder or an archive (.tar, .zip), decoded and resized to uint8."""

import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxdiv.errors import InputError

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def read_classes(
    path: Path,
    expected: str,
    decode: Callable[[bytes, str], np.ndarray],
    progress: Callable[[float], None],
    broken: list[str] | None = None,
    flag: str = "--config.data.archive_dir",
) -> dict[str, np.ndarray]:
    """Every class's images `[count, h, w, c]` uint8, keyed by its folder's path, in the order of sorted file names.

    Args:
      path: a folder, a .zip or a .tar (also compressed).
      expected: what should be there, for the error message: "Omniglot as omniglot_png.zip, a folder per class".
      decode: encoded bytes and the file's name -> one image.
      progress: called with the share done, 0..1.
      broken: takes the names of images that cannot be decoded, which are then left out; None: they are an error.
      flag: what names another place, for the error message.
    Raises:
      InputError: missing, truncated or of another kind; no image inside; an image that cannot be decoded.
    """
    if not path.exists():
        raise InputError(f"{path} is missing: expected {expected}; put it there or set {flag}")
    try:
        encoded = sorted(_members(path))
    # RuntimeError: a zip that is encrypted, or compressed in a way that Python does not know.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile lists what it tried, a line each
        raise InputError(
            f"{path} cannot be read ({reason}): it is truncated or no .zip or .tar archive; expected {expected}"
        ) from None
    if not encoded:
        raise InputError(f"{path} holds no image in a folder of its class: expected {expected}")

    def one(item: tuple[str, bytes]) -> np.ndarray | None:
        try:
            return decode(item[1], f"{path}: {item[0]}")
        except InputError:
            if broken is None:
                raise
            return None

    images: dict[str, list[np.ndarray]] = {}
    with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter lock
        decoded = pool.map(one, encoded)
        for done, ((name, _), image) in enumerate(zip(encoded, decoded, strict=True)):
            if image is None:
                assert broken is not None  # `one` sees to it
                broken.append(name)
                continue
            images.setdefault(str(PurePosixPath(name).parent), []).append(image)
            if done % 64 == 0:
                progress(done / len(encoded))
    return {name: np.stack(of_class) for name, of_class in images.items()}


def fingerprint(path: Path) -> list[int]:
    """How many files `path` is and their bytes together: changes when images are added, removed or replaced."""
    files = [file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return [len(files), sum(file.stat().st_size for file in files)]


def decoder(pixels: int, gray: bool) -> Callable[[bytes, str], np.ndarray]:
    """A `decode` for `read_classes`: any format that PIL knows, squeezed to `pixels` x `pixels`, gray or RGB."""

    def decode(data: bytes, name: str) -> np.ndarray:
        try:
            image = Image.open(io.BytesIO(data)).convert("L" if gray else "RGB")
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise InputError(f"{name} is no image that can be decoded ({error}): replace or remove it") from None
        resized = np.asarray(image.resize((pixels, pixels), Image.Resampling.BILINEAR))
        return resized[..., None] if gray else resized

    return decode


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every image file that lies in some folder."""
    if path.is_dir():
        for file in path.rglob("*"):
            name = file.relative_to(path).as_posix()
            if _is_image(name) and file.is_file():
                yield name, file.read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if _is_image(name):
                    yield name, archive.read(name)
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and _is_image(member.name):
                    content = tar.extractfile(member)
                    assert content is not None  # a regular file always has content
                    yield member.name, content.read()
            # tarfile takes an archive cut between two members for a whole one: look for the closing zeros.
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(512) != bytes(512):
                raise tarfile.ReadError("its end is missing")


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in _SUFFIXES and len(path.parts) > 1 and not path.name.startswith(".")
