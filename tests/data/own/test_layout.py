"""What is at a path: one line for everything that is no data set."""

import errno
import gzip
import os

import pytest
from own_sets import images, write
from sample_archives import check_one_line, png

from jaxdiv.data.own.layout import OwnSet, find
from jaxdiv.errors import InputError


def refused(path, **fields):
    with pytest.raises(InputError) as error:
        find(OwnSet(str(path), **fields))
    return error


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("set.rar", b"Rar!\x1a\x07\x01\0", ["is a RAR archive", "unpack it"]),
        ("set.zip", b"Rar!\x1a\x07\x01\0", ["is a RAR archive"]),  # whatever it is called
        ("set.7z", b"7z\xbc\xaf\x27\x1c\0\x04", ["is a 7-Zip archive", "unpack it"]),
        ("set.pdf", b"%PDF-1.7\n", ["is a PDF document"]),
        ("set.zip", b"\n<!DOCTYPE html><html>", ["is a web page, not the file behind it", "get the file again"]),
        ("set.png", png(), ["is one image"]),
        ("set.npy", b"\x93NUMPY\x01\0", ["is one array", "as a .npz"]),
        ("set.pkl", b"\x80\x04\x95", ["is a pickle, which could run code"]),
        ("set.parquet", b"PAR1\x15\x04", ["is a Parquet file"]),
        ("set.h5", b"\x89HDF\r\n\x1a\n", ["is an HDF5 file"]),
        ("labels.csv", b"filename,label\n", ["has labels alone", "`OwnSet.labels`"]),
        ("set.tar", b"just some text\n" * 99, ["truncated or no .zip or .tar archive"]),
        ("set.tar", b"", ["truncated or no .zip or .tar archive"]),
        ("set.gz", gzip.compress(b"just some text\n" * 99, mtime=0), ["truncated or no .zip or .tar archive"]),
    ],
)  # fmt: skip
def test_a_file_that_is_no_data_set_is_told_by_what_it_holds(tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    check_one_line(refused(path), path, *words)


def test_a_tar_is_one_also_where_its_first_file_has_a_name_like_another_kinds_first_bytes(tmp_path):
    path = write(tmp_path / "set", images("MATLAB/owl/1.png", "MATLAB/jay/1.png"), "tar")
    assert {item.of_class for item in find(OwnSet(str(path))).items} == {"owl", "jay"}


@pytest.mark.parametrize("path", ["nowhere", ""])
def test_a_path_that_is_missing_says_what_was_expected_and_where_to_name_it(tmp_path, path):
    check_one_line(refused(path and tmp_path / path), path, "is missing", "expected a folder", "`OwnSet.path`")


def test_a_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "set", images("owl/1.png", "jay/1.png"))
    assert len(find(OwnSet("~/set")).items) == 2


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], ["nothing"]),
        (["photos.zip", "README.txt"], ["2 other files", "photos.zip"]),
        (["1.jpg", "2.jpg"], ["2 in no such folder (1.jpg)", "a CSV of their labels"]),
        (["images/1.jpg", "images/2.jpg"], ["2 in no such folder (images/1.jpg)"]),
        ([".hidden/1.jpg"], ["1 other files (.hidden/)"]),
    ],
)
def test_a_folder_without_images_of_classes_says_what_it_has(tmp_path, names, words):
    path = write(tmp_path / "set", images(*names) | {name: b"PK" for name in names if not name.endswith(".jpg")})
    check_one_line(refused(path), path, "holds no image in a folder of its class, but", *words)


def test_a_folder_that_may_not_be_read_gets_one_line(tmp_path, monkeypatch):
    def denied(folder):  # root may read everything
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)

    path = write(tmp_path / "set", images("owl/1.png", "jay/1.png"))
    monkeypatch.setattr(os, "scandir", denied)
    check_one_line(refused(path), path, "cannot be read (Permission denied)")


def test_a_pipe_in_place_of_a_set_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    check_one_line(refused(tmp_path / "pipe"), "neither a folder nor a file")
