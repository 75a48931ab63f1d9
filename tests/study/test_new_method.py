"""A method is one file and one line of the registry: a study trains, tests and reports that of docs/extending.md."""

import csv

import pytest
from rich.console import Console
from walks import follow

from jaxdiv.configs import default
from jaxdiv.study import runner

STAGES = ("prepare", "diversity", "train", "evaluate", "correlate", "report")
METHODS = ("pt", "protonet", "nearest")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The report of a study of pre-training, ProtoNet and the new method."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        follow("A method", monkeypatch)
        config = default.get_config()
        config.update(benchmarks=("gauss-0.1", "gauss-0.5", "gauss-1.5"), methods=METHODS)
        config.task.update(shots=2, queries=3)
        config.data.classes = (8, 5, 6)
        config.probe.tasks, config.learner.width = 3, 4
        config.evaluation.update(tasks=4, test_sets=("own",))
        config.pt.update(steps=5, batch_size=8)
        config.maml.steps = 7
        config.nearest.steps = 3
        workdir = tmp_path_factory.mktemp("study")
        assert runner.run(config, workdir, STAGES, Console(quiet=True)) == 0
    return workdir


def rows(file):
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_every_method_is_tested_on_every_benchmark_and_has_its_r2(reported):
    points = rows(reported / "report" / "points.csv")
    assert [row["method"] for row in points].count("nearest") == 3
    assert {row["method"] for row in points} == {row["method"] for row in rows(reported / "report" / "table2.csv")}
    assert {row["method"] for row in points} == set(METHODS)


def test_a_method_trains_as_long_as_its_own_section_or_else_mamls_says(reported):
    steps = {}
    for metrics in (reported / "units" / "train" / "gauss-0.1").rglob("metrics.jsonl"):
        steps[metrics.relative_to(reported / "units" / "train").parts[1]] = len(metrics.read_text().splitlines())
    assert steps == {"pt": 5, "protonet": 7, "nearest": 3}


def test_the_report_has_their_names_and_calls_neither_maml(reported):
    text = (reported / "report" / "report.html").read_text()
    assert "ProtoNet" in text and "Nearest mean" in text
    effects = reported / "report" / "effect_sizes.csv"
    assert "MAML" not in (effects.read_text() if effects.exists() else "")
