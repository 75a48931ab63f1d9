"""One identity: with the workdir of a finished study, a changed configuration runs what is new and keeps the rest."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_study import tiny

from jaxdiv.configs import replication
from jaxdiv.errors import InputError
from jaxdiv.methods.checkpointing import Run, latest_step
from jaxdiv.study import config as door
from jaxdiv.study import last_stages, planner, runner, unit
from jaxdiv.study.stages import embed

WORK = ("prepare", "embed", "diversity", "train", "evaluate")
SMALL = {
    "benchmarks": ("gauss-0.1", "gauss-0.5"),
    "methods": ("pt",),
    "probe.pixels": 16,
    "pt.steps": 20,
    "evaluation.test_sets": ("own",),
}


def study(**fields):
    return tiny(**SMALL | fields)


def ran(workdir, stages=WORK, **fields):
    """The units that a run of the study with `fields` changed executes, by name, as it says how many there are."""
    results = lambda: {file: file.stat().st_mtime_ns for file in (workdir / "units").rglob("result.json")}
    before, console = results(), Console(file=io.StringIO(), width=200)
    assert runner.run(study(**fields), workdir, stages, console) == 0
    after = results()
    names = [json.loads(file.read_text())["unit"] for file in after if after[file] != before.get(file)]
    counted = [name for name in names if name.partition("/")[0] in WORK]
    assert f" {len(counted)} to run" in console.file.getvalue()
    return sorted(names)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a study of seconds that ran undisturbed: 10 units, a correlation and a report."""
    workdir = tmp_path_factory.mktemp("finished") / "w"
    assert len(ran(workdir, planner.STAGES)) == 2 + 2 + 2 + 2 + 2 + 1
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "w")


def of(benchmark, *stages):
    """The names of a benchmark's units of some stages."""
    names = {
        "prepare": f"prepare/{benchmark}/16px",
        "embed": f"embed/{benchmark}/resnet10_narrow",
        "diversity": f"diversity/{benchmark}/resnet10_narrow",
        "train": f"train/{benchmark}/pt/seed0",
        "evaluate": f"evaluate/{benchmark}/pt/seed0/own",
    }
    return [names[stage] for stage in stages]


def both(*stages):
    return sorted([*of("gauss-0.1", *stages), *of("gauss-0.5", *stages)])


def points(workdir):
    rows = csv.DictReader((workdir / "report" / "points.csv").open())
    return {(row["benchmark"], row["method"], row["seed"]) for row in rows}


def test_another_benchmark_runs_its_own_units_alone(workdir):
    more = (*SMALL["benchmarks"], "gauss-1.5")
    assert ran(workdir, benchmarks=more) == sorted(of("gauss-1.5", *WORK))
    # Left out again, it stays on disk and out of the report; asked for again, it is there.
    assert ran(workdir, planner.STAGES) == []
    assert {name for name, *_ in points(workdir)} == set(SMALL["benchmarks"])
    assert ran(workdir, planner.STAGES, benchmarks=more) == ["correlate"]
    assert {name for name, *_ in points(workdir)} == set(more)


def test_a_union_as_test_set_is_another_one_with_another_benchmark(workdir):
    fixed = {"evaluation.test_sets": ("own", "fixed")}
    tested = lambda *names: [f"evaluate/{name}/pt/seed0/fixed" for name in names]
    assert ran(workdir, **fixed) == tested(*SMALL["benchmarks"])
    more = (*SMALL["benchmarks"], "gauss-1.5")
    assert ran(workdir, benchmarks=more, **fixed) == sorted([*of("gauss-1.5", *WORK), *tested(*more)])
    named = fixed | {"evaluation.fixed_test_set": "gauss-0.5"}
    assert ran(workdir, benchmarks=more, **named) == tested(*more)
    assert ran(workdir, benchmarks=more[1:], **named) == []


def test_another_method_and_another_run_train_and_test_alone(workdir):
    new = ran(workdir, methods=("pt", "protonet"))
    assert len(new) == 4 and all(re.match("(train|evaluate)/.*/protonet/seed0", name) for name in new)
    new = ran(workdir, seeds=(0, 1))
    assert len(new) == 4 and all(re.match("(train|evaluate)/.*/pt/seed1", name) for name in new)
    assert ran(workdir, methods=("protonet",)) == []


