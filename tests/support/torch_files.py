"""Files as torch.save writes them, without PyTorch."""

import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest


def zipped(pickled, storages=()):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("net/data.pkl", pickled)
        for key, content in storages:
            archive.writestr(f"net/data/{key}", content)
    return out.getvalue()


def pickled_with_torch(value):
    """`value` pickled as torch.save would: `Tensor`s below become calls of torch's own functions."""
    functions = types.ModuleType("torch._utils")
    torch = types.ModuleType("torch")

    def rebuild(*_):
        raise AssertionError("only its name is pickled")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    functions._rebuild_tensor_v2 = rebuild
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            is_storage = isinstance(item, tuple) and len(item) == 3 and item[0] == "storage"
            return ("storage", torch.FloatStorage, item[2], "cpu", item[1]) if is_storage else None

        def reducer_override(self, item):
            if isinstance(item, Tensor):
                return rebuild, (("storage", item.numel, item.key), item.offset, item.shape, item.strides, False, None)
            return NotImplemented

    out = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", functions)
        Pickler(out, protocol=2).dump(value)
    return out.getvalue()


class Tensor:
    def __init__(self, shape, strides, numel=6, offset=0, key="0"):
        self.shape, self.strides, self.numel, self.offset, self.key = shape, strides, numel, offset, key


def state_dict(tensors):
    """The bytes of a .pth file of float32 tensors, all in one storage."""
    flat = [np.ascontiguousarray(value, np.float32) for value in tensors.values()]
    numel = sum(value.size for value in flat)
    starts = np.cumsum([0, *(value.size for value in flat)])
    notes = {
        name: Tensor(value.shape, tuple(stride // 4 for stride in value.strides), numel, int(start))
        for name, value, start in zip(tensors, flat, starts, strict=False)
    }
    return zipped(pickled_with_torch(notes), [("0", b"".join(value.tobytes() for value in flat))])
