"""A user's mistake: one clear line, and the nearest name that exists.

The library's messages name its arguments, in backticks; `study.flags.in_flags` makes them the command's flags.
"""

import difflib
import operator
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

MOST_RATE = 3e38  # of learning rates and the like: more is infinite in float32
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: what is wrong, where, and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {visible(str(self))}"]


class Damage(UserWarning):
    """Something on the disk is not what was written there, and is made again. The message is one line."""


def damage_in_one_line() -> None:
    """From now on a warning of `Damage` is printed each time, as one line without a place in the code."""
    usual = warnings.formatwarning

    def line(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> str:
        return (
            f"warning: {visible(str(message))}\n"
            if issubclass(category, Damage)
            else usual(message, category, *rest, **more)
        )

    warnings.formatwarning = line
    warnings.filterwarnings("always", category=Damage)


def unknown(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """The error for a `name` that is none of `valid`, naming the nearest ones first."""
    valid = sorted(valid)
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return InputError(f"unknown {kind} {name!r}: {hint}valid: {', '.join(valid)}")


def check_known(kind: str, name: str, valid: Iterable[str]) -> None:
    """Raise InputError (`unknown`) where `name` is none of `valid`."""
    if name not in (valid := tuple(valid)):
        raise unknown(kind, name, valid)


def at_least(least: int, **given: Any) -> None:
    """Raise InputError for an argument, given by its name, that is no whole number of at least `least`."""
    for name, value in given.items():
        try:
            fits = operator.index(value) >= least
        except TypeError:
            fits = False
        if not fits:
            raise InputError(f"`{name}` is {value!r}: it must be a whole number, at least {least}")


def within(least: float, below: float, **given: Any) -> None:
    """Raise InputError for an argument, given by its name, that is no finite number in [least, below)."""
    for name, value in given.items():
        try:
            fits = least <= float(value) < below
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise InputError(f"`{name}` is {value!r}: it must be a number, at least {least} and below {below}")


def visible(text: str) -> str:
    """Text from a file or a name in which no character steers a terminal: they are shown as escapes, `\\x1b`."""
    return "".join(each if each in "\n\t" or not _steers(each) else ascii(each)[1:-1] for each in text)


def _steers(character: str) -> bool:
    # Control characters, and those that turn the direction of the text that follows.
    return unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in _TURNING


def some(items: Sequence[str], most: int = 3) -> str:
    """The first few, and how many more there are."""
    return ", ".join(items[:most]) + (f", and {len(items) - most} more" if len(items) > most else "")
