"""A folder of one's own as a benchmark: its classes split by fraction, or as a file of names tells."""

import pytest
from sample_archives import of_classes, one_line, prepare

from jaxdiv.data import benchmarks
from jaxdiv.data.augment import Augmentation
from jaxdiv.data.benchmarks import DataSettings
from jaxdiv.errors import InputError

OWN = [f"class {i:02}" for i in range(10)]


@pytest.fixture
def own(tmp_path):
    for name, content in of_classes(OWN, prefix="photos").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return lambda **fields: DataSettings(own=str(tmp_path / "photos"), min_images=2, dir=str(tmp_path), **fields)


def own_splits(stored):
    return {name: benchmarks.SPLITS[split] for name, split in zip(stored.names, stored.split, strict=True)}


def test_own_classes_are_split_by_fraction_and_drawn_by_seed(own, tmp_path):
    splits = [own_splits(prepare("images", 4, own(fractions=(0.5, 0.2, 0.3), split_seed=s))[0]) for s in (0, 0, 1)]
    for split_of in splits:
        assert sorted(split_of) == OWN
        assert [list(split_of.values()).count(split) for split in benchmarks.SPLITS] == [5, 2, 3]
    assert splits[0] == splits[1] != splits[2]
    stored, facts = prepare("images", 4, own())
    assert set(own_splits(stored).values()) == {"train"} and facts["train"] == {"classes": 10, "images": 20}


def test_own_classes_are_split_by_a_file_of_names(own, tmp_path):
    (tmp_path / "split.txt").write_text("# mine\ntrain class 03\ntest class 00\n\ntest class 09\nval class 04\n")
    stored, facts = prepare("images", 4, own(split_file=str(tmp_path / "split.txt")))
    short = {name.rsplit("/", 1)[-1]: split for name, split in own_splits(stored).items()}
    assert short == {"class 03": "train", "class 04": "val", "class 00": "test", "class 09": "test"}
    assert len(facts["left_out"]) == 6
    table = benchmarks.table("images", stored, "test")
    assert table.augmentation == (Augmentation(0.18, 8 / 84, 0.4, True),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train class 03\nlearn class 04", ["line 2", "unknown split 'learn'"]),
        ("train class 3", ["line 1", "unknown class 'class 3'", "did you mean 'class 03'"]),
        ("train class 03\ntest class 03", ["line 2", "'class 03' is listed twice"]),
        (None, ["cannot be read", "`DataSettings.split_file`"]),
    ],
)
def test_a_wrong_file_of_splits_says_which_line(own, tmp_path, text, words):
    if text is not None:
        (tmp_path / "split.txt").write_text(text)
    with pytest.raises(InputError) as error:
        prepare("images", 4, own(split_file=str(tmp_path / "split.txt")))
    one_line(error, "split.txt", *words)


@pytest.mark.parametrize("fractions", [(0.5, 0.2), (0.5, 0.2, 0.2), (1.2, -0.2, 0.0)])
def test_fractions_that_are_none_are_an_error(own, fractions):
    with pytest.raises(InputError, match=r"`DataSettings.fractions` is .* sum to 1"):
        prepare("images", 4, own(fractions=fractions))
