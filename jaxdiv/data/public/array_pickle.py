"""Pickles of containers and NumPy arrays, read without the power to run code.

A pickle is a program. Here it may call six things only; none of them is looked up, and our own code does what each one
would: NumPy's own take a pickle's word for what is in memory (one changed byte in a dtype's state ended the
interpreter). Memory is bounded by the bytes that the file really has.
"""

import codecs
import pickle
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from jaxdiv.data.archives import Readable
from jaxdiv.errors import InputError

# Plain numbers of 1 to 8 bytes; their byte order comes apart from them.
_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_CALLS = {
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),  # how Python 3 writes bytes for Python 2
    ("builtins", "bytes"),  # and where there are none
    ("__builtin__", "bytes"),
}
_NAMES = _CALLS | {("numpy", "ndarray")}
_STEPS: dict[int, Any] = pickle._Unpickler.dispatch  # type: ignore[attr-defined]
_LONG = 1024  # bytes of a text beyond which it is nothing but an array's bytes
_PIECE = 2**24  # bytes read at once: a size that the file only claims takes no memory
# CIFAR-100's largest pickle takes a fifth of it. A step makes at most an empty container, so that a file of nothing but
# these takes 250 MB.
_READS = 2**21


class _Name(NamedTuple):
    module: str
    name: str


class _Dtype:
    """What a pickle says of a dtype."""

    def __init__(self, code: Any):
        if type(code) is not str or code not in _NUMBERS:
            raise pickle.UnpicklingError("an array of it is of no plain numbers")
        self.code = code
        self.order = "="

    def build(self, state: Any) -> "_Dtype":
        order, *parts = state[1:5]
        if type(order) is not str or order not in ("<", ">", "|", "=") or any(part is not None for part in parts):
            raise pickle.UnpicklingError("an array of it is of no plain numbers")
        self.order = order
        return self


class _Array:
    """An array that is announced, and then filled."""

    filled: np.ndarray | None = None

    def build(self, state: Any) -> np.ndarray:
        shape, dtype, in_columns, data = state[-4:]  # before them, a version
        self.filled = _array(data, dtype, shape, "F" if in_columns else "C")
        return self.filled


class _Latin1(NamedTuple):
    """A long text as the bytes that it stands for: the pixels of 38,400 images, never held as a text."""

    data: bytes | bytearray


class _Memo(dict):
    """What the pickle refers back to, where an array was kept before it was filled."""

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        return value.filled if type(value) is _Array and value.filled is not None else value


