"""Data sets that TensorFlow Datasets prepared, made here by TFDS itself: read without their code."""

import json
import shutil

import pytest
import tensorflow_datasets as tfds
from own_sets import split_of
from sample_archives import check_one_line, png

from jaxdiv.data.own import tfds_sets
from jaxdiv.data.own.layout import OwnSet, find
from jaxdiv.errors import InputError

CLASSES = ("jay", "owl", "tit", "wren")


def prepare(folder, features, records, file_format="array_record", version="1.0.0"):
    """A data set of records by split, whose folder is returned."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: enumerate(of_split) for split, of_split in records.items()}

        def _generate_examples(self):
            raise AssertionError

    tfds.disable_progress_bar()
    builder = Tiny(data_dir=folder, file_format=file_format)
    builder.download_and_prepare()
    return folder / "tiny" / version


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Splits by class; a record's pixels tell its class."""
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=list(CLASSES)),
        "hint": tfds.features.ClassLabel(num_classes=3),
    }
    record = lambda label: {"image": png(CLASSES.index(label)), "label": label, "hint": 1}
    splits = {"train": ["owl", "wren", "owl"], "validation": ["tit"], "test": ["jay"]}
    records = {split: list(map(record, labels)) for split, labels in splits.items()}
    records["test"].append({"image": png(9), "label": -1, "hint": 2})
    return prepare(tmp_path_factory.mktemp("tfds"), features, records)


def test_every_image_comes_encoded_as_it_was_given_with_its_class_and_split(prepared):
    found = find(OwnSet(str(prepared)))
    assert split_of(found) == {"jay": "test", "owl": "train", "tit": "val", "wren": "train"}
    assert [item.of_class for item in found.items] == ["jay", "owl", "owl", "tit", "wren"]
    assert dict(found.read()) == {number: png(CLASSES.index(item.of_class)) for number, item in enumerate(found.items)}
    (without,) = found.left_out.items()
    assert without[0] == "a record without a class" and len(without[1]) == 1
    assert "TFDS's tiny/1.0.0: label is the class of image" in found.notes


def test_a_set_is_found_by_its_name_and_the_newest_version_is_taken(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for version in ("1.0.0", "1.9.0", "1.10.0"):
        shutil.copytree(prepared, tmp_path / "tiny" / version)
    assert tfds_sets.named("tiny") == tmp_path / "tiny/1.10.0" == tfds_sets.newest(tmp_path / "tiny")
    assert tfds_sets.named("tiny/1.9.0") == tmp_path / "tiny/1.9.0"
    assert len(find(OwnSet("tfds:tiny:1.9.0")).items) == 5
    assert find(OwnSet("tfds:tiny")).path == tmp_path / "tiny/1.10.0"
    assert len(find(OwnSet(str(tmp_path / "tiny"))).items) == 5
    (tmp_path / "many/a").mkdir(parents=True)
    for config in "ab":
        shutil.copytree(prepared, tmp_path / "many" / config / "1.0.0")
    for name, words in {
        "tony": ["unknown prepared data set 'tony': did you mean 'tiny'", str(tmp_path), "tfds build"],
        "many": ["2 configurations: name one, such as tfds:many/a"],
    }.items():
        with pytest.raises(InputError) as error:
            find(OwnSet(f"tfds:{name}"))
        check_one_line(error, f"tfds:{name}", *words)
    assert len(find(OwnSet("tfds:many/a")).items) == 5


def test_the_class_may_be_another_feature(prepared):
    found = find(OwnSet(str(prepared), columns=("image", "hint", "split")))
    assert sorted(item.of_class for item in found.items) == ["1"] * 5 + ["2"]


def test_text_is_a_class_too_as_in_the_sets_that_we_prepare_ourselves(tmp_path):
    features = {"image": tfds.features.Image(), "class": tfds.features.Text(), "group": tfds.features.Text()}
    path = prepare(tmp_path, features, {"train": [{"image": png(), "class": "h\u00e9ron", "group": "a"}]})
    assert [item.of_class for item in find(OwnSet(str(path))).items] == ["h\u00e9ron"]


def test_no_class_that_is_not_tfdss_own_is_imported(prepared, tmp_path, monkeypatch):
    path = shutil.copytree(prepared, tmp_path / "set")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    features = json.loads((path / "features.json").read_text())
    for key in ("pythonClassName", "python_class_name", "type"):
        features["featuresDict"]["features"]["label"] = {key: "evil.Label", "classLabel": {"numClasses": "2"}}
        (path / "features.json").write_text(json.dumps(features))
        with pytest.raises(InputError) as error:
            find(OwnSet(str(path)))
        check_one_line(error, path, "'evil.Label'", "refused")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("features.json", "{", ["cannot be read"]),
        ("features.json", "{}", ["cannot be read"]),
        ("dataset_info.json", "[]", ["cannot be read"]),
        ("dataset_info.json", "tfrecord", ["its files are tfrecord", "--file_format=array_record"]),
        ("tiny-train.array_record-00000-of-00001", "cut", ["cannot be read"]),
    ],
)
def test_a_set_that_cannot_be_read_gets_one_line(prepared, tmp_path, file, text, words):
    path = shutil.copytree(prepared, tmp_path / "set")
    if text == "tfrecord":
        text = (path / file).read_text().replace("array_record", "tfrecord")
    (path / file).write_text(text)
    with pytest.raises(InputError) as error:
        list(find(OwnSet(str(path))).read())
    check_one_line(error, path, *words)


def test_features_that_may_both_be_the_class_are_named(tmp_path):
    labels = {name: tfds.features.ClassLabel(num_classes=2) for name in ("genus", "species")}
    record = {"image": png(), "genus": 0, "species": 1}
    path = prepare(tmp_path, {"image": tfds.features.Image(), **labels}, {"train": [record]})
    with pytest.raises(InputError) as error:
        find(OwnSet(str(path)))
    check_one_line(error, path, "which feature is its class? It may be genus, species", "`OwnSet.columns`")