def test_more_tasks_of_the_probe_embed_the_further_ones_alone(workdir, tmp_path, monkeypatch):
    embedded, whole = [], embed.embed_benchmark
    monkeypatch.setattr(embed, "embed_benchmark", lambda *a, **k: (embedded.append(a[2]), whole(*a, **k))[1])
    assert ran(workdir, **{"probe.tasks": 5}) == both("embed", "diversity")
    assert embedded == [2, 2]
    assert ran(tmp_path / "fresh", ("prepare", "embed"), **{"probe.tasks": 5}) == both("prepare", "embed")
    plans = [planner.plan(door.read(study(**{"probe.tasks": 5})), folder) for folder in (workdir, tmp_path / "fresh")]
    for name in SMALL["benchmarks"]:
        grown, fresh = (plan.embedded[name].arrays["embeddings"] for plan in plans)
        np.testing.assert_array_equal(grown, fresh)


def test_more_tasks_of_the_tests_test_again_and_begin_with_the_same(workdir):
    few = planner.plan(door.read(study()), workdir).tested["gauss-0.1", "pt", 0, "own"].arrays["task_accuracy"]
    assert ran(workdir, **{"evaluation.tasks": 6}) == both("evaluate")
    more = planner.plan(door.read(study(**{"evaluation.tasks": 6})), workdir)
    np.testing.assert_array_equal(more.tested["gauss-0.1", "pt", 0, "own"].arrays["task_accuracy"][:4], few)


@pytest.mark.parametrize("changed", [{"probe.distance": "cosine"}, {"probe.interval": "bootstrap"}])
def test_another_distance_or_interval_does_not_embed_again(workdir, changed):
    assert ran(workdir, **changed) == both("diversity")
    assert ran(workdir) == []  # back again


def test_another_distance_chooses_other_subsets_without_embedding_the_pool_again(tmp_path):
    fields = {"benchmarks": (), "controlled.pool": "gauss-0.5", "controlled.subsets": 1, "task.ways": 2}
    fields |= {"controlled.classes": 2, "controlled.candidates": 8, "controlled.images": 5}
    pool, subsets = "select/pool/resnet10_narrow", "select/subsets/resnet10_narrow"
    assert ran_selection(tmp_path, **fields) == [pool, subsets]
    assert ran_selection(tmp_path, **fields, **{"probe.distance": "cosine"}) == [subsets]


def ran_selection(workdir, **fields):
    before = set(workdir.rglob("result.json"))
    assert runner.run(study(**fields), workdir, ("prepare", "select"), Console(quiet=True)) == 0
    names = [json.loads(file.read_text())["unit"] for file in set(workdir.rglob("result.json")) - before]
    return sorted(name for name in names if name.startswith("select/"))


def test_more_steps_go_on_from_the_last_checkpoint_to_the_same_result(workdir, tmp_path):
    longer = {"pt.steps": 30}
    trained = planner.plan(door.read(study(**longer)), workdir).trained["gauss-0.1", "pt", 0]
    trained.begin()
    assert latest_step(trained.folder) == 20
    assert ran(workdir, **longer) == both("train", "evaluate")
    ran(tmp_path / "fresh", ("prepare", "train", "evaluate"), **longer)
    fresh = planner.plan(door.read(study(**longer)), tmp_path / "fresh")
    told = ("step", "loss", "accuracy", "ended")
    other = fresh.trained["gauss-0.1", "pt", 0].result
    assert {key: trained.result[key] for key in told} == {key: other[key] for key in told}
    for which, unit_ in planner.plan(door.read(study(**longer)), workdir).tested.items():
        assert unit_.result == fresh.tested[which].result
    assert ran(workdir) == [] and ran(workdir, **{"evaluation.tasks": 5}) == both("evaluate")  # the shorter run, whole


def test_another_precision_is_another_result_of_whatever_a_device_computes(workdir):
    plans = [planner.plan(door.read(study(**{"compute.precision": name})), workdir) for name in ("highest", "default")]
    differ = {a.stage for a, b in zip(*(plan.units for plan in plans), strict=True) if a.digest != b.digest}
    assert differ == {"embed", "diversity", "train", "evaluate"}


