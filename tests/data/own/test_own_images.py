"""A folder of one's own as a benchmark: its classes split by fraction, or as a file of names tells."""

import jax
import numpy as np
import pytest
from sample_archives import check_one_line, of_classes, prepare

from jaxdiv.configs import folder as folder_config
from jaxdiv.data import benchmarks, registry
from jaxdiv.data.augment import Augmentation
from jaxdiv.data.episodes import read_images
from jaxdiv.data.own import names as own_data
from jaxdiv.data.own.arrays import table_from
from jaxdiv.data.prepare import DataSettings
from jaxdiv.errors import InputError
from jaxdiv.study.config import read

OWN = [f"class {i:02}" for i in range(10)]


@pytest.fixture
def own(tmp_path):
    for name, content in of_classes(OWN, prefix="photos").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return lambda **fields: DataSettings(
        own={"mine": str(tmp_path / "photos")}, min_images=2, dir=str(tmp_path), **fields
    )


def own_splits(stored):
    return {name: registry.SPLITS[split] for name, split in zip(stored.names, stored.split, strict=True)}


def test_own_classes_are_split_by_fraction_and_drawn_by_seed(own, tmp_path):
    splits = [own_splits(prepare("mine", 4, own(fractions=(0.5, 0.2, 0.3), split_seed=s))[0]) for s in (0, 0, 1)]
    for split_of in splits:
        assert sorted(split_of) == OWN
        assert [list(split_of.values()).count(split) for split in registry.SPLITS] == [5, 2, 3]
    assert splits[0] == splits[1] != splits[2]
    stored, facts = prepare("mine", 4, own())
    assert set(own_splits(stored).values()) == {"train"} and facts["train"] == {"classes": 10, "images": 20}


def test_own_classes_are_split_by_a_file_of_names(own, tmp_path):
    (tmp_path / "split.txt").write_text("# mine\ntrain class 03\ntest class 00\n\ntest class 09\nval class 04\n")
    stored, facts = prepare("mine", 4, own(split_file=str(tmp_path / "split.txt")))
    short = {name.rsplit("/", 1)[-1]: split for name, split in own_splits(stored).items()}
    assert short == {"class 03": "train", "class 04": "val", "class 00": "test", "class 09": "test"}
    (lost,) = facts["left_out"].values()
    assert len(lost) == 6
    table = benchmarks.table("mine", stored, "test")
    assert table.augmentation == (Augmentation(0.18, 8 / 84, 0.4, True),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train class 03\nlearn class 04", ["line 2", "unknown split 'learn'"]),
        ("train class 3", ["line 1", "unknown class 'class 3'", "did you mean 'class 03'"]),
        ("train class 03\ntest class 03", ["line 2", "'class 03' is listed twice"]),
        (None, ["cannot be read", "`OwnSet.split`"]),
    ],
)
def test_a_wrong_file_of_splits_says_which_line(own, tmp_path, text, words):
    if text is not None:
        (tmp_path / "split.txt").write_text(text)
    with pytest.raises(InputError) as error:
        prepare("mine", 4, own(split_file=str(tmp_path / "split.txt")))
    check_one_line(error, "split.txt", *words)


@pytest.mark.parametrize("fractions", [(0.5, 0.2), (0.5, 0.2, 0.2), (1.2, -0.2, 0.0)])
def test_fractions_that_are_none_are_an_error(own, fractions):
    with pytest.raises(InputError, match=r"`DataSettings.fractions` is .* sum to 1"):
        prepare("mine", 4, own(fractions=fractions))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("2023/birds", "2024/birds", "moths, small", "x=y", "dtd", "été"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "photos.tar.gz").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("", {}),
        ("2023/birds", {"birds": "2023/birds"}),
        ("2023/birds/", {"birds": "2023/birds/"}),
        ("2023/birds,dtd", {"birds": "2023/birds", "dtd-images": "dtd"}),  # dtd is a data set of the study
        ("2023/birds, 2024/birds,", {"2023-birds": "2023/birds", "2024-birds": "2024/birds"}),
        ("old=2023/birds,2024/birds", {"old": "2023/birds", "birds": "2024/birds"}),
        ("moths, small", {"moths-small": "moths, small"}),  # the comma is in the folder's name
        ("moths, small,2023/birds", {"moths-small": "moths, small", "birds": "2023/birds"}),
        ("m=moths, small", {"m": "moths, small"}),
        ("x=y", {"x-y": "x=y"}),  # so is the equals sign
        ("a=x=y", {"a": "x=y"}),
        ("photos.tar.gz,été", {"photos": "photos.tar.gz", "ete": "été"}),
        ("tfds:mnist,hf:owner/birds", {"mnist": "tfds:mnist", "birds": "hf:owner/birds"}),
        (
            "hf:a/birds,hf:b/birds,x=tfds:dtd:1.0",
            {"a-birds": "hf:a/birds", "b-birds": "hf:b/birds", "x": "tfds:dtd:1.0"},
        ),
        ("鸟,花", {"folder": "鸟", "folder-2": "花"}),
        ("birds=nowhere,2023/birds", {"birds": "nowhere", "birds-2": "2023/birds"}),
        ("Birds,birds", {"Birds": "Birds", "birds-2": "birds"}),  # one file name where a is A
    ],
)
def test_folders_get_names_that_tell_them_apart(folders, given, found):
    config = folder_config.get_config()
    config.images, config.benchmarks = given, ("gauss-0.1",)
    own = read(config).own
    assert {name: each.path for name, each in own.items()} == found
    assert list(own) == list(found)  # in the order given


