"""Diversity alone: a user's own folders of images, from files to the coefficients, their report and its figures."""

import csv
import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxdiv.configs import folder as folder_config
from jaxdiv.errors import InputError
from jaxdiv.report import survey
from jaxdiv.report.published import PAPER_MEASURED
from jaxdiv.study import last_stages, planner, runner
from jaxdiv.study.config import read
from jaxdiv.study.planner import STAGES
from jaxdiv.task2vec.coefficient import cross_diversity

MODES = ("RGB", "L", "P", "RGBA", "CMYK")
FORMATS = {"RGB": "jpg", "L": "png", "P": "gif", "RGBA": "png", "CMYK": "tiff"}


def make_photos(root, seed, noise):
    """Six classes of ten images of many modes, formats and sizes."""
    rng = np.random.default_rng(seed)
    for c in range(6):
        (root / f"class {c}").mkdir(parents=True)
        colour = rng.integers(0, 255, 3)
        for i in range(10):
            mode = MODES[i % 5]
            size = (int(rng.integers(9, 40)), int(rng.integers(9, 40)), 3)
            pixels = np.clip(colour + rng.normal(0, noise, size), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / f"class {c}" / f"{i}.{FORMATS[mode]}")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("own") / "photos", 0, 40)


@pytest.fixture(scope="module")
def both(photos, tmp_path_factory):
    """The workdir of a study of two folders, what it said at 80 columns, and its configuration."""
    make_photos(photos.parent / "noise <b>", 1, 90)
    (photos.parent / "noise <b>" / "class 0" / "broken.jpg").write_bytes(b"no image")
    settings = config(f"{photos},{photos.parent / 'noise <b>'}", **{"data.skip_broken": True})
    workdir = tmp_path_factory.mktemp("both")
    code, said = run(settings, workdir, width=80)
    assert code == 0
    return workdir, said, settings


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


def run(settings, workdir, width=100):
    console = Console(file=io.StringIO(), width=width)
    code = runner.run(settings, workdir, STAGES, console)
    return code, console.file.getvalue()


