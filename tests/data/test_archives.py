"""Archives that people have, read whole; and those that would take memory, time or half of the images, refused."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import pytest
from official_archives import write_tar, write_zip
from sample_archives import check_one_line

from jaxdiv.data import archives
from jaxdiv.data.archives import members
from jaxdiv.errors import InputError


def read(path, most=archives.IMAGE_BYTES, wanted=lambda name: True):
    return {name: file.read() for name, file in members(path, wanted, "a test", most)}


def refusal(path, most=archives.IMAGE_BYTES):
    with pytest.raises(InputError) as error:
        read(path, most)
    return check_one_line(error, path)


FIRST = {"set/a/1.png": b"one", "set/a/2.png": b"two" * 300}
SECOND = {"set/b/1.png": b"three", "set/b/2.png": b"four" * 300}


def test_backslashes_in_a_zip_are_folders(tmp_path):
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"set\\a\\": b"", "set\\a\\1.png": b"one", "set\\b\\1.png": b"two"}.items():
            entry = zipfile.ZipInfo()
            entry.filename = name  # past what ZipInfo makes of it on Windows
            archive.writestr(entry, data)
    assert read(path) == {"set/a/1.png": b"one", "set/b/1.png": b"two"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("set\\..\\..\\1.png", b"one")
    assert "leads out" in refusal(path)


@pytest.mark.parametrize("name", ["./set/a/1.png", "set//a/./1.png"])
def test_names_are_the_same_however_a_tar_writes_them(tmp_path, name):
    assert read(write_tar(tmp_path / "a.tar", {name: b"one"}, "w")) == {"set/a/1.png": b"one"}


PACK = {"tar": lambda data: data, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", PACK)
def test_archives_behind_one_another_are_read_whole(tmp_path, kind):
    one = write_tar(tmp_path / "one.tar", FIRST, "w").read_bytes()
    two = write_tar(tmp_path / "two.tar", SECOND, "w").read_bytes()
    path = tmp_path / f"both.tar.{kind}"
    path.write_bytes(PACK[kind](one) + PACK[kind](two))
    assert read(path) == FIRST | SECOND
    path.write_bytes(PACK[kind](one + two))
    assert read(path) == FIRST | SECOND
    path.write_bytes(PACK[kind](one + two[:600]))
    assert "truncated" in refusal(path)


def test_a_tar_that_was_added_to_is_read_whole(tmp_path):
    path = write_tar(tmp_path / "a.tar", FIRST, "w")
    write_tar(path, SECOND, "a")
    assert read(path) == FIRST | SECOND


def test_what_follows_an_archive_and_is_none_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", FIRST, "w")
    path.write_bytes(path.read_bytes() + b"more" * 200)
    assert "something else follows" in refusal(path)


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", FIRST | SECOND, "w")
    content = bytearray(path.read_bytes())
    content[content.index(b"set/b/1.png") + 2] ^= 1
    path.write_bytes(content)
    assert "its end is missing" in refusal(path)


def test_a_zip_behind_another_is_refused(tmp_path):
    one, two = write_zip(tmp_path / "one.zip", FIRST), write_zip(tmp_path / "two.zip", SECOND)
    assert read(one) == FIRST
    one.write_bytes(one.read_bytes() + two.read_bytes())
    assert "two archives in one file" in refusal(one)


def test_a_tar_whose_last_member_is_a_zip_and_one_whose_first_is_called_pk_are_tars(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", FIRST).read_bytes()
    files = {"PKLot/1.png": b"one", "set/inner.zip": inner}
    assert read(write_tar(tmp_path / "a.tar", files, "w")) == files


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_one_name_twice_is_refused_where_it_is_wanted(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    for mode in ("w", "a"):
        if kind == "tar":
            write_tar(path, {"set/a/1.png": mode.encode()}, mode)
        else:
            with zipfile.ZipFile(path, mode) as archive, pytest.MonkeyPatch.context() as patch:
                patch.setattr("warnings.warn", lambda *_, **__: None)  # of the same name
                archive.writestr("set/a/1.png", mode)
    assert "holds 'set/a/1.png' twice" in refusal(path)
    assert read(path, wanted=lambda name: name.endswith(".csv")) == {}


# Bombs: a megabyte that says, or does not say, that it is a gigabyte

SIZE = 2**26  # here 64 MiB, and a limit of 8: the same at a sixteenth of the time
MOST = 2**23


def zip_bomb(path, says=SIZE, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        archive.writestr("set/a/1.bmp", bytes(SIZE))
    if says != SIZE:
        content = path.read_bytes()
        assert content.count(struct.pack("<I", SIZE)) == 2  # the header, and the directory
        path.write_bytes(content.replace(struct.pack("<I", SIZE), struct.pack("<I", says)))
    return path


def peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = zip_bomb(tmp_path / "bomb.zip")
    assert path.stat().st_size < SIZE / 200
    taken = peak(lambda: refusal(path, MOST))
    assert taken < 2**21 and f"has {SIZE} bytes, more than {MOST}" in refusal(path, MOST)


def test_a_zip_bomb_that_says_it_is_small_takes_no_memory(tmp_path):
    path = zip_bomb(tmp_path / "bomb.zip", says=100)
    assert peak(lambda: refusal(path, MOST)) < 2**23
    assert "CRC" in refusal(path, MOST)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_of_a_zip_that_unpack_all_at_once_are_refused(tmp_path, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("set/a/1.png", b"one")
    assert "another method than deflate" in refusal(path)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_tar_bomb_is_refused_before_it_is_unpacked(tmp_path, kind):
    header = tarfile.TarInfo("set/a/1.bmp")
    header.size = 2**30
    path = tmp_path / f"bomb.tar.{kind}"
    path.write_bytes(PACK[kind](header.tobuf()))
    assert "has 1073741824 bytes" in refusal(path)


def test_a_header_of_a_gigabyte_is_refused_before_it_is_read(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**30
    path = tmp_path / "bomb.tar"
    path.write_bytes(header.tobuf() + bytes(10**4))
    assert "a header of more than a megabyte" in refusal(path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "folder"])
def test_reading_stops_at_the_limit(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    files = {"set/a/1.png": bytes(1000)}
    if kind == "folder":
        (path / "set" / "a").mkdir(parents=True)
        (path / "set" / "a" / "1.png").write_bytes(files["set/a/1.png"])
    else:
        write_zip(path, files) if kind == "zip" else write_tar(path, files)
    assert read(path, most=1000) == files
    assert "'set/a/1.png' has 1000 bytes, more than 999" in refusal(path, most=999)


def test_a_member_that_grows_while_it_is_read_is_stopped(tmp_path):
    (tmp_path / "1.png").write_bytes(b"small")
    with pytest.raises(InputError, match="has more than 100 bytes"):
        for _, file in members(tmp_path, lambda name: True, "a test", most=100):
            (tmp_path / "1.png").write_bytes(bytes(101))
            file.read()


def test_an_archive_that_says_it_holds_a_hundred_times_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_TOTAL_BYTES", 10**5)
    path = write_zip(tmp_path / "a.zip", {f"set/a/{i}.bmp": bytes(9000) for i in range(12)}, zipfile.ZIP_DEFLATED)
    assert 100 * path.stat().st_size > 12 * 9000 and len(read(path)) == 12
    monkeypatch.setattr(archives, "_EXPANSION", 10)
    assert "says it holds more than 100000 bytes" in refusal(path)


def test_members_larger_than_a_piece_and_lines_are_whole(tmp_path):
    data = zlib.compress(b"") + bytes(range(256)) * 2**13 + b"\nline\n"
    for path in (write_zip(tmp_path / "a.zip", {"x": data}), write_tar(tmp_path / "a.tar", {"x": data}, "w")):
        assert read(path) == {"x": data}
        for _, file in members(path, lambda name: True, "a test"):
            out = io.BytesIO(file.read(2**20 + 7))
            assert out.getvalue() == data[: 2**20 + 7] and file.read(0) == b""
            assert file.readline() == data[2**20 + 7 :].partition(b"\n")[0] + b"\n"
