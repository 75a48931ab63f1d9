"""A set's hash changes exactly when the set does, and a file is read again only when it may have changed."""

import os
import shutil
import time

import pytest
from PIL import Image

from jaxdiv.data.own import fingerprint
from jaxdiv.data.own.found import OwnSet
from jaxdiv.data.prepare import DataSettings
from jaxdiv.errors import InputError


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDIV_CACHE", str(tmp_path / "cache"))
    for name in "abc":
        for i in range(3):
            file = tmp_path / "mine" / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2), ("abc".index(name), i, 0)).save(file)
    return tmp_path / "mine"


def hashed(path, **fields):
    own = OwnSet(str(path), **fields)
    settings = DataSettings(own={"mine": own}, min_images=1, fractions=(1.0, 0.0, 0.0))
    return fingerprint.of_set(str(path), settings.outline("mine"), lambda share: None)


def edit(path):
    data = bytearray((path / "a" / "1.png").read_bytes())
    before = (path / "a" / "1.png").stat()
    data[-20] ^= 1  # of the same size
    (path / "a" / "1.png").write_bytes(data)
    os.utime(path / "a" / "1.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # and of the same time


CHANGES = {
    "an edit that keeps size and time": edit,
    "a rename": lambda path: (path / "a" / "1.png").rename(path / "a" / "9.png"),
    "a move": lambda path: (path / "a" / "1.png").rename(path / "b" / "9.png"),
    "one more": lambda path: shutil.copy(path / "a" / "1.png", path / "a" / "9.png"),
    "one less": lambda path: (path / "a" / "1.png").unlink(),
    "another name of a class": lambda path: (path / "a").rename(path / "z"),
    "two swapped": lambda path: [
        (path / one).rename(path / other) for one, other in (("a/1.png", "x"), ("b/1.png", "a/1.png"), ("x", "b/1.png"))
    ],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_an_image_its_name_or_its_class_changes_the_hash(images, change):
    before = hashed(images)
    assert hashed(images) == before
    change(images)
    assert hashed(images) != before


def test_what_changes_no_image_changes_no_hash(images, tmp_path):
    before = hashed(images)
    (images / "readme.txt").write_text("notes")
    os.utime(images / "a" / "1.png", ns=(1, 1))
    images.rename(tmp_path / "elsewhere")
    assert hashed(tmp_path / "elsewhere") == before


def test_the_split_of_a_class_is_part_of_the_hash_and_the_words_of_its_file_are_not(images, tmp_path):
    file = tmp_path / "split.txt"
    file.write_text("train a\ntrain b\ntest c\n")
    before = hashed(images, split=str(file))
    file.write_text("# mine\ntest c\ntrain b\ntrain a\n")
    assert hashed(images, split=str(file)) == before
    file.write_text("train a\ntest b\ntest c\n")
    assert hashed(images, split=str(file)) != before


def test_an_archive_is_known_by_its_bytes(images, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", images)
    before = hashed(archive)
    os.utime(archive, ns=(1, 1))
    assert hashed(archive) == before
    edit(images)
    shutil.make_archive(str(tmp_path / "mine"), "zip", images)
    assert hashed(archive) != before


def test_a_file_is_read_once_and_again_only_when_it_changed(images, monkeypatch):
    read, whole = [], fingerprint._hashed
    monkeypatch.setattr(fingerprint, "_hashed", lambda path: (read.append(path.name), whole(path))[1])
    monkeypatch.setattr(fingerprint, "_SETTLED_NS", -(10**12))  # as if the files were old
    hashed(images)
    assert len(read) == 9
    hashed(images)
    assert len(read) == 9
    edit(images)
    hashed(images)
    assert read[9:] == ["1.png"]


def test_a_file_that_is_just_written_is_read_again_since_its_time_may_hide_an_edit(images, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: max(file.stat().st_ctime_ns for file in images.rglob("*")) + 1)
    first = fingerprint.of_file(images / "a" / "1.png")
    (stored,) = fingerprint._read(fingerprint._record(images / "a")).values()
    assert stored == [0, 0, 0, first]


def test_a_file_that_is_gone_is_what_it_was_and_one_that_never_was_is_nothing(images):
    file = images / "a" / "1.png"
    before = fingerprint.of_file(file)
    file.unlink()
    assert fingerprint.of_file(file) == before and len(before) == 64
    assert fingerprint.of_file(images / "never.png") == ""


def test_hashes_need_no_cache(images, monkeypatch):
    before = hashed(images)
    monkeypatch.setenv("JAXDIV_CACHE", str(images / "a" / "1.png" / "no folder"))
    assert hashed(images) == before
    (images / "a" / "0.png").unlink()
    with pytest.raises(InputError, match=r"0.png cannot be read \(No such file"):
        fingerprint.hashes(images, ["a/0.png"])
