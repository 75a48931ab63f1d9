"""The base data sets' own archives: where they are, how to know them, and how to read each one's format."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import scipy.io
from PIL import Image

from jaxdiv.data.archives import members
from jaxdiv.data.array_pickle import load_arrays
from jaxdiv.data.kinds import is_image_in_folder as is_image
from jaxdiv.errors import InputError


class Example(NamedTuple):
    image: bytes
    of_class: str
    group: str
    file: str


@dataclass(frozen=True)
class Archive:
    """A file of a data set. `sha256`, `md5` and `size` (bytes) are empty where its owners' are not known to us."""

    name: str
    url: str = ""  # empty: behind a form
    size: int = 0
    sha256: str = ""
    md5: str = ""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
      page: where a person gets it.
      read: paths of the archives by their names -> examples, in any order.
      classes, images: what the whole set has.
      sample: an archive with a folder for each class that is taken where the set's own archives are not there.
    """

    title: str
    page: str
    archives: tuple[Archive, ...]
    read: Callable[[dict[str, Path]], Iterator[Example]]
    classes: int
    images: int
    channels: int = 3
    sample: str = ""
    manual: str = ""  # what is accepted, for a set that cannot be downloaded


def find(source: Source, archive_dir: Path | None, download: bool) -> dict[str, Path]:
    """Those of a data set's archives (or its `sample`) that are in `archive_dir`, by their names.

    Raises:
      InputError: an archive is missing and cannot, or must not, be downloaded.
    """
    folder = archive_dir or Path(".")
    if archive_dir:
        check_folder(archive_dir)
    names = [archive.name for archive in source.archives]
    there = {name: folder / name for name in names if archive_dir and (folder / name).exists()}
    if not there and archive_dir and source.sample and (folder / source.sample).exists():
        return {source.sample: folder / source.sample}
    for archive in source.archives:
        if archive.name not in there and not (download and archive.url):
            size = f", {archive.size} bytes" if archive.size else ""
            where = archive_dir or "a folder and name it by `DataSettings.archive_dir`"
            why = "" if not archive.url else " (downloads are off)"
            accepted = f" ({source.manual})" if source.manual else ""
            instead = f"; or {source.sample}, a folder per class" if source.sample else ""
            raise InputError(
                f"{folder / archive.name if archive_dir else archive.name} is missing{why}: get {source.title}"
                f"{size}{accepted} from {archive.url or source.page} and put it as {archive.name} into {where}{instead}"
            )
    return there


def check_folder(archive_dir: Path) -> None:
    if not archive_dir.is_dir():
        raise InputError(f"`DataSettings.archive_dir` is {archive_dir}, which is no folder")


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
    found = {name: _named(load_arrays(file, name)) for name, file in members(path, wanted.__contains__, path.name)}
    if sorted(found) != sorted(wanted):
        raise InputError(f"{path} is without {' and '.join(sorted({*wanted} - {*found}))}: get it again")
    fine, coarse = (found[wanted[0]][f"{kind}_label_names"] for kind in ("fine", "coarse"))
    for part in wanted[1:]:
        batch = found[part]
        for pixels, name, label, group in zip(
            batch["data"], batch["filenames"], batch["fine_labels"], batch["coarse_labels"], strict=True
        ):
            image = _png(pixels.reshape(3, 32, 32).transpose(1, 2, 0))
            yield Example(image, fine[label], coarse[group], f"{part}/{name}")


def read_mini_imagenet(paths: dict[str, Path]) -> Iterator[Example]:
    """JPEG files that begin with their class (`n0153282900000005.jpg`) or are in its folder; or the three pickles
    `mini-imagenet-cache-{train,val,test}.pkl` of pixels."""
    (path,) = paths.values()
    wanted = lambda name: is_image(name) or name.endswith(".pkl")
    for name, file in members(path, wanted, path.name, most=3 * 2**29):  # its largest pickle has 1,145,461,190 bytes
        if not name.endswith(".pkl"):
            of_class = re.match(r"n\d{8}", PurePosixPath(name).name) or re.search(r"n\d{8}(?=/)", name)
            if not of_class:
                raise InputError(f"{path}: {name} names no WordNet class such as n01532829: is it Mini-ImageNet?")
            yield Example(file.read(), of_class[0], "", name)
            continue
        batch = _named(load_arrays(file, f"{path}: {name}"))
        for of_class, rows in batch["class_dict"].items():
            for row in rows:
                yield Example(_png(batch["image_data"][row]), of_class, "", f"{name}/{row:05}")


def _named(batch: Any) -> Any:
    """Python 2's and 3's pickles alike: text as text."""
    text = lambda value: value.decode() if isinstance(value, bytes) else value
    return {
        text(key): [text(item) for item in value] if isinstance(value, list) else value for key, value in batch.items()
    }


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=1)
    return out.getvalue()
