"""Objects in a store that fsspec knows: read, written and listed, with one kind of error for all backends; and a lease
that is one of them."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from jaxdiv.errors import InputError
from jaxdiv.study import lease

SETTLES = 2.0  # seconds after which a lease is read again, for stores that cannot create an object only if it is absent
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}  # of jaxdiv, by the scheme


class Store:
    """The objects under an address, by their names there. Every method raises FileNotFoundError for what is not there,
    and lease.Unreachable with one line for all that a backend may raise.

    Raises:
      InputError: fsspec does not know the address, or its package for it is missing.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        scheme = address.partition("://")[0]
        # A listing that fsspec kept would not show what other machines wrote since.
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if scheme in ("file", "local"):
            options["auto_mkdir"] = True
        try:
            self._fs: AbstractFileSystem
            self._fs, self._root = url_to_fs(self.address, **options)
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            how = f"pip install 'jaxdiv[{extra}]'" if extra else one_line(error)
            raise InputError(f"--workdir is {address!r}, and what reads {scheme}:// is not installed: {how}") from None
        except Exception as error:  # every backend has errors of its own, for credentials for one
            raise InputError(f"--workdir is {address!r}, which cannot be used: {one_line(error)}") from None
        # gcsfs logs each try with its traceback; what is wrong in the end is in the error.
        logging.getLogger(type(self._fs).__module__.partition(".")[0]).setLevel(logging.CRITICAL)

    def sizes(self, under: str = "") -> dict[str, int]:
        """The bytes of each object under a name; none where there are none."""
        with self._reached():
            try:
                found = self._fs.find(self._path(under), detail=True)
            except FileNotFoundError:
                return {}
        start = len(self._fs._strip_protocol(self._root)) + 1
        return {path[start:]: int(entry["size"] or 0) for path, entry in found.items()}

    def read(self, name: str) -> bytes:
        with self._reached():
            return self._fs.cat_file(self._path(name))

    def read_if_there(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return self.read(name)
        return None

    def get(self, files: Mapping[str, Path]) -> None:
        with self._reached():
            self._fs.get([self._path(name) for name in files], [str(file) for file in files.values()])

    def put(self, files: Mapping[str, Path]) -> None:
        with self._reached():
            self._fs.put([str(file) for file in files.values()], [self._path(name) for name in files])

    def write(self, name: str, data: bytes, new: bool = False) -> None:
        """new: only if there is no such object, otherwise FileExistsError, where the backend can do that."""
        with self._reached():
            if new:
                self._fs.pipe_file(self._path(name), data, mode="create")
            else:
                self._fs.pipe_file(self._path(name), data)

    def remove(self, names: list[str]) -> None:
        """Remove objects, of which some may be gone already."""
        for name in names:
            with self._reached(), contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:  # botocore's, aiohttp's, google's: none of them is an OSError for sure
            raise lease.Unreachable(one_line(error)) from None


@dataclass(frozen=True)
class LeaseObject:
    """A lease in a store."""

    store: Store
    name: str

    @property
    def where(self) -> str:
        return self.store.address

    @property
    def settles(self) -> float:
        return SETTLES

    def read(self) -> str:
        return self.store.read(self.name).decode()

    def write(self, text: str, new: bool) -> None:
        self.store.write(self.name, text.encode(), new)

    def remove(self) -> None:
        self.store.remove([self.name])

    def guard(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def one_line(error: Exception) -> str:
    """An error's message on one line, or its name."""
    return " ".join(str(error).split())[:300] or type(error).__name__
