"""Real images as benchmarks: Omniglot whole, a sample of Mini-ImageNet, and their union."""

import json
import subprocess
import sys
import zipfile

import jax
import numpy as np
import official_archives as official
import pytest
from sample_archives import check_one_line, prepare

from jaxdiv.data import benchmarks, registry
from jaxdiv.data.decode import decoder
from jaxdiv.data.episodes import sample_tasks
from jaxdiv.data.prepare import DataSettings
from jaxdiv.data.public import builders
from jaxdiv.errors import InputError


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
    assert [facts[split]["classes"] for split in registry.SPLITS] == [1100, 100, 423]
    assert not facts["left_out"] and len(facts["archives"]) == 2
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
        drawing = decoder(105, gray=True)(archive.read(name), name)
    normalised = (drawing / 255 - table.mean[0, 0]) / table.std[0, 0]
    assert set(np.unique(np.rint(normalised * 1e6) / 1e6)) == {0, 1} and 0 < normalised.mean() < 0.2


def test_mini_imagenet_has_its_64_16_20_classes(mini_imagenet):
    stored, facts = mini_imagenet
    assert [facts[split]["classes"] for split in registry.SPLITS] == [64, 16, 20]
    assert not facts["left_out"] and (stored.count == 60).all()


PREPARING = """
import json, sys
from pathlib import Path
import jax
from jaxdiv.data import store
from jaxdiv.data.prepare import DataSettings, prepare_base_set

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

jax.device_count()
before = peak()
into = Path(sys.argv[2]) / "table"
prepare_base_set("mini_imagenet", 84, DataSettings(sys.argv[1], sys.argv[2], partial=True), into)
print(json.dumps([peak() - before, store.read_table(into).images.nbytes]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak memory is read from /proc")
def test_preparing_takes_less_than_twice_the_sets_final_size_in_memory(real, tmp_path):
    line = [sys.executable, "-c", PREPARING, str(real), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    taken, size = json.loads(done.stdout.splitlines()[-1])
    assert size == 6000 * 84 * 84 * 3
    assert taken < 2 * size, f"{taken / 2**20:.0f} MB for a table of {size / 2**20:.0f} MB"
    print(taken / 2**20, size / 2**20)


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
    check_one_line(error, "flowers_sample.tar", "`DataSettings.partial=True`")
