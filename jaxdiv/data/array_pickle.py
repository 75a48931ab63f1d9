"""Pickles of containers and NumPy arrays, read without the power to run code."""

import pickle
from typing import Any

import numpy as np

from jaxdiv.data.archives import Readable
from jaxdiv.errors import InputError


class _ArrayUnpickler(pickle.Unpickler):
    """Reads containers, numbers, strings and NumPy arrays, and calls nothing else that a pickle asks for."""

    def __init__(self, file: Any):
        super().__init__(file, encoding="latin1")  # what Python 2 wrote

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            # An empty array to be filled, of whatever shape the pickle asks for: no memory on its word.
            return lambda kind, shape, dtype: np.ndarray((0,), dtype)
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load_arrays(file: Readable, name: str) -> Any:
    """A pickle of containers and NumPy arrays, without the power to run code. InputError names the file."""
    try:
        return _ArrayUnpickler(file).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise InputError(f"{name} is no pickle of arrays that can be read safely ({error}): get it again") from None
