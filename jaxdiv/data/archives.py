"""Archives opened safely, member by member: a .zip, a .tar (also compressed) or a folder. Nothing is extracted."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from jaxdiv.errors import InputError

# Of the data sets here, Mini-ImageNet has the largest member, a pickle of 1,145,461,190 bytes, FGVC-Aircraft the
# largest archive.
_MEMBER_BYTES = 3 * 2**29
_TOTAL_BYTES = 2**34
# RuntimeError: a zip that is encrypted, or compressed in a way that Python does not know.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


@runtime_checkable
class Readable(Protocol):
    """What `members` gives for a member."""

    def read(self, size: int = -1) -> bytes: ...

    def readline(self) -> bytes: ...


def members(path: Path, wanted: Callable[[str], bool], expected: str) -> Iterator[tuple[str, Readable]]:
    """The name and content of every regular file whose name is `wanted`, in the order of the archive.

    A member is to be read before the next one is asked for.

    Args:
      expected: what should be there, for the error message: "Omniglot as omniglot_png.zip, a folder per class".

    Raises:
      InputError: truncated, damaged, encrypted or no archive; a member whose path leads out of the archive, that is a
        link or a device, or that says it is larger than 1.5 GiB; more than 16 GiB in all.
    """

    def broken(error: BaseException) -> InputError:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile lists what it tried, a line each
        return InputError(
            f"{path} cannot be read ({reason}): it is truncated or no .zip or .tar archive; expected {expected}"
        )

    try:
        for name, file in _open(path, wanted):
            yield name, _Member(file, broken)
    except _BROKEN as error:
        raise broken(error) from None


class _Member:
    """A member's content whose errors are the archive's."""

    def __init__(self, file: Any, broken: Callable[[BaseException], InputError]):
        self._file = file
        self._broken = broken

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except _BROKEN as error:
            raise self._broken(error) from None

    def readline(self) -> bytes:
        try:
            return self._file.readline()
        except _BROKEN as error:
            raise self._broken(error) from None


def _open(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if wanted(name) and file.is_file():
                with file.open("rb") as content:
                    yield name, content
        return
    total = 0
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_path(path, entry.filename)
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise _refused(path, entry.filename, "is a link")
                total = _check_size(path, entry.filename, entry.file_size, total)
                if not entry.is_dir() and wanted(entry.filename):
                    with archive.open(entry) as content:
                        yield entry.filename, content
        return
    with tarfile.open(path) as tar:
        for member in tar:
            _check_path(path, member.name)
            if not (member.isfile() or member.isdir()):
                raise _refused(path, member.name, "is a link or a device")
            total = _check_size(path, member.name, member.size, total)
            if member.isfile() and wanted(member.name):
                yield member.name, tar.extractfile(member)
        # tarfile takes an archive cut between two members for a whole one: look for the closing zeros.
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(512) != bytes(512):
            raise tarfile.ReadError("its end is missing")
        while tar.fileobj.read(2**20):  # to the end of a compressed one, where its own check is
            pass


def _check_path(path: Path, name: str) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or ":" in name[:2]:
        raise _refused(path, name, "leads out of the archive")


def _check_size(path: Path, name: str, size: int, total: int) -> int:
    if size > _MEMBER_BYTES:
        raise _refused(path, name, f"says it has {size} bytes, more than {_MEMBER_BYTES}")
    if total + size > _TOTAL_BYTES:
        raise InputError(f"{path} says it holds more than {_TOTAL_BYTES} bytes: refused, nothing was written")
    return total + size


def _refused(path: Path, name: str, why: str) -> InputError:
    return InputError(f"{path}: its member {name!r} {why}: refused, nothing was written; get the archive again")
