"""PyTorch's files as NumPy arrays, without PyTorch and without running what a pickle asks to run.

A pickle is a program. Here it may call four things only, and none of them does more than note what a tensor is: which
storage, where in it, what shape. Whatever else it names (an optimizer's class, `argparse.Namespace`, `os.system`) is
never looked up: an empty thing of that name takes its place. So a training checkpoint gives its tensors and no more.
"""

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxdiv.errors import InputError, some

_MAGIC = 0x1950A86A20F9469CFC6C  # what files of PyTorch before 1.6 begin with
_PICKLE_BYTES = 2**26  # the pickle notes names and shapes: 100 kB for a ResNet-50
_TOTAL_BYTES = 2**33
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
_MODULE_PARTS = {"_parameters", "_buffers", "_modules"}  # of a whole module, saved with its class


class _Kind(NamedTuple):
    """A class of storages by its name. Not its dtype: a pickle may set the state of what it is given."""

    name: str


class _Storage(NamedTuple):
    kind: str
    key: str
    numel: int

    @property
    def dtype(self) -> np.dtype:
        return _STORAGES[self.kind]

    @property
    def size(self) -> int:
        return self.numel * self.dtype.itemsize


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Inert(dict):
    """What stands for whatever a pickle names: takes all that a pickle does to an object, and does nothing."""

    state: Any = None
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__

    def __init__(self, *_: Any, **__: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...


class _MakeTensor:
    """`torch._utils._rebuild_tensor_v2`. An object without attributes: a pickle may set those of what it is given."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor | None:
        if type(storage) is not _Storage or len(shape) != len(strides) or len(shape) > 32:
            return None
        numbers = (offset, *shape, *strides)
        if not all(type(number) is int and abs(number) < 2**62 for number in numbers):
            return None
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _MakeParameter:
    """`torch._utils._rebuild_parameter`: its tensor."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        return tensor


_MAKERS = {
    "_rebuild_tensor": _MakeTensor,
    "_rebuild_tensor_v2": _MakeTensor,
    "_rebuild_parameter": _MakeParameter,
    "_rebuild_parameter_with_state": _MakeParameter,
}


class _Unpickler(pickle.Unpickler):
    """Builds `_Tensor` notes, and `_Inert` things for all else. `storages` are those that were named, by their keys."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file, encoding="latin1")  # what Python 2 wrote
        self.storages: dict[str, _Storage] = {}
        self._inert: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in _MAKERS:
            return _MAKERS[name]()
        if module == "torch" and name in _STORAGES:
            return _Kind(name)
        # A class for each file: whatever its pickle makes of it ends with it.
        return self._inert.setdefault(f"{module}.{name}", type(f"{module}.{name}", (_Inert,), {}))

    def persistent_load(self, pid: Any) -> Any:
        if type(pid) is not tuple or len(pid) < 2 or pid[0] not in ("storage", "module"):
            raise InputError("its pickle refers to something that is no storage of a tensor")
        if pid[0] == "module":  # a class, with its source
            return pid[1]
        kind, key, numel = pid[1], pid[2], pid[4]
        if type(kind) is not _Kind or type(key) is not str or type(numel) is not int or not 0 <= numel < 2**40:
            return None
        self.storages[key] = _Storage(kind.name, key, numel)
        return self.storages[key] if len(pid) < 6 or pid[5] is None else None  # or a view, as PyTorch 0.1 had


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Every tensor that has a name in a file of `torch.save`: of a state dict, a training checkpoint or a whole module.

    Names inside one another are joined by dots: `state_dict.module.conv1.weight`. What has no name, as the tensors of
    an optimizer, is left out. Both formats are read, the zip one and that of PyTorch before 1.6.

    Raises:
      InputError: a file that is truncated, holds no tensors by name, or would take more memory than its own size.
    """
    try:
        with path.open("rb") as file:
            # Not `is_zipfile`, which also finds an archive at the end of something else.
            tensors, stored = _read_zip(file) if file.read(4) == b"PK\3\4" else _read_legacy(file)
        return {name: _array(name, tensor, stored) for name, tensor in tensors.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    # What an unpickler raises on bytes that are no pickle is not limited to its own error.
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"{path}: truncated, or no file of torch.save ({reason or type(error).__name__})") from None


def _read_zip(file: io.BufferedIOBase) -> tuple[dict[str, _Tensor], Mapping[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        root = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
        if root is None:
            raise InputError(f"a zip archive of {some(names)}, without the data.pkl of torch.save")

        def read(name: str, size: int) -> bytes:
            entry = archive.getinfo(f"{root}{name}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise InputError(f"its member {name!r} is compressed, as torch.save never does: refused")
            if entry.file_size > size:
                raise InputError(f"its member {name!r} has {entry.file_size} bytes, more than the {size} that it may")
            return archive.read(entry)

        order = read("byteorder", 99) if f"{root}byteorder" in names else b"little"
        if order != b"little":
            raise InputError(f"its numbers are {order.decode(errors='replace')}-endian: save it on a common machine")
        loaded, _ = _load(io.BytesIO(read("data.pkl", _PICKLE_BYTES)))
        tensors = _checked(_state_dict(loaded), file)
        return tensors, {t.storage.key: read(f"data/{t.storage.key}", t.storage.size) for t in tensors.values()}


def _read_legacy(file: io.BufferedIOBase) -> tuple[dict[str, _Tensor], Mapping[str, bytes]]:
    file.seek(0)
    head = io.BytesIO(file.read(_PICKLE_BYTES))
    if _load(head)[0] != _MAGIC:
        raise InputError("no file of torch.save")
    _load(head)  # the format's version
    _load(head)  # the machine that wrote it
    loaded, storages = _load(head)
    keys, _ = _load(head)
    tensors = _checked(_state_dict(loaded), file)
    file.seek(head.tell())
    used = {tensor.storage.key for tensor in tensors.values()}
    stored = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storage = storages[key]
        if count != storage.numel:
            raise InputError(f"storage {key} holds {count} numbers, not {storage.numel}")
        if key in used:
            stored[key] = file.read(storage.size)
        else:
            file.seek(storage.size, io.SEEK_CUR)
    return tensors, stored


def _load(file: io.BufferedIOBase) -> tuple[Any, dict[str, _Storage]]:
    """The next pickle of a file, and the storages that it names."""
    start = file.tell()
    for number, (code, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        # An unpickler gets memory for as many notes as the largest number of one says.
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > number:
            raise InputError("its pickle asks for memory that it does not use: refused")
    file.seek(start)
    unpickler = _Unpickler(file)
    return unpickler.load(), unpickler.storages


def _state_dict(loaded: Any) -> dict[str, _Tensor]:
    found: dict[str, _Tensor] = {}
    for name, value in _named("", loaded, 0, set()):
        if name in found:
            raise InputError(f"it holds {name[:80]!r} twice")
        if name:
            found[name] = value
    if not found:
        raise InputError(f"it holds {_description(loaded)}, and no tensors by name: save the model's state dict")
    return found


def _named(name: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, _Tensor]]:
    """The tensors inside `value` and their names; what is there more than once, or in itself, is looked at once."""
    if type(value) is _Tensor:
        yield name, value
    if (not isinstance(value, dict) and type(value) not in (list, tuple)) or id(value) in seen or depth > 40:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        parts = dict(dict.items(value))  # a pickle may have set an attribute `items`
        if isinstance(value, _Inert) and isinstance(value.state, dict):
            parts |= dict(dict.items(value.state))
    else:
        parts = {str(number): part for number, part in enumerate(value) if isinstance(part, dict)}
    for key, part in parts.items():
        if type(key) is str:
            inside = name if key in _MODULE_PARTS else f"{name}.{key}" if name else key
            yield from _named(inside, part, depth + 1, seen)


def _description(loaded: Any) -> str:
    kind = lambda value: f"{type(value).__name__}, not run" if isinstance(value, _Inert) else type(value).__name__
    if not isinstance(loaded, dict) or isinstance(loaded, _Inert):
        return f"a {kind(loaded)}"
    return some([f"{str(key)[:60]!r} ({kind(value)})" for key, value in dict.items(loaded) if type(key) in (str, int)])


def _checked(tensors: dict[str, _Tensor], file: io.BufferedIOBase) -> dict[str, _Tensor]:
    """The tensors: none is outside its storage, and together they take no more memory than the file is large."""
    for name, (storage, offset, shape, strides) in tensors.items():
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        outside = max(last + 1, prod(shape)) > storage.numel and prod(shape) > 0
        if min(offset, *shape, *strides, 0) < 0 or outside:
            raise InputError(f"{name} is outside its storage")
    stored = sum({tensor.storage.key: tensor.storage.size for tensor in tensors.values()}.values())
    size = file.seek(0, io.SEEK_END)
    if stored > min(size, _TOTAL_BYTES):
        raise InputError(f"truncated: its tensors have {stored} bytes, the file {size}")
    shown = sum(prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values())
    if shown > 4 * stored:
        raise InputError(f"its tensors show {stored} bytes as {shown}: refused")
    return tensors


def _array(name: str, tensor: _Tensor, stored: Mapping[str, bytes]) -> np.ndarray:
    dtype = tensor.storage.dtype
    data = stored[tensor.storage.key]
    if len(data) != tensor.storage.size:
        raise InputError(f"truncated: {name} has {len(data)} of {tensor.storage.size} bytes")
    if prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, dtype)
    numbers = np.frombuffer(data, dtype)[tensor.offset :]
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)