class _Source:
    """A file whose reads are bounded by what it has, and by how many there are."""

    def __init__(self, file: Readable):
        self.file = file
        self.reads = 0

    def _count(self) -> None:
        self.reads += 1
        if self.reads > _READS:
            raise pickle.UnpicklingError("it has more parts than any data set's")

    def read(self, size: int = -1) -> bytes | bytearray:
        self._count()
        if size <= _PIECE:
            data = self.file.read(size)
            if len(data) < size:
                raise EOFError("it is truncated")
            return data
        return self._whole(size, bytes)

    def latin1(self, size: int) -> bytearray:
        """The next `size` bytes, a text in UTF-8, as Latin-1: the text itself would double the memory."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        return self._whole(size, lambda piece: decoder.decode(piece).encode("latin1"))

    def _whole(self, size: int, convert: Callable[[bytes], bytes]) -> bytearray:
        out = bytearray()
        while size:
            piece = self.file.read(min(size, _PIECE))
            if not piece:
                raise EOFError("it is truncated")
            size -= len(piece)
            out += convert(piece)
        return out

    def readline(self) -> bytes:
        self._count()
        line = self.file.readline()
        if not line.endswith(b"\n") or len(line) > _PIECE:
            raise pickle.UnpicklingError("it has a line without an end, or longer than any data set's")
        return line


class _ArrayUnpickler(pickle._Unpickler):  # type: ignore[name-defined]  # in Python, so that each step can be ours
    """Containers, numbers, texts and plain arrays."""

    stack: list[Any]  # these four: of the class above
    append: Callable[[Any], None]
    read: Callable[[int], Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: Readable):
        self._source = _Source(file)
        super().__init__(self._source, encoding="latin1")  # type: ignore[arg-type]  # what Python 2 wrote
        self.memo = _Memo()

    def find_class(self, module: str, name: str) -> _Name:
        found = _Name(module.replace("numpy._core.", "numpy.core."), name)
        if found not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module[:80]}.{name[:80]}")
        return found

    def _frame(self) -> None:
        self.read(8)  # what a frame holds is read as it comes

    def _text(self, width: int) -> None:
        size = int.from_bytes(self.read(width), "little")
        self.append(_Latin1(self._source.latin1(size)) if size > _LONG else self.read(size).decode())

    def _bytes(self, width: int) -> None:
        self.append(self.read(int.from_bytes(self.read(width), "little")))

    def _python_2s_string(self) -> None:
        data = self.read(int.from_bytes(self.read(4), "little"))
        self.append(_Latin1(data) if len(data) > _LONG else data.decode("latin1"))

    def _line(self, code: bytes) -> None:
        _STEPS[code[0]](self)
        if len(text := self.stack[-1]) > _LONG:  # or else each call would make its bytes again
            self.stack[-1] = _Latin1(text.encode("latin1"))

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def _set_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_items(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list[Any]) -> None:
        into = self.stack[-1]
        # Nothing else as a key: to hash a tuple of tuples may take forever.
        if type(into) is not dict or any(type(key) not in (str, bytes, int) for key in items[::2]):
            raise pickle.UnpicklingError("it has a dictionary whose keys are no texts")
        into.update(zip(items[::2], items[1::2], strict=True))

    def _reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if type(called) is not _Name or called not in _CALLS or type(arguments) is not tuple:
            raise pickle.UnpicklingError("it calls what is no part of an array")
        self.append(_call(called.name, arguments))

    def _build(self) -> None:
        state, described = self.stack.pop(), self.stack.pop()
        if type(described) not in (_Array, _Dtype) or type(state) is not tuple:
            raise pickle.UnpicklingError("it fills what is no array")
        self.append(described.build(state))

    # What is not named here is in no pickle of arrays, and ends the reading: sets, instances, extensions.
    dispatch = {
        code[0]: _STEPS[code[0]]
        for code in (
            *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
            *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
            *(pickle.LONG, pickle.LONG1, pickle.LONG4, pickle.FLOAT, pickle.BINFLOAT),
            *(pickle.SHORT_BINSTRING, pickle.SHORT_BINUNICODE, pickle.SHORT_BINBYTES),
            *(pickle.LIST, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
            *(pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
            *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.GLOBAL, pickle.STACK_GLOBAL),
        )
    } | {
        pickle.FRAME[0]: _frame,
        pickle.STRING[0]: lambda self: self._line(pickle.STRING),
        pickle.UNICODE[0]: lambda self: self._line(pickle.UNICODE),
        pickle.BINUNICODE[0]: lambda self: self._text(4),
        pickle.BINUNICODE8[0]: lambda self: self._text(8),
        pickle.BINBYTES[0]: lambda self: self._bytes(4),
        pickle.BINBYTES8[0]: lambda self: self._bytes(8),
        pickle.BYTEARRAY8[0]: lambda self: self._bytes(8),
        pickle.BINSTRING[0]: _python_2s_string,
        pickle.DICT[0]: _dict,
        pickle.SETITEM[0]: _set_one,
        pickle.SETITEMS[0]: _set_items,
        pickle.REDUCE[0]: _reduce,
        pickle.BUILD[0]: _build,
    }


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """What the call of that name makes."""
    if name == "encode":
        text, encoding = arguments
        if type(encoding) is not str or encoding != "latin1" or type(text) not in (str, _Latin1):
            raise pickle.UnpicklingError("it asks for another encoding than latin1")
        return _bytes_of(text)
    if name == "bytes":
        if arguments:
            raise pickle.UnpicklingError("it makes bytes of something")
        return b""
    if name == "dtype":
        return _Dtype(arguments[0])
    if name == "_reconstruct":
        if arguments[0] != _Name("numpy", "ndarray"):
            raise pickle.UnpicklingError("it has an array of another kind")
        return _Array()
    if name == "scalar":
        dtype, data = arguments
        return _array(data, dtype, (), "C").item()
    data, dtype, shape, order, *axes = arguments
    if order == "K":
        return _array(data, dtype, shape, "C").transpose(*axes)
    return _array(data, dtype, shape, order)


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """An array over `data`, which is exactly as long as its shape says."""
    if type(dtype) is not _Dtype or type(shape) is not tuple or len(shape) > 32 or order not in ("C", "F"):
        raise pickle.UnpicklingError("it has an array of no plain shape")
    if any(type(side) is not int or not 0 <= side < 2**63 for side in shape):
        raise pickle.UnpicklingError("it has an array of no plain shape")
    kind, held = np.dtype(dtype.order + dtype.code), _bytes_of(data)
    if prod(shape) * kind.itemsize != len(held):
        raise pickle.UnpicklingError(f"an array of it has {len(held)} bytes, which its shape contradicts")
    return np.ndarray(shape, kind, held, order=order)


def _bytes_of(data: Any) -> bytes | bytearray:
    if type(data) is _Latin1:
        return data.data
    if type(data) is str:
        return data.encode("latin1")
    if type(data) in (bytes, bytearray):
        return data
    raise pickle.UnpicklingError("an array of it has no bytes")


def load_arrays(file: Readable, name: str) -> Any:
    """A pickle of containers, numbers, texts and arrays of plain numbers, without the power to run code.

    Args:
      file: a pickle of Python 2 or 3, of protocol 0 to 5.
      name: the file's, for errors.

    Returns:
      What it holds; texts of Python 2 as text. An array takes its bytes in the file, once; one of Python 3 in protocol
      2, whose bytes are written as text of up to twice their size, takes the bytes that it has.

    Raises:
      InputError: it is damaged, asks for anything else, or has more parts than a data set's pickle.
    """
    try:
        return _ArrayUnpickler(file).load()
    except InputError:
        raise
    except KeyError as error:
        raise _refused(name, f"it has a step of no array, {error}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise _refused(name, str(error)[:200].partition("\n")[0] or type(error).__name__) from None


def _refused(name: str, why: str) -> InputError:
    return InputError(f"{name} is no pickle of arrays that can be read safely ({why}): get it again")
