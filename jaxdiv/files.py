"""Files that are whole or not there: replaced at once, by one process at a time, with one line for a full disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxdiv.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: one process at a time is the user's care there
    fcntl = None  # type: ignore[assignment]


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
