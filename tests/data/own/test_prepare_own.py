"""A user's set becomes its table image by image: each at its place, and what is none of it left out and counted."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sample_archives import check_one_line, png

from jaxdiv.data import benchmarks, store
from jaxdiv.data.own import prepare as prepare_own
from jaxdiv.data.own.found import Found, Item, OwnSet
from jaxdiv.data.own.outline import Outline
from jaxdiv.data.prepare import DataSettings, prepare_base_set
from jaxdiv.errors import InputError

NOISE = np.random.default_rng(0)


def photo(colour=None, size=(3, 3)):
    """A PNG of one colour; of none, of noise that no other one has."""
    pixels = NOISE.integers(0, 256, (*size, 3)) if colour is None else np.broadcast_to(colour, (*size, 3))
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def made(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def prepare(path, own=None, pixels=3, **settings):
    """The table of the set at `path`, and its facts."""
    given = replace(own or OwnSet(""), path=str(path))
    settings = DataSettings(own={"mine": given}, **{"min_images": 2, **settings})
    facts = prepare_base_set("mine", pixels, settings, path.parent / "table")
    return store.read_table(path.parent / "table"), facts


def pixels_of(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def shuffled(order):
    """A set of three classes of three images, each of its own colour, that are read in another order than named."""
    names = [f"{of_class}/{i}.png" for of_class in "abc" for i in range(3)]
    contents = [photo((10 * i, 0, 255)) for i in range(9)]
    read = lambda: ((i, contents[i]) for i in order)
    found = Found([Item(name, name[0]) for name in names], read)
    return Outline(found, ("b", "a", "c"), (0, 1, 2), (3, 3, 3), np.array([3, 4, 5, 0, 1, 2, 6, 7, 8]), {})


@pytest.mark.parametrize("order", [range(9), range(8, -1, -1), (4, 0, 8, 2, 6, 1, 7, 3, 5)])
def test_images_are_at_their_places_in_whatever_order_they_are_read(tmp_path, order):
    how = (2, 3, tmp_path / "t", 2, False, False, lambda share, note: None)
    digest, settled, lost, changed = prepare_own.write_own(OwnSet("x"), shuffled(order), *how[1:])
    stored = store.read_table(tmp_path / "t")
    assert stored.images[:, 1, 1, 0].tolist() == [30, 40, 50, 0, 10, 20, 60, 70, 80]
    assert stored.names == ("b", "a", "c") and stored.count.tolist() == [3, 3, 3] and not lost and not changed
    first = prepare_own.write_own(OwnSet("x"), shuffled(range(9)), *how[1:])[0]
    assert digest == first and settled.rows.tolist() == list(range(9))


def test_a_set_that_changes_while_it_is_read_is_an_error(tmp_path):
    with pytest.raises(InputError, match="x changed while it was read"):
        prepare_own.write_own(
            OwnSet("x"), shuffled(range(7)), 3, tmp_path / "t", 2, False, False, lambda share, note: None
        )
    assert not (tmp_path / "t").exists() and not list(tmp_path.glob(".t.unf*"))


def test_holes_of_broken_and_double_images_are_closed_and_named(tmp_path):
    files = {f"{name}/{i}.png": photo((40 * "abc".index(name), 10 * i, 9)) for name in "abc" for i in range(5)}
    files["a/1.png"] = b"\x89PNG\r\n\x1a\n no image"
    files["a/3.png"] = files["a/2.png"]  # again in its class: one of them stays
    files["b/0.png"] = files["a/2.png"]  # in another class it is another matter
    path = made(tmp_path / "mine", files)
    with pytest.raises(InputError) as error:
        prepare(path)
    check_one_line(error, "a/1.png", "no image")
    assert not (tmp_path / "table").exists()
    stored, facts = prepare(path, skip_broken=True)
    names = [name.rsplit("/", 1)[-1] for name in stored.names]
    expected = {"a": [(0, 0), (0, 20), (0, 40)], "b": [(0, 20), *((40, 10 * i) for i in range(1, 5))]}
    expected["c"] = [(80, 10 * i) for i in range(5)]
    assert dict(zip(names, stored.count.tolist(), strict=True)) == {"a": 3, "b": 5, "c": 5}
    found = stored.images[:, 0, 0, :2].tolist()
    assert found == [list(pair) for name in names for pair in expected[name]]
    assert {len(lost) for lost in facts["left_out"].values()} == {1}
    assert facts["left_out"][prepare_own.BROKEN] == ["a/1.png"] and facts["left_out"][prepare_own.TWICE] == ["a/3.png"]
    assert facts["images_per_class"] == {"least": 3, "median": 5, "most": 5}
    # Too few are left of the class for a task: refused, or the class is left out.
    with pytest.raises(InputError) as error:
        prepare(path, skip_broken=True, min_images=4)
    check_one_line(error, "class 'a' is of 3", "without 1 broken and 1 double ones", "`DataSettings.partial=True`")
    stored, facts = prepare(path, skip_broken=True, min_images=4, partial=True)
    assert len(stored.names) == 2 and stored.images[:, 0, 0, 0].tolist() == [0, 40, 40, 40, 40, *[80] * 5]
    assert ["a"] in facts["left_out"].values()


def test_normalisation_is_imagenets_given_or_measured_from_the_train_split_alone(tmp_path):
    colours = {"a": (0, 51, 102), "b": (255, 153, 204), "c": (9, 9, 9)}
    files = {f"{name}/{i}.png": photo(colours[name], (3, 3 + i)) for name in colours for i in range(2)}
    path = made(tmp_path / "mine", files)
    (tmp_path / "split.txt").write_text("train a\ntrain b\ntest c\n")
    own = OwnSet("", split=str(tmp_path / "split.txt"))
    given = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    seen = {}
    for normalisation in ("imagenet", "measured", given):
        stored, _ = prepare(path, replace(own, normalisation=normalisation))
        for split in ("train", "test"):
            table = benchmarks.table("mine", stored, split)
            seen[normalisation, split] = np.concatenate([table.mean, table.std])
    np.testing.assert_allclose(seen["imagenet", "train"], [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], rtol=1e-6)
    np.testing.assert_allclose(seen[given, "train"], given, rtol=1e-6)
    # Two values, equally often: the mean between them, and half their distance.
    np.testing.assert_allclose(seen["measured", "train"], [[0.5, 0.4, 0.6], [0.5, 0.2, 0.2]], rtol=1e-6)
    np.testing.assert_array_equal(seen["measured", "train"], seen["measured", "test"])


@pytest.mark.parametrize(
    "given", ["imagnet", (0.5, 0.5), ((0.5,) * 3, (0.5, 0.5, 0)), ((0.5,) * 3, (float("nan"),) * 3)]
)
@pytest.mark.usefixtures("unchecked")
def test_a_normalisation_that_is_none_is_an_error(given):
    with pytest.raises(InputError, match="normalisation"):
        DataSettings(own={"mine": OwnSet("x", normalisation=given)})


def test_a_channel_of_one_value_cannot_be_measured(tmp_path):
    path = made(tmp_path / "mine", {f"{name}/{i}.png": photo((9, 20 * i, i)) for name in "ab" for i in range(2)})
    with pytest.raises(InputError, match="a channel of its train images has one value alone"):
        prepare(path, OwnSet("", normalisation="measured"))


def test_a_set_that_is_all_of_one_colour_is_an_error(tmp_path):
    files = {f"{name}/{i}.png": photo((7, 8, 9), (3, 3 + i)) for name in "ab" for i in range(2)}
    with pytest.raises(InputError) as error:
        prepare(made(tmp_path / "mine", files))
    check_one_line(error, "every pixel of every image is (7, 8, 9)", "`OwnSet.value_range`")
    prepare(made(tmp_path / "mine", {"b/2.png": photo((7, 8, 10))}))


def test_a_set_is_a_path_or_an_own_set_and_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = DataSettings(
        archive_dir="~/a", own={"one": "~/mine", "two": OwnSet("~/b", split="~/s")}, split_file="~/f"
    )
    assert settings.archive_dir == f"{tmp_path}/a"
    assert settings.own_set("one") == OwnSet(f"{tmp_path}/mine", split=f"{tmp_path}/f")
    assert settings.own_set("two") == OwnSet(f"{tmp_path}/b", split=f"{tmp_path}/s")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"own": {"a": "gs://bucket/a"}}, "`OwnSet.path` is 'gs://bucket/a': only files of this machine"),
        ({"archive_dir": "s3://bucket"}, "`DataSettings.archive_dir` is 's3://bucket': only files of this machine"),
        ({"own": {"a": 3}}, "`DataSettings.own` has 3 as 'a': give its path, or an `OwnSet`"),
        ({"own": "DIR"}, "`DataSettings.own` is 'DIR': give each set's path by its name"),
    ],
)
def test_a_path_that_cannot_be_one_is_an_error_of_the_settings(fields, words):
    with pytest.raises(InputError) as error:
        DataSettings(**fields)
    check_one_line(error, words)


def test_a_tilde_without_a_home_folder_is_one_line(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(InputError, match=r"`DataSettings.dir` is '~/data', but there is no home folder"):
        DataSettings(dir="~/data")


def test_a_png_in_memory_is_what_the_table_has(tmp_path):
    files = {f"{name}/{i}.png": photo() for name in "ab" for i in range(3)}
    stored, _ = prepare(made(tmp_path / "mine", files | {"a/readme.txt": b"", "b/1.png": png(4, (3, 3))}))
    assert stored.count.tolist() == [3, 3]
    for image, name in zip(stored.images, sorted(files), strict=False):
        content = (tmp_path / "mine" / name).read_bytes()
        if stored.names[0].endswith("a"):
            np.testing.assert_array_equal(image, pixels_of(content))
