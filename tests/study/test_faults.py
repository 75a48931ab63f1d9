"""A disk that is full or read-only, and every file damaged in turn, on real mounts (as root): run by `-m slow`."""

import contextlib
import faulthandler
import io
import itertools
import os
import shutil
import subprocess

import pytest
from rich.console import Console
from test_study import check_one_line, command, tiny

from jaxdiv.errors import InputError
from jaxdiv.study import config as door
from jaxdiv.study import planner, runner, seal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a file system"),
]
FIELDS = {"benchmarks": ("gauss-0.5",), "methods": ("pt",), "pt.steps": 6, "training.checkpoint_every": 2}
FIELDS |= {"evaluation.test_sets": ("own",), "learner.width": 16}
SIZES = (0.03, 0.06, 0.12, 0.2, 0.28, 0.36, 0.44, 0.52, 0.6, 0.7, 0.8, 0.88)  # of what the whole study takes
_HANGS = 300  # seconds after which a run counts as hung: all stacks are shown, and the tests end


def run(workdir, stages=planner.STAGES):
    """The exit code, and what was said."""
    said = io.StringIO()
    faulthandler.dump_traceback_later(_HANGS, exit=True)
    try:
        return runner.run(tiny(**FIELDS), workdir, stages, Console(file=said, width=200)), said.getvalue()
    except InputError as error:  # what the command prints as its one line
        return 1, str(error)
    finally:
        faulthandler.cancel_dump_traceback_later()


def results(workdir):
    return {unit.name: unit.content for unit in planner.plan(door.read(tiny(**FIELDS)), workdir).units}


@contextlib.contextmanager
def mounted(folder, *how):
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *how, str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of a study that ran undisturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "w"
    assert run(workdir)[0] == 0
    return workdir


@pytest.mark.parametrize("share", SIZES)
def test_a_full_disk_is_one_line_and_with_room_the_same_command_goes_on(whole, tmp_path, share, record_property):
    used = int(subprocess.check_output(["du", "-sb", str(whole)]).split()[0])
    blocks = int(subprocess.check_output(["du", "-sk", str(whole)]).split()[0]) * 1024
    size = max(int(share * max(used, blocks)) // 4096 * 4096, 8192)
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as disk:
        code, said = run(disk / "w")
        done = [name for name, content in results(disk / "w").items() if content]
        print(f"{size / 1024:.0f} KiB: exit {code}, {len(done)} of 5 units done: {said.splitlines()[-1][-170:]}")
        assert code == 1 and "\n" not in said and "No space left on device" in said and "make room" in said
        kept = {name: content for name, content in results(disk / "w").items() if content}
        subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
        assert run(disk / "w")[0] == 0
        assert results(disk / "w") == results(whole) and kept.items() <= results(whole).items()


@pytest.mark.parametrize("stages", [("prepare",), ("prepare", "embed", "diversity", "train"), planner.STAGES])
def test_a_workdir_that_is_read_only(whole, tmp_path, stages):
    workdir = shutil.copytree(whole, tmp_path / "w", copy_function=shutil.copy2)
    for stage in set(planner.STAGES) - set(stages):
        shutil.rmtree(workdir / "units" / stage, ignore_errors=True)
        if stage == "report":
            shutil.rmtree(workdir / "report")
    with mounted(workdir, "--bind", str(workdir)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(workdir)], check=True)
        code, said = run(workdir)
        print(f"{'finished' if stages == planner.STAGES else f'up to {stages[-1]}'}: exit {code}: {said[:170]}")
        if stages == planner.STAGES:
            assert code == 0
        else:
            assert code == 1 and "\n" not in said and "Read-only file system" in said and "--workdir" in said


def test_the_command_itself_ends_with_one_line_and_code_1(whole, tmp_path):
    fields = {name: repr(value) for name, value in FIELDS.items()}
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=300k", "tmpfs") as disk:
        line = command(disk / "w", config={**fields, "data.classes": "(8,5,6)", "pt.batch_size": 8})
        done = subprocess.run(line, capture_output=True, text=True, timeout=500)
        check_one_line(done, "No space left on device")


def test_a_clock_that_jumps_an_hour_changes_nothing(whole, tmp_path, monkeypatch):
    import time

    real, calls = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * (next(calls) // 20 % 2))  # ahead and back, often
    assert run(tmp_path / "w")[0] == 0
    for file in (tmp_path / "w").rglob("*"):
        os.utime(file, (real() + 3600, real() + 3600))
    assert run(tmp_path / "w")[0] == 0 and results(tmp_path / "w") == results(whole)


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_every_file_of_a_finished_study_damaged_in_turn(whole, tmp_path, damage):
    files = sorted(file.relative_to(whole) for file in whole.rglob("*") if file.is_file() and file.stat().st_size)
    kinds = {_kind(file): file for file in files}
    for kind, name in kinds.items():
        workdir = tmp_path / "w"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(whole, workdir)
        file = workdir / name
        data = file.read_bytes()
        middle = len(data) // 2
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(
                data[:middle] if damage == "cut" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            )
        code, said = run(workdir)
        told = [line for line in said.splitlines() if " is made again: " in line]
        print(f"{damage} {kind}: exit {code}: {told[0].split(' is made')[1] if told else 'not needed, or drawn again'}")
        assert code == 0 and results(workdir) == results(whole)
        for table in ("table1.csv", "points.csv"):
            assert (workdir / "report" / table).read_bytes() == (whole / "report" / table).read_bytes()
        assert seal.read_record(workdir / "report" / "result.json")


def _kind(file):
    """What a file is, whichever unit it is of."""
    parts = [part for part in file.parts if not _is_hash(part)]
    inside = parts[2:] if parts[0] == "units" else parts
    return "/".join([parts[0], parts[1], *inside[-2:]] if parts[0] == "units" else [parts[0], file.suffix])


def _is_hash(part):
    return len(part) >= 12 and all(digit in "0123456789abcdef" for digit in part)
