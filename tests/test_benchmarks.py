"""The table of facts: right names, splits and unions, and one clear line for what cannot be used."""

import io
import os
import zipfile
from pathlib import Path

import jax
import numpy as np
import official_archives as official
import pytest
from PIL import Image
from scipy import stats

from jaxdiv.data import benchmarks, builders, folder, store
from jaxdiv.data.augment import Augmentation
from jaxdiv.data.benchmarks import DataSettings, components, load_benchmark, native_pixels
from jaxdiv.data.episodes import sample_tasks
from jaxdiv.errors import InputError

PROTOCOL = {  # section 1: train, val, test classes; a union is the sum of its parts
    "cifar_fs": (64, 16, 20),
    "fc100": (60, 20, 20),
    "mini_imagenet": (64, 16, 20),
    "aircraft": (70, 15, 15),
    "flower": (71, 15, 16),
    "dtd": (33, 7, 7),
    "cu_birds": (140, 30, 30),
    "omniglot": (1100, 100, 423),
    "mio": ("mini_imagenet", "omniglot"),
    "hdb7_afto": ("aircraft", "flower", "dtd", "omniglot"),
    "hdb8_cado": ("cu_birds", "aircraft", "dtd", "omniglot"),
    "hdb9_cavdo": ("cu_birds", "aircraft", "flower", "dtd", "omniglot"),
    "hdb10_micova": ("mini_imagenet", "omniglot", "cifar_fs", "flower", "aircraft"),
}
FURTHER = {
    "aircraft_family": (34, 7, 10),
    "hdb2": ("cifar_fs", "omniglot"),
    "hdb5": ("aircraft", "flower"),
    "hdb12": ("aircraft", "flower", "fc100", "omniglot"),
    "hdb13": ("mini_imagenet", "cifar_fs", "fc100", "omniglot"),
    "hdb14": ("dtd", "cu_birds", "mini_imagenet", "omniglot"),
    "hdb15": ("flower", "aircraft", "cifar_fs", "omniglot"),
    "hdb16": ("dtd", "fc100", "mini_imagenet", "omniglot"),
}
GENERATED = {"classes": (5, 3, 2), "images": 2}  # one shape for all tests: it compiles once
MINI = official.listed("mini_imagenet")
UNLIKELY = 1e-3  # p-values below it fail; keys are fixed, so a test that passes always passes


def png(value=0, size=(6, 5)):
    out = io.BytesIO()
    Image.new("RGB", size, (value % 256, 100, 200)).save(out, "PNG")
    return out.getvalue()


def of_classes(names, images=2, prefix="mini"):
    return {f"{prefix}/{name}/{i}.png": png(10 * i) for name in names for i in range(images)}


def write_tar(path, files, mode="w"):
    return official.write_tar(path, files, mode)


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def read(path, expected="a test archive"):
    return folder.read_classes(path, expected, folder.decoder(4, gray=False), lambda share: None)


def prepare(base, pixels, settings):
    """A prepared table and its facts; records lie beside the archives."""
    into = Path(settings.dir or settings.archive_dir) / f"table-{base}-{pixels}"
    facts = benchmarks.prepare(base, pixels, settings, into)
    return store.read_table(into), facts


def data(archives, **fields):
    return DataSettings(str(archives), str(archives / "prepared"), min_images=2, **fields)


def one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message
    return message


# Names


@pytest.mark.parametrize(
    ("name", "near"), [("omnoglot", "omniglot"), ("mini_imagnet", "mini_imagenet"), ("flowers", "flower")]
)
def test_an_unknown_benchmark_names_the_nearest(name, near):
    with pytest.raises(InputError, match=f"unknown benchmark '{name}': did you mean '{near}'") as error:
        components(name)
    one_line(error)


@pytest.mark.parametrize("name", ["", "mio+", "mio+omnoglot", "gauss-x", "gauss-0"])
def test_a_broken_part_of_a_name_is_an_error_too(name):
    with pytest.raises(InputError, match="unknown benchmark"):
        components(name)


