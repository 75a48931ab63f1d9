"""Benchmarks whose tasks are sampled otherwise: the same data, other tasks."""

import numpy as np
import pytest
from rich.console import Console
from test_study import tiny

from jaxdiv.errors import InputError
from jaxdiv.study import config as door
from jaxdiv.study import planner, runner, samplers

SOURCE = "gauss-0.5"
NAMES = (SOURCE, *(f"{SOURCE}@{name}" for name in ("one_task", "k_dpp")))
FIELDS = {"benchmarks": NAMES, "methods": ("pt",), "probe.tasks": 4, "sampling.few_classes": 6}
FIELDS |= {"pt.steps": 2, "evaluation.test_sets": ("own",)}
STAGES = ("prepare", "select", "diversity", "train", "evaluate")


def units(workdir, **fields):
    plan = planner.plan(door.read(tiny(**FIELDS | fields)), workdir)
    return {unit.name: unit for unit in plan.units}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("samplers")
    assert runner.run(tiny(**FIELDS), workdir, STAGES, Console(quiet=True)) == 0
    return units(workdir)


def test_each_sampler_is_measured_trained_and_tested(done):
    assert all(unit.done for unit in done.values())
    assert {done[f"train/{name}/pt/seed0"].result["train_classes"] for name in NAMES} == {8}


def test_few_classes_is_a_smaller_cut(tmp_path):
    few = units(tmp_path, benchmarks=(SOURCE, f"{SOURCE}@few_classes", f"{SOURCE}@few_classes-1"))
    tables = [few[f"train/{name}/pt/seed0"].spec.table for name in (f"{SOURCE}@few_classes", f"{SOURCE}@few_classes-1")]
    assert [table.classes for table in tables] == [6, 6] and tables[0].seed != tables[1].seed


def test_all_meet_the_same_test_tasks_with_their_own_parameters(done):
    specs = [done[f"evaluate/{name}/pt/seed0/own"].spec for name in NAMES]
    assert len({(spec.where, spec.table, spec.seed) for spec in specs}) == 1
    found = [done[f"evaluate/{name}/pt/seed0/own"].arrays["task_loss"] for name in NAMES]
    assert len({losses.tobytes() for losses in found}) == len(NAMES)


def test_one_task_is_less_diverse_than_all_and_true_diversity_is_of_the_uniform_alone(done):
    rows = {name: done[f"diversity/{name}/resnet10_narrow"].result for name in NAMES}
    assert rows[f"{SOURCE}@one_task"]["diversity"] < 0.5 * rows[SOURCE]["diversity"]
    assert [name for name in NAMES if rows[name]["true_diversity"] is not None] == [SOURCE]


def test_the_classes_are_embedded_once_for_the_samplers_that_need_them(done):
    (embedded,) = (unit for name, unit in done.items() if name.startswith("select/"))
    assert embedded.name == f"select/classes/{SOURCE}/resnet10_narrow" and embedded.arrays["embeddings"].shape[0] == 8
    for name in NAMES:
        needs = embedded in done[f"embed/{name}/resnet10_narrow"].inputs
        assert needs == name.endswith("k_dpp")


def test_a_number_is_another_draw_of_a_sampler_that_fixes_something_and_settings_are_of_what_they_change(tmp_path):
    fixed = {"benchmarks": (SOURCE, f"{SOURCE}@one_batch", f"{SOURCE}@nearest")}
    before, after = units(tmp_path, **fixed), units(tmp_path, **fixed, **{"sampling.batch_tasks": 7})
    changed = {name for name in before if before[name].digest != after[name].digest}
    assert changed and all("@one_batch" in name for name in changed)
    plan = planner.plan(
        door.read(tiny(**FIELDS | {"benchmarks": (f"{SOURCE}@one_task", f"{SOURCE}@one_task-2")})), tmp_path
    )
    tables = [unit.spec.table for unit in plan.embedded.values()]

    draws = [samplers._choice(table, 8, 5, None).sets for table in tables]
    assert not np.array_equal(*draws)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"benchmarks": (f"{SOURCE}@k_dp",)}, "unknown sampler 'k_dp'.*'k_dpp'"),
        ({"benchmarks": ("gauss-0.5+gauss-1.5@k_dpp",)}, "of one data set"),
        ({"benchmarks": (f"{SOURCE}@k_dpp-2",)}, "has no numbers"),
        ({"evaluation.fixed_test_set": f"{SOURCE}@k_dpp"}, "of a benchmark's training alone"),
        (
            {"sampling.few_classes": 4, "benchmarks": (f"{SOURCE}@few_classes",)},
            "few_classes is 4: it must be at least ways=5",
        ),
    ],
)
def test_what_cannot_be_sampled_is_one_line(fields, words):
    with pytest.raises(InputError, match=words):
        door.read(tiny(**FIELDS | fields))
