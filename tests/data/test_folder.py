"""Images from a folder or an archive with a folder a class, and one clear line for each that cannot be read."""

import zipfile

import numpy as np
import pytest
from official_archives import write_tar, write_zip
from sample_archives import of_classes, one_line, png

from jaxdiv.data import folder
from jaxdiv.data.decode import decoder
from jaxdiv.errors import InputError


def zipped(path, files):
    return write_zip(path, files, zipfile.ZIP_DEFLATED)


def read(path, expected="a test archive"):
    return folder.read_classes(path, expected, decoder(4, gray=False), lambda share: None)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "folder"])
def test_every_kind_of_archive_reads_the_same(tmp_path, kind):
    files = of_classes(["b", "a"], images=3) | {"README.txt": b"no image", "mini/a/.hidden.png": b"", "top.png": b""}
    path = tmp_path / f"archive.{kind}"
    if kind == "zip":
        zipped(path, files)
    elif kind == "folder":
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    else:
        write_tar(path, files, "w:gz" if kind == "tar.gz" else "w")
    images = read(path)
    assert list(images) == ["mini/a", "mini/b"]
    for of_class in images.values():
        assert of_class.shape == (3, 4, 4, 3) and of_class.dtype == np.uint8
        np.testing.assert_array_equal(of_class[:, 0, 0], [[10 * i, 100, 200] for i in range(3)])


def test_a_missing_folder_says_what_was_expected_and_where_to_name_it(tmp_path):
    with pytest.raises(InputError) as error:
        read(tmp_path / "photos")
    one_line(error, tmp_path / "photos", "is missing", "a test archive", "`DataSettings.own`")


NOISE = np.random.default_rng(0)
PHOTOS = {  # large enough that an archive can be cut in many places
    f"c/{n}/{i}.bmp": b"BM" + NOISE.integers(0, 256, 3000, np.uint8).tobytes() for n in "ab" for i in range(4)
}
MEMBER = 512 + 3072  # a member of the tar: its header and its content in blocks of 512


@pytest.mark.parametrize("cut", [10, 700, MEMBER, 3 * MEMBER, 3 * MEMBER + 100, 3 * MEMBER + 2000, 8 * MEMBER])
def test_a_truncated_tar_is_an_error_wherever_it_is_cut_also_between_two_members(tmp_path, cut):
    path = write_tar(tmp_path / "photos.tar", PHOTOS, "w")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "truncated", "a test archive")


def test_an_encrypted_zip_is_an_error(tmp_path):
    path = tmp_path / "photos.zip"
    zipped(path, PHOTOS)
    marked = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # bit 0 of the flags says "encrypted"
        at = marked.find(header)
        while at >= 0:
            marked[at + flags] |= 1
            at = marked.find(header, at + 4)
    path.write_bytes(marked)
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "encrypted", "a test archive")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_truncated_compressed_archive_is_an_error(tmp_path, kind, share):
    path = tmp_path / f"photos.{kind}"
    zipped(path, PHOTOS) if kind == "zip" else write_tar(path, PHOTOS, "w:gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "truncated", "a test archive")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_damaged_compressed_archive_is_an_error(tmp_path, kind):
    path = tmp_path / f"mini.{kind}"
    files = {f"c/a/{i}.bmp": bytes(range(256)) * 20 for i in range(4)}
    zipped(path, files) if kind == "zip" else write_tar(path, files, "w:gz")
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(255 - byte for byte in data[60:90])
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "a test archive")


@pytest.mark.parametrize("content", [b"", b"just some text\n" * 100], ids=["no bytes", "a text file"])
@pytest.mark.parametrize("name", ["photos.tar", "photos.zip"])
def test_a_file_that_is_no_archive_is_an_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "no .zip or .tar archive", "a test archive")


@pytest.mark.parametrize("files", [{}, {"notes/a.txt": b"text"}, {"top.png": png()}], ids=["empty", "text", "top"])
@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_an_archive_without_images_in_class_folders_is_an_error(tmp_path, kind, files):
    path = tmp_path / f"photos.{kind}"
    if kind == "folder":
        path.mkdir()
    else:
        zipped(path, files) if kind == "zip" else write_tar(path, files, "w")
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "holds no image", "a test archive")


@pytest.mark.parametrize("data", [b"", b"no image at all", png()[:40], png()[:-30]], ids=["0", "text", "head", "cut"])
def test_a_broken_image_is_named(tmp_path, data):
    path = write_tar(tmp_path / "mini.tar", of_classes(["a", "b"]) | {"mini/b/broken.png": data}, "w")
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "mini/b/broken.png", "replace or remove it")
