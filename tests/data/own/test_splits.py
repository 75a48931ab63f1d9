"""Which split a class belongs to: a file's word before the set's own before fractions."""

import unicodedata

import pytest
from own_sets import images, write
from sample_archives import check_one_line

from jaxdiv.data.own.layout import OwnSet, find
from jaxdiv.data.own.splits import split_called, split_items
from jaxdiv.data.registry import SPLITS
from jaxdiv.errors import InputError

NFC, NFD = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))


def split(tmp_path, *names, text=None, **fields):
    if text is not None:
        (tmp_path / "split.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        fields["split"] = str(tmp_path / "split.txt")
    own = OwnSet(str(write(tmp_path / "set", images(*names))), **fields)
    return split_items(find(own), own, (0.5, 0.0, 0.5), 0, SPLITS)


@pytest.mark.parametrize(
    "text",
    [
        "train snowy owl\ntest jay\nval " + NFC,
        "\ufefftrain snowy owl\r\ntest jay\r\nval " + NFD + "\r\n",
        "train\tsnowy owl\n\n# mine\ntest   jay\nval \t " + NFC + "  \n",
        "training snowy owl/\nTest jay\nvalid " + NFC,
        ("\ufefftrain snowy owl\ntest jay\nval " + NFC).encode("utf-16-le"),
    ],
    ids=["plain", "mark and windows", "tabs and spaces", "other words", "utf-16"],
)
@pytest.mark.parametrize("form", [NFC, NFD])
def test_a_split_file_is_read_as_people_write_it(tmp_path, text, form):
    found = split(tmp_path, "snowy owl/1.png", "jay/1.png", f"{form}/1.png", "left/1.png", text=text)
    assert found == {"snowy owl": "train", "jay": "test", NFC: "val"}


def test_a_file_wins_over_the_sets_own_split_and_that_over_fractions(tmp_path):
    names = "train/owl/1.png", "train/tit/1.png", "test/jay/1.png"
    assert split(tmp_path, *names) == {"owl": "train", "tit": "train", "jay": "test"}
    assert split(tmp_path, *names, text="test owl\ntrain jay") == {"owl": "test", "jay": "train"}


def test_splits_that_share_classes_give_way_to_fractions(tmp_path):
    found = split(tmp_path, "train/owl/1.png", "train/jay/1.png", "test/owl/2.png", "test/jay/2.png")
    assert sorted(found) == ["jay", "owl"] and sorted(found.values()) == ["test", "train"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train alpha", ["line 1: class 'alpha' may be 'greek/alpha' or 'latin/alpha': give its whole path"]),
        ("train greek/alpha\n\ntrain  greek/alpha", ["line 3: class 'greek/alpha' is listed twice"]),
        ("train", ["line 1: unknown class ''"]),
        ("beta train", ["line 1: unknown split 'beta'", "a line is SPLIT CLASS"]),
        (b"train h\xe9ron", ["split.txt is not UTF-8 text", "`OwnSet.split`"]),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, words):
    names = "greek/alpha/1.png", "greek/beta/1.png", "latin/alpha/1.png"
    with pytest.raises(InputError) as error:
        split(tmp_path, *names, text=text, nested="path")
    check_one_line(error, "split.txt", *words)


def test_the_last_folder_names_a_class_where_that_is_unique(tmp_path):
    names = "greek/alpha/1.png", "greek/beta/1.png", "latin/alpha/1.png"
    found = split(tmp_path, *names, text="train beta\ntest latin/alpha", nested="path")
    assert found == {"greek/beta": "train", "latin/alpha": "test"}


def test_an_unknown_class_among_thousands_gets_a_short_line(tmp_path):
    with pytest.raises(InputError) as error:
        split(tmp_path, *(f"class{i}/1.png" for i in range(500)), text="train klass1")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("name", ["trainer", "tests", "owl", ""])
def test_other_words_are_no_splits(name):
    assert split_called(name) == ""
