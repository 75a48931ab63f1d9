"""The chain as a user runs it: `launch.py` in a process of its own, on a study of seconds."""

import ast
import csv
import html
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tiny_study import TINY, flags

from jaxdiv.configs import default
from jaxdiv.errors import InputError
from jaxdiv.methods.evaluate import Evaluation
from jaxdiv.methods.metrics import Diverged
from jaxdiv.study import config as door
from jaxdiv.study import lease, planner, runner
from jaxdiv.study.stages import train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a tiny study that ran undisturbed."""
    workdir = tmp_path_factory.mktemp("finished")
    done = launch(workdir)
    assert done.returncode == 0, done.stderr
    return workdir


def command(workdir, *arguments, config=TINY):
    return [sys.executable, str(ROOT / "launch.py"), f"--workdir={workdir}", *flags(config), *arguments]


def launch(workdir, *arguments, config=TINY, cwd=None):
    line = command(workdir, *arguments, config=config)
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, timeout=400)


def tables(workdir):
    return {name: (workdir / "report" / name).read_bytes() for name in ("table1.csv", "table2.csv", "points.csv")}


def begun_from(finished, workdir, *units):
    """A finished study in another workdir, where these units and all reports are still to come."""
    shutil.copytree(finished, workdir, dirs_exist_ok=True)
    for folder in (*(f"units/{unit}" for unit in units), "report"):
        shutil.rmtree(workdir / folder)


def check_one_line(done, *words):
    """Exit code 1 and one line, no traceback, which has every one of `words`."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def tiny(**fields):
    config = default.get_config()
    config.update_from_flattened_dict({name: ast.literal_eval(str(value)) for name, value in TINY.items()})
    config.update_from_flattened_dict(fields)
    return config


def check_refused(workdir, stages, *words, **fields):
    """What `launch.py` says in its one line (`check_one_line`), without a process for each."""
    with pytest.raises(InputError) as error:
        runner.run(tiny(**fields), workdir, stages, Console(quiet=True))
    assert "\n" not in str(error.value)
    assert "`" not in str(error.value)  # the command has flags, no arguments
    for word in words:
        assert word in str(error.value)


def test_a_finished_study_leaves_every_table_figure_and_page(finished):
    names = {path.name for path in (finished / "report").iterdir()}
    figures = {f"figure{n}.{kind}" for n in (1, 2, 3) for kind in ("png", "svg")}
    assert names >= {"table1.csv", "table2.csv", "points.csv", "report.html"} | figures
    rows = list(csv.DictReader((finished / "report" / "table1.csv").open()))
    assert [row["benchmark"] for row in rows] == ["gauss-0.1", "gauss-0.5", "gauss-1.5"]
    assert all(float(row["ci_low"]) <= float(row["diversity"]) <= float(row["ci_high"]) for row in rows)
    table2 = list(csv.DictReader((finished / "report" / "table2.csv").open()))
    assert len(table2) == 2 * 2 * 2  # methods, metrics, test sets
    points = list(csv.DictReader((finished / "report" / "points.csv").open()))
    assert len(points) == 3 * 2 * 2 and {row["train_images"] for row in points} == {"48"}


def test_every_result_records_settings_versions_and_device(finished):
    for path in (finished / "units").rglob("result.json"):
        record = json.loads(path.read_text())
        assert record["digest"] and "jax" in record["provenance"] and "cpu" in record["provenance"]["device"]
        if record["unit"].startswith("train/"):
            assert record["settings"]["learner"]["batch_norm"] == "transductive"


