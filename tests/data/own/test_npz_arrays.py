"""A .npz of images and labels: the right image under the right label, one at a time, and never a pickle."""

import tracemalloc
import zipfile

import numpy as np
import pytest
from own_sets import split_of
from sample_archives import check_one_line

from jaxdiv.data.own.layout import OwnSet, find
from jaxdiv.errors import InputError

PIXELS = np.arange(4 * 2 * 3 * 3, dtype=np.uint8).reshape(4, 2, 3, 3)
NAMES = np.array(["wren", "owl", "owl", "jay"])


def saved(tmp_path, save=np.savez, **arrays):
    save(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


def by_class(path):
    """The images of each class, as lists."""
    found = find(OwnSet(str(path)))
    read = dict(found.read())
    assert sorted(read) == list(range(len(found.items)))
    classes = {}
    for number, item in enumerate(found.items):
        classes.setdefault(item.of_class, []).append(read[number].tolist())
    return classes


def refused(path, **fields):
    with pytest.raises(InputError) as error:
        find(OwnSet(str(path), **fields))
    return error


EXPECTED = {"jay": [PIXELS[3].tolist()], "owl": [PIXELS[1].tolist(), PIXELS[2].tolist()], "wren": [PIXELS[0].tolist()]}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("x", "y"), ("X", "Y"), ("data", "target"), ("arr_1", "arr_0"), ("p", "q")],
)
def test_images_and_labels_are_known_by_their_names_or_else_their_shapes(tmp_path, save, images, labels):
    path = saved(tmp_path, save, **{images: PIXELS, labels: NAMES})
    assert by_class(path) == EXPECTED
    told = [] if images == "images" else [f"{images} and {labels} are its images and labels"]
    assert find(OwnSet(str(path))).notes == told


def test_savez_without_names_and_another_suffix_open_too(tmp_path):
    with (tmp_path / "photos.bin").open("wb") as file:
        np.savez(file, PIXELS, NAMES)
    assert by_class(tmp_path / "photos.bin") == EXPECTED


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([2, 0, 0, 10], ["0", "10", "2"]),
        (np.array([2, 0, 0, 10], np.uint8)[:, None], ["0", "10", "2"]),
        ([2.0, 0.0, 0.0, 10.0], ["0", "10", "2"]),
        ([b"wren", b"owl", b"owl", b"jay"], ["jay", "owl", "wren"]),
        (["e\u0301", "owl", "owl", "jay"], ["jay", "owl", "\u00e9"]),
    ],
)
def test_labels_are_whole_numbers_or_names(tmp_path, labels, classes):
    assert list(by_class(saved(tmp_path, images=PIXELS, labels=np.array(labels)))) == classes


@pytest.mark.parametrize(
    "pixels",
    [
        PIXELS[..., 0],
        PIXELS[..., :1],
        PIXELS.astype(np.uint16) * 257,
        PIXELS.astype(">u2"),
        (PIXELS / 255).astype(np.float16),
        PIXELS / 255,
        np.asfortranarray(PIXELS),
    ],
    ids=["gray", "one channel", "16 bits", "big-endian", "half", "double", "fortran"],
)
def test_every_kind_of_pixels_comes_out_as_it_is(tmp_path, pixels):
    found = find(OwnSet(str(saved(tmp_path, images=pixels, labels=NAMES))))
    read = dict(found.read())
    for number, row in enumerate([3, 1, 2, 0]):  # in the order of the classes' names
        np.testing.assert_array_equal(read[number], pixels[row])
        assert read[number].dtype == pixels.dtype.newbyteorder("=")
    assert [item.name for item in found.items] == ["images[3]", "images[1]", "images[2]", "images[0]"]


def test_channels_before_rows_are_recognised_and_said(tmp_path):
    path = saved(tmp_path, images=np.moveaxis(PIXELS, 3, 1)[:, :, :, [0, 1, 2, 2, 2]], labels=NAMES)
    assert by_class(path)["wren"] == [PIXELS[0][:, [0, 1, 2, 2, 2]].tolist()]
    assert "the channels of images come before its rows ([4, 3, 2, 5])" in find(OwnSet(str(path))).notes


