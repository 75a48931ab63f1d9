"""Stages are pure: a spec and inputs give a result, without a workdir, and every result survives its JSON."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from test_study import tiny

from jaxdiv import DataSettings, diversity, embed_benchmark, load_benchmark, load_probe
from jaxdiv.methods.checkpointing import latest_step
from jaxdiv.stats.analysis import Analysis
from jaxdiv.study import config, planner, unit
from jaxdiv.study.keys import key_for
from jaxdiv.study.stages import correlate, embed, evaluate, prepare, train
from jaxdiv.study.stages import diversity as coefficient

FIELDS = {"benchmarks": ("gauss-0.5",), "methods": ("pt",), "pt.steps": 4, "evaluation.test_sets": ("own",)}
SETTINGS = DataSettings(classes=(8, 5, 6), images_per_class=6, min_images=5)


def silent(share, note):
    assert 0 <= share <= 1


@pytest.fixture(scope="module")
def plan():
    return planner.plan(config.read(tiny(**FIELDS)), Path("nowhere"))


@pytest.fixture(scope="module")
def tables():
    return {split: load_benchmark("gauss-0.5", split, 16, SETTINGS) for split in ("train", "test")}


@pytest.fixture(scope="module")
def embedded(plan, tables):
    spec = plan.embedded["gauss-0.5"].spec
    return embed.run(spec, embed.Inputs(tables["train"], load_probe("resnet10_narrow")), silent)


def test_prepare_says_what_it_made(plan, tmp_path):
    found = prepare.run(plan.prepared["gauss-0.5", 16].spec, tmp_path / "table", silent)
    assert found.train == {"classes": 8, "images": 48} and found.test == {"classes": 6, "images": 36}
    assert len(found.sha256) == 64 and not found.left_out and not found.archives


def test_embed_is_the_librarys_embedding_of_the_tasks_that_its_keys_draw(plan, tables, embedded):
    keys = jax.numpy.stack([key_for(0, "diversity/gauss-0.5/resnet10_narrow", number) for number in range(3)])
    size = {"ways": 5, "shots": 2, "queries": 3}
    expected = embed_benchmark(load_probe("resnet10_narrow"), tables["train"], 3, **size, key=keys)
    np.testing.assert_array_equal(embedded.embeddings, expected)
    assert embedded.again.shape == (0, expected.shape[1])


def test_embed_of_fewer_tasks_is_the_beginning_of_more_and_embeds_none_again(plan, tables, embedded, monkeypatch):
    monkeypatch.delattr(embed, "embed_benchmark")
    spec = dataclasses.replace(plan.embedded["gauss-0.5"].spec, tasks=2)
    found = embed.run(spec, embed.Inputs(tables["train"], load_probe("resnet10_narrow"), embedded), silent)
    np.testing.assert_array_equal(found.embeddings, embedded.embeddings[:2])


def test_diversity_is_the_coefficient_of_its_embeddings(plan, embedded):
    row = coefficient.run(plan.measured["gauss-0.5"].spec, embedded, silent)
    assert (row.diversity, row.ci_low, row.ci_high) == diversity(embedded.embeddings)
    assert row.noise_floor is None and row.true_diversity == pytest.approx(0.99, abs=0.1) and not row.own


def test_training_and_evaluation_need_a_folder_of_checkpoints_alone(plan, tables, tmp_path):
    spec = plan.trained["gauss-0.5", "pt", 0].spec
    trained = train.run(spec, train.Inputs(tables["train"], None, tmp_path), silent)
    assert (trained.step, trained.ended, trained.train_classes, trained.train_images) == (4, "steps", 8, 48)
    assert latest_step(tmp_path) == 4
    spec = plan.tested["gauss-0.5", "pt", 0, "own"].spec
    inputs = evaluate.Inputs(tables["test"], tmp_path, trained.checkpoint, trained.train_classes, trained.train_images)
    point = evaluate.run(spec, inputs, silent)
    assert point.accuracy == point.task_accuracy.mean() and point.loss == point.task_loss.mean()
    assert len(point.task_accuracy) == 4 and 0 <= point.accuracy <= 1
    # A run of more steps adopts it; one that goes on from nearer by does not.
    other = tmp_path / "longer"
    train.adopt(other_folder(other), [tmp_path], 6)
    assert latest_step(other) == 4
    train.adopt(other_folder(tmp_path / "shorter"), [tmp_path], 3)
    assert latest_step(tmp_path / "shorter") == 0


def other_folder(folder):
    folder.mkdir()
    return folder


def test_correlate_takes_the_mean_over_runs_of_each_test_task(monkeypatch):
    seen = {}

    def analyse(measured, tested, norms, per_task, shares, controlled, counterparts):
        seen.update(runs=[row["seed"] for row in tested], norms=norms, per_task=per_task)
        return Analysis()

    monkeypatch.setattr(correlate, "analyse", analyse)
    row = {"benchmark": "a", "method": "pt", "test_set": "own"}
    tested = [(row | {"seed": seed}, {"task_accuracy": np.array([seed, 1.0])}) for seed in (0, 1)]
    embeddings = {"a": np.array([[3.0, 4.0]])}
    correlate.run(correlate.Spec({}, False, {}), correlate.Inputs([{"benchmark": "a"}], embeddings, tested), silent)
    np.testing.assert_array_equal(seen["per_task"]["a", "pt", "own"], [0.5, 1.0])
    assert seen["norms"]["a"].tolist() == [5.0] and seen["runs"] == [0, 1]


@dataclasses.dataclass(frozen=True)
class Spec:
    size: int
    speed: int = dataclasses.field(default=0, metadata={"identity": False})


@dataclasses.dataclass(frozen=True)
class Result:
    value: float
    rows: np.ndarray


def test_a_result_survives_its_files_and_results_of_other_settings_stand_beside_it(tmp_path):
    make = lambda size, speed=0: unit.Unit(
        "stage/a", Spec(size, speed), lambda unit, progress: Result(size / 3, np.arange(size)), tmp_path
    )
    one, two = make(1), make(2)
    for each in (one, two):
        assert not each.done
        each.begin()
        each.execute(silent)
    assert one.done and two.done and one.load(Result).value == 1 / 3 and two.load(Result).rows.tolist() == [0, 1]
    assert make(1, speed=9).done and not make(3).done
    assert [size for size, _ in make(3).kin("size")] in ([1, 2], [2, 1]) and one.kin("size")[0][0] == 2
    record = one.folder / "result.json"
    record.write_text(record.read_text()[:-9])  # as if the disk had lost its end
    assert not one.done and two.done