def test_unions_by_name_and_by_plus():
    assert components("mio") == ("mini_imagenet", "omniglot")
    assert components("flower+gauss-0.5") == ("flower", "gauss-0.5")
    assert components("mio+flower") == ("mini_imagenet", "omniglot", "flower")
    assert components("hdb5+fc100") == ("aircraft", "flower", "fc100")
    table = load_benchmark("gauss-0.1+gauss-1.0+gauss-2", "val", 4, DataSettings(**GENERATED))
    np.testing.assert_array_equal(table.dataset, np.repeat([0, 1, 2], 3))


def test_an_unknown_split_names_the_valid_ones():
    with pytest.raises(InputError, match="unknown split 'valid': did you mean 'val'"):
        load_benchmark("gauss-0.1", "valid", 4, DataSettings(**GENERATED))


def test_the_splits_of_a_generated_benchmark_are_its_classes_in_turn(tmp_path):
    stored, facts = prepare("gauss-0.3", 4, DataSettings(dir=str(tmp_path), **GENERATED))
    assert stored.images.shape == (20, 4, 4, 3)
    assert [facts[split]["classes"] for split in benchmarks.SPLITS] == [5, 3, 2]
    tables = [benchmarks.table("gauss-0.3", stored, split) for split in benchmarks.SPLITS]
    np.testing.assert_array_equal(np.concatenate([t.images for t in tables]), stored.images)


# The study's benchmarks, from archives of the official layout with every class


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Every base set at 8 px, two images a class, three of the coarser ones'."""
    where = tmp_path_factory.mktemp("official")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in official.MAKERS:
            official.make(name, where, 2, monkeypatch)
        yield {base: prepare(base, 8, data(where, partial=True)) for base in benchmarks.BASE_SETS}


def joined(name, prepared, split):
    return benchmarks.join(name, [prepared[base][0] for base in components(name)], split)


def expected_classes(name):
    counts = {**PROTOCOL, **FURTHER}[name]
    parts = [PROTOCOL[part] for part in counts] if isinstance(counts[0], str) else [counts]
    return tuple(map(sum, zip(*parts, strict=True)))


def test_the_studys_thirteen_are_those_of_its_table():
    assert tuple(PROTOCOL) == benchmarks.STUDY
    assert set(benchmarks.BASE_SETS) | set(benchmarks.UNIONS) == {*PROTOCOL, *FURTHER}


@pytest.mark.parametrize("name", [*PROTOCOL, *FURTHER])
def test_class_counts_are_the_protocols_and_splits_share_no_class(name, prepared):
    tables = {split: joined(name, prepared, split) for split in benchmarks.SPLITS}
    assert tuple(len(tables[split].classes) for split in benchmarks.SPLITS) == expected_classes(name)
    assert all((table.count >= 2).all() for table in tables.values())
    # A class is a name in a data set; unions here have no data set twice, and fc100 shares classes with cifar_fs.
    keys = [set(zip(np.asarray(t.dataset).tolist(), t.classes, strict=True)) for t in tables.values()]
    assert len(set.union(*keys)) == sum(map(len, keys)) == sum(expected_classes(name))


@pytest.mark.parametrize("base", sorted(set(benchmarks.BASE_SETS) - {"omniglot", "aircraft_family"}))
def test_every_class_has_its_own_images_in_the_split_that_lists_it(base, prepared):
    stored, facts = prepared[base]
    lists = benchmarks.split_lists()[benchmarks.BASE_SETS[base].splits]
    first = np.cumsum(stored.count) - stored.count
    for name, start, count, split in zip(stored.names, first, stored.count, stored.split, strict=True):
        found = stored.images[start : start + count].astype(int)
        assert np.abs(found - official.colour(name)).max() <= (6 if base != "aircraft" else 12)
        of_list = official.cifar_classes()[name] if base == "fc100" else name
        assert of_list in lists[benchmarks.SPLITS[split]]
    assert facts["left_out"] == []


def test_aircraft_loses_the_banner_which_the_families_of_the_studys_code_keep(prepared):
    cut, whole = (prepared[base][0].images[:, -1].astype(int).mean((1, 2)) for base in ("aircraft", "aircraft_family"))
    assert cut.min() > 10 and whole.max() < 10  # the banner is black, no variant's colour is
    families = prepared["aircraft_family"][0]
    assert sorted(families.names) == sorted(official.listed("aircraft_family"))
    assert families.count.sum() == 200 and families.count.min() >= 2