def test_a_second_run_does_nothing_again_and_shows_the_tables(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    again = launch(finished)
    assert again.returncode == 0 and " 0 to run" in again.stdout and "Table 2" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before
    assert all(len(line) <= 80 for line in again.stdout.splitlines() if str(finished) not in line)
    said = " ".join(again.stdout.split())
    assert "scales differ: only the order must agree" in said
    # Under the tables the page's own answer, word for word.
    page = html.unescape((finished / "report" / "report.html").read_text())
    top, lead = page.split("<nav")[0], re.findall(r'<p class="lead">(.*?)</p>', page)
    assert said.rpartition("Table 2")[2].count(" ".join(lead[1].split())) == 1
    assert finished.name in top and "Every benchmark is generated" in top
    assert f"Finished {time.strftime('%Y')}" in top


def test_killed_in_mid_training_and_run_again_equals_an_undisturbed_run(finished, tmp_path):
    begun_from(finished, tmp_path, "train/gauss-0.5", "evaluate", "correlate")
    line = command(tmp_path, "--stages=prepare,train")  # the other links can wait for the second run
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    unit = tmp_path / "units/train/gauss-0.5/fo_maml_5/seed0"
    deadline = time.monotonic() + 300
    while not list(unit.glob("*/checkpoints/10/_CHECKPOINT_METADATA")):
        assert process.poll() is None and time.monotonic() < deadline, "never came to the second training"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(unit.glob("*/result.json"))
    resumed = launch(tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert tables(tmp_path) == tables(finished)


def test_told_to_stop_in_mid_training_it_saves_and_exits_with_143(finished, tmp_path):
    slow = {**TINY, "maml.steps": 100_000, "methods": "('fo_maml_5',)"}
    line = command(tmp_path, "--stages=prepare,train", config=slow)
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    unit = tmp_path / "units/train/gauss-0.1/fo_maml_5/seed0"
    deadline = time.monotonic() + 300
    while not list(unit.glob("*/checkpoints/10/_CHECKPOINT_METADATA")):
        assert process.poll() is None and time.monotonic() < deadline, "never came to MAML's training"
        time.sleep(0.01)
    start = time.monotonic()
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and time.monotonic() - start < 10 and b"Traceback" not in errors
    (metrics,) = unit.glob("*/metrics.jsonl")
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert (metrics.parent / "checkpoints" / str(last) / "_CHECKPOINT_METADATA").exists()


def test_a_nan_ends_its_unit_keeps_the_others_and_fails(finished, tmp_path):
    begun_from(finished, tmp_path, "train/gauss-0.1/pt", "evaluate", "correlate")
    done = launch(tmp_path, config={**TINY, "maml.inner_lr": 1e30, "methods": "('fo_maml_5','pt')"})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "train/gauss-0.1/fo_maml_5/seed0: the loss is nan at step" in done.stdout
    points = list(csv.DictReader((tmp_path / "report" / "points.csv").open()))
    assert {row["method"] for row in points} == {"pt"} and len(points) == 6
    assert "train/gauss-0.1/fo_maml_5/seed0" in (tmp_path / "report" / "report.html").read_text()


def test_a_validation_that_diverges_does_not_end_training_and_is_not_the_best(tmp_path, monkeypatch):
    found = iter([0.4, None, 0.3])  # accuracies; None: it diverges

    def tested(*given):
        if (accuracy := next(found)) is None:
            raise Diverged("the loss on a test task is not finite")
        return Evaluation(np.array([accuracy]), np.array([1.0]))

    monkeypatch.setattr(train, "test", tested)
    config = tiny(**{"methods": ("pt",), "benchmarks": ("gauss-0.1",), "training.validate_every": 10})
    runner.run(config, tmp_path, ("prepare", "train"), Console(quiet=True))
    (result,) = (tmp_path / "units" / "train").rglob("result.json")
    result = json.loads(result.read_text())["result"]
    assert result["step"] == 30 and (result["best_step"], result["best_accuracy"]) == (10, 0.4)


def test_a_dry_run_lists_every_unit_and_writes_nothing(tmp_path, finished):
    workdir = tmp_path / "nothing"
    done = launch(workdir, "--dry_run")
    assert done.returncode == 0 and not workdir.exists()
    lines = done.stdout.splitlines()
    assert sum(line.startswith("run ") for line in lines) == 3  # the rest waits for prepared images
    assert sum(line.startswith("wait ") for line in lines) == 3 + 3 + 6 + 12
    assert lines[-1].startswith("27 units: 3 run, 24 wait; ") and lines[-1].endswith("guessed for two CPU cores")
    console = Console(file=io.StringIO())
    runner.dry_run(tiny(), finished, planner.STAGES, console)
    assert sum(line.startswith("done ") for line in console.file.getvalue().splitlines()) == 27
    assert console.file.getvalue().splitlines()[-1] == "27 units: 27 done"


def test_a_report_of_a_study_that_is_not_finished_says_so_and_marks_what_is_missing(tmp_path, finished):
    workdir = shutil.copytree(finished, tmp_path / "w")
    shutil.rmtree(workdir / "units/evaluate/gauss-0.5/pt/seed0/own")
    shutil.rmtree(workdir / "units/diversity/gauss-1.5")
    with lease.take(workdir / "running" / "driver.json", "the study"):  # reading needs no lease
        assert runner.run(tiny(), workdir, ["report"], Console(quiet=True)) == 0
    page = html.unescape((workdir / "report" / "report.html").read_text())
    assert "This study is not finished: 13 of 15 results are there" in page and "Finished 20" not in page
    rows = list(csv.DictReader((workdir / "report" / "unfinished.csv").open()))
    assert [row["diversity"] for row in rows] == ["done", "done", "unfinished"]
    assert [row["pt"] for row in rows] == ["done", "unfinished: 1 of 2", "done"]


def test_a_second_driver_says_in_a_line_who_is_at_work_and_stops(tmp_path):
    with lease.take(tmp_path / "running" / "driver.json", "the study"):
        check_refused(tmp_path, planner.STAGES, "is at work: ", f"(process {os.getpid()}) since 20", "wait for it")
        assert not (tmp_path / "study.json").exists()


def test_only_the_asked_stages_run_and_a_lacking_input_is_named(tmp_path):
    assert launch(tmp_path, "--stages=prepare").returncode == 0
    assert {path.name for path in (tmp_path / "units").iterdir()} == {"prepare"}
    check_refused(tmp_path, ["evaluate"], "evaluate/gauss-0.1/pt", "add train to --stages")
    check_refused(tmp_path, ["report"], "nothing in", "is finished yet: add diversity to --stages")


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    check_refused(tmp_path / "file" / "study", planner.STAGES, "cannot be written", "--workdir")
    runner.dry_run(tiny(), tmp_path / "file" / "study", planner.STAGES, Console(quiet=True))  # writes nothing: no error


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"benchmarks": ("mini_imagnet",)}, ["unknown benchmark 'mini_imagnet'", "did you mean 'mini_imagenet'"]),
        ({"methods": ("ho_maml5",)}, ["unknown method 'ho_maml5'", "'ho_maml_5'"]),
        ({"seeds": ()}, ["--config.seeds"]),
        ({"probe.name": "resnet81"}, ["unknown probe 'resnet81'", "'resnet18'"]),
        ({"probe.estimator": "exakt"}, ["unknown estimator 'exakt'", "'exact'"]),
        ({"probe.head": "adm"}, ["unknown head 'adm'", "'adam'"]),
        ({"probe.distance": "cosin"}, ["unknown distance 'cosin'", "'cosine'"]),
        ({"probe.weights": "nowhere.safetensors"}, ["nowhere.safetensors"]),
        ({"learner.net": "conv5"}, ["unknown network 'conv5'", "'conv4'"]),
        ({"learner.batch_norm": "transductiv"}, ["unknown batch-norm policy 'transductiv'", "'transductive'"]),
        ({"learner.compute": "float16"}, ["unknown compute type 'float16'", "'bfloat16'"]),
        ({"maml.inner_params": "heads"}, ["unknown choice of maml.inner_params 'heads'", "'head'"]),
        ({"training.optimizer": "adm"}, ["unknown optimizer 'adm'", "'adam'"]),
        ({"training.schedule": "cosin"}, ["unknown schedule 'cosin'", "'cosine'"]),
        ({"training.patience": 3}, ["--config.training.patience", "--config.training.validate_every"]),
        ({"evaluation.fixed_test_set": "omniglott"}, ["unknown benchmark 'omniglott'", "'omniglot'"]),
        ({"maml.steps": 0}, ["--config.maml.steps is 0", "at least 1"]),
        ({"task.ways": 9}, ["benchmark 'gauss-0.1'", "8 classes", "ways=9: lower --config.task.ways"]),
        ({"task.queries": 9}, ["class", "6 images", "shots + queries = 11", "--config.task.shots or --config.task.qu"]),
        ({"seed": -1}, ["--config.seed is -1"]),
    ],
)
def test_a_wrong_name_or_number_gets_one_clear_line(tmp_path, fields, words):
    check_refused(tmp_path, ("prepare", "diversity"), *words, **fields)


