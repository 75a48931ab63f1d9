"""Files that are whole or not there: replaced at once, by one process at a time, with one line for a full disk."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxdiv.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: one process at a time is the user's care there
    fcntl = None  # type: ignore[assignment]


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_address(given: str) -> bool:
    """Whether a user gave an address like gs://BUCKET/NAME instead of a path."""
    return bool(_ADDRESS.match(given))


def local_path(given: str, argument: str) -> str:
    """A path that a user gave, with `~` as the home folder. `argument` is what it was given by, for the message.

    Raises:
      InputError: an address like gs://BUCKET, which nothing here can read; `~` where there is no home folder.
    """
    if is_address(given):
        raise InputError(
            f"{argument} is {given!r}: only files of this machine can be used; copy or mount it, and give its path"
        )
    path = os.path.expanduser(given)
    if path == given and (given == "~" or given.startswith("~/")):
        raise InputError(f"{argument} is {given!r}, but there is no home folder: set HOME, or give the whole path")
    return path


@contextmanager
def replacing(path: Path):
    """A temporary file beside `path` that takes its place when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path, argument: str) -> Iterator[None]:
    """One line for a disk that is full, or a folder that cannot be written. `argument` names another place."""
    try:
        yield
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error), argument) from None


@contextmanager
def unless_full(folder: Path, argument: str) -> Iterator[None]:
    """As `writing`, where much else may go wrong: one line for a full or read-only disk alone, whatever the error is
    that this led to. Other errors go on as they are."""
    try:
        yield
    except Exception as error:
        if reason := _refused(error, folder):
            raise _unwritable(folder, reason, argument) from None
        raise


_REFUSALS = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)]


def _refused(error: BaseException | None, folder: Path) -> str | None:
    """Why the disk refused to write, of an error and those that it came from. Orbax has the system's words in others
    of its own, and raises further ones while it closes."""
    while error is not None:
        for reason in _REFUSALS:
            if reason.lower() in str(error).lower():
                return reason
        if isinstance(error, PermissionError) and str(error.filename or "").startswith(str(folder)):
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def _unwritable(folder: Path, reason: str, argument: str) -> InputError:
    return InputError(
        f"{folder} cannot be written ({reason}): make room there, or set {argument} to another folder; nothing "
        f"half-written is kept"
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process makes `folder` meanwhile: who comes second waits. The lock of a killed process is free.

    Raises:
      InputError: the lock's file is a link or no file, which someone else put there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f".{folder.name}.lock")
    lock = _lock_file(file)
    try:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _lock_file(file: Path) -> int:
    """A descriptor of a lock's file. Nothing is written to it, and no link is followed: in a folder that others can
    write, it may lead to any file of the user's."""
    how = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        found = os.open(file, os.O_RDWR | os.O_CREAT | how, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{file} is a link, and must be a file of jaxdiv's own: remove it") from None
        raise
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise InputError(f"{file} is no file: remove it")
    return found
