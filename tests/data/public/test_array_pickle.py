"""Pickles of arrays: what every Python wrote comes out as it went in; nothing in a pickle is run or trusted."""

import codecs
import collections
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import official_archives as official
import pytest

from jaxdiv.data.public.array_pickle import load_arrays
from jaxdiv.errors import InputError

ROOT = Path(__file__).parents[3]
GRAY = np.arange(6, dtype=np.uint8).reshape(2, 3)
# What Python 2.7 with NumPy 1.16 writes for {"a": GRAY}, protocol 2.
PYTHON_2 = (
    b"\x80\x02}q\x00U\x01aq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
    b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x00tb\x89U\x06\x00\x01\x02\x03\x04\x05tbs."
)


def loads(data):
    return load_arrays(io.BytesIO(data), "some.pkl")


def refusal(data):
    with pytest.raises(InputError, match=r"some\.pkl is no pickle of arrays that can be read safely") as caught:
        loads(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def test_what_python_2_wrote_is_read():
    (found,) = loads(PYTHON_2).values()
    np.testing.assert_array_equal(found, GRAY)
    value = {"data": GRAY, "labels": [1, 2], "big": np.arange(2000, dtype=np.uint8)}
    written = official.python2_pickle(value)
    assert b"numpy.core.multiarray" in written
    found = loads(written)
    np.testing.assert_array_equal(found["data"], GRAY)
    np.testing.assert_array_equal(found["big"], value["big"])
    assert found["labels"] == [1, 2] and list(found) == list(value)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_back_what_went_in(protocol):
    twisted = np.arange(24, dtype=">f4").reshape(2, 3, 4).transpose(1, 0, 2)
    arrays = [GRAY, np.asfortranarray(GRAY), twisted, np.zeros((0, 3), "i2"), np.array([True, False]), np.array(2.5)]
    arrays += [np.arange(3000, dtype=f"{order}u2") for order in "<>"]
    plain = ["é", b"\xff\x00", b"", (1, 2.5, None, True), 10**30, -1, np.int64(3), np.float32(0.5)]
    found = loads(pickle.dumps({"arrays": [*arrays, GRAY], "plain": plain, "rows": {"n01": [1, 2]}}, protocol=protocol))
    for one, other in zip(found["arrays"], [*arrays, GRAY], strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert found["arrays"][-1] is found["arrays"][0]  # kept once, as in the file
    assert found["plain"] == plain and found["rows"] == {"n01": [1, 2]}


def test_an_array_of_python_3_in_protocol_2_is_never_held_as_a_text(monkeypatch):
    """1.1 GB of text stand for 0.8 GB of pixels: they become these piece by piece."""
    monkeypatch.setattr("jaxdiv.data.public.array_pickle._PIECE", 999)  # cuts characters of two bytes in halves
    pixels = np.arange(5000, dtype=np.uint64).astype(np.uint8)
    written = pickle.dumps(pixels, protocol=2)
    assert b"_codecs" in written and len(written) > 7000
    asked = []

    class File(io.BytesIO):
        def read(self, size=-1):
            asked.append(size)
            return super().read(size)

    found = load_arrays(File(written), "some.pkl")
    np.testing.assert_array_equal(found, pixels)
    assert max(asked) == 999 and type(found.base) is bytearray


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


EVIL = {
    "a call": Runs(os.system, "touch evil"),
    "a call inside an array": {"data": np.array([Runs(os.system, "touch evil")], object)},
    "another encoding": Runs(codecs.encode, "a", "rot13"),
    "another codec's call": Runs(codecs.decode, b"a", "latin1"),
    "a class": collections.OrderedDict(a=1),
    "a set": {1, 2},
    "names of fields": np.zeros(2, [("a", "i4")]),
    "objects": np.array([None, "a"], object),
    "dates": np.zeros(2, "M8[s]"),
    "texts": np.array(["a", "b"]),
    "tuples as keys": {(1, 2): 3},
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("what", EVIL)
def test_nothing_but_plain_arrays_is_built(what, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "it asks for posix.system" in refusal(pickle.dumps(EVIL["a call"], protocol=protocol))
    refusal(pickle.dumps(EVIL[what], protocol=protocol))
    assert list(tmp_path.iterdir()) == []


def described(shape=b"K\x02K\x03\x86", kind=b"u1", order=b"|", parts=b"NNN", data=b"\0\1\2\3\4\5"):
    """An array's pickle with parts of it replaced."""
    made = PYTHON_2.replace(b"K\x02K\x03\x86", shape).replace(b"U\x02u1", b"U" + bytes([len(kind)]) + kind)
    made = made.replace(b"U\x01|NNN", b"U\x01" + order + parts)
    return made.replace(b"U\x06\0\1\2\3\4\5", b"U" + bytes([len(data)]) + data)


def test_the_pickle_with_nothing_replaced_is_read():
    assert described() == PYTHON_2


@pytest.mark.parametrize(
    "given",
    [
        dict(shape=b"K\x02K\x04\x86"),  # reads beyond its bytes
        dict(shape=b"K\x02K\x02\x86"),
        dict(shape=b"J\xfe\xff\xff\xffJ\xfd\xff\xff\xff\x86"),  # -2 x -3
        dict(shape=b"\x8a\x09\0\0\0\0\0\0\0\0\1K\x00\x86", data=b""),  # 2^64 x 0
        dict(shape=b"]"),
        dict(kind=b"O"),
        dict(kind=b"V1"),
        dict(kind=b"S0"),
        dict(kind=b"u16"),
        dict(order=b"x"),
        dict(parts=b"(K\x01)tNN"),  # a part of arrays
        dict(parts=b"NU\x01a\x85}"),  # fields
        dict(data=b""),
    ],
)
def test_a_description_that_numpy_would_trust_is_not(given):
    """NumPy itself takes these as they are, or ends the interpreter."""
    refusal(described(**given))


BOMBS = {
    "a memo of 2^31 entries": b"\x80\x02Nr\xff\xff\xff\x7f" + b"j\xff\xff\xff\x7f" * 3 + b".",
    "bytes that are not there": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"ab.",
    "bytes to be filled": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"ab.",
    "a text that is not there": b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"ab.",
    "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7fab.",
    "a frame of 2^60": b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"N",
    "a million lists": b"\x80\x02" + b"]" * 400_000 + b".",
    "tuples of tuples as a key": b"\x80\x02}(N" + b"2\x86" * 60 + b"Nu.",
    "tuples inside each other": b"\x80\x02}(N" + b"\x85" * 200_000 + b"Nu.",
    "digits without end": b"I" + b"9" * 100_000 + b"\n.",
    "a text encoded again and again": b"\x80\x02c_codecs\nencode\nq\0X\xe8\3\0\0"
    + b"a" * 1000
    + b"q\1X\6\0\0\0latin1q\2"
    b"0" * 3 + b"(" + b"h\0h\1h\2\x86R" * 60_000 + b"l.",
}

BOUNDED = """
import resource, sys
from pathlib import Path
from jaxdiv.data.public import array_pickle
from jaxdiv.errors import InputError
array_pickle._READS = 2**18  # the least that the checks of this test need
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file in sorted(Path(sys.argv[1]).iterdir()):
    with file.open("rb") as opened:
        try:
            array_pickle.load_arrays(opened, file.name)
        except InputError:
            pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_no_pickle_takes_more_memory_than_its_bytes_and_a_bounded_rest(tmp_path):
    for number, bomb in enumerate(BOMBS.values()):
        (tmp_path / str(number)).write_bytes(bomb)
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, tmp_path], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert int(done.stdout) < 60  # MB: a quarter of a million empty containers


FUZZ = """
import io, pickle, random, sys
import numpy as np
from jaxdiv.data.public.array_pickle import load_arrays
from jaxdiv.errors import InputError
value = {"image_data": np.arange(48, dtype="u1").reshape(2, 2, 4, 3), "class_dict": {"n01": [0, np.int64(1)]}}
given, chance = [sys.stdin.buffer.read()], random.Random(0)
given += [pickle.dumps(value, protocol=protocol) for protocol in range(6)]
counts = {"read": 0, "refused": 0}
for round in range(2000):
    for good in given:
        changed = bytearray(good)
        for _ in range(chance.choice([1, 1, 2, 4])):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        if chance.random() < 0.1:
            del changed[chance.randrange(len(changed)) :]
        try:
            found = load_arrays(io.BytesIO(changed), "x")
            pickle.dumps(found)  # every element is there to be read
            counts["read"] += 1
        except InputError:
            counts["refused"] += 1
print(counts["read"], counts["refused"])
"""


def test_changed_bytes_give_a_value_or_one_line_never_a_crash():
    done = subprocess.run([sys.executable, "-c", FUZZ], input=PYTHON_2, capture_output=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    read, refused = map(int, done.stdout.split())
    assert read + refused == 2000 * 7 and min(read, refused) > 1000  # bytes of an array alone may be any
