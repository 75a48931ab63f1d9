"""What a data set's files hold, as one hash: each file is read once, and again only when its size or a time changed.

The hashes of files are kept in `cache_folder()/contents`. A file whose bytes change without a trace (same size, and
both its times set back, which takes a change of the machine's clock) is the one thing that is not seen.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxdiv.data.own.outline import Outline
from jaxdiv.download import cache_folder
from jaxdiv.errors import InputError
from jaxdiv.files import replacing
from jaxdiv.progress_bar import bar

_AT_ONCE = 1024  # files handed to the threads
# A file that changed so recently may change again within the same tick of the file system's clock.
_SETTLED_NS = 2 * 10**9
Known = dict[str, list[Any]]  # by a file's name: size, times, sha256


def of_set(path: str, outlined: Outline, progress: Callable[[float], None] | None = None) -> str:
    """The sha256 of the images that a user's set gives: their order, names, classes, splits and contents.

    Args:
      progress: called with the share done, 0..1; None: a bar in a terminal or a notebook.
    """
    root, items = outlined.found.path or Path(path), outlined.found.items
    names = [items[number].name for number in outlined.items]
    alone = root.is_dir() and all((root / name).is_file() for name in names)
    files = names if alone else _inside(root)
    contents = hashes(root if root.is_dir() else root.parent, files, progress)
    whole = hashlib.sha256()
    split_of = dict(zip(outlined.names, outlined.split, strict=True))
    for number, name in zip(outlined.items, names, strict=True):
        of_class = items[number].of_class
        whole.update(f"{split_of[of_class]}\0{of_class}\0{name}\0{contents[name] if alone else ''}\n".encode())
    for name in () if alone else sorted(files):  # an archive, or a folder whose files are no single images
        whole.update(f"{contents[name]}\n".encode())
    return whole.hexdigest()


def of_file(path: Path) -> str:
    """The sha256 of a file; of one that is gone, what it was when it was last seen, "" if it never was."""
    if path.is_file():
        return hashes(path.parent, [path.name], lambda share: None)[path.name]
    known = _read(_record(path.parent))
    return known[path.name][-1] if path.name in known else ""


def hashes(root: Path, names: Sequence[str], progress: Callable[[float], None] | None = None) -> dict[str, str]:
    """The sha256 of each of the files `names` in the folder `root`.

    Raises:
      InputError: a file that cannot be read.
    """
    record = _record(root)
    known = _read(record)
    found: Known = {}
    changed = []
    try:
        for name in names:
            seen = _stat(root / name)
            if name in known and known[name][:-1] == seen:
                found[name] = known[name]
            else:
                changed.append(name)
        if changed:
            with bar(f"reading {root.name}", progress) as report, ThreadPoolExecutor() as pool:
                for start in range(0, len(changed), _AT_ONCE):
                    some = changed[start : start + _AT_ONCE]
                    found |= zip(some, pool.map(lambda name: _hashed(root / name), some), strict=True)
                    report((start + len(some)) / len(changed))
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read ({error.strerror or error})") from None
    if changed:
        _write(record, {**known, **found} if len(names) == 1 else found)
    return {name: found[name][-1] for name in names}


def _hashed(path: Path) -> list[Any]:
    before = _stat(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    settled = time.time_ns() - max(before[1:]) > _SETTLED_NS and _stat(path) == before
    return [*(before if settled else (0, 0, 0)), found]


def _stat(path: Path) -> list[int]:
    """Size, and when its content and its entry in the file system last changed: no program can set the last back."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _inside(root: Path) -> list[str]:
    if root.is_file():
        return [root.name]
    return [str(file.relative_to(root)) for file in sorted(root.rglob("*")) if file.is_file()]


def _record(root: Path) -> Path | None:
    """Where the hashes of the files in `root` are kept; None where there is no place for them."""
    try:
        return cache_folder() / "contents" / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.json"
    except InputError:
        return None


def _read(record: Path | None) -> Known:
    try:
        return json.loads(record.read_text()) if record else {}
    except (OSError, ValueError):
        return {}


def _write(record: Path | None, known: Mapping[str, Iterable[Any]]) -> None:
    """Keep the hashes; where they cannot be, files are read again the next time."""
    try:
        if record:
            record.parent.mkdir(parents=True, exist_ok=True)
            with replacing(record) as temporary:
                temporary.write_text(json.dumps(known))
    except OSError:
        pass
