"""The state of every unit at a glance, and the time left from what was measured."""

import dataclasses
import json
import subprocess
import sys

import pytest
from made_up_units import unit

from jaxdiv.errors import InputError
from jaxdiv.study import lease, overview, worker

SILENT = lambda share, note: None


def state(each, **done):
    names = {each.name: each.done, **{need.name: need.done for need in each.inputs}}
    return overview.state(each, names | done)


def test_a_unit_is_done_running_failed_waiting_or_to_run(tmp_path):
    first = unit(tmp_path, "train/a")
    second = unit(tmp_path, "evaluate/a", first)
    assert state(first) == overview.State("run")
    assert state(second) == overview.State("wait", "for train/a")
    with lease.take(worker.lease_file(first), first.name) as mine:
        mine.say(0.43, "step 430")
        mine._beat()
        found = state(first)
        assert (found.word, found.share) == ("running", 0.43)
        assert found.detail.startswith("on ") and "since 20" in found.detail and found.detail.endswith("43%: step 430")
    with pytest.raises(InputError):
        worker.perform(unit(tmp_path, "train/a", fails=InputError("no memory")), SILENT)
    assert state(first) == overview.State("failed", "no memory")
    worker.perform(first, SILENT)
    assert state(first).word == "done" and state(second).word == "run"


def test_what_a_dead_process_left_is_not_running_and_a_silent_machine_is_said(tmp_path, monkeypatch):
    each = unit(tmp_path, "train/a")
    file = worker.lease_file(each)
    with lease.take(file, each.name):
        there = lease.holder(file)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lease._File(file).write(lease._text(dataclasses.replace(there, process=gone.pid)), new=False)
    assert state(each) == overview.State("run")
    lease._File(file).write(lease._text(dataclasses.replace(there, host="node7", machine="elsewhere")), new=False)
    assert "node7" in state(each).detail and "not heard" not in state(each).detail
    monkeypatch.setattr(lease, "SILENCE", -1.0)
    assert "not heard of for" in state(each).detail


def test_time_left_is_at_the_pace_of_the_kind_else_of_the_stage_else_guessed(tmp_path):
    names = [f"train/{name}/{method}" for method in ("pt", "maml") for name in "abc"]
    units = [unit(tmp_path, name, cost=2.0 if "maml" in name else 1.0) for name in names]
    shares = dict.fromkeys(names, 0.0)
    assert overview.seconds_left(units, shares) == (9.0, 1.0)
    for each, seconds in ((units[0], 10.0), (units[1], 30.0)):
        worker.perform(each, SILENT)
        record = json.loads((each.folder / "result.json").read_text())
        (each.folder / "result.json").write_text(json.dumps(record | {"seconds": seconds}))
        shares[each.name] = 1.0
    left, guessed = overview.seconds_left(units, shares)
    # 20 s for each second of the guess: one of the kind, and, as of its stage, three of cost 2.
    assert (left, guessed) == (pytest.approx(20 * 1 + 20 * 6), 0.0)
    shares[units[2].name] = 0.5
    assert overview.seconds_left(units, shares)[0] == pytest.approx(10 + 120)


def test_a_lease_that_is_given_back_between_two_looks_at_it_is_no_error(tmp_path, monkeypatch):
    each = unit(tmp_path, "train/a")
    with lease.take(worker.lease_file(each), each.name):
        there = dataclasses.replace(lease.holder(worker.lease_file(each)), machine="elsewhere")
    monkeypatch.setattr(lease, "working", lambda file: there)
    assert state(each).word == "running" and "not heard" not in state(each).detail
