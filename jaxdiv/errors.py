"""A user's mistake: one clear line, and the nearest name that exists."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: what is wrong, where, and what to do."""


def unknown(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """The error for a `name` that is none of `valid`, naming the nearest ones first."""
    valid = sorted(valid)
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return InputError(f"unknown {kind} {name!r}: {hint}valid: {', '.join(valid)}")
