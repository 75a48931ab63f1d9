"""The files of a user's folder or archive: which are images, which are tables of labels, and how all are read."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxdiv.data.archives import members
from jaxdiv.data.decode import HEAD, is_image
from jaxdiv.data.own.kinds import has_image_suffix, hidden_part
from jaxdiv.errors import InputError

EXPECTED = "a folder (or .zip, .tar) with one sub-folder of images for each class"
HIDDEN = "hidden or a system's own"
NO_IMAGE = "not an image"
_AGAIN = "a link to a folder that the set has already, or is in"
_NOWHERE = "a link that leads nowhere"
_SPECIAL = "not a file (a pipe or a device)"
_TABLES = {".csv", ".tsv", ".txt"}
_LARGEST = 2**28  # bytes of one file that is held in memory


@dataclass(frozen=True)
class Tree:
    """A folder or an archive.

    Attributes:
      path: where it is.
      images: names of its images, `/` between their parts. A name that ends like an image's is one, whatever the file
        holds: that it is broken is said when it is read.
      tables: names of its .csv, .tsv and .txt files.
      left_out: names of other files by the reason.
      notes: what was recognised.
      read: files by their names and numbers -> (number, content), in the order in which they are read fastest.
    """

    path: Path
    images: list[str]
    tables: list[str]
    left_out: dict[str, list[str]]
    notes: list[str]
    read: Callable[[Mapping[str, int]], Iterator[tuple[int, bytes]]]

    def table(self, name: str) -> bytes:
        """The content of one file."""
        return next(content for _, content in self.read({name: 0}))


def list_tree(path: Path) -> Tree:
    """The files of the folder or archive `path`.

    Raises:
      InputError: a folder or file that cannot be read; an archive that is damaged or unsafe (`archives.members`).
    """
    return _folder(path) if path.is_dir() else _archive(path)


class _Sorted:
    """Files by what they are."""

    def __init__(self) -> None:
        self.images: list[str] = []
        self.tables: list[str] = []
        self.left_out: dict[str, list[str]] = {}

    def leave_out(self, why: str, name: str) -> None:
        self.left_out.setdefault(why, []).append(name)

    def add(self, name: str, head: Callable[[], bytes]) -> None:
        """File `name`; only where the name does not tell what it is are its first bytes read."""
        if has_image_suffix(name) or is_image(head()):
            self.images.append(name)
        elif PurePosixPath(name).suffix.lower() in _TABLES:
            self.tables.append(name)
        else:
            self.leave_out(NO_IMAGE, name)


def _folder(path: Path) -> Tree:
    files, notes = _Sorted(), []
    linked: list[str] = []
    for name in _walk(path, files, linked):
        files.add(name, lambda name=name: _begin(path / name, HEAD))  # type: ignore[misc]
    if linked:
        notes.append(f"{len(linked)} linked folders are followed ({linked[0]}/)")

    def read(numbers: Mapping[str, int]) -> Iterator[tuple[int, bytes]]:
        for name in sorted(numbers):
            yield numbers[name], read_file(path / name)

    return Tree(path, sorted(files.images), sorted(files.tables), files.left_out, notes, read)


def read_file(path: Path) -> bytes:
    """The content of an image's file.

    Raises:
      InputError: it cannot be read, or is larger than an image can be.
    """
    content = _begin(path, _LARGEST + 1)
    if len(content) > _LARGEST:
        raise InputError(f"{path} has more than {_LARGEST >> 20} MiB: it is no image; remove it")
    return content


def _begin(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None


def _walk(root: Path, files: _Sorted, linked: list[str]) -> Iterator[str]:
    """Names of the files below `root`. Links are followed after all else, and no folder is entered twice, so that a
    loop ends and a folder has its own name, not a link's."""
    seen: set[tuple[int, int]] = set()
    above = {(status.st_dev, status.st_ino) for status in map(os.stat, root.resolve().parents)}
    folders, links = [""], deque[str]()
    while folders or links:
        by_link = not folders
        folder = links.popleft() if by_link else folders.pop()
        try:
            status = os.stat(root / folder)
            entries = list(os.scandir(root / folder))
        except OSError as error:
            raise InputError(f"{root / folder} cannot be read ({error.strerror or error})") from None
        identity = (status.st_dev, status.st_ino)
        if identity in seen or identity in above:
            files.leave_out(_AGAIN, f"{folder}/")
            continue
        if by_link:
            linked.append(folder)
        seen.add(identity)
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if hidden_part(entry.name):
                files.leave_out(HIDDEN, f"{name}/" if entry.is_dir() else name)
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(name)
            elif entry.is_file():
                yield name
            else:
                files.leave_out(_NOWHERE if entry.is_symlink() else _SPECIAL, name)


def _archive(path: Path) -> Tree:
    files, hidden = _Sorted(), dict[str, None]()
    seen: set[str] = set()

    def wanted(name: str) -> bool:
        if part := hidden_part(name):
            hidden[part if part == _plain(name) else f"{part}/"] = None
        return not part

    for member, file in members(path, wanted, EXPECTED):
        name = _plain(member)
        if name in seen:
            raise InputError(f"{path} holds {name!r} twice: unpack it, and give the folder")
        seen.add(name)
        files.add(name, lambda file=file: file.read(HEAD))  # type: ignore[misc]
    if hidden:
        files.left_out[HIDDEN] = list(hidden)

    def read(numbers: Mapping[str, int]) -> Iterator[tuple[int, bytes]]:
        for name, file in members(path, lambda name: _plain(name) in numbers, EXPECTED):
            yield numbers[_plain(name)], file.read()

    return Tree(path, sorted(files.images), sorted(files.tables), files.left_out, [], read)


def _plain(name: str) -> str:
    return str(PurePosixPath(name))  # ./a//b is a/b
