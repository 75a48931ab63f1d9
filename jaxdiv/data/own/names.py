"""Which of the user's data sets are given on the command line, and what each of them is called."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from jaxdiv.errors import InputError

_GIVEN = "`DataSettings.own`"
_LONGEST = 60  # characters of a name: it becomes part of file names
_ARCHIVE = re.compile(r"\.(npz|zip|tgz|tbz2?|txz|tar(\.(gz|bz2|xz))?)$", re.IGNORECASE)
_NAMED = re.compile(r"(tfds|hf):(?=.)")  # a data set by its name in place of a path


def parse(given: str, taken: Callable[[str], bool]) -> dict[str, str]:
    """The path of each of the user's data sets by its name, in the order given.

    Args:
      given: `DIR` or `NAME=DIR`, or several of these with commas between them, where DIR is any path of
        `OwnSet.path`. A comma or an equals sign inside a path that exists is part of the path.
      taken: whether a name already means another data set.

    A folder without a name is called by the last part of its path, in ASCII letters, digits, `.`, `_` and `-`; two such
    folders by as many parts as tell them apart (`2023/birds,2024/birds`: `2023-birds` and `2024-birds`).

    Raises:
      InputError: a name that is taken, given twice or not fit for a file, or a folder given twice.
    """
    sets = [_split(piece) for piece in _pieces(given)]
    named = [name for name, _ in sets if name]
    unnamed = [path for name, path in sets if not name]
    for name in named:
        if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST - 1}}}", name):
            raise InputError(
                f"{_GIVEN}: the name {name!r} must be at most {_LONGEST} letters, digits, '.', '_' or '-', a letter or "
                f"digit first"
            )
        if taken(name):
            raise InputError(f"{_GIVEN}: the name {name!r} already means a benchmark: choose another one")
    for what, values in (("name", [name.lower() for name in named]), ("folder", list(map(_whole, unnamed)))):
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise InputError(f"{_GIVEN} has the {what} {twice!r} twice: give each once")
    derived = iter(_names(unnamed, taken, named))
    return {name or next(derived): path for name, path in sets}


def _pieces(given: str) -> Iterator[str]:
    """What stands between commas; where a comma is part of a path that exists, the longest such path."""
    parts = given.split(",")
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((end for end in ends if os.path.exists(_split(",".join(parts[:end]).strip())[1])), 1)
        if piece := ",".join(parts[:end]).strip():
            yield piece
        del parts[:end]


def _split(piece: str) -> tuple[str, str]:
    """Its name ("" where it has none) and its path."""
    path = os.path.expanduser(piece)
    name, equals, rest = piece.partition("=")
    if os.path.exists(path) or not equals or not rest or "/" in name or os.sep in name:
        return "", path
    return name.strip(), os.path.expanduser(rest.strip())


def _is_name(path: str) -> bool:
    return bool(_NAMED.match(path)) and not os.path.exists(path)


def _whole(path: str) -> str:
    """`path` from the root on; of tfds:NAME, from NAME's whose it is."""
    return path.replace(":", "/") if _is_name(path) else os.path.abspath(path)


def _names(paths: Sequence[str], taken: Callable[[str], bool], used: Sequence[str]) -> list[str]:
    """A name for each of `paths`, different from each other, from `used` and from what is taken."""
    parts = [list(map(_plain, _ARCHIVE.sub("", _whole(path)).replace(os.sep, "/").split("/"))) for path in paths]
    parts = [[*filter(None, of_path[:-1]), of_path[-1] or "folder"] for of_path in parts]
    names = []
    for mine in parts:
        alike = [other for other in parts if other[-1].lower() == mine[-1].lower()]  # for some file systems a is A
        depths = range(1, max(map(len, alike)) + 1)
        apart = lambda depth, alike=alike: len({"-".join(part[-depth:]).lower() for part in alike}) == len(alike)
        names.append("-".join(mine[-next(filter(apart, depths), 1) :]))
    found: list[str] = []
    for name in names:
        name = name[:_LONGEST]
        base = f"{name}-images" if taken(name) else name
        others = {other.lower() for other in (*used, *found)}
        tries = (base if number == 1 else f"{base}-{number}" for number in range(1, len(paths) + len(used) + 2))
        found.append(next(name for name in tries if name.lower() not in others))
    return found


def _plain(text: str) -> str:
    """`text` without what could trouble a file system, a shell, LaTeX or a figure's font."""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", letters).strip("-._")
