"""Seals: how a result on disk is known to be what was written, by the checksums of its values, arrays and files.

A file's seal is its size, the times of its last change, and the sha256 of its content. While size and times are the
same, the content is taken to be: a large table is not read at every start. Where they differ, as after a copy, it is
read once, and the hash is kept for the next time (`data.own.fingerprint`). `thorough` reads every file.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiv.data.own import fingerprint
from jaxdiv.errors import InputError

_SEAL = "seal"  # the field of a record that has the sha256 of its others


def of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of JSON values with its seal."""
    return {**record, _SEAL: _sha256(record)}


def read_record(file: Path) -> dict[str, Any]:
    """A record that is as it was written; empty where there is none, or another."""
    try:
        found = file.stat()
        return _parsed(file, (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino))
    except OSError:
        return {}


# A plan asks for the same record many times: once for its unit, and once for each unit that needs its result.
@lru_cache(maxsize=2**16)
def _parsed(file: Path, state: tuple[int, ...]) -> dict[str, Any]:
    return _opened(read_json(file))


def record_in(data: bytes) -> dict[str, Any]:
    """The record in a file's bytes; empty where it is not as it was written."""
    return _opened(_json(data))


def _opened(record: dict[str, Any]) -> dict[str, Any]:
    return record if record.pop(_SEAL, None) == _sha256(record) else {}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    try:
        return _json(file.read_bytes())
    except OSError:
        return {}


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def of_values(values: Any, arrays: Mapping[str, np.ndarray]) -> str:
    """The sha256 of what a result says: its values (JSON) and arrays, however and whenever they were written."""
    return _sha256([values, {name: of_array(array) for name, array in arrays.items()}])


def of_array(array: np.ndarray) -> str:
    """The sha256 of an array's type, shape and elements."""
    found = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    found.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return found.hexdigest()


def of_files(folder: Path, names: Iterable[str]) -> dict[str, list[Any]]:
    """The seals of the files `names` in `folder`, and of all files in those of them that are folders."""
    seals = {}
    for name in names:
        path = folder / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                seals[file.relative_to(folder).as_posix()] = [*_state(file), _hash(file)]
    return seals


def broken(folder: Path, seals: Mapping[str, list[Any]], thorough: bool = False) -> list[str]:
    """What is wrong with the files of `folder`, in lines; none where they are as they were sealed."""
    found, touched = [], []
    for name, (*state, _) in seals.items():
        try:
            now = _state(folder / name)
        except OSError:
            found.append(f"{name} is missing")
            continue
        if now[0] != state[0]:
            found.append(f"{name} has {now[0]} bytes instead of {state[0]}")
        elif thorough or now != state:
            touched.append(name)
    try:
        hashes = {name: _hash(folder / name) for name in touched} if thorough else _kept_hashes(folder, touched)
    except (OSError, InputError) as error:
        return [*found, str(error)]
    return [*found, *(f"{name} has changed" for name in touched if hashes[name] != seals[name][-1])]


def _kept_hashes(folder: Path, names: list[str]) -> dict[str, str]:
    return fingerprint.hashes(folder, names, lambda share: None) if names else {}


def _state(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sha256(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