@pytest.mark.parametrize("name", ["default", "sample", "omniglot", "controlled", "paper"])
def test_every_configuration_that_we_ship_makes_a_plan(tmp_path, name):
    config = importlib.import_module(f"jaxdiv.configs.{name}").get_config()
    stages = [unit.stage for unit in planner.plan(door.read(config), tmp_path).units]
    assert stages == sorted(stages, key=planner.STAGES.index)
    assert {"prepare", "embed", "diversity", "evaluate"} <= {*stages}
    assert ("select" in stages) == (name == "controlled")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"controlled.pool": "gauss-0.5"},
            ["--config.controlled.pool makes the benchmarks", "--config.benchmarks='()'"],
        ),
        (
            {"controlled.pool": "gauss-0.5", "benchmarks": (), "controlled.classes": 30},
            ["--config.controlled.classes is 30", "candidates=144"],
        ),
        ({"controlled.pool": "gaus-0.5", "benchmarks": ()}, ["unknown benchmark 'gaus-0.5'"]),
        (
            {"controlled.pool": "images", "benchmarks": (), "data.split.fractions": (1.0, 0.0, 0.0)},
            ["benchmark 'images' is your own folder of images", "--config.images=DIR"],
        ),
        ({"data.cut.classes": 5, "benchmarks": ("gauss-0.1+gauss-0.5",)}, ["--config.data.cut", "up to 2"]),
        ({"data.cut.images": 3}, ["--config.data.cut", "shots + queries = 5"]),
        ({"data.cut.classes": 9}, ["gauss-0.1", "9 classes", "has 8", "lower --config.data.cut.classes or"]),
        ({"evaluation.test_sets": ("own", "fixt")}, ["unknown test set 'fixt'", "'fixed'"]),
        ({"evaluation.test_sets": ()}, ["--config.evaluation.test_sets"]),
    ],
)
def test_a_wrong_experiment_or_cut_gets_one_clear_line(tmp_path, fields, words):
    check_refused(tmp_path, ("prepare", "diversity"), *words, **fields)


