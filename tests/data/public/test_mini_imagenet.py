"""Mini-ImageNet in every form that people have: all give the same images, and nothing else is taken for it."""

import io
import pickle
import weakref
from pathlib import Path

import numpy as np
import official_archives as official
import pytest
from PIL import Image
from sample_archives import check_one_line

from jaxdiv.data.public import builders, sources
from jaxdiv.data.public.array_pickle import load_arrays
from jaxdiv.data.public.mini_imagenet import read
from jaxdiv.data.registry import SOURCES
from jaxdiv.errors import InputError

CLASSES = official.listed("mini_imagenet")
PYTHON_3 = lambda value: pickle.dumps(value, protocol=2)  # what lies on Zenodo
SOURCE = SOURCES["mini_imagenet"]


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def images(name):
    """Two images of each class by a name made of the class and a number."""
    return {name.format(c=c, i=i): official.encoded(c) for c in CLASSES for i in range(2)}


def by_split(name):
    """As `images`, each under the split of its class."""
    lists = official.split_lists()["mini_imagenet"]
    split_of = {c: split for split, classes in lists.items() for c in classes}
    return {name.format(s=split_of[c], c=c, i=i): official.encoded(c) for c in CLASSES for i in range(2)}


def tables(name):
    """The three csv files, of images that are called so."""
    lists = official.split_lists()["mini_imagenet"]
    lines = {s: [f"{name.format(c=c, i=i)},{c}" for c in classes for i in range(2)] for s, classes in lists.items()}
    return {f"{split}.csv": "\n".join(["filename,label", *of_split]).encode() for split, of_split in lines.items()}


