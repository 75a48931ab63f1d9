"""Which folders are classes, which are splits, parts, or around it all: understood and said, or refused by one line."""

import os
import unicodedata

import pytest
from own_sets import classes, content, images, split_of, write
from sample_archives import check_one_line

from jaxdiv.data.own.layout import OwnSet, find
from jaxdiv.errors import InputError


def found(tmp_path, *names, **fields):
    return find(OwnSet(str(write(tmp_path / "set", images(*names))), **fields))


def refused(tmp_path, *names, **fields):
    with pytest.raises(InputError) as error:
        found(tmp_path, *names, **fields)
    return error


def labels(found):
    return {item.name: item.of_class for item in found.items}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("around", ["", "birds-v2/", "data/birds/images/"])
def test_a_sub_folder_is_a_class_in_folders_and_archives_whatever_is_around_them_all(tmp_path, kind, around):
    names = [f"{around}{name}" for name in ("owl/2.jpg", "owl/1.jpg", "wren/1.jpg")]
    path = write(tmp_path / "set", images(*names) | {f"{around}README.txt": b"text"}, kind)
    got = find(OwnSet(str(path)))
    assert [(item.of_class, item.name) for item in got.items] == [
        ("owl", f"{around}owl/1.jpg"),
        ("owl", f"{around}owl/2.jpg"),
        ("wren", f"{around}wren/1.jpg"),
    ]
    assert {got.items[number].name: data for number, data in got.read()} == images(*names)
    assert got.left_out == {"not an image": [f"{around}README.txt"]}


def test_images_are_read_by_name_from_a_folder_and_in_the_order_of_the_archive_from_a_tar(tmp_path):
    files = images("b/2.png", "a/1.png", "b/1.png")
    for kind, order in (("folder", [0, 1, 2]), ("tar.gz", [2, 0, 1]), ("zip", [2, 0, 1])):
        got = find(OwnSet(str(write(tmp_path / "set", files, kind))))
        assert [number for number, _ in got.read()] == order
        assert [number for number, _ in got.read()] == order  # again


def test_loose_images_are_left_out_and_named(tmp_path):
    got = found(tmp_path, "cover.png", "owl/1.png", "wren/1.png")
    assert labels(got) == {"owl/1.png": "owl", "wren/1.png": "wren"}
    assert got.left_out == {"an image in no folder of a class": ["cover.png"]}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "dev", "testing"), ("train", "valid", "test"), ("train", "eval", "test")],
)
def test_split_folders_of_different_classes_are_the_sets_own_splits(tmp_path, train, val, test):
    got = found(tmp_path, f"{train}/owl/1.png", f"{train}/wren/1.png", f"{val}/tit/1.png", f"{test}/jay/1.png")
    assert split_of(got) == {"owl": "train", "wren": "train", "tit": "val", "jay": "test"}
    assert any("are its splits" in note for note in got.notes)
    assert "its own splits of the classes are taken: 2 train, 1 val, 1 test" in got.notes


def test_split_folders_of_the_same_classes_split_images_so_all_of_a_class_is_together_and_that_is_said(tmp_path):
    got = found(tmp_path, "train/owl/1.png", "train/wren/2.png", "val/owl/3.png", "val/wren/4.png")
    assert labels(got) == {
        "train/owl/1.png": "owl", "val/owl/3.png": "owl", "train/wren/2.png": "wren", "val/wren/4.png": "wren",
    }  # fmt: skip
    assert split_of(got) == {"owl": "", "wren": ""}
    assert any("share 2 of 2 classes" in note and "classes are split again" in note for note in got.notes)


def test_a_set_as_tiny_imagenet_has_its_train_classes_and_no_class_called_images(tmp_path):
    got = found(tmp_path, "t/train/n01/images/n01_0.JPEG", "t/train/n02/images/n02_0.JPEG", "t/val/images/val_0.JPEG",
                "t/test/images/test_0.JPEG")  # fmt: skip
    assert split_of(got) == {"n01": "", "n02": ""}
    assert got.left_out == {
        "an image in no folder of a class": ["t/test/images/test_0.JPEG", "t/val/images/val_0.JPEG"]
    }
    assert any("all its classes are in one split (train)" in note for note in got.notes)


def test_classes_may_be_called_as_splits_are(tmp_path):
    got = found(tmp_path, "train/1.png", "car/1.png", "test/1.png")  # the vehicle
    assert set(labels(got).values()) == {"train", "car", "test"}