def test_cut_benchmarks_are_all_of_one_size_and_a_pools_subsets_are_what_was_chosen(tmp_path):
    cut = {"data.cut.classes": 6, "data.cut.images": 5}
    assert runner.run(tiny(**cut), tmp_path / "cut", ("prepare",), Console(quiet=True)) == 0
    for unit in planner.plan(door.read(tiny(**cut)), tmp_path / "cut").embedded.values():
        assert planner._images(unit.spec.table, unit).count.tolist() == [5] * 6
    fields = {"benchmarks": (), "controlled.pool": "gauss-0.5", "controlled.subsets": 1, "task.ways": 2}
    fields |= {"controlled.classes": 2, "controlled.candidates": 8, "controlled.images": 5}
    assert runner.run(tiny(**fields), tmp_path / "one", ("prepare", "select"), Console(quiet=True)) == 0
    chosen = planner.plan(door.read(tiny(**fields)), tmp_path / "one")
    assert chosen.study.names == ("low-1", "middle-1", "high-1")
    picked = chosen.subsets.result
    for name in chosen.study.names:
        train = chosen.embedded[name]
        assert list(planner._images(train.spec.table, train).classes) == picked["classes"][name]
        test = chosen.tested[name, "pt", 0, "own"]
        assert len(planner._images(test.spec.table, test).classes) == 6
    distance = picked["class_distance"]
    assert distance["low-1"] <= distance["middle-1"] <= distance["high-1"]


def test_out_of_memory_names_first_what_changes_no_result(tmp_path):
    config = tiny(**{"methods": ("ho_maml_5",), "benchmarks": ("gauss-0.1",), "maml.meta_batch": 10**7})
    words = (
        "train/gauss-0.1/ho_maml_5/seed0: out of memory .* --config.maml.remat=true, which changes no .*maml.meta_batch"
    )
    with pytest.raises(InputError, match=words):
        runner.run(config, tmp_path, ("prepare", "train"), Console(quiet=True))