def test_a_home_folder_is_meant_by_a_tilde(folders, tmp_path):
    assert own_data.parse("~/2023/birds,m=~/dtd", lambda name: False) == {
        "birds": str(tmp_path / "2023/birds"),
        "m": str(tmp_path / "dtd"),
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("dtd=2023/birds", ["the name 'dtd' already means a benchmark"]),
        ("images=2023/birds", ["the name 'images' already means a benchmark"]),
        ("gauss-0.5=2023/birds", ["the name 'gauss-0.5' already means a benchmark"]),
        ("a+b=2023/birds", ["the name 'a+b' must be", "letters, digits"]),
        ("a=2023/birds,A=2024/birds", ["has the name 'a' twice"]),
        ("2023/birds,./2023/birds", ["2023/birds' twice: give each once"]),
    ],
)
def test_a_wrong_name_of_a_folder_gets_one_line(folders, given, words):
    config = folder_config.get_config()
    config.images, config.benchmarks = given, ("gauss-0.1",)
    with pytest.raises(InputError) as error:
        read(config)
    for word in ("--config.images", *words):
        assert word in str(error.value) and "\n" not in str(error.value)


def test_ones_own_sets_are_benchmarks_by_name_parts_of_unions_and_together_images():
    own = {"birds": "/a", "moths": "/b"}
    assert registry.components("birds", own) == ("birds",)
    assert registry.components("moths+omniglot", own) == ("moths", "omniglot")
    assert registry.components("images", own) == ("birds", "moths")
    assert registry.components("images+omniglot", {"birds": "/a"}) == ("birds", "omniglot")
    assert registry.shares("images", own) == {"birds": 0.5, "moths": 0.5}
    assert registry.true_diversity("birds", own) is None
    with pytest.raises(InputError, match="unknown benchmark 'moth': did you mean 'moths'"):
        registry.components("moth", own)


def test_a_table_from_arrays_keeps_every_image_under_its_label():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 4, 4, 3), np.uint8), np.array(["wren", "owl", "tit"] * 4)
    table = table_from(images, labels)
    assert table.classes == ("owl", "tit", "wren") and np.asarray(table.count).tolist() == [4, 4, 4]
    owls = (images[labels == "owl"] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]  # ImageNet's statistics
    np.testing.assert_allclose(read_images(table, np.arange(4)), owls, atol=1e-5)


def test_a_table_from_arrays_names_labels_that_do_not_fit(unchecked):
    with pytest.raises(InputError, match=r"`labels` has shape \(3,\): give one label for each image"):
        table_from(np.zeros((4, 2, 2, 3), np.uint8), [0, 1, 2])
    with pytest.raises(InputError, match="`labels` are float64: give whole numbers"):
        table_from(np.zeros((4, 2, 2, 3), np.uint8), [0, 1, 2, 3.5])


@pytest.mark.parametrize(
    ("images", "value_range", "expected"),
    [
        (np.array([0, 7, 255], np.uint8), (), [0, 7, 255]),
        (np.array([0, 257 * 7, 65535], np.uint16), (), [0, 7, 255]),
        (np.array([0, 0.5, 1], np.float16), (), [0, 128, 255]),  # 127.5 to the even one
        (np.array([0, 0.25, 1], np.float64), (), [0, 64, 255]),  # 63.75
        (np.array([0, 7, 255], np.float16), (0, 255), [0, 7, 255]),
        ([0, 7, 255], (0, 255), [0, 7, 255]),
        (np.array([-1, 0, 3], np.float32), (-1, 1), [0, 128, 255]),  # beyond white is white
        (np.array([0, 1000, 4095], np.uint16), (0, 4095), [0, 62, 255]),  # 62.27
        (np.array([0, 1, 1], bool), (), [0, 255, 255]),
    ],
)
def test_a_table_from_arrays_of_any_numbers_has_the_right_bytes(images, value_range, expected):
    table = table_from(np.asarray(images).reshape(3, 1, 1), ["a", "b", "c"], value_range=value_range)
    assert np.asarray(table.images).ravel().tolist() == expected and table.images.dtype == np.uint8


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.full((2, 2, 2, 3), 200, np.float16), r"`images` are float16 from 200 to 200: .* by `value_range`, such as"),
        ([[[0, 255]], [[3, 4]]], r"`images` are int64 from 0 to 255: give the values for black and white"),
        (np.full((2, 2, 2), np.nan), "NaN or infinite"),
        (np.zeros((2, 2, 2, 4), np.uint8), "must be uint8"),
        (np.zeros((2, 2), np.uint8), r"must be numbers \[n, h, w\]"),
        (np.zeros((0, 2, 2), np.uint8), "must be numbers"),
    ],
)
def test_a_table_from_arrays_of_unknown_black_and_white_says_what_is_missing(images, words):
    with pytest.raises(InputError, match=words):
        table_from(images, [0, 1])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 10], ("9", "10")),
        (("b", "a", "b"), ("a", "b")),
        (np.array(["b", "a", "b"], object), ("a", "b")),
        (np.array([b"b", b"a", b"b"]), ("a", "b")),
        (np.array([10, 9, 10], object), ("9", "10")),
    ],
)
@pytest.mark.parametrize("x64", [False, True])
def test_a_table_from_arrays_takes_labels_of_any_kind_also_in_double_precision(labels, classes, x64):
    images = np.array([5, 6, 7], np.uint8).reshape(3, 1, 1, 1)
    jax.config.update("jax_enable_x64", x64)
    try:
        table = table_from(images, labels)
        seen = read_images(table, np.arange(3))
    finally:
        jax.config.update("jax_enable_x64", False)
    assert table.classes == classes and np.asarray(table.count).tolist() == [1, 2]
    assert np.asarray(table.images).ravel().tolist() == [6, 5, 7] and seen.dtype == np.float32
