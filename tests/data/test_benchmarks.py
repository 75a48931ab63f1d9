"""The table of facts: right names, splits and unions, and one clear line for what cannot be used."""

import jax
import numpy as np
import official_archives as official
import pytest
from sample_archives import check_one_line, data, of_classes, prepare
from scipy import stats

from jaxdiv.data import benchmarks, contact_sheet, registry
from jaxdiv.data.augment import Augmentation
from jaxdiv.data.benchmarks import load_benchmark
from jaxdiv.data.episodes import sample_tasks
from jaxdiv.data.prepare import DataSettings
from jaxdiv.data.registry import components, native_pixels
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
GENERATED = {"classes": (5, 3, 2), "images_per_class": 2}  # one shape for all tests: it compiles once
MINI = official.listed("mini_imagenet")
UNLIKELY = 1e-3  # p-values below it fail; keys are fixed, so a test that passes always passes


# Names


@pytest.mark.parametrize(
    ("name", "near"), [("omnoglot", "omniglot"), ("mini_imagnet", "mini_imagenet"), ("flowers", "flower")]
)
def test_an_unknown_benchmark_names_the_nearest(name, near):
    with pytest.raises(InputError, match=f"unknown benchmark '{name}': did you mean '{near}'") as error:
        components(name)
    check_one_line(error)


@pytest.mark.parametrize("name", ["", "mio+", "mio+omnoglot", "gauss-x", "gauss-0"])
def test_a_broken_part_of_a_name_is_an_error_too(name):
    with pytest.raises(InputError, match="its spread must be a number" if "gauss" in name else "unknown benchmark"):
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
    assert [facts[split]["classes"] for split in registry.SPLITS] == [5, 3, 2]
    tables = [benchmarks.table("gauss-0.3", stored, split) for split in registry.SPLITS]
    np.testing.assert_array_equal(np.concatenate([t.images for t in tables]), stored.images)


# The study's benchmarks, from archives of the official layout with every class


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Every base set at 8 px, two images a class, three of the coarser ones'."""
    where = tmp_path_factory.mktemp("official")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in official.MAKERS:
            official.make(name, where, 2, monkeypatch)
        yield {base: prepare(base, 8, data(where, partial=True)) for base in registry.BASE_SETS}


def joined(name, prepared, split):
    return benchmarks.join(name, [prepared[base][0] for base in components(name)], split)


def expected_classes(name):
    counts = {**PROTOCOL, **FURTHER}[name]
    parts = [PROTOCOL[part] for part in counts] if isinstance(counts[0], str) else [counts]
    return tuple(map(sum, zip(*parts, strict=True)))


def test_the_studys_thirteen_are_those_of_its_table():
    assert tuple(PROTOCOL) == registry.STUDY
    assert set(registry.BASE_SETS) | set(registry.UNIONS) == {*PROTOCOL, *FURTHER}


@pytest.mark.parametrize("name", [*PROTOCOL, *FURTHER])
def test_class_counts_are_the_protocols_and_splits_share_no_class(name, prepared):
    tables = {split: joined(name, prepared, split) for split in registry.SPLITS}
    assert tuple(len(tables[split].classes) for split in registry.SPLITS) == expected_classes(name)
    assert all((table.count >= 2).all() for table in tables.values())
    # A class is a name in a data set; unions here have no data set twice, and fc100 shares classes with cifar_fs.
    keys = [set(zip(np.asarray(t.dataset).tolist(), t.classes, strict=True)) for t in tables.values()]
    assert len(set.union(*keys)) == sum(map(len, keys)) == sum(expected_classes(name))


@pytest.mark.parametrize("base", sorted(set(registry.BASE_SETS) - {"omniglot", "aircraft_family"}))
def test_every_class_has_its_own_images_in_the_split_that_lists_it(base, prepared):
    stored, facts = prepared[base]
    lists = registry.split_lists()[registry.BASE_SETS[base].splits]
    first = np.cumsum(stored.count) - stored.count
    for name, start, count, split in zip(stored.names, first, stored.count, stored.split, strict=True):
        found = stored.images[start : start + count].astype(int)
        assert np.abs(found - official.colour(name)).max() <= (6 if base != "aircraft" else 12)
        of_list = official.cifar_classes()[name] if base == "fc100" else name
        assert of_list in lists[registry.SPLITS[split]]
    assert not facts["left_out"]


def test_aircraft_loses_the_banner_which_the_families_of_the_studys_code_keep(prepared):
    cut, whole = (prepared[base][0].images[:, -1].astype(int).mean((1, 2)) for base in ("aircraft", "aircraft_family"))
    assert cut.min() > 10 and whole.max() < 10  # the banner is black, no variant's colour is
    families = prepared["aircraft_family"][0]
    assert sorted(families.names) == sorted(official.listed("aircraft_family"))
    assert families.count.sum() == 200 and families.count.min() >= 2


@pytest.mark.parametrize("name", [n for n in registry.STUDY if n in registry.UNIONS])
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
        seen = registry.BASE_SETS[base].preprocessing
        assert seen.mean == (0.5853, 0.5335, 0.4950) and seen.std == (0.2348, 0.2260, 0.2242)
        assert seen.augmentation == natural
    for base in ("cifar_fs", "fc100"):
        alone, in_union = registry.BASE_SETS[base].preprocessing, registry.BASE_SETS[base].in_union
        assert alone.mean == (0.5071, 0.4867, 0.4408) and alone.std == (0.2675, 0.2565, 0.2761)
        assert alone.augmentation == Augmentation(1.0, 4 / 32, 0.4, True)
        assert in_union == registry.BASE_SETS["dtd"].preprocessing
    mini = registry.BASE_SETS["mini_imagenet"].preprocessing
    np.testing.assert_allclose(np.array(mini.mean) * 255, [120.396, 115.594, 104.540])
    np.testing.assert_allclose(np.array(mini.std) * 255, [70.682, 68.276, 72.545])
    assert mini.augmentation == Augmentation(1.0, 8 / 84, 0.4, True)
    assert registry.BASE_SETS["omniglot"].preprocessing.augmentation == Augmentation()
    sides = {name: native_pixels(name) for name in registry.STUDY}
    assert {name for name, side in sides.items() if side == 32} == {"cifar_fs", "fc100"}
    assert set(sides.values()) == {32, 84}