@pytest.mark.parametrize("name", [n for n in benchmarks.STUDY if n in benchmarks.UNIONS])
def test_a_union_draws_its_data_sets_equally_often_and_never_mixes_them(name, prepared):
    table = joined(name, prepared, "train")
    # A pixel that says the data set: with labels of its classes, tasks can be told apart by what they drew.
    marked = np.zeros((len(table.images), 1, 1, 3), np.uint8)
    ends = np.asarray(table.first) + np.asarray(table.count)
    for start, end, dataset in zip(np.asarray(table.first), ends, np.asarray(table.dataset), strict=True):
        marked[start:end] = dataset
    one = np.ones_like(table.mean)
    marked = table.replace(images=marked, mean=0 * one, std=one, rotates=(False,) * len(one))
    tasks = sample_tasks(jax.random.key(1), marked, ways=5, shots=1, queries=1, tasks=1000)
    drawn = np.rint(np.concatenate([tasks.support_images, tasks.query_images], 1)[..., 0, 0, 0] * 255).astype(int)
    assert (drawn == drawn[:, :1]).all()
    assert stats.chisquare(np.bincount(drawn[:, 0], minlength=len(one))).pvalue > UNLIKELY


def test_pixels_statistics_and_augmentation_are_the_protocols():
    natural = Augmentation(0.18, 8 / 84, 0.4, True)
    for base in ("aircraft", "aircraft_family", "flower", "dtd", "cu_birds"):
        look = benchmarks.BASE_SETS[base].look
        assert look.mean == (0.5853, 0.5335, 0.4950) and look.std == (0.2348, 0.2260, 0.2242)
        assert look.augmentation == natural
    for base in ("cifar_fs", "fc100"):
        facts = benchmarks.BASE_SETS[base]
        assert facts.look.mean == (0.5071, 0.4867, 0.4408) and facts.look.std == (0.2675, 0.2565, 0.2761)
        assert facts.look.augmentation == Augmentation(1.0, 4 / 32, 0.4, True)
        assert facts.in_union == benchmarks.BASE_SETS["dtd"].look
    mini = benchmarks.BASE_SETS["mini_imagenet"].look
    np.testing.assert_allclose(np.array(mini.mean) * 255, [120.396, 115.594, 104.540])
    np.testing.assert_allclose(np.array(mini.std) * 255, [70.682, 68.276, 72.545])
    assert mini.augmentation == Augmentation(1.0, 8 / 84, 0.4, True)
    assert benchmarks.BASE_SETS["omniglot"].look.augmentation == Augmentation()
    sides = {name: native_pixels(name) for name in benchmarks.STUDY}
    assert {name for name, side in sides.items() if side == 32} == {"cifar_fs", "fc100"}
    assert set(sides.values()) == {32, 84}


def test_cifar_has_other_statistics_in_a_union_than_alone(prepared):
    alone, both = joined("cifar_fs", prepared, "train"), joined("hdb2", prepared, "train")
    np.testing.assert_allclose(alone.mean[0], (0.5071, 0.4867, 0.4408), rtol=1e-6)
    np.testing.assert_allclose(both.mean[0], (0.5853, 0.5335, 0.4950), rtol=1e-6)
    assert both.augmentation[0].scale == 0.18 and both.augmentation[1] == Augmentation()
    assert both.rotates == (False, True)


def test_a_contact_sheet_has_a_row_for_each_class_of_each_split(prepared):
    sheet = np.asarray(benchmarks.sheet("dtd", [prepared["dtd"][0]]))
    lists, row = benchmarks.split_lists()["dtd"], 0
    for split in benchmarks.SPLITS:
        row += store._TITLE
        shown = np.unique(np.linspace(0, len(lists[split]) - 1, min(8, len(lists[split]))).astype(int))
        for i in shown:
            pixel = sheet[row + 20, store._LABEL + 20].astype(int)
            assert np.abs(pixel - official.colour(lists[split][i])).max() <= 6
            row += store._THUMBNAIL + 2
    assert row == len(sheet)


