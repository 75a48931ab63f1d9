"""A folder of images with a CSV: each image has its row's class, and one line says what does not fit."""

import unicodedata

import pytest
from own_sets import classes, images, split_of, write
from sample_archives import check_one_line

from jaxdiv.data.own.layout import OwnSet, find
from jaxdiv.errors import InputError

TEXT = "filename,label\n1.jpg,owl\n2.jpg,wren\n3.jpg,owl\n"
EXPECTED = {"owl": ["1.jpg", "3.jpg"], "wren": ["2.jpg"]}


def with_csv(tmp_path, text, *names, csv="labels.csv", kind="folder"):
    data = text if isinstance(text, bytes) else text.encode()
    return write(tmp_path / "set", images(*(names or ("1.jpg", "2.jpg", "3.jpg"))) | {csv: data}, kind)


def refused(path, **fields):
    with pytest.raises(InputError) as error:
        find(OwnSet(str(path), **fields))
    return error


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "\ufeff" + TEXT,
        TEXT.replace(",", ";"),
        TEXT.replace(",", "\t"),
        TEXT.replace("\n", "\r\n") + "\r\n\r\n",
        '"filename","label"\n"1.jpg","owl"\n2.jpg, wren \n3.jpg,"owl"',
        "id,Label , FileName,note\n7, owl,1.jpg,\n8,wren,2.jpg,a\n9,owl ,3.jpg,b\n",
        ("\ufeff" + TEXT.replace(",", "\t")).encode("utf-16-le"),  # Excel's "Unicode text"
        TEXT.replace(".jpg", ""),
        TEXT.replace(".jpg", ".JPG"),
        TEXT.replace("1.jpg", "C:\\photos\\1.jpg").replace("2.jpg", "./2.jpg").replace("3.jpg", "/content/x/3.jpg"),
    ],
    ids=["plain", "mark", "semicolons", "tabs", "windows", "quoted", "columns", "utf-16", "stem", "case", "paths"],
)
def test_every_common_way_to_write_a_csv_reads_the_same(tmp_path, text):
    assert classes(with_csv(tmp_path, text)) == EXPECTED


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_csv_in_an_archive_beside_the_folder_of_images(tmp_path, kind):
    path = with_csv(tmp_path, TEXT, "s/images/1.jpg", "s/images/2.jpg", "s/images/3.jpg", csv="s/labels.csv", kind=kind)
    assert classes(path) == {"owl": ["s/images/1.jpg", "s/images/3.jpg"], "wren": ["s/images/2.jpg"]}


