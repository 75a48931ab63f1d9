"""The files of a folder or an archive: images whatever they are called, hidden ones and links, and one clear line for
each archive that cannot be read."""

import os
import tarfile
import zipfile

import numpy as np
import pytest
from official_archives import write_tar, write_zip
from own_sets import PNG, classes, content, images, write
from sample_archives import check_one_line, of_classes, png

from jaxdiv.data.decode import decoder
from jaxdiv.data.own import tree
from jaxdiv.data.own.layout import OwnSet, find
from jaxdiv.errors import InputError

EXPECTED = "a folder (or .zip, .tar) with one sub-folder of images for each class"


def zipped(path, files):
    return write_zip(path, files, zipfile.ZIP_DEFLATED)


def read(path):
    """Everything that is at `path`."""
    return dict(find(OwnSet(str(path))).read())


# The first bytes of each kind of image, and a suffix that is not its own.
HEADS = {
    "photo.jfif": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "photo.avif": b"\0\0\0 ftypavif\0\0\0\0",
    "photo": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "photo.txt": b"GIF89a\x01\0\x01\0",
    "photo.dat": b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
    "photo.1": b"II*\0\x08\0\0\0",
    "photo.2": b"MM\0*\0\0\0\x08",
    "photo.3": b"RIFF\x24\0\0\0WEBPVP8 ",
    "photo.4": b"P6\n4 4\n255\n",
    "photo.5": b"\0\0\0\x0cjP  \r\n\x87\n",
}
# What begins nearly so.
OTHERS = {
    "a.txt": b"BM is a name in this list of names", "b.dat": b"P6 is no picture", "c": b"\x89PNG", "d.json": b"{}",
    "e.xml": b"<annotation>", "f.wav": b"RIFF\x24\0\0\0WAVEfmt ", "g": b"", "h.mp4": b"\0\0\0 ftypisom\0\0\0\0",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_an_image_is_known_by_its_first_bytes_whatever_it_is_called(tmp_path, kind):
    files = {f"a/{name}": data for name, data in (HEADS | OTHERS).items()} | images("b/1.png")
    got = find(OwnSet(str(write(tmp_path / "set", files, kind))))
    assert sorted(item.name for item in got.items if item.of_class == "a") == sorted(f"a/{name}" for name in HEADS)
    assert {why: sorted(names) for why, names in got.left_out.items()} == {
        "not an image": sorted(f"a/{name}" for name in OTHERS)
    }


@pytest.mark.parametrize("data", [b"", b"no image at all", png()[:40], png()[:-30]], ids=["0", "text", "head", "cut"])
def test_a_file_with_the_name_of_an_image_is_one_and_named_where_it_is_broken(tmp_path, data):
    path = write_tar(tmp_path / "mini.tar", of_classes(["a", "b"]) | {"mini/b/broken.png": data}, "w")
    got = find(OwnSet(str(path)))
    decode = decoder(4, gray=False)
    with pytest.raises(InputError) as error:
        [decode(content, f"{path}: {got.items[number].name}") for number, content in got.read()]
    check_one_line(error, path, "mini/b/broken.png", "replace or remove it")


SYSTEM = (
    "owl/.ipynb_checkpoints/1.png", ".Trash-1000/files/owl/1.png", "__MACOSX/owl/._1.png", "owl/._1.png",
    "owl/.DS_Store", "owl/Thumbs.db", "owl/@eaDir/1.png/thumb.png", ".hidden.png",
)  # fmt: skip
LEFT_OUT = [
    ".Trash-1000/", ".hidden.png", "__MACOSX/", "owl/.DS_Store", "owl/._1.png", "owl/.ipynb_checkpoints/",
    "owl/@eaDir/", "owl/Thumbs.db",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_hidden_files_and_those_of_systems_are_left_out_and_named(tmp_path, kind):
    got = find(OwnSet(str(write(tmp_path / "set", images("owl/1.png", "wren/1.png", *SYSTEM), kind))))
    assert [item.name for item in got.items] == ["owl/1.png", "wren/1.png"]
    assert sorted(got.left_out["hidden or a system's own"]) == LEFT_OUT and len(got.left_out) == 1


def test_a_set_inside_a_hidden_folder_is_a_set(tmp_path):
    assert list(classes(write(tmp_path / ".cache/set", images("owl/1.png", "wren/1.png")))) == ["owl", "wren"]


@pytest.fixture
def linked(tmp_path):
    """A set with links to: another class, a folder above, one that it has already, a file, and nothing."""
    path = write(tmp_path / "set", images("owl/1.png"))
    write(tmp_path / "elsewhere/wrens", images("1.png", "2.png"))
    (path / "wren").symlink_to(tmp_path / "elsewhere/wrens")
    (path / "above").symlink_to(tmp_path)
    (path / "again").symlink_to(path / "owl")
    (path / "owl/loop").symlink_to(path / "owl")
    (path / "owl/2.png").symlink_to(tmp_path / "elsewhere/wrens/2.png")
    (path / "owl/3.png").symlink_to(tmp_path / "nowhere.png")
    return path


def test_linked_folders_and_files_are_followed_once_and_loops_are_not_entered(linked):
    got = find(OwnSet(str(linked)))
    assert {item.name: item.of_class for item in got.items} == {
        "owl/1.png": "owl", "owl/2.png": "owl", "wren/1.png": "wren", "wren/2.png": "wren",
    }  # fmt: skip
    assert [data for _, data in got.read()] == list(map(content, ("owl/1.png", "2.png", "1.png", "2.png")))
    assert {why: sorted(names) for why, names in got.left_out.items()} == {
        "a link to a folder that the set has already, or is in": ["above/", "again/", "owl/loop/"],
        "a link that leads nowhere": ["owl/3.png"],
    }
    assert "1 linked folders are followed (wren/)" in got.notes


def test_the_set_itself_may_be_a_link(linked, tmp_path):
    (tmp_path / "link").symlink_to(linked)
    assert list(classes(tmp_path / "link")) == ["owl", "wren"]


def test_a_pipe_is_not_waited_for(tmp_path):
    path = write(tmp_path / "set", images("owl/1.png", "wren/1.png"))
    os.mkfifo(path / "owl/2.png")
    got = find(OwnSet(str(path)))
    assert len(got.items) == 2 and got.left_out == {"not a file (a pipe or a device)": ["owl/2.png"]}


@pytest.mark.parametrize("again", ["owl/1.png", "./owl/1.png"])
def test_two_members_of_one_name_are_not_both_images(tmp_path, again):
    path = write(tmp_path / "set", images("owl/1.png", "wren/1.png"), "tar")
    with tarfile.open(path, "a") as tar:
        (tmp_path / "new").write_bytes(content("new"))
        tar.add(tmp_path / "new", again)
    with pytest.raises(InputError) as error:
        read(path)
    check_one_line(error, path, "holds 'owl/1.png' twice")


def test_names_that_begin_with_a_dot_and_a_slash_are_plain(tmp_path):
    path = write(tmp_path / "set", images("./owl/1.png", "./wren/1.png"), "tar")
    assert classes(path) == {"owl": ["owl/1.png"], "wren": ["wren/1.png"]}
    assert read(path) == {0: content("./owl/1.png"), 1: content("./wren/1.png")}


def test_a_file_that_vanishes_or_is_no_image_by_its_size_gets_one_line(tmp_path, monkeypatch):
    path = write(tmp_path / "set", images("owl/1.png", "wren/1.png"))
    got = find(OwnSet(str(path)))
    monkeypatch.setattr(tree, "_LARGEST", len(PNG))
    with pytest.raises(InputError) as error:
        list(got.read())
    check_one_line(error, path / "owl/1.png", "more than")
    (path / "owl/1.png").unlink()
    with pytest.raises(InputError) as error:
        list(got.read())
    check_one_line(error, path / "owl/1.png", "cannot be read", "No such file")


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
    check_one_line(error, path, "truncated", EXPECTED)


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
    check_one_line(error, path, "encrypted", EXPECTED)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_truncated_compressed_archive_is_an_error(tmp_path, kind, share):
    path = tmp_path / f"photos.{kind}"
    zipped(path, PHOTOS) if kind == "zip" else write_tar(path, PHOTOS, "w:gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError) as error:
        read(path)
    check_one_line(error, path, "truncated", EXPECTED)


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
    check_one_line(error, path, EXPECTED)


@pytest.mark.parametrize("content", [b"", b"just some text\n" * 100], ids=["no bytes", "a text file"])
@pytest.mark.parametrize("name", ["photos.tar", "photos.zip"])
def test_a_file_that_is_no_archive_is_an_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read(path)
    check_one_line(error, path, "no .zip or .tar archive", EXPECTED)


@pytest.mark.parametrize("files", [{}, {"notes/a.txt": b"text"}, {"top.png": png()}], ids=["empty", "text", "top"])
@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_an_archive_without_images_in_class_folders_is_an_error(tmp_path, kind, files):
    with pytest.raises(InputError) as error:
        read(path := write(tmp_path / "photos", files, kind))
    check_one_line(error, path, "holds no image", "expected a folder")
