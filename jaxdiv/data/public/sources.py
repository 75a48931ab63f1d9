"""The base data sets' own archives: where they are, how to know them, and how to read each one's format."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import scipy  # its packages load when they are first used
from PIL import Image

from jaxdiv.data.archives import members
from jaxdiv.data.public.array_pickle import load_arrays
from jaxdiv.errors import InputError

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Example(NamedTuple):
    image: bytes
    of_class: str
    group: str
    file: str


@dataclass(frozen=True)
class Archive:
    """A file of a data set.

    Attributes:
      name: what its owners call it.
      url: where they have it; empty: behind a form.
      size, sha256, md5: its bytes; empty where they are not known to us.
      mirrors: where others have the same bytes.
      also: other names under which people have it.
    """

    name: str
    url: str = ""
    size: int = 0
    sha256: str = ""
    md5: str = ""
    mirrors: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
      page: where a person gets it.
      read: paths of the archives by their names -> examples, in any order.
      classes, images: what the whole set has.
      sample: an archive with a folder for each class that is taken where the set's own archives are not there.
      other_forms: what else in a folder of archives is this set, by name, all or nothing of it. Where there are others,
        the user's archives may differ from the published ones in their bytes.
      accepted: these forms in words.
    """

    title: str
    page: str
    archives: tuple[Archive, ...]
    read: Callable[[dict[str, Path]], Iterator[Example]]
    classes: int
    images: int
    channels: int = 3
    sample: str = ""
    other_forms: Callable[[Path], dict[str, Path]] | None = None
    accepted: str = ""


def find(source: Source, archive_dir: Path | None, download: bool) -> dict[str, Path]:
    """Those of a data set's archives (or its other forms, or its `sample`) that are in `archive_dir`, by their names.

    Raises:
      InputError: an archive is missing and cannot, or must not, be downloaded.
    """
    there: dict[str, Path] = {}
    if archive_dir:
        check_folder(archive_dir)
        for archive in source.archives:
            named = (archive_dir / name for name in (archive.name, *archive.also))
            if path := next((path for path in named if path.exists()), None):
                there[archive.name] = path
        if len(there) < len(source.archives) and source.other_forms and (found := source.other_forms(archive_dir)):
            return found
        if not there and source.sample and (archive_dir / source.sample).exists():
            return {source.sample: archive_dir / source.sample}
    for archive in missing(source, there):
        if not (download and archive.url):
            size = f", {archive.size} bytes" if archive.size else ""
            where = archive_dir or "a folder and name it by `DataSettings.archive_dir`"
            why = "" if not archive.url else " (downloads are off)"
            accepted = f"; or {source.accepted}" if source.accepted else ""
            instead = f"; or {source.sample}, a folder per class" if source.sample else ""
            raise InputError(
                f"{archive_dir / archive.name if archive_dir else archive.name} is missing{why}: get {source.title}"
                f"{size} from {archive.url or source.page} and put it as {archive.name} into {where}{accepted}{instead}"
            )
    return there


def missing(source: Source, there: dict[str, Path]) -> list[Archive]:
    """Which archives are to be downloaded beside those that are `there`; none where there is another form."""
    names = {archive.name for archive in source.archives}
    return [] if there.keys() - names else [archive for archive in source.archives if archive.name not in there]


def check_folder(archive_dir: Path) -> None:
    if not archive_dir.is_dir():
        raise InputError(f"`DataSettings.archive_dir` is {archive_dir}, which is no folder")


def is_image(name: str) -> bool:
    """Whether `name` is that of an image, by its suffix: owners give true ones."""
    path = PurePosixPath(name)
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def read_folders(paths: dict[str, Path], images: str = "", group: bool = False) -> Iterator[Example]:
    """Examples of archives that have a folder for each class.

    Args:
      images: the folder that has the classes' folders; empty: anywhere.
      group: a class is named by its whole path, and its group is the folder above.
    """
    for path in paths.values():
        for name, file in members(path, lambda name: is_image(name) and name.startswith(images), path.name):
            folder = PurePosixPath(name).parent
            of_class = str(folder) if group else folder.name
            yield Example(file.read(), of_class, folder.parent.name if group else "", name)


def read_omniglot(paths: dict[str, Path]) -> Iterator[Example]:
    return read_folders(paths, group=True)


def read_dtd(paths: dict[str, Path]) -> Iterator[Example]:
    return read_folders(paths, "dtd/images/")


def read_birds(paths: dict[str, Path]) -> Iterator[Example]:
    return read_folders(paths, "CUB_200_2011/images/")