def test_a_whole_set_that_lacks_images_is_an_error_unless_partial(tmp_path, monkeypatch):
    official.make("dtd", tmp_path, 2, monkeypatch)
    with pytest.raises(InputError) as error:
        prepare("dtd", 4, data(tmp_path))
    one_line(error, "dtd-r1.0.1.tar.gz has 94 images of the 5640 of DTD", "--config.data.partial=true")


def test_a_union_of_a_real_and_a_generated_set_keeps_each_ones_statistics(tmp_path):
    write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(MINI))
    table = load_benchmark("mini_imagenet+gauss-0.5", "test", 4, data(tmp_path, partial=True, **GENERATED))
    np.testing.assert_array_equal(np.bincount(table.dataset), [20, 2])
    np.testing.assert_allclose(table.mean[0], np.array([120.396, 115.594, 104.540]) / 255, rtol=1e-6)
    np.testing.assert_allclose(table.std[0], np.array([70.682, 68.276, 72.545]) / 255, rtol=1e-6)
    assert table.rotates == (False, False)


# Reading archives


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "folder"])
def test_every_kind_of_archive_reads_the_same(tmp_path, kind):
    files = of_classes(["b", "a"], images=3) | {"README.txt": b"no image", "mini/a/.hidden.png": b"", "top.png": b""}
    path = tmp_path / f"archive.{kind}"
    if kind == "zip":
        write_zip(path, files)
    elif kind == "folder":
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    else:
        write_tar(path, files, "w:gz" if kind == "tar.gz" else "w")
    images = read(path)
    assert list(images) == ["mini/a", "mini/b"]
    for of_class in images.values():
        assert of_class.shape == (3, 4, 4, 3) and of_class.dtype == np.uint8
        np.testing.assert_array_equal(of_class[:, 0, 0], [[10 * i, 100, 200] for i in range(3)])


def test_a_missing_folder_says_what_was_expected_and_where_to_name_it(tmp_path):
    with pytest.raises(InputError) as error:
        read(tmp_path / "photos")
    one_line(error, tmp_path / "photos", "is missing", "a test archive", "--config.images")


NOISE = np.random.default_rng(0)
PHOTOS = {  # large enough that an archive can be cut in many places
    f"c/{n}/{i}.bmp": b"BM" + NOISE.integers(0, 256, 3000, np.uint8).tobytes() for n in "ab" for i in range(4)
}
MEMBER = 512 + 3072  # a member of the tar: its header and its content in blocks of 512


@pytest.mark.parametrize("cut", [10, 700, MEMBER, 3 * MEMBER, 3 * MEMBER + 100, 3 * MEMBER + 2000, 8 * MEMBER])
def test_a_truncated_tar_is_an_error_wherever_it_is_cut_also_between_two_members(tmp_path, cut):
    path = write_tar(tmp_path / "photos.tar", PHOTOS)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "truncated", "a test archive")


def test_an_encrypted_zip_is_an_error(tmp_path):
    path = tmp_path / "photos.zip"
    write_zip(path, PHOTOS)
    marked = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # bit 0 of the flags says "encrypted"
        at = marked.find(header)
        while at >= 0:
            marked[at + flags] |= 1
            at = marked.find(header, at + 4)
    path.write_bytes(marked)
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "encrypted", "a test archive")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_truncated_compressed_archive_is_an_error(tmp_path, kind, share):
    path = tmp_path / f"photos.{kind}"
    write_zip(path, PHOTOS) if kind == "zip" else write_tar(path, PHOTOS, "w:gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "truncated", "a test archive")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_damaged_compressed_archive_is_an_error(tmp_path, kind):
    path = tmp_path / f"mini.{kind}"
    files = {f"c/a/{i}.bmp": bytes(range(256)) * 20 for i in range(4)}
    write_zip(path, files) if kind == "zip" else write_tar(path, files, "w:gz")
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(255 - byte for byte in data[60:90])
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "a test archive")


@pytest.mark.parametrize("content", [b"", b"just some text\n" * 100], ids=["no bytes", "a text file"])
@pytest.mark.parametrize("name", ["photos.tar", "photos.zip"])
def test_a_file_that_is_no_archive_is_an_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "no .zip or .tar archive", "a test archive")