def test_images_beside_the_splits_folders_are_left_out(tmp_path):
    got = found(tmp_path, "train/owl/1.png", "test/jay/1.png", "samples/1.png")
    assert split_of(got) == {"owl": "train", "jay": "test"}
    assert got.left_out == {"an image beside the folders of the splits": ["samples/1.png"]}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/owl/1.png", "val/tit/1.png", "more/jay/1.png"], ["train/, val/ are splits, or", "more/", "classes"]),
        (["train/1.png", "test/2.png"], ["splits without folders of classes inside", "`OwnSet.labels`"]),
        (["Owl/1.png", "owl/1.png", "jay/1.png"], ["'Owl' and 'owl' are one class by two names or two classes"]),
        (["owl /1.png", "owl/1.png", "jay/1.png"], ["'owl' and 'owl ' are one class by two names"]),
        (["train/Owl/1.png", "test/owl/1.png"], ["'Owl' and 'owl' are one class by two names"]),
    ],
)
def test_two_readings_are_named_in_one_line(tmp_path, names, words):
    check_one_line(refused(tmp_path, *names), tmp_path / "set", *words)


NESTED = ("greek/alpha/1.png", "greek/beta/1.png", "latin/alpha/1.png", "latin/be/1.png")


def test_nested_folders_have_three_readings_which_the_line_counts(tmp_path):
    message = check_one_line(refused(tmp_path, *NESTED), "greek/alpha/", "`OwnSet.nested`")
    assert "2 classes such as 'greek' (`OwnSet.nested`='outer'), 3 such as 'alpha' ('inner')" in message
    assert "or 4 such as 'greek/alpha' ('path')" in message


@pytest.mark.parametrize(
    ("nested", "expected"),
    [
        ("outer", ["greek", "greek", "latin", "latin"]),
        ("inner", ["alpha", "beta", "alpha", "be"]),
        ("path", ["greek/alpha", "greek/beta", "latin/alpha", "latin/be"]),
    ],
)
def test_the_user_says_which_of_nested_folders_are_classes(tmp_path, nested, expected):
    got = found(tmp_path, *NESTED, nested=nested)
    assert labels(got) == dict(zip(NESTED, expected, strict=True))
    assert any(f"the class is {expected[0]!r}" in note for note in got.notes)
    kept_apart = any("1 names of folders are of several classes ('alpha')" in note for note in got.notes)
    assert kept_apart == (nested == "path")


def test_an_unknown_reading_is_named(tmp_path):
    check_one_line(refused(tmp_path, *NESTED, nested="leaf"), "`OwnSet.nested` 'leaf'", "inner, outer, path")


def test_folders_inside_a_class_are_its_parts_where_most_classes_hold_images_themselves(tmp_path):
    got = found(tmp_path, "birds/a/1.png", "birds/b/2.png", "cats/3.png", "dogs/4.png", "dogs/old/5.png")
    assert list(labels(got).values()) == ["birds", "birds", "cats", "dogs", "dogs"]
    assert "folders inside a class's folder are parts of the class (birds/a/)" in got.notes


def test_a_stray_image_beside_the_folders_of_a_class_does_not_decide(tmp_path):
    check_one_line(refused(tmp_path, *NESTED, "greek/overview.png", "cyrillic/a/1.png"), "more than one reading")


def test_the_only_folder_inside_a_class_is_no_class(tmp_path):
    got = found(tmp_path, "owl/images/1.png", "wren/images/1.png")
    assert set(labels(got).values()) == {"owl", "wren"}


def test_letters_are_classes_of_their_own_and_that_is_said(tmp_path):
    got = found(tmp_path, "A/1.png", "a/1.png", "B/1.png")
    assert set(labels(got).values()) == {"A", "a", "B"}
    assert "capital and small letters are different classes ('A' and 'a')" in got.notes


def test_two_unicode_forms_of_a_name_are_one_class_and_that_is_said(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    got = found(tmp_path, f"{composed}/1.png", f"{decomposed}/2.png", "jay/1.png")
    assert [item.of_class for item in got.items] == ["jay", composed, composed]
    assert any("1 classes have two folders" in note for note in got.notes)
    assert {data for _, data in got.read()} == {
        content(name) for name in (f"{composed}/1.png", f"{decomposed}/2.png", "jay/1.png")
    }


@pytest.mark.skipif(os.name == "nt", reason="names of Windows are text")
def test_a_name_that_is_no_text_can_still_be_printed_and_read(tmp_path):
    (tmp_path / "set/jay").mkdir(parents=True)
    with open(os.fsencode(tmp_path / "set/jay") + b"/\xff.png", "wb") as file:
        file.write(content("x"))
    got = find(OwnSet(str(write(tmp_path / "set", images("owl/1.png")))))
    assert [item.name.encode() for item in got.items] == ["jay/\ufffd.png".encode(), b"owl/1.png"]
    assert [data for _, data in got.read()] == [content("x"), content("owl/1.png")]


def test_names_of_a_class_are_in_the_order_of_their_names(tmp_path):
    path = write(tmp_path / "set", images("b/10.png", "a/2.png", "b/9.png"))
    assert classes(path) == {"a": ["a/2.png"], "b": ["b/10.png", "b/9.png"]}