def test_results_and_checkpoints_of_another_platform_are_named_before_new_ones_stand_beside_them(workdir, monkeypatch):
    def said(**fields):
        console = Console(file=io.StringIO(), width=200)
        runner.dry_run(study(**fields), workdir, WORK, console)
        return [line for line in console.file.getvalue().splitlines() if line.startswith("note: ")]

    more = {"methods": ("pt", "fo_maml_5")}
    for stage in ("train", "evaluate"):
        next((workdir / "units" / stage / "gauss-0.1").rglob("result.json")).unlink()
    assert said(**more) == []
    monkeypatch.setattr("jax.default_backend", lambda: "tpu")
    line = "note: results from cpu: 4, checkpoints from cpu: 1; this run computes on tpu"
    assert [each.partition(", which")[0] for each in said(**more)] == [line]
    embedded = planner.plan(door.read(study(**{"probe.tasks": 5})), workdir).embedded["gauss-0.1"]
    assert embedded.kin("tasks") and not embedded.kin("tasks", here=True)


def test_a_run_that_goes_on_elsewhere_remembers_where_it_began():
    run = Run({})
    run.resume(Run({}).record() | {"platforms": ["gpu"]}, "it")
    assert run.summary()["platforms"] == run.record()["platforms"] == ["cpu", "gpu"]


def test_a_schedule_that_depends_on_the_number_of_steps_is_another_trajectory(workdir):
    cosine = {"training.schedule": "cosine"}
    assert ran(workdir, ("prepare", "train"), **cosine) == both("train")
    longer = planner.plan(door.read(study(**cosine, **{"pt.steps": 30})), workdir).trained["gauss-0.1", "pt", 0]
    longer.begin()
    assert latest_step(longer.folder) == 0


def test_a_run_that_is_further_than_is_asked_for_is_not_the_beginning_of_a_shorter_one(workdir):
    shorter = planner.plan(door.read(study(**{"pt.steps": 15})), workdir).trained["gauss-0.1", "pt", 0]
    shorter.begin()
    assert latest_step(shorter.folder) == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"training.checkpoint_every": 7},
        {"training.validation_tasks": 9},  # it is not validated
        {"probe.floor_tasks": 2},  # nothing is drawn
        {"data.download": False},
        {"maml.steps": 7},  # no MAML is asked for
        {"data.split.seed": 5},  # no images of the user's own
    ],
)
def test_a_setting_that_changes_no_result_runs_nothing(workdir, changed):
    assert ran(workdir, planner.STAGES, **changed) == []


def test_a_table_that_an_earlier_version_prepared_is_prepared_again_and_all_else_is_kept(workdir):
    (file,) = (workdir / "units/prepare/gauss-0.1/16px").glob("*/result.json")
    record = json.loads(file.read_text())
    del record["result"]["notes"]
    file.write_text(json.dumps(record))
    assert ran(workdir) == of("gauss-0.1", "prepare")


def test_the_report_is_always_of_what_was_asked_for_last(workdir):
    alone = {"benchmarks": ("gauss-0.5",), "methods": ()}
    assert ran(workdir, planner.STAGES, **alone) == []
    survey = {path.name for path in (workdir / "report").iterdir()}
    assert "tasks-gauss-0.5.png" in survey and not survey & {"points.csv", "figure1.png", "tasks-gauss-0.1.png"}
    assert ran(workdir, planner.STAGES) == []
    study_again = {path.name for path in (workdir / "report").iterdir()}
    assert {"points.csv", "figure1.png"} <= study_again and "tasks-gauss-0.5.png" not in study_again
    assert json.loads((workdir / "study.json").read_text())["benchmarks"] == ["gauss-0.1", "gauss-0.5"]


def test_a_file_in_the_report_folder_that_is_not_ours_stays(workdir):
    (workdir / "report" / "notes.png").write_bytes(b"mine")
    ran(workdir, planner.STAGES, benchmarks=("gauss-0.5",), methods=())
    assert (workdir / "report" / "notes.png").read_bytes() == b"mine"


def test_killed_and_changed_in_one_benchmark_only_that_benchmarks_units_run(workdir, monkeypatch):
    changed = {"benchmarks": ("gauss-0.1", "gauss-0.9")}
    execute = unit.Unit.execute

    def killed(self, progress):
        if self.name == "train/gauss-0.9/pt/seed0":
            raise KeyboardInterrupt
        execute(self, progress)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unit.Unit, "execute", killed)
        ran(workdir, planner.STAGES, **changed)
    assert ran(workdir, planner.STAGES, **changed) == ["correlate", *sorted(of("gauss-0.9", "evaluate", "train"))]
    changed = {"benchmarks": ("gauss-0.1", "gauss-1.5")}
    assert ran(workdir, planner.STAGES, **changed) == sorted(["correlate", *of("gauss-1.5", *WORK)])


