"""Benchmarks whose tasks are sampled otherwise: the same data, other tasks."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from test_study import tiny

from jaxdiv import embed_benchmark, load_probe, pairwise_distances, sample_tasks
from jaxdiv.configs import selection
from jaxdiv.errors import InputError
from jaxdiv.study import config as door
from jaxdiv.study import planner, runner, samplers
from jaxdiv.study.keys import key_for
from jaxdiv.study.stages import evaluate

SOURCE = "gauss-0.5"
CHOSEN = ("6_most_diverse", "6_random")
NAMES = (SOURCE, *(f"{SOURCE}@{name}" for name in ("one_task", "k_dpp", "hard", *CHOSEN)))
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
    trained = {name: done[f"train/{name}/pt/seed0"].result["train_classes"] for name in NAMES}
    assert [trained.pop(f"{SOURCE}@{name}") for name in CHOSEN] == [6, 6]
    assert set(trained.values()) == {8}


def test_few_classes_is_a_smaller_cut(tmp_path):
    few = units(tmp_path, benchmarks=(SOURCE, f"{SOURCE}@few_classes", f"{SOURCE}@few_classes-1"))
    tables = [few[f"train/{name}/pt/seed0"].spec.table for name in (f"{SOURCE}@few_classes", f"{SOURCE}@few_classes-1")]
    assert [table.classes for table in tables] == [6, 6] and tables[0].seed != tables[1].seed


def test_the_hard_tasks_that_are_measured_are_those_of_the_largest_losses_after_training(done):
    embedded, trained = done[f"embed/{SOURCE}@hard/resnet10_narrow"], done[f"train/{SOURCE}@hard/pt/seed0"]
    spec, count = embedded.spec, 4
    keys = jnp.stack([key_for(spec.seed, spec.purpose, number) for number in range(2 * count)])
    method = evaluate.make("pt", trained.spec.learner, trained.spec.settings, 5, 8)
    params, model_state = evaluate.load_params(trained.folder, method, trained.result["checkpoint"])
    seen = planner._images(trained.spec.table, trained)
    losses = []
    for key in keys:
        task = jax.tree.map(lambda leaf: leaf[0], sample_tasks(jax.random.split(key)[0], seen, 5, 2, 3))
        logits = method.adapt(params, model_state, task.support_images, task.support_labels, key)(task.query_images)
        losses.append(-np.log(np.asarray(jax.nn.softmax(logits))[np.arange(15), task.query_labels]).mean())
    rows = np.sort(np.argsort(losses)[-count:])
    probe, images = load_probe("resnet10_narrow"), planner._images(spec.table, embedded)
    wanted = embed_benchmark(probe, images, count, 5, 2, 3, key=keys[rows])
    np.testing.assert_allclose(embedded.arrays["embeddings"], wanted, rtol=1e-3, atol=1e-6)


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
        assert needs == name.endswith(("k_dpp", "most_diverse"))


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


def test_the_chosen_classes_are_the_most_diverse_of_those_that_are_embedded_and_random_ones_are_others(done):
    need = done[f"select/classes/{SOURCE}/resnet10_narrow"]
    unit = done[f"train/{SOURCE}@6_most_diverse/pt/seed0"]
    distances = pairwise_distances(need.arrays["embeddings"])
    best = max(itertools.combinations(range(8), 6), key=lambda rows: distances[np.ix_(rows, rows)].sum())
    used = planner._images(unit.spec.table, unit)
    # Greedy finds the best six of these eight, and their images are the source's own.
    assert sorted(used.classes) == sorted(need.result["classes"][row] for row in best)
    whole = planner._images(unit.spec.table.of, unit)
    for name in used.classes:
        mine, theirs = (table.images[table.first[at] :][:6] for table, at in at_of(name, used, whole))
        np.testing.assert_array_equal(mine, theirs)
    fields = {"benchmarks": [f"{SOURCE}@6_{each}" for each in ("random", "random-1", "random-2", "most_diverse")]}
    drawn = [planner._images(unit.spec.table, done[f"train/{SOURCE}/pt/seed0"]).classes for unit in random(fields)]
    assert len({frozenset(classes) for classes in drawn}) == 3 and {len(classes) for classes in drawn} == {6}


def at_of(name, *tables):
    return [(table, table.classes.index(name)) for table in tables]


def random(fields):
    plan = planner.plan(door.read(tiny(**FIELDS | fields)), Path("nowhere"))
    return [unit for name, unit in plan.embedded.items() if "random" in name]


def test_each_is_compared_with_what_differs_in_the_sampler_or_the_choice_alone():
    random = ("a@6_random", "a@6_random-1")
    names = ("a", "b", *random, "a@12_random", "b@6_random", "a@6_most_diverse", "a@6_least_diverse", "a@k_dpp")
    found = samplers.counterparts([*names, "a@one_task-2", "c@k_dpp", "a@9_most_diverse"])
    assert {name: (each.kind, each.source, each.others) for name, each in found.items()} == {
        "a@6_most_diverse": ("6_most_diverse", "a", random),
        "a@6_least_diverse": ("6_least_diverse", "a", random),
        "a@k_dpp": ("k_dpp", "a", ("a",)),
        "a@one_task-2": ("one_task", "a", ("a",)),
    }


def test_the_selection_study_has_three_random_draws_beside_each_choice():
    names = selection.get_config().benchmarks
    found = samplers.counterparts(names)
    assert len(found) == 15 and len(names) == 60
    for name, each in found.items():
        draws = [name.replace("most_diverse", draw) for draw in ("random", "random-1", "random-2")]
        assert [*each.others] == draws


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"benchmarks": (f"{SOURCE}@k_dp",)}, "unknown sampler 'k_dp'.*'k_dpp'"),
        ({"benchmarks": ("gauss-0.5+gauss-1.5@k_dpp",)}, "of one data set"),
        ({"benchmarks": (f"{SOURCE}@hard",), "methods": ()}, "depends on the learner: name one by --config.methods"),
        ({"benchmarks": (f"{SOURCE}@hard-1",)}, "draws new classes for every task"),
        ({"benchmarks": (f"{SOURCE}@k_dpp-2",)}, "draws new classes for every task, so it takes no number"),
        ({"benchmarks": (f"{SOURCE}@6_most_diverse-2",)}, "is a single choice, so it takes no number"),
        ({"benchmarks": (f"{SOURCE}@6_most_diverst",)}, "unknown sampler '6_most_diverst'.*'N_most_diverse'"),
        ({"benchmarks": (f"{SOURCE}@6_k_dpp",)}, "unknown sampler '6_k_dpp'"),
        ({"benchmarks": (f"{SOURCE}@random",)}, "as in gauss-0.5@10_random, at least ways=5"),
        ({"benchmarks": (f"{SOURCE}@4_random",)}, "as in gauss-0.5@10_random, at least ways=5"),
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


@pytest.mark.parametrize("choice", ["most_diverse", "random"])
def test_more_classes_than_there_are_is_said_before_anything_is_written(choice, tmp_path):
    with pytest.raises(InputError, match=f"'{SOURCE}@9_{choice}': its train split has 8 classes to choose from"):
        runner.run(tiny(**FIELDS | {"benchmarks": (f"{SOURCE}@9_{choice}",)}), tmp_path, STAGES, Console(quiet=True))
    assert not any(tmp_path.iterdir())