def test_cifar_has_other_statistics_in_a_union_than_alone(prepared):
    alone, both = joined("cifar_fs", prepared, "train"), joined("hdb2", prepared, "train")
    np.testing.assert_allclose(alone.mean[0], (0.5071, 0.4867, 0.4408), rtol=1e-6)
    np.testing.assert_allclose(both.mean[0], (0.5853, 0.5335, 0.4950), rtol=1e-6)
    assert both.augmentation[0].scale == 0.18 and both.augmentation[1] == Augmentation()
    assert both.rotates == (False, True)


def test_a_contact_sheet_has_a_row_for_each_class_of_each_split(prepared):
    sheet = np.asarray(contact_sheet.contact_sheet("dtd", [prepared["dtd"][0]]))
    lists, row = registry.split_lists()["dtd"], 0
    for split in registry.SPLITS:
        row += contact_sheet._TITLE
        shown = np.unique(np.linspace(0, len(lists[split]) - 1, min(8, len(lists[split]))).astype(int))
        for i in shown:
            pixel = sheet[row + 20, contact_sheet._LABEL + 20].astype(int)
            assert np.abs(pixel - official.colour(lists[split][i])).max() <= 6
            row += contact_sheet._THUMBNAIL + 2
    assert row == len(sheet)


def test_a_whole_set_that_lacks_images_is_an_error_unless_partial(tmp_path, monkeypatch):
    official.make("dtd", tmp_path, 2, monkeypatch)
    with pytest.raises(InputError) as error:
        prepare("dtd", 4, data(tmp_path))
    check_one_line(error, "dtd-r1.0.1.tar.gz has 94 images of the 5640 of DTD", "`DataSettings.partial=True`")


def test_a_union_of_a_real_and_a_generated_set_keeps_each_ones_statistics(tmp_path):
    official.write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(MINI), "w")
    table = load_benchmark("mini_imagenet+gauss-0.5", "test", 4, data(tmp_path, partial=True, **GENERATED))
    np.testing.assert_array_equal(np.bincount(table.dataset), [20, 2])
    np.testing.assert_allclose(table.mean[0], np.array([120.396, 115.594, 104.540]) / 255, rtol=1e-6)
    np.testing.assert_allclose(table.std[0], np.array([70.682, 68.276, 72.545]) / 255, rtol=1e-6)
    assert table.rotates == (False, False)


# What an archive holds


@pytest.fixture
def lacking(tmp_path):
    """Mini-ImageNet without one class and with too few images of another."""
    files = of_classes(MINI[1:])
    del files[f"mini/{MINI[-1]}/1.png"]
    official.write_tar(tmp_path / "miniimagenet_sample.tar", files, "w")
    return tmp_path


def test_absent_classes_are_an_error_that_names_one_and_the_way_out(lacking):
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, data(lacking))
    check_one_line(error, "miniimagenet_sample.tar", MINI[0], "`DataSettings.partial=True`")


def test_a_class_that_is_too_small_is_an_error_that_names_it(tmp_path):
    files = of_classes(MINI)
    del files[f"mini/{MINI[3]}/0.png"]
    official.write_tar(tmp_path / "miniimagenet_sample.tar", files, "w")
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, data(tmp_path))
    check_one_line(error, "miniimagenet_sample.tar", "only 1 of", MINI[3], "`DataSettings.partial=True`")


def test_with_partial_such_classes_are_left_out_and_named(lacking):
    stored, facts = prepare("mini_imagenet", 4, data(lacking, partial=True))
    assert {name for names in facts["left_out"].values() for name in names} == {MINI[0], MINI[-1]}
    assert (facts["train"]["classes"], facts["val"]["classes"], facts["test"]["classes"]) == (63, 16, 19)
    assert len(stored.images) == 98 * 2 == stored.count.sum()


def test_another_data_sets_archive_is_recognised(tmp_path):
    official.write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(["7", "8"]), "w")
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, data(tmp_path, partial=True))
    check_one_line(error, "miniimagenet_sample.tar", "Mini-ImageNet", "another data set")


def test_a_sample_whose_classes_are_all_too_small_is_an_error(tmp_path):
    official.write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(MINI, images=1), "w")
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, data(tmp_path, partial=True))
    check_one_line(error, "miniimagenet_sample.tar", "Mini-ImageNet", "2 images")


def test_omniglot_with_another_number_of_classes_is_an_error(tmp_path):
    official.write_zip(tmp_path / "omniglot_png.zip", of_classes(["a", "b"]))
    with pytest.raises(InputError) as error:
        prepare("omniglot", 4, data(tmp_path, partial=True))
    check_one_line(error, "omniglot_png.zip", "2 classes", "1623")


def test_a_split_without_classes_is_an_error(tmp_path):
    official.write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(MINI[:5]), "w")
    settings = data(tmp_path, partial=True)
    assert len(load_benchmark("mini_imagenet", "train", 4, settings).classes) == 5
    with pytest.raises(InputError, match="'mini_imagenet' has no class in its test split"):
        load_benchmark("mini_imagenet", "test", 4, settings)
