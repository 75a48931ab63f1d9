"""Archives opened safely, member by member: a .zip, a .tar (also compressed) or a folder. Nothing is extracted."""

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from jaxdiv.errors import InputError

IMAGE_BYTES = 2**28  # more than any image that `decode` accepts, also without compression
# An archive may hold this much, or this many times its own size: images hardly shrink, zeros shrink a thousand times.
_TOTAL_BYTES = 2**32
_EXPANSION = 100
_PIECE = 2**20
# What Python can unpack piece by piece. Of bzip2 and LZMA inside a .zip it unpacks whatever there is, at once.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
# RuntimeError: a zip that is encrypted, or compressed in a way that Python does not know.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


@runtime_checkable
class Readable(Protocol):
    """What `members` gives for a member."""

    def read(self, size: int = -1) -> bytes: ...

    def readline(self) -> bytes: ...


def members(
    path: Path, wanted: Callable[[str], bool], expected: str, most: int = IMAGE_BYTES
) -> Iterator[tuple[str, Readable]]:
    """The name and content of every regular file whose name is `wanted`, in the order of the archive.

    A member is to be read before the next one is asked for. Names have `/` between folders, however the archive has
    them.

    Args:
      expected: what should be there, for the error message: "Omniglot as omniglot_png.zip, a folder per class".
      most: the bytes that a wanted file may have; reading stops there, whatever the archive says of it.

    Raises:
      InputError: truncated, damaged, encrypted or no archive; a member whose path leads out of the archive, that is a
        link or a device; a wanted one that is larger than `most` or is there twice; more in all than archives of
        images hold. Archives behind one another in one file are read whole (.tar) or refused (.zip).
    """

    def broken(error: BaseException) -> InputError:
        reason = str(error).partition("\n")[0].rstrip(":")
        return InputError(
            f"{path} cannot be read ({reason}): it is truncated or no .zip or .tar archive; expected {expected}"
        )

    seen: set[str] = set()
    try:
        for name, size, file in _open(path, wanted):
            if size > most:
                raise _refused(path, name, f"has {size} bytes, more than {most}")
            if name in seen:
                raise InputError(f"{path} holds {name!r} twice: extract it, and give the folder")
            seen.add(name)
            yield name, _Member(file, most, broken, _refused(path, name, f"has more than {most} bytes"))
    except _BROKEN as error:
        raise broken(error) from None


class _Member:
    """A member's content, no more than `most` bytes of it, whose errors are the archive's."""

    def __init__(self, file: Any, most: int, broken: Callable[[BaseException], InputError], too_large: InputError):
        self._file = file
        self._left = most
        self._broken = broken
        self._too_large = too_large

    def read(self, size: int = -1) -> bytes:
        # Asked for all at once, zipfile unpacks all at once, before it looks at how much there should be.
        pieces = []
        while size and (piece := self._counted(self._file.read, _PIECE if size < 0 else min(size, _PIECE))):
            pieces.append(piece)
            size -= len(piece) if size > 0 else 0
        return b"".join(pieces)

    def readline(self) -> bytes:
        return self._counted(self._file.readline, _PIECE)

    def _counted(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            content = read(size)
        except _BROKEN as error:
            raise self._broken(error) from None
        self._left -= len(content)
        if self._left < 0:
            raise self._too_large
        return content


def _open(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, int, Any]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if wanted(name) and file.is_file():
                with file.open("rb") as content:
                    yield name, file.stat().st_size, content
        return
    with path.open("rb") as raw:
        # Not `is_zipfile`, which takes a .tar for the .zip that is its last member.
        zipped = raw.read(4) in (b"PK\3\4", b"PK\5\6")
    yield from (_open_zip if zipped else _open_tar)(path, wanted)


def _open_zip(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, int, Any]]:
    total, most = 0, _most(path)
    with zipfile.ZipFile(path) as archive:
        if min((entry.header_offset for entry in archive.infolist()), default=0) > 0:
            raise InputError(
                f"{path} has something before its first member, as two archives in one file: give each alone"
            )
        for entry in archive.infolist():
            name = _checked(path, entry.filename.replace("\\", "/"))  # the backslashes of Windows' tools
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise _refused(path, name, "is a link")
            total = _added(path, total, entry.file_size, most)
            if entry.filename.endswith(("/", "\\")) or not wanted(name):
                continue
            if entry.compress_type not in _ZIP_METHODS and not entry.flag_bits & 1:  # encrypted: zipfile says so
                raise _refused(path, name, "is packed by another method than deflate")
            with archive.open(entry) as content:
                yield name, entry.file_size, content


def _open_tar(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, int, Any]]:
    total, most = 0, _most(path)
    start: int | None = 0
    with _unpacked(path) as stream:
        while start is not None:  # an archive, and each that follows it: `cat a.tar b.tar`
            stream.seek(start)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # which would grow with the archive
                    name = _checked(path, member.name)
                    if not (member.isfile() or member.isdir()):
                        raise _refused(path, name, "is a link or a device")
                    total = _added(path, total, member.size, most)
                    if member.isfile() and wanted(name):
                        yield name, member.size, tar.extractfile(member)
                end = tar.offset
            # tarfile takes an archive cut between two members, or a damaged header, for the end: look for its zeros.
            stream.seek(end)
            if stream.read(512) != bytes(512):
                raise tarfile.ReadError("its end is missing, or something else follows")
            start = _next(stream, end + 512)


def _next(stream: Any, at: int) -> int | None:
    """Where the next archive begins: the first block from `at` that is not zeros. None: the file ends, which is read to
    the end, where a compressed one has its own check."""
    while block := stream.read(512):
        if block.strip(b"\0"):
            return at
        at += len(block)
    return None


@contextmanager
def _unpacked(path: Path) -> Iterator[Any]:
    with path.open("rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        unpack = next((unpack for magic, unpack in _COMPRESSED.items() if head.startswith(magic)), None)
        if unpack is None:
            yield _Pieces(raw)
        else:
            with unpack(raw) as stream:
                yield _Pieces(stream)


class _Pieces:
    """A file that is read in pieces only: tarfile asks for a header's extension at whatever size it claims."""

    def __init__(self, file: Any):
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, lambda: None

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _PIECE:
            raise tarfile.ReadError("a header of more than a megabyte")
        return self._file.read(size)


def _checked(path: Path, name: str) -> str:
    """A member's name without `./`, of which none leads out of the archive."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\\" in name or ":" in name[:2]:
        raise _refused(path, name, "leads out of the archive")
    return str(inside)


def _most(path: Path) -> int:
    """The bytes that an archive may hold."""
    return max(_TOTAL_BYTES, _EXPANSION * path.stat().st_size)


def _added(path: Path, total: int, size: int, most: int) -> int:
    if total + size > most:
        raise InputError(f"{path} says it holds more than {most} bytes: refused, nothing was written")
    return total + size


def _refused(path: Path, name: str, why: str) -> InputError:
    return InputError(f"{path}: its member {name!r} {why}: refused, nothing was written; get the archive again")