def read_flowers(paths: dict[str, Path]) -> Iterator[Example]:
    """`jpg/image_00001.jpg` and on, their classes 1 to 102 in a MATLAB file."""
    (images, labels) = (paths[name] for name in ("102flowers.tgz", "imagelabels.mat"))
    try:
        of_image = scipy.io.loadmat(labels)["labels"].ravel()
    except Exception as error:  # a damaged file raises nearly anything
        raise InputError(f"{labels} is no MATLAB file with `labels` ({error}): get it again") from None
    for name, file in members(images, is_image, images.name):
        number = re.fullmatch(r"jpg/image_(\d{5})\.jpg", name)
        if not number or not 1 <= int(number[1]) <= len(of_image):
            raise InputError(f"{images}: {name} has no label in {labels.name}: do the two belong together?")
        yield Example(file.read(), str(of_image[int(number[1]) - 1]), "", name)


def read_aircraft(paths: dict[str, Path]) -> Iterator[Example]:
    """Images by number; `images_variant_*.txt` and `images_family_*.txt` have a line `NUMBER NAME` for each."""
    (path,) = paths.values()
    labels: dict[str, dict[str, str]] = {"variant": {}, "family": {}}
    lists = re.compile(r"[^/]+/data/images_(variant|family)_(train|val|test)\.txt")
    for name, file in members(path, lambda name: bool(lists.fullmatch(name)), path.name):
        kind = lists.fullmatch(name)[1]  # type: ignore[index]
        labels[kind] |= dict(line.split(" ", 1) for line in file.read().decode().splitlines() if line)
    for name, file in members(path, lambda name: is_image(name) and "/data/images/" in name, path.name):
        number = PurePosixPath(name).stem
        if number not in labels["variant"] or number not in labels["family"]:
            raise InputError(f"{path}: {name} has no variant or no family in its lists: get the archive again")
        yield Example(file.read(), labels["variant"][number], labels["family"][number], name)


def read_cifar100(paths: dict[str, Path]) -> Iterator[Example]:
    """Two pickles of raw pixels and numbered labels, and one of the labels' names."""
    (path,) = paths.values()
    wanted = [f"cifar-100-python/{part}" for part in ("meta", "train", "test")]
    found = {name: load_arrays(file, f"{path}: {name}") for name, file in members(path, wanted.__contains__, path.name)}
    if sorted(found) != sorted(wanted):
        raise InputError(f"{path} is without {' and '.join(sorted({*wanted} - {*found}))}: get it again")
    fine, coarse = fields(found.pop(wanted[0]), str(path), fine_label_names=list, coarse_label_names=list)
    for part in wanted[1:]:
        where, kinds = f"{path}: {part}", {"filenames": list, "fine_labels": list, "coarse_labels": list}
        pixels, names, labels, groups = fields(found.pop(part), where, data=np.ndarray, **kinds)
        labels, groups = numbers(labels, where), numbers(groups, where)
        known = all(0 <= label < len(fine) for label in labels) and all(0 <= group < len(coarse) for group in groups)
        alike = pixels.shape == (len(names), 3072) and len(names) == len(labels) == len(groups)
        if not known or not alike or pixels.dtype != np.uint8:
            raise InputError(f"{where} has not one label, one name and 3072 bytes for each image: get it again")
        for row, name, label, group in zip(pixels, names, labels, groups, strict=True):
            image = png(row.reshape(3, 32, 32).transpose(1, 2, 0))
            yield Example(image, text(fine[label]), text(coarse[group]), f"{part}/{text(name)}")


def fields(batch: Any, where: str, **kinds: Any) -> list[Any]:
    """The values of a pickle that a set needs, each of its kind. InputError names `where`."""
    named = {text(key): value for key, value in batch.items()} if type(batch) is dict else {}
    for name, kind in kinds.items():
        if not isinstance(named.get(name), kind):
            raise InputError(f"{where} has no `{name}` as it should: is it another file?")
    return [named[name] for name in kinds]


def text(value: Any) -> str:
    """A name in a pickle of Python 2 or 3."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def numbers(values: Any, where: str) -> list[int]:
    """Whole numbers in a list, or in an array of one axis. InputError names `where`."""
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        return values.tolist()
    if type(values) is not list or any(type(value) is not int for value in values):
        raise InputError(f"{where} has labels that are no whole numbers: get it again")
    return values


def png(pixels: np.ndarray) -> bytes:
    """Pixels `[h, w, c]` as a file."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=1)
    return out.getvalue()