@pytest.mark.parametrize("files", [{}, {"notes/a.txt": b"text"}, {"top.png": png()}], ids=["empty", "text", "top"])
@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_an_archive_without_images_in_class_folders_is_an_error(tmp_path, kind, files):
    path = tmp_path / f"photos.{kind}"
    if kind == "folder":
        path.mkdir()
    else:
        (write_zip if kind == "zip" else write_tar)(path, files)
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "holds no image", "a test archive")


@pytest.mark.parametrize("data", [b"", b"no image at all", png()[:40], png()[:-30]], ids=["0", "text", "head", "cut"])
def test_a_broken_image_is_named(tmp_path, data):
    path = write_tar(tmp_path / "mini.tar", of_classes(["a", "b"]) | {"mini/b/broken.png": data})
    with pytest.raises(InputError) as error:
        read(path)
    one_line(error, path, "mini/b/broken.png", "replace or remove it")


# What an archive holds


@pytest.fixture
def lacking(tmp_path):
    """Mini-ImageNet without one class and with too few images of another."""
    files = of_classes(MINI[1:])
    del files[f"mini/{MINI[-1]}/1.png"]
    write_tar(tmp_path / "miniimagenet_sample.tar", files)
    return tmp_path


def test_absent_classes_are_an_error_that_names_one_and_the_way_out(lacking):
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, data(lacking))
    one_line(error, "miniimagenet_sample.tar", MINI[0], "--config.data.partial=true")


def test_a_class_that_is_too_small_is_an_error_that_names_it(tmp_path):
    files = of_classes(MINI)
    del files[f"mini/{MINI[3]}/0.png"]
    write_tar(tmp_path / "miniimagenet_sample.tar", files)
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, data(tmp_path))
    one_line(error, "miniimagenet_sample.tar", "only 1 of", MINI[3], "--config.data.partial=true")


def test_with_partial_such_classes_are_left_out_and_named(lacking):
    stored, facts = prepare("mini_imagenet", 4, data(lacking, partial=True))
    assert set(facts["left_out"]) == {MINI[0], MINI[-1]}
    assert (facts["train"]["classes"], facts["val"]["classes"], facts["test"]["classes"]) == (63, 16, 19)
    assert len(stored.images) == 98 * 2 == stored.count.sum()


def test_another_data_sets_archive_is_recognised(tmp_path):
    write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(["7", "8"]))
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, data(tmp_path, partial=True))
    one_line(error, "miniimagenet_sample.tar", "Mini-ImageNet", "another data set")


def test_a_sample_whose_classes_are_all_too_small_is_an_error(tmp_path):
    write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(MINI, images=1))
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, data(tmp_path, partial=True))
    one_line(error, "miniimagenet_sample.tar", "Mini-ImageNet", "2 images")


def test_omniglot_with_another_number_of_classes_is_an_error(tmp_path):
    write_zip(tmp_path / "omniglot_png.zip", of_classes(["a", "b"]))
    with pytest.raises(InputError) as error:
        prepare("omniglot", 4, data(tmp_path, partial=True))
    one_line(error, "omniglot_png.zip", "2 classes", "1623")


def test_a_split_without_classes_is_an_error(tmp_path):
    write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(MINI[:5]))
    settings = data(tmp_path, partial=True)
    assert len(load_benchmark("mini_imagenet", "train", 4, settings).classes) == 5
    with pytest.raises(InputError, match="'mini_imagenet' has no class in its test split"):
        load_benchmark("mini_imagenet", "test", 4, settings)


# A folder of one's own as a benchmark


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
        (None, ["cannot be read", "--config.data.split.file"]),
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
    with pytest.raises(InputError, match=r"--config.data.split.fractions is .* sum to 1"):
        prepare("images", 4, own(fractions=fractions))


# Real images


@pytest.fixture(scope="module")
def real():
    given = os.environ.get("JAXDIV_TEST_DATA")
    if not given:
        pytest.skip("JAXDIV_TEST_DATA, the folder of real archives, is not set")
    return Path(given)


