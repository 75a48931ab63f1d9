"""The time left: guessed at first, then from the pace of units of the same kind."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from jaxdiv.study import progress
from jaxdiv.study.unit import Unit


def unit(name, cost):
    return Unit(name, {}, lambda unit, progress: None, Path("nowhere"), (), cost)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_follows_the_pace_of_like_units_without_the_first_which_compiles(clock):
    units = [unit(f"train/{b}/{m}/seed0", cost) for b in "abc" for m, cost in (("pt", 1.0), ("maml", 2.0))]
    console = Console(file=io.StringIO(), width=200)
    with progress.Watch(console, units) as watch:
        for this, seconds in zip(units, (50, 60, 3, 8, 3, 8), strict=True):
            watch.start(this)
            clock[0] += seconds
            watch.end(this, "done")
    lines = console.file.getvalue().splitlines()
    # After one of each kind the guesses still stand: 2 + 4 s. Then 3 and 4 seconds a unit of cost.
    assert [line.split("about ")[1] for line in lines] == [
        f"{left} s left" for left in (1 * 2 + 2 * 3, 2 + 4, 3 + 4, 3 + 8, 8, 0)
    ]
    assert lines[2].startswith("[3/6] train/b/pt/seed0: done, 3.0 s")


def test_a_terminal_shows_a_units_own_extrapolation(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress.Watch(console, [unit("diversity/a/probe", 10.0)]) as watch:
        report = watch.start(unit("diversity/a/probe", 10.0))
        clock[0] += 30
        report(0.25, "task 1 of 4")
        assert [task.fields["note"] for task in watch._bars.tasks] == [
            "90 s left  1 of 1 units",
            "90 s left  task 1 of 4",
        ]