FLAT = "{c}{i:08}.jpg"
MAC = {"._mini-imagenet-cache-train.pkl": b"\0\5\x16\7", "mini-imagenet-bookkeeping-train.pkl": b"no pickle"}
FORMS = {
    "Zenodo's pickles": lambda at: write(at, MAC | official.mini_imagenet_cache(2, PYTHON_3, "validation")),
    "loose pickles": lambda at: write(at, official.mini_imagenet_cache(2)),
    "a folder of pickles": lambda at: write(at / "data", MAC | official.mini_imagenet_cache(2, PYTHON_3)),
    "the usual archive": lambda at: official.mini_imagenet_pickles(at, 2),
    "pickles in an archive of any name": lambda at: official.write_zip(
        at / "x.zip", {f"a/b/{name}": data for name, data in (MAC | official.mini_imagenet_cache(2, PYTHON_3)).items()}
    ),
    "MetaOptNet's pickles": lambda at: write(at, official.mini_imagenet_splits(2)),
    "MetaOptNet's in an archive": lambda at: official.write_tar(
        at / "any.tgz", official.mini_imagenet_splits(2, PYTHON_3)
    ),
    "folders by WordNet id": lambda at: write(at / "imgs", images("{c}/{c}_{i}.JPEG")),
    "these right there": lambda at: write(at, images("{c}/{i}.jpg")),
    "these in an archive of any name": lambda at: official.write_tar(at / "any.tar", images("any/{c}/{i}.jpg"), "w"),
    "folders by split": lambda at: write(at, by_split("{s}/{c}/{i}.jpg")),
    "folders by split in an archive": lambda at: official.write_zip(at / "any.zip", by_split("{s}/{c}/{i}.jpg")),
    "flat images and tables": lambda at: write(at, images(f"images/{FLAT}") | tables(FLAT)),
    "these in an archive": lambda at: official.write_tar(
        at / "mini-imagenet.tar.gz", images(f"m/images/{FLAT}") | {f"m/{n}": t for n, t in tables(FLAT).items()}
    ),
    "images that only the tables tell": lambda at: write(
        at / "miniImageNet", images("images/{c}-{i}.jpg".replace("{c}", "x{c}")) | tables("x{c}-{i}.jpg")
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_classes_and_images(tmp_path, form):
    FORMS[form](tmp_path)
    for other in ("notes.txt", "images_background.zip"):
        (tmp_path / other).write_bytes(b"of another set")
    paths = sources.find(SOURCE, tmp_path, False)
    assert not sources.missing(SOURCE, paths)
    found, files = {}, []
    for example in read(paths):
        with Image.open(io.BytesIO(example.image)) as image:
            found.setdefault(example.of_class, []).append(np.asarray(image.convert("RGB"))[1, 1].astype(int))
        files.append(example.file)
    assert sorted(found) == sorted(CLASSES) and {len(of_class) for of_class in found.values()} == {2}
    for name, pixels in found.items():  # JPEG is exact to a few levels on one colour
        assert np.abs(np.array(pixels) - official.colour(name)).max() <= (0 if "pickle" in form else 4)
    assert len(set(files)) == 200


def test_other_cuts_of_imagenet_are_not_taken_for_it(tmp_path):
    foreign = [f"n{i:08}" for i in range(10)]
    write(tmp_path / "tiny-imagenet", {f"train/{c}/{i}.JPEG": b"" for c in [*CLASSES[:20], *foreign] for i in range(2)})
    official.write_zip(tmp_path / "tiny.zip", {f"{c}/0.JPEG": b"" for c in [*CLASSES[:20], *foreign]})
    official.write_zip(tmp_path / "few.zip", {f"{c}/0.JPEG": b"" for c in CLASSES[:4]})
    with pytest.raises(InputError, match=r"mini-imagenet-cache-train\.pkl is missing"):
        sources.find(SOURCE, tmp_path, False)
    assert sources.find(SOURCE, tmp_path, True) == {}  # to be downloaded


def test_two_that_could_be_it_are_named(tmp_path):
    for name in ("one.tar", "two.tar"):
        official.write_tar(tmp_path / name, images("{c}/{i}.jpg"), "w")
    with pytest.raises(InputError) as error:
        sources.find(SOURCE, tmp_path, True)
    check_one_line(error, tmp_path, "one.tar and two.tar", "leave one of them")
    (tmp_path / "two.tar").rename(tmp_path / "mini-imagenet.tar.gz")  # by its owners' name
    assert list(sources.find(SOURCE, tmp_path, True)) == ["mini-imagenet.tar.gz"]


def test_an_archive_of_its_name_that_is_damaged_is_said_and_not_passed_over(tmp_path):
    (tmp_path / "Mini-ImageNet.zip").write_bytes(b"half of it")
    with pytest.raises(InputError) as error:
        list(read(sources.find(SOURCE, tmp_path, True)))
    check_one_line(error, tmp_path / "Mini-ImageNet.zip", "truncated")


def test_what_is_missing_of_its_three_pickles_is_to_be_downloaded(tmp_path):
    files = official.mini_imagenet_cache(1)
    write(tmp_path, {name: files[name] for name in ("mini-imagenet-cache-val.pkl", "mini-imagenet-cache-test.pkl")})
    paths = sources.find(SOURCE, tmp_path, True)
    assert [archive.name for archive in sources.missing(SOURCE, paths)] == ["mini-imagenet-cache-train.pkl"]
    assert paths["mini-imagenet-cache-validation.pkl"].name == "mini-imagenet-cache-val.pkl"


def test_a_pickle_is_freed_before_the_next_is_read(tmp_path, monkeypatch):
    write(tmp_path, official.mini_imagenet_cache(1, PYTHON_3))
    read_before = []

    def load(file, name):
        assert all(image() is None for image in read_before)
        batch = load_arrays(file, name)
        read_before.append(weakref.ref(batch["image_data"]))
        return batch

    monkeypatch.setattr("jaxdiv.data.public.mini_imagenet.load_arrays", load)
    assert len(list(read(sources.find(SOURCE, tmp_path, False)))) == 100 and len(read_before) == 3


def cache(**changed):
    whole = {"image_data": np.zeros((2, 4, 4, 3), np.uint8), "class_dict": {"n01532829": [0], "n01558993": [1]}}
    return {"mini-imagenet-cache-train.pkl": PYTHON_3(whole | changed)}


def split(**changed):
    whole = {
        "data": np.zeros((2, 4, 4, 3), np.uint8),
        "labels": [0, 1],
        "catname2label": {"n01532829": 0, "n01558993": 1},
    }
    return {"miniImageNet_category_split_val.pickle": PYTHON_3(whole | changed)}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (cache(image_data=[1, 2]), "has no `image_data` as it should"),
        (cache(class_dict=[]), "has no `class_dict` as it should"),
        (cache(class_dict={"n01532829": [0, 0]}), "images twice, or that are not there"),
        (cache(class_dict={"n01532829": [0, 2]}), "images twice, or that are not there"),
        (cache(class_dict={"n01532829": [-1]}), "images twice, or that are not there"),
        (cache(class_dict={c: [0, 1] for c in CLASSES}), "images twice, or that are not there"),
        (cache(class_dict={"n01532829": ["a"]}), "labels that are no whole numbers"),
        (cache(image_data=np.zeros((2, 4, 4, 3), "f4")), "are float32 of shape (2, 4, 4, 3), not bytes"),
        (cache(image_data=np.zeros((2, 48), "u1")), "are uint8 of shape (2, 48), not bytes"),
        (split(labels=[0]), "has 2 images and labels of other classes or images"),
        (split(labels=[0, 7]), "has 2 images and labels of other classes or images"),
        (split(catname2label=None), "has no `catname2label` as it should"),
        ({"mini-imagenet-cache-train.pkl": PYTHON_3(3)}, "has no `image_data` as it should"),
        ({"mini-imagenet-cache-train.pkl": b"<html>"}, "no pickle of arrays"),
    ],
)
def test_a_pickle_of_another_content_is_one_line(tmp_path, files, says):
    write(tmp_path, files)
    with pytest.raises(InputError) as error:
        list(read({name: tmp_path / name for name in files}))
    check_one_line(error, *(tmp_path / name for name in files), says)


def test_a_set_is_made_anew_when_its_images_changed(tmp_path):
    """Nobody publishes what a folder of images is: what it holds tells it from another."""
    write(tmp_path / "archives" / "imgs", images("{c}/{i}.jpg"))
    first = builders.prepare("mini_imagenet", tmp_path / "archives", tmp_path / "data")
    assert len(first.records) == 200 and [fact["file"] for fact in first.archives] == ["imgs"]
    again = builders.prepare("mini_imagenet", tmp_path / "archives", tmp_path / "data")
    assert again.archives == first.archives and len(list((tmp_path / "data/jaxdiv").glob("mini_imagenet_*"))) == 1
    (tmp_path / "archives" / "imgs" / CLASSES[0] / "1.jpg").unlink()
    third = builders.prepare("mini_imagenet", tmp_path / "archives", tmp_path / "data")
    assert len(third.records) == 199 and third.archives != first.archives
    assert Path(third.records.dataset_info.data_dir).parent != Path(first.records.dataset_info.data_dir).parent