def test_methods_that_differ_in_the_test_alone_share_their_training(tmp_path):
    fields = {"methods": ("ho_maml_5", "ho_maml_10"), "benchmarks": ("gauss-0.1",), "maml.train_inner_steps": 5}
    units = {unit.name: unit for unit in planner.plan(door.read(tiny(**fields)), tmp_path).units}
    trained = "train/gauss-0.1/ho_maml_5/seed0"
    assert [name for name in units if name.startswith("train/")] == [trained]
    for method in fields["methods"]:
        assert units[f"evaluate/gauss-0.1/{method}/seed0/own"].inputs[0].name == trained


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stages=prepare,trian"], ["unknown stage 'trian'", "'train'"]),
        (["--wrkdir=x"], ["wrkdir", "workdir"]),
        (["study"], ["unexpected argument 'study'"]),
        (["--config.maml.stepz=3"], ["unknown configuration field", "stepz", "steps"]),
        (["--config.maml.steps=many"], ["--config.maml.steps=many", "int"]),
        (["--config.methods=('ho_maml5',)"], ["unknown method 'ho_maml5'", "'ho_maml_5'"]),
        (["--config=nowhere.py"], ["nowhere.py"]),
    ],
)
def test_a_wrong_flag_gets_one_line(tmp_path, arguments, words):
    config = {} if arguments == ["--config=nowhere.py"] else TINY
    check_one_line(launch(tmp_path, *arguments, config=config), *words)


def test_a_missing_and_a_truncated_archive_are_named(tmp_path):
    fields = {"benchmarks": ("mini_imagenet",), "data.archive_dir": str(tmp_path), "data.dir": str(tmp_path / "data")}
    fields["data.download"] = False
    missing = "mini-imagenet-cache-train.pkl is missing"
    check_refused(tmp_path / "w", planner.STAGES, missing, f"into {tmp_path}", **fields)
    (tmp_path / "mini-imagenet.tar.gz").write_bytes(b"PK\x03\x04 and no more")
    check_refused(tmp_path / "w", planner.STAGES, "mini-imagenet.tar.gz", "truncated", **fields)


def test_a_folder_of_ones_own_is_a_full_benchmark(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        (tmp_path / "photos" / f"class {number}").mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, 3) + rng.integers(0, 20, (9, 9, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"photos/class {number}/{i}.png")
    fields = {"benchmarks": ("images",), "images": str(tmp_path / "photos"), "methods": ("pt",), "task.ways": 3}
    fields |= {"data.split.fractions": (0.5, 0.25, 0.25), "data.augment.training": True}
    stages = ("prepare", "train", "evaluate")
    assert runner.run(tiny(**fields), tmp_path / "w", stages, Console(quiet=True)) == 0
    trained = json.loads(next((tmp_path / "w/units/train/images/pt/seed0").glob("*/result.json")).read_text())
    assert trained["result"]["train_classes"] == 6 and trained["settings"]["augment"] is True
    tested = json.loads(next((tmp_path / "w/units/evaluate/images/pt/seed0/own").glob("*/result.json")).read_text())
    assert 0 <= tested["result"]["accuracy"] <= 1
    manifest = json.loads((tmp_path / "w/data/manifest.json").read_text())
    assert manifest["benchmarks"]["images"]["test"] == {"classes": 3, "images": 18}
    assert Image.open(tmp_path / "w/data/images.png").height > 12 * 48
    with pytest.raises(InputError, match=r"no class in its test split.* split 12/0/0 .*--config.data.split.fractions"):
        runner.run(
            tiny(**fields | {"data.split.fractions": (1.0, 0.0, 0.0)}), tmp_path / "w", stages, Console(quiet=True)
        )


def test_help_shows_the_flags_to_a_newcomer(tmp_path):
    done = launch(tmp_path, "--help", config={})
    for word in ("python launch.py", "--config", "--workdir", "--stages", "--dry_run"):
        assert word in done.stdout