@pytest.fixture(scope="module")
def omniglot(real, tmp_path_factory):
    """Omniglot complete, from its two official archives: what `images_background` and `images_evaluation` hold."""
    where = tmp_path_factory.mktemp("omniglot")
    paths = [where / "images_background.zip", where / "images_evaluation.zip"]
    with zipfile.ZipFile(real / "omniglot_png.zip") as archive:
        for path in paths:
            names = [name for name in archive.namelist() if name.startswith(path.stem) and name.endswith(".png")]
            official.write_zip(path, {name: archive.read(name) for name in names})
    with pytest.MonkeyPatch.context() as monkeypatch:
        source = official.with_hashes_of(builders.SOURCES["omniglot"], paths)
        monkeypatch.setitem(builders.SOURCES, "omniglot", source)
        return prepare("omniglot", 28, DataSettings(str(where), str(where / "data")))


@pytest.fixture(scope="module")
def mini_imagenet(real, tmp_path_factory):
    where = tmp_path_factory.mktemp("mini")
    return prepare("mini_imagenet", 28, DataSettings(str(real), str(where), partial=True))


def test_omniglot_is_whole_and_split_at_the_studys_sizes(omniglot):
    stored, facts = omniglot
    assert stored.images.shape == (32_460, 28, 28, 1)
    assert (stored.count == 20).all() and len(set(stored.names)) == 1623
    assert [facts[split]["classes"] for split in benchmarks.SPLITS] == [1100, 100, 423]
    assert facts["left_out"] == [] and len(facts["archives"]) == 2
    background = np.array(["background" in name for name in stored.names])
    np.testing.assert_array_equal(background, np.arange(1623) < 964)
    assert list(stored.split) == sorted(stored.split)


def test_omniglots_strokes_are_1_on_a_background_of_0(omniglot, real):
    table = benchmarks.table("omniglot", omniglot[0], "val")
    task = sample_tasks(jax.random.key(0), table, tasks=10)
    seen = np.asarray(task.query_images)
    assert abs(seen.min()) < 1e-6 and 0.95 < seen.max() < 1 + 1e-6  # 255 / 255 - 1 in float32
    assert abs(np.median(seen)) < 1e-6 and 0.01 < seen.mean() < 0.3
    np.testing.assert_array_equal(seen[..., 0], seen[..., 2])  # gray as RGB
    # At its native size a drawing is nothing but strokes and background.
    with zipfile.ZipFile(real / "omniglot_png.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith(".png"))
        drawing = folder.decoder(105, gray=True)(archive.read(name), name)
    normalised = (drawing / 255 - table.mean[0, 0]) / table.std[0, 0]
    assert set(np.unique(np.rint(normalised * 1e6) / 1e6)) == {0, 1} and 0 < normalised.mean() < 0.2


def test_mini_imagenet_has_its_64_16_20_classes(mini_imagenet):
    stored, facts = mini_imagenet
    assert [facts[split]["classes"] for split in benchmarks.SPLITS] == [64, 16, 20]
    assert facts["left_out"] == [] and (stored.count == 60).all()


def test_mini_imagenet_normalises_to_about_mean_0_and_std_1(mini_imagenet):
    table = benchmarks.table("mini_imagenet", mini_imagenet[0], "train")
    seen = np.asarray(sample_tasks(jax.random.key(0), table, tasks=20).query_images)
    # 1500 photographs; a photograph's mean varies by half a unit, and shrinking to 28 px loses some variance.
    assert np.abs(seen.mean((0, 1, 2, 3))).max() < 0.1
    assert np.abs(seen.std((0, 1, 2, 3)) - 1).max() < 0.15


def test_real_tasks_of_mio_come_from_both_sets(omniglot, mini_imagenet):
    table = benchmarks.join("mio", [mini_imagenet[0], omniglot[0]], "val")
    assert table.rotates == (False, True) and table.images.shape[-1] == 3
    seen = np.asarray(sample_tasks(jax.random.key(0), table, tasks=40).support_images)
    gray = np.isclose(seen[..., 0], seen[..., 1], atol=1e-6).all((1, 2, 3))
    assert 8 < gray.sum() < 32  # p = 1e-4 for 40 fair draws


def test_the_flower_sample_is_partial(real, tmp_path):
    with pytest.raises(InputError) as error:
        prepare("flower", 8, DataSettings(str(real), str(tmp_path)))
    one_line(error, "flowers_sample.tar", "--config.data.partial=true")
