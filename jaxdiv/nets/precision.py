"""The precision of matrix products and convolutions: full, unless a user says otherwise.

Left alone, JAX multiplies float32 numbers as bfloat16 on a TPU and as TF32 on recent GPUs. Embeddings then move by
some percent and meta-gradients by 16-19% (docs/performance.md). So the library's entry points compute at `highest`,
and keep what a user chose with `jax.default_matmul_precision`. Products deeper down name no precision: they follow.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import jax

_P = ParamSpec("_P")
_T = TypeVar("_T")


def default_precision() -> str | None:
    """The precision of products that name none, as `jax.default_matmul_precision` calls it; None: the platform's."""
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def full_precision(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """`function` at `highest`, where the user has chosen no precision."""
    at_highest = always_full_precision(function)

    @wraps(function)
    def unless_chosen(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return (function if default_precision() is not None else at_highest)(*args, **kwargs)

    return unless_chosen


def always_full_precision(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """`function` at `highest`, whatever the user has chosen."""

    @wraps(function)
    def at_highest(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return at_highest
