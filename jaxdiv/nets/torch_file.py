"""PyTorch's .pth files as NumPy arrays, without PyTorch and without running what a pickle asks to run.

A pickle is a program. Here it may call five things only, and none of them does more than note what a tensor is: which
storage, where in it, what shape. Anything else that it names is refused before it is looked up.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from jaxdiv.errors import InputError

_MAGIC = 0x1950A86A20F9469CFC6C  # what files of PyTorch before 1.6 begin with
_STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    numel: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict saved by `torch.save`, in the zip format or that of PyTorch before 1.6.

    Raises:
      InputError: a file that is truncated, holds anything besides tensors by name, or names in its pickle anything that
        is no part of a tensor; nothing of it is executed.
    """
    try:
        with path.open("rb") as file:
            tensors, stored = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
        return {name: _array(name, tensor, stored) for name, tensor in tensors.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    # What an unpickler raises on bytes that are no pickle is not limited to its own error.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: truncated, or no file of torch.save ({reason or type(error).__name__})") from None


def _read_zip(file: BinaryIO) -> tuple[dict[str, _Tensor], Mapping[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        root = next(name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl"))
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
        if order != b"little":
            raise InputError(f"its numbers are {order.decode(errors='replace')}-endian: save it on a common machine")
        tensors = _state_dict(_Unpickler(io.BytesIO(archive.read(f"{root}data.pkl"))).load())
        return tensors, {t.storage.key: archive.read(f"{root}data/{t.storage.key}") for t in tensors.values()}


def _read_legacy(file: BinaryIO) -> tuple[dict[str, _Tensor], Mapping[str, bytes]]:
    file.seek(0)
    if _Unpickler(file).load() != _MAGIC:
        raise InputError("no file of torch.save")
    _Unpickler(file).load()  # the format's version
    _Unpickler(file).load()  # the machine that wrote it
    tensors = _state_dict(_Unpickler(file).load())
    sizes = {t.storage.key: t.storage for t in tensors.values()}
    stored = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        storage = sizes[key]
        if count != storage.numel:
            raise InputError(f"storage {key} holds {count} numbers, not {storage.numel}")
        stored[key] = file.read(count * storage.dtype.itemsize)
    return tensors, stored


class _Unpickler(pickle.Unpickler):
    """Builds `_Tensor` notes; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, requires_grad, hooks: tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise InputError(
            f"its pickle asks for {module}.{name}, which is no part of a tensor: refused, nothing of it was run; save "
            f"the state dict alone"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, numel = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype) or (len(pid) > 5 and pid[5] is not None):
            raise InputError(f"its pickle refers to {str(pid)[:80]}, which is no storage of a tensor")
        return _Storage(dtype, str(key), int(numel))


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise InputError("its pickle makes a tensor of something that is no storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _state_dict(loaded: Any) -> dict[str, _Tensor]:
    if isinstance(loaded, dict) and len(loaded) == 1 and isinstance(inner := next(iter(loaded.values())), dict):
        loaded = inner  # {"model": ...}, as DeiT's
    if not isinstance(loaded, dict):
        raise InputError(f"it holds a {type(loaded).__name__}, not a state dict (tensors by name)")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise InputError(
                f"entry {name!r} is a {type(value).__name__}, not a tensor: save the model's state dict alone"
            )
    return dict(loaded)


def _array(name: str, tensor: _Tensor, stored: Mapping[str, bytes]) -> np.ndarray:
    dtype = tensor.storage.dtype
    data = stored[tensor.storage.key]
    if len(data) != tensor.storage.numel * dtype.itemsize:
        raise InputError(f"truncated: {name} has {len(data)} of {tensor.storage.numel * dtype.itemsize} bytes")
    numbers = np.frombuffer(data, dtype)
    if prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, dtype)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0 or max(last + 1, prod(tensor.shape)) > len(numbers):
        raise InputError(f"{name} is outside its storage")
    strides = [s * dtype.itemsize for s in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides).copy()