def test_arrays_of_splits_are_the_splits(tmp_path):
    arrays = {"x_train": PIXELS[:2], "y_train": NAMES[:2], "test_images": PIXELS[3:], "test_labels": NAMES[3:]}
    path = saved(tmp_path, **arrays)
    assert split_of(find(OwnSet(str(path)))) == {"wren": "train", "owl": "train", "jay": "test"}
    assert by_class(path)["jay"] == [PIXELS[3].tolist()]


def test_splits_of_the_same_classes_are_taken_together(tmp_path):
    path = saved(tmp_path, x_train=PIXELS, y_train=NAMES, x_test=PIXELS[::-1], y_test=NAMES[::-1])
    assert split_of(find(OwnSet(str(path)))) == {"jay": "", "owl": "", "wren": ""}
    assert {name: len(images) for name, images in by_class(path).items()} == {"jay": 2, "owl": 4, "wren": 2}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": PIXELS, "labels": np.array(["a", None, "b", "c"], object)}, ["labels has Python objects"]),
        ({"images": np.array([1, None], object), "labels": NAMES[:2]}, ["images has Python objects"]),
        ({"images": PIXELS, "labels": NAMES[:3]}, ["labels is [3]: give one label for each of the 4 images"]),
        ({"images": PIXELS, "labels": np.eye(4)}, ["labels is [4, 4]: give one label"]),
        ({"images": PIXELS, "labels": np.array([0, 1, 2, np.nan])}, ["labels that are no whole numbers"]),
        ({"images": PIXELS, "labels": np.array(["Owl", "owl", "a", "b"])}, ["the labels 'Owl' and 'owl'"]),
        ({"images": PIXELS, "labels": np.array(["", "", "", ""])}, ["holds no image that has a class"]),
        ({"images": PIXELS.astype(np.int64), "labels": NAMES}, ["images is of int64: pixels are uint8"]),
        ({"images": PIXELS.reshape(4, -1), "labels": NAMES}, ["images is [4, 18]: images are [n, h, w]"]),
        ({"images": PIXELS.reshape(4, 2, 1, 9), "labels": NAMES}, ["images is [4, 2, 1, 9]"]),
        ({"images": PIXELS[:0], "labels": NAMES[:0]}, ["images is [0, 2, 3, 3]"]),
        ({"images": PIXELS}, ["its array images has no labels"]),
        ({"x_train": PIXELS, "y_train": NAMES, "y_test": NAMES}, ["its array y_test has no images"]),
        ({"x": PIXELS, "images": PIXELS, "y": NAMES}, ["x and images may both be meant"]),
        ({"a": PIXELS, "b": PIXELS, "c": NAMES}, ["arrays a [4, 2, 3, 3] of uint8", "none are clearly"]),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_gets_one_line(tmp_path, arrays, words):
    path = saved(tmp_path, **arrays)
    check_one_line(refused(path), path, *words)


def test_labels_of_a_csv_are_for_folders(tmp_path):
    path = saved(tmp_path, images=PIXELS, labels=NAMES)
    check_one_line(refused(path, labels="labels.csv"), "`OwnSet.labels`", "folder")


def test_a_damaged_file_gets_one_line(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 50, 50), np.uint8)
    path = saved(tmp_path, images=noise, labels=NAMES)
    data = bytearray(path.read_bytes())
    data[5000:5010] = bytes(10)
    path.write_bytes(data)
    found = find(OwnSet(str(path)))
    with pytest.raises(InputError) as error:
        list(found.read())
    check_one_line(error, path, "cannot be read")


def test_one_image_at_a_time_is_in_memory(tmp_path):
    path = saved(tmp_path, np.savez_compressed, images=np.zeros((64, 256, 256, 3), np.uint8), labels=np.arange(64))
    tracemalloc.start()
    for _ in find(OwnSet(str(path))).read():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**20  # of 12 MiB


def test_a_header_that_asks_for_gigabytes_is_not_believed(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("labels.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(2**20))
    check_one_line(refused(tmp_path / "set.npz"), "cannot be read", "NumPy's format (2, 0)")
