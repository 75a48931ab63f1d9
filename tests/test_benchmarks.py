"""The table of facts and the archives: right splits, and one clear line for every archive that cannot be used."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiv.data import benchmarks, folder
from jaxdiv.data.benchmarks import DataSettings, components, load_benchmark, prepare
from jaxdiv.data.episodes import sample_tasks, union
from jaxdiv.errors import InputError

SPLIT_SIZES = {  # protocol, section 1
    "aircraft": (70, 15, 15),
    "aircraft_family": (34, 7, 10),
    "cifar_fs": (64, 16, 20),
    "cu_birds": (140, 30, 30),
    "dtd": (33, 7, 7),
    "fc100_superclasses": (12, 4, 4),
    "mini_imagenet": (64, 16, 20),
    "vgg_flower": (71, 15, 16),
}
GENERATED = {"classes": (5, 3, 2), "images": 2}  # one shape for all tests: it compiles once
MINI = [name for names in benchmarks._split_lists()["mini_imagenet"].values() for name in names]


def png(value=0, size=(6, 5)):
    out = io.BytesIO()
    Image.new("RGB", size, (value % 256, 100, 200)).save(out, "PNG")
    return out.getvalue()


def of_classes(names, images=2, prefix="mini"):
    return {f"{prefix}/{name}/{i}.png": png(10 * i) for name in names for i in range(images)}


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def read(path, expected="a test archive"):
    return folder.read_classes(path, expected, folder.decoder(4, gray=False), lambda share: None)


def one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
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
    table = load_benchmark("gauss-0.1+gauss-1.0+gauss-2", "val", 4, DataSettings(**GENERATED))
    np.testing.assert_array_equal(table.dataset, np.repeat([0, 1, 2], 3))


def test_an_unknown_split_names_the_valid_ones():
    with pytest.raises(InputError, match="unknown split 'valid': did you mean 'val'"):
        load_benchmark("gauss-0.1", "valid", 4, DataSettings(**GENERATED))


def test_the_splits_of_a_generated_benchmark_are_its_classes_in_turn():
    arrays, facts = prepare("gauss-0.3", 4, DataSettings(**GENERATED))
    assert arrays["images"].shape == (20, 4, 4, 3)
    assert [facts[split]["classes"] for split in benchmarks.SPLITS] == [5, 3, 2]
    tables = [benchmarks.table("gauss-0.3", arrays, split) for split in benchmarks.SPLITS]
    np.testing.assert_array_equal(np.concatenate([t.images for t in tables]), arrays["images"])


# Splits


@pytest.mark.parametrize("name", SPLIT_SIZES)
def test_class_lists_are_disjoint_and_of_the_protocols_sizes(name):
    lists = benchmarks._split_lists()[name]
    assert tuple(len(lists[split]) for split in benchmarks.SPLITS) == SPLIT_SIZES[name]
    every = [name for names in lists.values() for name in names]
    assert len(set(every)) == len(every)


def test_every_base_sets_split_is_listed_or_counted():
    for base in benchmarks.BASE_SETS.values():
        assert (base.splits in benchmarks._split_lists()) != (sum(base.sizes) > 0)
    assert benchmarks.BASE_SETS["omniglot"].sizes == (1100, 100, 423)


def test_classes_go_to_the_split_that_lists_them(tmp_path):
    write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(MINI))
    arrays, facts = prepare("mini_imagenet", 4, DataSettings(str(tmp_path), min_images=2))
    lists = benchmarks._split_lists()["mini_imagenet"]
    for number, split in enumerate(benchmarks.SPLITS):
        found = {name.rsplit("/", 1)[-1] for name in arrays["name"][arrays["split"] == number]}
        assert found == set(lists[split])
    assert facts == {
        "left_out": [],
        "train": {"classes": 64, "images": 128},
        "val": {"classes": 16, "images": 32},
        "test": {"classes": 20, "images": 40},
    }


def test_flower_folders_are_matched_by_class_number(tmp_path):
    lists = benchmarks._split_lists()["vgg_flower"]
    numbers = [str(int(name[:3])) for names in lists.values() for name in names]
    write_tar(tmp_path / "flowers_sample.tar", of_classes(numbers, prefix="flowers"))
    arrays, _ = prepare("flower", 4, DataSettings(str(tmp_path), min_images=2))
    train = {name.rsplit("/", 1)[-1] for name in arrays["name"][arrays["split"] == 0]}
    assert train == {str(int(name[:3])) for name in lists["train"]}


def test_a_union_of_a_real_and_a_generated_set_keeps_each_ones_statistics(tmp_path):
    write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(MINI))
    settings = DataSettings(str(tmp_path), min_images=2, **GENERATED)
    table = load_benchmark("mini_imagenet+gauss-0.5", "test", 4, settings)
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


def test_a_missing_archive_says_what_was_expected_and_where_to_put_it(tmp_path):
    with pytest.raises(InputError) as error:
        load_benchmark("omniglot", settings=DataSettings(str(tmp_path)))
    one_line(error, tmp_path / "omniglot_png.zip", "is missing", "Omniglot", "--config.data.archive_dir")


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
        prepare("mini_imagenet", 4, DataSettings(str(lacking), min_images=2))
    one_line(error, "miniimagenet_sample.tar", MINI[0], "--config.data.partial=true")


def test_a_class_that_is_too_small_is_an_error_that_names_it(tmp_path):
    files = of_classes(MINI)
    del files[f"mini/{MINI[3]}/0.png"]
    write_tar(tmp_path / "miniimagenet_sample.tar", files)
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, DataSettings(str(tmp_path), min_images=2))
    one_line(error, "miniimagenet_sample.tar", "only 1 of class", MINI[3], "--config.data.partial=true")


def test_with_partial_such_classes_are_left_out_and_named(lacking):
    arrays, facts = prepare("mini_imagenet", 4, DataSettings(str(lacking), partial=True, min_images=2))
    assert {name.rsplit("/", 1)[-1] for name in facts["left_out"]} == {MINI[0], MINI[-1]}
    assert (facts["train"]["classes"], facts["val"]["classes"], facts["test"]["classes"]) == (63, 16, 19)
    assert len(arrays["images"]) == 98 * 2 == arrays["count"].sum()


def test_another_data_sets_archive_is_recognised(tmp_path):
    write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(["7", "8"]))
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, DataSettings(str(tmp_path), partial=True))
    one_line(error, "miniimagenet_sample.tar", "Mini-ImageNet", "another data set")


def test_a_sample_whose_classes_are_all_too_small_is_an_error(tmp_path):
    write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(MINI))
    with pytest.raises(InputError) as error:
        prepare("mini_imagenet", 4, DataSettings(str(tmp_path), partial=True))
    one_line(error, "miniimagenet_sample.tar", "Mini-ImageNet")


def test_omniglot_with_another_number_of_classes_is_an_error(tmp_path):
    write_zip(tmp_path / "omniglot_png.zip", of_classes(["a", "b"]))
    with pytest.raises(InputError) as error:
        prepare("omniglot", 4, DataSettings(str(tmp_path), partial=True))
    one_line(error, "omniglot_png.zip", "2 classes", "1623")


def test_a_split_without_classes_is_an_error(tmp_path):
    write_tar(tmp_path / "miniimagenet_sample.tar", of_classes(MINI[:5]))
    settings = DataSettings(str(tmp_path), partial=True, min_images=2)
    assert len(load_benchmark("mini_imagenet", "train", 4, settings).classes) == 5
    with pytest.raises(InputError, match="'mini_imagenet' has no class in its test split"):
        load_benchmark("mini_imagenet", "test", 4, settings)


# Real images


@pytest.fixture(scope="module")
def real():
    given = os.environ.get("JAXDIV_TEST_DATA")
    if not given:
        pytest.skip("JAXDIV_TEST_DATA, the folder of real archives, is not set")
    return Path(given)


@pytest.fixture(scope="module")
def omniglot(real):
    return prepare("omniglot", 28, DataSettings(str(real)))


@pytest.fixture(scope="module")
def mini_imagenet(real):
    return prepare("mini_imagenet", 28, DataSettings(str(real)))


def test_omniglot_is_whole_and_split_at_the_studys_sizes(omniglot):
    arrays, facts = omniglot
    assert arrays["images"].shape == (32_460, 28, 28, 1)
    assert (arrays["count"] == 20).all() and len(set(arrays["name"])) == 1623
    assert [facts[split]["classes"] for split in benchmarks.SPLITS] == [1100, 100, 423]
    assert facts["left_out"] == []
    background = np.char.find(arrays["name"], "background") >= 0
    np.testing.assert_array_equal(background, np.arange(1623) < 964)
    assert list(arrays["split"]) == sorted(arrays["split"])


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
    arrays, facts = mini_imagenet
    assert [facts[split]["classes"] for split in benchmarks.SPLITS] == [64, 16, 20]
    assert facts["left_out"] == [] and (arrays["count"] == 60).all()


def test_mini_imagenet_normalises_to_about_mean_0_and_std_1(mini_imagenet):
    table = benchmarks.table("mini_imagenet", mini_imagenet[0], "train")
    seen = np.asarray(sample_tasks(jax.random.key(0), table, tasks=20).query_images)
    # 1500 photographs; a photograph's mean varies by half a unit, and shrinking to 28 px loses some variance.
    assert np.abs(seen.mean((0, 1, 2, 3))).max() < 0.1
    assert np.abs(seen.std((0, 1, 2, 3)) - 1).max() < 0.15


def test_real_tasks_of_mio_come_from_both_sets(omniglot, mini_imagenet):
    table = union(
        [
            benchmarks.table("mini_imagenet", mini_imagenet[0], "val"),
            benchmarks.table("omniglot", omniglot[0], "val"),
        ]
    )
    assert table.rotates == (False, True)
    seen = np.asarray(sample_tasks(jax.random.key(0), table, tasks=40).support_images)
    gray = (seen[..., 0] == seen[..., 1]).all((1, 2, 3))
    assert 8 < gray.sum() < 32  # p = 1e-4 for 40 fair draws


def test_the_flower_sample_is_partial(real):
    with pytest.raises(InputError) as error:
        prepare("flower", 8, DataSettings(str(real)))
    one_line(error, "flowers_sample.tar", "--config.data.partial=true")
