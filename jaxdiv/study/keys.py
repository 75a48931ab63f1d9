"""Keys of a study's random draws."""

import zlib
from typing import Any

import jax
from jaxtyping import PRNGKeyArray


def key_for(seed: int, *purpose: Any) -> PRNGKeyArray:
    """A key for one purpose: the same in every run, and no two purposes share a draw."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32("/".join(map(str, purpose)).encode()))
