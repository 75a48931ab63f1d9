"""A bar where somebody can see it, and nothing where output goes to a file; a notebook's is in test_notebook.py."""

import contextlib
import os
import sys
import termios

import numpy as np
import pytest

from configs import default
from jaxdiv import embed_benchmark, load_benchmark, load_probe
from jaxdiv.data.prepare import DataSettings
from jaxdiv.progress_bar import bar
from jaxdiv.study import config as door
from jaxdiv.study import planner


@pytest.fixture
def stderr(monkeypatch):
    """stderr as one end of `kind`; what the other end has received."""

    def of(kind):
        ours, theirs = os.openpty() if kind == "terminal" else os.pipe()
        if kind == "terminal":
            termios.tcsetwinsize(theirs, (24, 80))
        monkeypatch.setattr(sys, "stderr", os.fdopen(theirs, "w"))

        def heard():
            sys.stderr.flush()
            os.set_blocking(ours, False)
            said = b""
            with contextlib.suppress(BlockingIOError):  # nothing more
                while more := os.read(ours, 2**16):
                    said += more
            return said.decode()

        return heard

    return of


@pytest.fixture(scope="module")
def small():
    table = load_benchmark("gauss-0.5", pixels=8, settings=DataSettings(classes=(5, 1, 1), images_per_class=4))
    return load_probe("resnet10_narrow"), table, dict(tasks=3, ways=5, shots=1, queries=2)


def test_embedding_counts_its_tasks_in_a_terminal(stderr, small):
    probe, table, size = small
    heard = stderr("terminal")
    shown = embed_benchmark(probe, table, **size)
    said = heard()
    assert "embedding tasks (starting):   0%" in said and "0/3" in said
    assert "embedding tasks: 100%" in said and "3/3" in said
    assert max(len(line) for line in said.replace("\r", "\n").splitlines()) <= 80
    heard = stderr("pipe")
    np.testing.assert_array_equal(embed_benchmark(probe, table, **size), shown)
    assert heard() == ""


def test_a_bar_of_ones_own_is_the_only_one(stderr, small):
    probe, table, size = small
    heard, counts = stderr("terminal"), []
    embed_benchmark(probe, table, **size, progress=counts.append)
    assert counts[-1] == 3 and counts == sorted(counts) and heard() == ""


def test_a_download_shows_the_share_that_has_come(stderr):
    heard = stderr("terminal")
    with bar("downloading a.pth") as report:
        report(0.25)
        report(1.0)
    said = heard()
    assert "downloading a.pth (starting):   0%" in said and "downloading a.pth: 100%" in said and "1.0" not in said
    heard = stderr("pipe")
    with bar("downloading a.pth") as report:
        report(1.0)
    assert heard() == ""


def test_a_study_has_its_own_bars_alone(stderr, tmp_path):
    config = default.get_config()
    config.benchmarks, config.methods = ("gauss-0.5",), ()
    config.probe.update({"pixels": 8, "tasks": 3})
    config.task.update({"shots": 1, "queries": 2})
    config.data.update({"classes": (5, 1, 1), "images_per_class": 4})
    heard, notes = stderr("terminal"), []
    for unit in planner.plan(door.read(config), tmp_path).units:
        unit.execute(lambda share, note: notes.append(note))
    assert heard() == "" and "task 3 of 3" in notes