def test_names_in_either_unicode_form_are_the_same(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    text = f"filename,label\n{composed}.jpg,{decomposed}\n2.jpg,{composed}\n"
    assert classes(with_csv(tmp_path, text, f"{decomposed}.jpg", "2.jpg")) == {composed: ["2.jpg", f"{decomposed}.jpg"]}


def test_a_name_that_several_folders_have_needs_its_folder(tmp_path):
    path = with_csv(tmp_path, "filename,label\na/1.jpg,owl\nb/1.jpg,wren\n", "a/1.jpg", "b/1.jpg")
    assert classes(path) == {"owl": ["a/1.jpg"], "wren": ["b/1.jpg"]}
    (path / "labels.csv").write_text("filename,label\n1.jpg,owl\n")
    check_one_line(refused(path), "labels.csv, line 2: '1.jpg' may be a/1.jpg or b/1.jpg")


def test_what_is_on_one_side_alone_is_left_out_and_named(tmp_path):
    path = with_csv(tmp_path, "filename,label\n1.jpg,owl\n2.jpg,\nlost.jpg,owl\n")
    assert classes(path) == {"owl": ["1.jpg"]}
    assert find(OwnSet(str(path))).left_out == {
        "a row of the CSV without its image": ["lost.jpg"],
        "a row of the CSV without a class": ["2.jpg"],
        "an image without a row in the CSV": ["2.jpg", "3.jpg"],
    }


def test_its_columns_may_be_called_otherwise(tmp_path):
    path = with_csv(tmp_path, "image,species,fold\n1.jpg,owl,train\n2.jpg,wren,valid\n3.jpg,jay,test\n")
    got = find(OwnSet(str(path), columns=("image", "species", "fold")))
    assert split_of(got) == {"owl": "train", "wren": "val", "jay": "test"}
    assert "labels.csv has the classes of its images" in got.notes
    check_one_line(
        refused(path), "labels.csv", "unknown column 'filename'", "image", "species", "fold", "`OwnSet.columns`"
    )
    error = refused(path, columns=("image", "species", "split2"))
    check_one_line(error, "labels.csv", "unknown column 'split2'", "fold")


def test_three_csv_files_called_as_splits_are_the_splits(tmp_path):
    """As Mini-ImageNet is passed around: a flat folder and train.csv, val.csv, test.csv."""
    rows = {"train": ("1.jpg", "n01"), "val": ("2.jpg", "n02"), "test": ("3.jpg", "n03")}
    path = write(tmp_path / "set", images("images/1.jpg", "images/2.jpg", "images/3.jpg"))
    for split, (name, label) in rows.items():
        (path / f"{split}.csv").write_text(f"filename,label\n{name},{label}\n")
    assert split_of(find(OwnSet(str(path)))) == {"n01": "train", "n02": "val", "n03": "test"}
    (path / "other.csv").write_text(TEXT)
    check_one_line(refused(path), "other.csv and test.csv both have labels", "`OwnSet.labels`")
    assert classes(path, labels="other.csv") == {
        "owl": ["images/1.jpg", "images/3.jpg"], "wren": ["images/2.jpg"],
    }  # fmt: skip


def test_the_only_csv_with_labels_is_taken(tmp_path):
    path = with_csv(tmp_path, TEXT, csv="train.csv")
    (path / "test.csv").write_text("filename\n1.jpg\n")
    assert classes(path) == EXPECTED


@pytest.mark.parametrize("where", ["inside", "beside", "elsewhere"])
def test_the_csv_may_be_named_and_be_anywhere(tmp_path, where):
    path = with_csv(tmp_path, "filename,label\n", csv="empty.csv")
    (tmp_path / "far").mkdir()
    given, file = {
        "inside": ("my labels.txt", path / "my labels.txt"),
        "beside": ("labels.csv", tmp_path / "labels.csv"),
        "elsewhere": (str(tmp_path / "far/l.csv"), tmp_path / "far/l.csv"),
    }[where]
    file.write_text(TEXT)
    for labels in (given, str(file)):
        assert classes(path, labels=labels) == EXPECTED
        assert find(OwnSet(str(path), labels=labels)).left_out == {"not an image": ["empty.csv"]}


@pytest.mark.parametrize(
    ("text", "fields", "words"),
    [
        (TEXT, {"labels": "other.csv"}, ["`OwnSet.labels` is 'other.csv'", "there is labels.csv"]),
        (b"filename,label\n1.jpg,h\xe9ron\n", {}, ["labels.csv is not UTF-8 text"]),
        (TEXT + "1.jpg,wren\n", {}, ["labels.csv, line 5: 1.jpg is of 'wren', but of 'owl' in labels.csv, line 2"]),
        (TEXT.replace("3.jpg,owl", "3.jpg,Owl"), {}, ["the labels 'Owl' and 'owl' are one class by two names"]),
        ("filename,label,split\n1.jpg,owl,learn\n", {}, ["line 2: unknown split 'learn'"]),
        (TEXT.replace("jpg", "gif").replace("1", "x").replace("2", "y").replace("3", "z"), {},
         ["none of its 3 rows names one of the 3 images", "'x.gif'", "1.jpg"]),
        ("filename,label\n" + "a" * 200_000, {}, ["labels.csv is no CSV that can be read"]),
    ],
)  # fmt: skip
def test_a_csv_that_does_not_fit_gets_one_line(tmp_path, text, fields, words):
    path = with_csv(tmp_path, text)
    check_one_line(refused(path, **fields), path, *words)


def test_folders_and_csv_that_say_the_same_are_understood(tmp_path):
    names = ("train/n1/1.jpg", "train/n2/2.jpg", "test/n3/3.jpg")
    path = with_csv(tmp_path, "filename,label\n1.jpg,owl\n2.jpg,wren\n3.jpg,jay\n", *names)
    assert split_of(find(OwnSet(str(path)))) == {"owl": "train", "wren": "train", "jay": "test"}


def test_folders_and_csv_that_disagree_are_two_readings(tmp_path):
    path = with_csv(tmp_path, TEXT, "a/1.jpg", "a/2.jpg", "b/3.jpg")
    check_one_line(refused(path), "labels.csv names 2 classes ('owl'), its folders 2 others ('a')", "`OwnSet.labels`")
    assert classes(path, labels="labels.csv") == {"owl": ["a/1.jpg", "b/3.jpg"], "wren": ["a/2.jpg"]}


def test_a_csv_about_something_else_is_not_used_and_that_is_said(tmp_path):
    path = with_csv(tmp_path, "species,wingspan\nowl,1.1\n", "owl/1.jpg", "wren/2.jpg")
    assert classes(path) == {"owl": ["owl/1.jpg"], "wren": ["wren/2.jpg"]}
    assert "labels.csv is not used: it has no columns 'filename' and 'label'" in find(OwnSet(str(path))).notes