def test_one_more_image_of_ones_own_runs_that_data_sets_units_alone(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("birds", "moths"):
        for number in range(5):
            (tmp_path / name / f"class {number}").mkdir(parents=True)
            for i in range(5):
                pixels = rng.integers(0, 256, 3) + rng.integers(0, 20, (9, 9, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(tmp_path / name / f"class {number}/{i}.png")
    given = {"images": f"{tmp_path / 'birds'},{tmp_path / 'moths'}", "benchmarks": ()}
    given |= {"data.split.fractions": (1.0, 0.0, 0.0), "methods": ()}
    assert len(ran(tmp_path / "w", **given)) == 6
    image.save(tmp_path / "moths" / "class 3" / "new.png")
    assert ran(tmp_path / "w", **given) == sorted(of("moths", "prepare", "embed", "diversity"))


def test_too_few_classes_are_said_before_anything_is_embedded(tmp_path):
    """Of a user's own images they are known from the files' names, of the test split too."""
    for number in range(12):
        (tmp_path / "mine" / f"class {number}").mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (8, 8), (number, i, 0)).save(tmp_path / f"mine/class {number}/{i}.png")
    given = {"benchmarks": (), "images": str(tmp_path / "mine"), "data.split.fractions": (0.5, 0.25, 0.25)}
    line = r"benchmark 'mine' \(test split\) has 3 classes, fewer than ways=5: lower --config.task.ways, or give the "
    line += (
        r"split more classes \(the 12 classes of mine are split 6/3/3 for train/val/test\) by --config.data.split.fra"
    )
    for stages in (WORK, ("prepare",)):
        with pytest.raises(InputError, match=line):
            runner.run(study(**given), tmp_path / "w", stages, Console(quiet=True))
    assert not (tmp_path / "w").exists()
    # The mistake corrected, the same workdir will do.
    assert ran(tmp_path / "w", ("prepare", "embed"), **given | {"task.ways": 3}) == sorted(
        of("mine", "prepare", "embed")
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data.classes": (8, 5, 4)}, r"'gauss-0.1' \(test split\) has 4 classes"),
        ({"data.classes": (8, 4, 5), "training.validate_every": 10}, r"'gauss-0.1' \(val split\) has 4 classes"),
        ({"data.classes": (8, 0, 5), "training.validate_every": 10}, "has no class in its val split"),
        ({"data.images_per_class": 4}, "'class 0' of benchmark 'gauss-0.1' .* has 4 images"),
        ({"benchmarks": ("gauss-0.1+gauss-0.5",), "task.ways": 9}, "has 8 classes, fewer than ways=9"),
        ({"data.cut.classes": 9}, "9 classes with 0 images .* has 8: lower --config.data.cut.classes"),
        (
            {"benchmarks": (), "controlled.pool": "gauss-0.5", "controlled.classes": 5, "controlled.images": 5}
            | {"controlled.subsets": 2},
            "the pool has 8 classes of one data set, too few for 2 subsets of 5",
        ),
        (
            {"benchmarks": (), "controlled.pool": "gauss-0.5", "controlled.classes": 5, "controlled.images": 9}
            | {"controlled.subsets": 1, "controlled.candidates": 10},
            "0: lower --config.controlled.candidates or --config.controlled.images|too few",
        ),
    ],
)
def test_what_leaves_no_task_is_said_before_anything_is_written(tmp_path, fields, words):
    for action in (runner.run, runner.dry_run):
        with pytest.raises(InputError, match=words):
            action(study(**fields), tmp_path / "w", (*WORK, "select"), Console(quiet=True))
        assert not (tmp_path / "w").exists()


def test_parts_of_one_file_count_as_that_set_in_what_benchmarks_share():
    study = door.read(replication.get_config("somewhere"))
    shares = {name: last_stages.data_shares(study, name) for name in study.names}
    assert shares["characters-malayalam"] == shares["characters"] == {"characters": 1.0}
    assert shares["mini+tiny"] == {"mini": 0.5, "tiny": 0.5} and shares["tiny-animals"] == {"tiny": 1.0}
    assert len({name for share in shares.values() for name in share}) == 7