def refusal(settings, workdir):
    with pytest.raises(InputError) as caught:
        run(settings, workdir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def report_of(workdir):
    return (workdir / "report" / "report.html").read_text()


def test_a_folder_of_any_images_gives_its_coefficient_a_report_and_a_figure(photos, tmp_path):
    code, said = run(config(photos), tmp_path)
    (row,) = csv.DictReader((tmp_path / "report" / "table1.csv").open())
    assert code == 0 and f"The diversity coefficient of photos is {row['diversity'][1:5]}"[:-1] in said
    assert 0 < float(row["ci_low"]) < float(row["diversity"]) < float(row["ci_high"]) < 1
    assert row["path"] == str(photos) and (row["train_classes"], row["train_images"]) == ("6", "60")
    distances = np.loadtxt(tmp_path / "report" / "distances-photos.csv", delimiter=",")
    assert distances[np.triu_indices(4, 1)].mean() == pytest.approx(float(row["diversity"]), rel=1e-5)
    assert not row.get("noise_floor")  # the exact Fisher and the converged head draw nothing
    with Image.open(tmp_path / "report" / "tasks-photos.png") as image:
        assert len(image.convert("L").getcolors(10**6)) > 50
    assert b"<svg" in (tmp_path / "report" / "tasks-photos.svg").read_bytes()
    assert not (tmp_path / "report" / "cross.csv").exists() and "more diverse" not in said
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert " 0 to run" in run(config(photos), tmp_path)[1]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_two_folders_stand_side_by_side_in_one_report(both, photos):
    workdir, said, settings = both
    rows = list(csv.DictReader((workdir / "report" / "table1.csv").open()))
    assert [row["benchmark"] for row in rows] == ["photos", "noise-b"]
    cross = {
        (r["benchmark"], r["other"]): float(r["distance"])
        for r in csv.DictReader((workdir / "report/cross.csv").open())
    }
    stored = [
        planner.plan(read(settings), workdir).embedded[name].arrays["embeddings"] for name in ("photos", "noise-b")
    ]
    between = pytest.approx(cross_diversity(*stored).value)
    assert cross["photos", "noise-b"] == between and cross["noise-b", "photos"] == between
    assert cross["noise-b", "noise-b"] == float(rows[1]["diversity"])
    (pair,) = csv.DictReader((workdir / "report" / "differences.csv").open())
    expected = float(rows[0]["diversity"]) - float(rows[1]["diversity"])
    assert float(pair["difference"]) == pytest.approx(expected) and float(pair["p_value"]) == float(pair["p_holm"])
    page = report_of(workdir)
    for words in (
        str(photos),
        "noise &lt;b&gt;",
        "What may be compared",
        "Cross distances",
        "an image that cannot be decoded: class 0/broken.jpg",
    ):
        assert words in page
    assert "noise <b>" not in page and page.count("<svg") == 2 * 3
    assert f"{cross['photos', 'noise-b']:.3f}"[1:] in page
    verdict = next(line for line in said.splitlines() if "more diverse" in line)
    assert verdict.split(":")[0] in page


def test_the_end_of_a_folder_study_fits_a_terminal_of_80_columns(both):
    workdir, said, _ = both
    lines = [line.rstrip() for line in said.splitlines()]
    assert lines[-1] == f"report: {workdir / 'report' / 'report.html'}"  # a path is not broken
    start = next(i for i, line in enumerate(lines) if line.startswith("Diversity"))
    assert max(map(len, lines[start:-1])) <= 80
    assert "noise-b: left out: an image that cannot be decoded (1: class" in said and "Omniglot" not in said


def test_the_same_results_give_the_same_page_but_for_its_date(both):
    workdir, _, settings = both
    before = {path.name: path.read_bytes() for path in (workdir / "report").iterdir()}
    plan = planner.plan(read(settings), workdir)
    made = json.loads((workdir / "report" / "result.json").read_text())
    sheets = {name: workdir / "data" / f"{name}.png" for name in plan.study.names}
    for folder in ("one", "two"):
        found = last_stages.surveyed(plan)
        survey.write_survey(workdir / folder, found, asdict(plan.study), {"date": "today"}, sheets)
    one, two = ({p.name: p.read_bytes() for p in (workdir / name).iterdir()} for name in ("one", "two"))
    assert one == two and set(one) == set(before) - {"result.json"} == set(made["result"]["files"])
    assert [name for name in one if one[name] != before[name]] == ["report.html"]


def test_the_papers_preset_is_what_its_table_was_measured_with_and_a_field_that_is_given_stays(photos):
    filled = read(config(photos, preset="paper"))
    row = {**asdict(filled.probe), "augment": filled.data.augment.diversity}
    told = ("estimator", "head", "distance", "interval", "augment")
    assert {key: row[key] for key in told} == {key: PAPER_MEASURED[key] for key in told}
    given = read(config(photos, preset="paper", **{"probe.estimator": "exact", "data.augment.diversity": False}))
    assert (given.probe.estimator, given.data.augment.diversity, given.probe.head) == ("exact", False, "adam")
    ours = read(config(photos))
    assert (ours.probe.estimator, ours.probe.interval, ours.data.augment.diversity) == ("exact", "jackknife", False)
    with pytest.raises(InputError, match="unknown preset 'papr': did you mean 'paper'"):
        read(config(photos, preset="papr"))


def test_the_papers_values_are_shown_beside_values_measured_alike_alone(both, tmp_path):
    workdir, _, settings = both
    found = last_stages.surveyed(planner.plan(read(settings), workdir))
    alike = PAPER_MEASURED | {"probe": "resnet34", "weights": "imagenet"}
    rows = [row | alike | {"noise_floor": 0.05} for row in found.rows]
    survey.write_survey(tmp_path, found._replace(rows=rows), {}, {}, {})
    page = (tmp_path / "report.html").read_text()
    assert "Omniglot" in page and ".1360 ± .0042" in page and ".1590" not in page and "two embeddings" in page
    console = Console(file=io.StringIO(), width=80)
    for part in survey.terminal(found._replace(rows=rows), 80):
        console.print(part)
    said = console.file.getvalue()
    assert ".1360 ± .0042" in said and max(map(len, said.splitlines())) <= 80
    assert "Omniglot" not in report_of(workdir) and "estimator reference (here exact)" in report_of(workdir)


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
    assert code == 0 and "mine: left out: an image that cannot be decoded (1: class 3/broken.jpg)" in said
    # Another image in the folder makes the study another one, not the old result again.
    (tmp_path / "mine" / "class 3" / "broken.jpg").unlink()
    assert " 3 to run" in run(settings, tmp_path / "two")[1]


def test_folders_that_cannot_be_measured_are_refused(photos, tmp_path):
    assert "--config.images=DIR" in refusal(config(""), tmp_path / "a")
    assert "nowhere is missing" in refusal(config(tmp_path / "nowhere"), tmp_path / "b")
    (tmp_path / "one" / "only").mkdir(parents=True)
    for file in (photos / "class 0").iterdir():
        (tmp_path / "one" / "only" / file.name).write_bytes(file.read_bytes())
    assert "has 1 classes, fewer than ways=5" in refusal(config(tmp_path / "one"), tmp_path / "c")
    too_few = config(photos, **{"task.queries": 9})
    fewer = "6 of 6 classes are smaller than --config.task.shots + --config.task.queries = 11"
    assert fewer in refusal(too_few, tmp_path / "d")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refusal(config(tmp_path / "empty"), tmp_path / "e")
    assert "has no class in its test split: give the split more classes" in refusal(
        config(photos, methods=("pt",)), tmp_path / "f"
    )
