"""Diversity alone: a user's own folder of images, from files to the coefficient and the figure of its tasks."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy.spatial.distance import pdist, squareform

from jaxdiv import study, survey
from jaxdiv.configs import folder as folder_config
from jaxdiv.diversity import jackknife
from jaxdiv.errors import InputError
from jaxdiv.settings import STAGES

MODES = ("RGB", "L", "P", "RGBA", "CMYK")
FORMATS = {"RGB": "jpg", "L": "png", "P": "gif", "RGBA": "png", "CMYK": "tiff"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six classes of ten images of many modes, formats and sizes."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("photos")
    for c in range(6):
        (root / f"class {c}").mkdir()
        colour = rng.integers(0, 255, 3)
        for i in range(10):
            mode = MODES[i % 5]
            size = (int(rng.integers(9, 40)), int(rng.integers(9, 40)), 3)
            pixels = np.clip(colour + rng.normal(0, 40, size), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / f"class {c}" / f"{i}.{FORMATS[mode]}")
    return root


def config(images, **fields):
    made = folder_config.get_config()
    small = {
        "images": str(images),
        "task.shots": 2,
        "task.queries": 4,
        "probe.name": "resnet10_narrow",
        "probe.weights": "",
        "probe.pixels": 16,
        "probe.tasks": 4,
    }
    made.update_from_flattened_dict({**small, **fields})
    return made


def run(settings, workdir):
    console = Console(file=io.StringIO(), width=100)
    code = study.run(settings, workdir, STAGES, console)
    return code, console.file.getvalue()


def refusal(settings, workdir):
    with pytest.raises(InputError) as caught:
        run(settings, workdir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_of_any_images_gives_the_coefficient_the_papers_table_and_a_figure(photos, tmp_path):
    code, said = run(config(photos), tmp_path)
    assert code == 0 and "Omniglot" in said and ".159" in said and "tasks-images.png" in said
    (row,) = csv.DictReader((tmp_path / "report" / "table1.csv").open())
    assert 0 < float(row["ci_low"]) < float(row["diversity"]) < float(row["ci_high"]) < 1
    distances = np.loadtxt(tmp_path / "report" / "distances-images.csv", delimiter=",")
    assert distances[np.triu_indices(4, 1)].mean() == pytest.approx(float(row["diversity"]), rel=1e-5)
    assert not row.get("noise_floor")  # the exact Fisher and the converged head draw nothing
    with Image.open(tmp_path / "report" / "tasks-images.png") as image:
        assert len(image.convert("L").getcolors(10**6)) > 50
    assert b"<svg" in (tmp_path / "report" / "tasks-images.svg").read_bytes()
    before = (tmp_path / "units" / "diversity" / "images" / "resnet10_narrow" / "result.json").stat().st_mtime_ns
    assert " 0 to run" in run(config(photos), tmp_path)[1]
    after = (tmp_path / "units" / "diversity" / "images" / "resnet10_narrow" / "result.json").stat().st_mtime_ns
    assert before == after


def test_an_estimator_that_draws_reports_its_noise_floor(photos, tmp_path):
    _, said = run(config(photos, **{"probe.estimator": "mc"}), tmp_path)
    (row,) = csv.DictReader((tmp_path / "report" / "table1.csv").open())
    assert 0.01 < float(row["noise_floor"]) < 1 and "noise floor" in said


def test_a_broken_image_is_named_and_refused_or_left_out(photos, tmp_path):
    for number in range(6):
        (tmp_path / "mine" / f"class {number}").mkdir(parents=True)
        for file in (photos / f"class {number}").iterdir():
            (tmp_path / "mine" / f"class {number}" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "mine" / "class 3" / "broken.jpg").write_bytes(b"no image")
    assert "class 3/broken.jpg is no image" in refusal(config(tmp_path / "mine"), tmp_path / "one")
    settings = config(tmp_path / "mine", **{"data.skip_broken": True})
    code, said = run(settings, tmp_path / "two")
    assert code == 0 and "left out 1: class 3/broken.jpg" in said
    # Another image in the folder makes the study another one, not the old result again.
    (tmp_path / "mine" / "class 3" / "broken.jpg").unlink()
    assert " 2 to run" in run(settings, tmp_path / "two")[1]


def test_folders_that_cannot_be_measured_are_refused(photos, tmp_path):
    assert "--config.images=DIR" in refusal(config(""), tmp_path / "a")
    assert "nowhere is missing" in refusal(config(tmp_path / "nowhere"), tmp_path / "b")
    (tmp_path / "one" / "only").mkdir(parents=True)
    for file in (photos / "class 0").iterdir():
        (tmp_path / "one" / "only" / file.name).write_bytes(file.read_bytes())
    assert "has 1 classes, fewer than ways=5" in refusal(config(tmp_path / "one"), tmp_path / "c")
    too_few = config(photos, **{"task.queries": 9})
    fewer = "has 10 images, fewer than --config.task.shots + --config.task.queries = 11"
    assert fewer in refusal(too_few, tmp_path / "d")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refusal(config(tmp_path / "empty"), tmp_path / "e")
    assert "test classes" in refusal(config(photos, methods=("pt",)), tmp_path / "f")


def test_the_map_keeps_distances_of_points_in_a_plane():
    points = np.random.default_rng(1).normal(size=(9, 2))
    distances = squareform(pdist(points))
    found, share = survey.classical_mds(distances)
    np.testing.assert_allclose(squareform(pdist(found)), distances, atol=1e-9)
    assert share == pytest.approx(1)
    # Equal distances fill as many directions as there are tasks less one: two of them hold their share.
    assert survey.classical_mds(1 - np.eye(9))[1] == pytest.approx(2 / 8)


def test_like_tasks_stand_side_by_side():
    kinds = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    distances = np.where(kinds[:, None] == kinds, 0.1, 0.8) * (1 - np.eye(9))
    order = kinds[survey.cluster_order(distances)]
    assert (np.diff(order) != 0).sum() == 2


def test_a_benchmark_of_equal_tasks_is_drawn():
    files = survey.draw_tasks("equal", np.zeros((4, 4)), jackknife(np.zeros((4, 4))))
    assert files["png"].startswith(b"\x89PNG")
