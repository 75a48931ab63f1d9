"""The user's data sets as the configuration names them: its section `datasets`, and the short form `images`."""

import ast
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxdiv.data import prepare, registry
from jaxdiv.data.own import names as own
from jaxdiv.data.own.found import OwnSet
from jaxdiv.errors import InputError
from jaxdiv.study.flags import in_flags

FIELDS = tuple(each.name for each in fields(OwnSet))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")  # it becomes part of file names


@contextmanager
def in_flags_of(name: str, split_file: str = "") -> Iterator[None]:
    """Inside, an InputError speaks of the flags of the data set `name` instead of the fields of `OwnSet`; of that of
    all sets where there is one `split_file` for them."""
    flags = {f"OwnSet.{field}": f"--config.datasets.{name}.{field}" for field in FIELDS}
    if split_file:
        flags["OwnSet.split"] = "--config.data.split.file"
    with in_flags(**flags):
        yield


def check_workdir(own: Mapping[str, OwnSet], workdir: Path) -> None:
    """Raise InputError for a workdir inside a user's data set, whose images its own would become."""
    for name, each in own.items():
        folder = Path(each.path).resolve()
        if folder.is_dir() and (folder == workdir.resolve() or folder in workdir.resolve().parents):
            raise InputError(f"--workdir {workdir} is inside the images of {name} ({folder}): choose a folder outside")


def read(datasets: Any, images: str) -> dict[str, OwnSet]:
    """Every data set of the user's by its name: those of `datasets`, then those of `images` in the order given.

    Raises:
      InputError: a name that cannot be one; a field that does not exist, is missing or of another type.
    """
    if not isinstance(datasets, Mapping):
        raise InputError(f"--config.datasets is {datasets!r}: give each set by its name, {{'birds': {{'path': DIR}}}}")
    found = {name: _own_set(name, given) for name, given in datasets.items()}
    lower = {name.lower(): name for name in found}
    with in_flags():
        short = own.parse(images, lambda name: name.lower() in lower or _is_taken(name))
    with in_flags(**{"OwnSet.path": "--config.images"}):
        return {**found, **{name: _checked(OwnSet(path)) for name, path in short.items()}}


def _own_set(name: Any, given: Any) -> OwnSet:
    flag = f"--config.datasets.{name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"{flag}: a name must be at most 60 letters, digits, '.', '_' or '-', a letter or digit first")
    if _is_taken(name):
        raise InputError(f"{flag}: the name {name!r} already means a benchmark: choose another one")
    if isinstance(given, str):  # only its path
        given = {"path": given}
    if not isinstance(given, Mapping):
        raise InputError(f"{flag} is {given!r}: give its fields, {{'path': DIR}}")
    for field in given:
        if field not in FIELDS:
            raise _no_field(name, field)
    if not given.get("path"):
        raise InputError(f"{flag}.path is missing: give the folder or archive of its images")
    own = OwnSet(**{field: _value(f"{flag}.{field}", field, value) for field, value in given.items()})
    with in_flags_of(name):
        return _checked(own)


def _checked(own: OwnSet) -> OwnSet:
    return prepare.DataSettings(own={"": own}).own_set("")


def _value(flag: str, field: str, value: Any) -> Any:
    """A field's value of its type: text, or numbers or texts in tuples."""
    default = {each.name: each.default for each in fields(OwnSet)}[field]
    value = _tuples(value)
    if field == "normalisation":
        return value
    if not isinstance(default, tuple):
        if not isinstance(value, str):
            raise InputError(f"{flag} is {value!r}: it must be text")
        return value
    kind, what = (str, "texts") if default else (int | float, "numbers")
    if not isinstance(value, tuple) or not all(isinstance(each, kind) for each in value):
        raise InputError(f"{flag} is {value!r}: it must be a list of {what}")
    if default and len(value) != len(default):
        raise InputError(f"{flag} is {value!r}: it must have {len(default)} {what}, as {default!r}")
    return value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _is_taken(name: str) -> bool:
    return name == "all" or registry.is_known(name)


def _no_field(name: str, field: Any) -> InputError:
    near = difflib.get_close_matches(str(field), FIELDS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown field --config.datasets.{name}.{field}: {hint}valid: {', '.join(FIELDS)}")


def with_flags(config: ConfigDict, given: Sequence[tuple[str, str, str]]) -> None:
    """Set what `split_flags` took out of the command line.

    Raises:
      InputError: the configuration has no section for it.
    """
    if given and not isinstance(config.get("datasets"), ConfigDict):
        name, field, _ = given[0]
        raise InputError(f"--config.datasets.{name}.{field}: the configuration's `datasets` is no section of data sets")
    with config.unlocked():
        for name, field, value in given:
            old = config.datasets.get(name) or {}
            mine = {"path": old} if isinstance(old, str) else dict(old)
            with config.datasets.ignore_type():
                config.datasets[name] = {**mine, field: _literal(value)}


def _literal(value: str) -> Any:
    """What stands on the command line: a tuple where it looks like one, otherwise text."""
    if not value.startswith(("(", "[")):
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value
