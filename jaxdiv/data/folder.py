"""Class-per-folder images, in a folder or an archive (.tar, .zip), and how classes are split."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from jaxdiv.data.archives import members
from jaxdiv.errors import InputError, unknown

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def read_classes(
    path: Path,
    expected: str,
    decode: Callable[[bytes, str], np.ndarray],
    progress: Callable[[float], None],
    broken: list[str] | None = None,
) -> dict[str, np.ndarray]:
    """Every class's images `[count, h, w, c]` uint8, keyed by its folder's path, in the order of sorted file names.

    Args:
      path: a folder, a .zip or a .tar (also compressed).
      expected: what should be there, for the error message: "Omniglot as omniglot_png.zip, a folder per class".
      decode: encoded bytes and the file's name -> one image.
      progress: called with the share done, 0..1.
      broken: takes the names of images that cannot be decoded, which are then left out; None: they are an error.

    Raises:
      InputError: missing; truncated, unsafe or of another kind (`archives.members`); no image inside; an image that
        cannot be decoded.
    """
    if not path.exists():
        raise missing(path, expected)
    encoded = sorted((name, file.read()) for name, file in members(path, is_image, expected))
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


def missing(path: Path, expected: str) -> InputError:
    """The error for a folder or archive that is not there."""
    return InputError(f"{path} is missing: expected {expected}; put it there or set `DataSettings.own`")


def fingerprint(path: Path) -> list[int]:
    """How many files `path` is and their bytes together: changes when images are added, removed or replaced."""
    files = [file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return [len(files), sum(file.stat().st_size for file in files)]


def is_image(name: str) -> bool:
    """Whether `name` is that of an image in some folder."""
    path = PurePosixPath(name)
    return path.suffix.lower() in _SUFFIXES and len(path.parts) > 1 and not path.name.startswith(".")


def split_classes(
    names: Sequence[str], fractions: Sequence[float], seed: int, file: str, splits: Sequence[str]
) -> dict[str, str]:
    """Which of `splits` each class belongs to.

    Args:
      fractions: the share of the classes that each split gets, in a random order given by `seed`.
      file: a text file with a line `SPLIT CLASS` for each class, instead; other classes belong to no split.

    Raises:
      InputError: fractions that do not sum to 1; a file that is missing, or has a line, split or class that is wrong.
    """
    check_split(fractions, file, splits)
    if file:
        return _read_splits(Path(file), names, splits)
    shuffled = np.random.default_rng(seed).permutation(sorted(names))
    ends = np.rint(np.cumsum(fractions) * len(names)).astype(int)
    parts = np.split(shuffled, ends[:-1])
    return {str(name): split for split, part in zip(splits, parts, strict=True) for name in part}


def check_split(fractions: Sequence[float], file: str, splits: Sequence[str]) -> None:
    """Raise InputError where `split_classes` could split no classes at all: wrong fractions, or no such file."""
    if file:
        _lines(Path(file))
    elif len(fractions) != len(splits) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"`DataSettings.fractions` is {tuple(fractions)}: give {len(splits)} shares ({', '.join(splits)}) "
            f"that sum to 1"
        )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"`DataSettings.split_file`: {file} cannot be read ({reason})") from None


def _read_splits(file: Path, names: Sequence[str], splits: Sequence[str]) -> dict[str, str]:
    # A class is a folder inside the user's: its last part will do where that is unique.
    short = {name.rsplit("/", 1)[-1]: name for name in names}
    split_of: dict[str, str] = {}
    for number, line in enumerate(_lines(file), 1):
        if not line.strip() or line.startswith("#"):
            continue
        split, _, name = line.strip().partition(" ")
        name = name.strip()
        found = name if name in names else short.get(name)
        if split not in splits:
            raise InputError(f"{file}, line {number}: {unknown('split', split, splits)}; a line is SPLIT CLASS")
        if found is None:
            raise InputError(f"{file}, line {number}: {unknown('class', name, short)}")
        if found in split_of:
            raise InputError(f"{file}, line {number}: class {name!r} is listed twice")
        split_of[found] = split
    return split_of
