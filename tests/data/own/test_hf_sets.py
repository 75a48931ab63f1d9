"""Hugging Face data sets saved on disk, made here by the package `datasets` itself."""

import sys

import pytest
from own_sets import split_of
from sample_archives import check_one_line, png

from jaxdiv.data.own import hf_sets
from jaxdiv.data.own.layout import OwnSet, find
from jaxdiv.errors import InputError


@pytest.fixture(scope="module")
def datasets():
    return pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def one(datasets, tmp_path_factory):
    """A maker of data sets of images, whose pixels are 0, 1, 2, and labels."""

    def make(labels, kind=None, **more):
        kinds = {"image": datasets.Image(), "label": kind or datasets.ClassLabel(names=["owl", "wren"])}
        columns = {"image": [{"bytes": png(i), "path": None} for i in range(len(labels))], "label": labels}
        kinds |= {name: datasets.Value("int64") for name in more}
        return datasets.Dataset.from_dict(columns | more, features=datasets.Features(kinds))

    return make


def saved(data, path):
    data.save_to_disk(path)
    return find(OwnSet(str(path)))


def test_every_image_comes_encoded_as_it_was_given_with_its_class(one, tmp_path, capfd):
    found = saved(one([1, 0, -1, 1], id=[7, 8, 9, 10]), tmp_path / "set")
    assert [item.of_class for item in found.items] == ["owl", "wren", "wren"]
    assert dict(found.read()) == {0: png(1), 1: png(0), 2: png(3)}
    assert found.left_out == {"a record without a class": ["[2]"]}
    assert "a Hugging Face data set: label is the class of image" in found.notes


def test_its_splits_are_its_own(one, datasets, tmp_path):
    parts = datasets.DatasetDict({"train": one([1, 1]), "test": one([0])})
    found = saved(parts, tmp_path / "set")
    assert split_of(found) == {"owl": "test", "wren": "train"}
    assert dict(found.read()) == {0: png(0), 1: png(0), 2: png(1)}


def test_labels_may_be_text_and_a_view_of_a_set_is_what_it_shows(one, datasets, tmp_path):
    data = one(["h\u00e9ron", "owl", "owl"], datasets.Value("string")).select([2, 0])
    found = saved(data, tmp_path / "set")
    assert [item.of_class for item in found.items] == ["h\u00e9ron", "owl"]
    assert dict(found.read()) == {0: png(0), 1: png(2)}


def test_images_may_be_files_on_this_machine_and_a_lost_one_is_named(tmp_path):
    """As data sets of loose files on the Hub have them; `save_to_disk` packs them in."""
    (tmp_path / "owl.png").write_bytes(png(5))
    paths = tmp_path / "owl.png", tmp_path / "wren.png", "/dev/zero"
    for number, path in enumerate(paths):
        read = hf_sets._images([{"image": {"bytes": None, "path": str(path)}}], "image")
        if number == 0:
            assert list(read) == [png(5)]
            continue
        with pytest.raises(InputError) as error:
            list(read)
        check_one_line(error, "image 0 of a Hugging Face data set", path)


def test_a_set_without_images_says_what_it_has(datasets, tmp_path):
    with pytest.raises(InputError) as error:
        saved(datasets.Dataset.from_dict({"text": ["a"], "label": [0]}), tmp_path / "set")
    check_one_line(error, tmp_path / "set", "which feature is its image? It may be none of label, text")


def test_a_damaged_set_gets_one_line(one, tmp_path):
    saved(one([0, 1]), tmp_path / "set")
    next((tmp_path / "set").glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(InputError) as error:
        find(OwnSet(str(tmp_path / "set")))
    check_one_line(error, tmp_path / "set", "cannot be loaded by the package `datasets`")


@pytest.mark.parametrize("path", ["hf:owner/birds", "saved"])
def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch, path):
    if path == "saved":
        path = tmp_path / "set"
        path.mkdir()
        (path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError) as error:
        find(OwnSet(str(path)))
    check_one_line(error, path, "needs the package `datasets`", "pip install 'jaxdiv[hf]'")
