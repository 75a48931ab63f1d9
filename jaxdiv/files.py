"""Files that are whole or not there: replaced at once, by one process at a time, with one line for a full disk."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxdiv.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: one process at a time is the user's care there
    fcntl = None  # type: ignore[assignment]


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def local_path(given: str, argument: str) -> str:
    """A path that a user gave, with `~` as the home folder. `argument` is what it was given by, for the message.

    Raises:
      InputError: an address like gs://BUCKET, which nothing here can read; `~` where there is no home folder.
    """
    if _ADDRESS.match(given):
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
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}): make room there, or set {argument} to another "
            f"folder; nothing half-written is kept"
        ) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process makes `folder` meanwhile: who comes second waits. The lock of a killed process is free."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f".{folder.name}.lock")
    with file.open("w") as lock:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
