"""Many workers whose processes are killed at random moments, for minutes: the tables are those of an undisturbed run.

    pytest -m slow -n 0 tests/study/test_chaos.py

JAXDIV_CHAOS sets how long, in seconds (600), and how many SIGKILLs (30) and SIGTERMs (10): "600,30,10".
"""

import importlib.util
import json
import os
import random
import signal
import subprocess
import time

import psutil
import pytest
from test_study import ROOT, command
from tiny_study import TINY

from jaxdiv.study import lease

pytestmark = pytest.mark.slow

SECONDS, KILLS, TERMS = (int(part) for part in os.environ.get("JAXDIV_CHAOS", "600,30,10").split(","))
# Units of some seconds, so that most signals meet one in the middle.
STUDY = TINY | {"seeds": "(0,1)", "pt.steps": 300, "maml.steps": 100, "launch.retries": 1000}
STUDY |= {"training.checkpoint_every": 20}
SMALL = {name: value for name, value in TINY.items() if name != "benchmarks"} | {
    "benchmarks": "('gauss-0.1','gauss-0.5')"
}


def finished(folder, study):
    """The workdir of an undisturbed run."""
    done = subprocess.run(command(folder, config=study), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("undisturbed"), STUDY)


def tables(workdir):
    return {file.name: file.read_bytes() for kind in ("csv", "tex") for file in (workdir / "report").glob(f"*.{kind}")}


def _command_of(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return ["resource_tracker"]  # gone: nothing to hit


def recorded(workdir):
    """Of each unit what its result says, but for its seconds, and the checksum of its content."""
    found = {}
    for file in (workdir / "units").rglob("result.json"):
        record = json.loads(file.read_text())
        said = {name: value for name, value in record["result"].items() if name != "seconds"}
        found[file.relative_to(workdir)] = said, record["content"]
    return found


def check(workdir, undisturbed):
    """The same tables, and each result once, whole and the same."""
    assert tables(workdir) == tables(undisturbed)
    assert recorded(workdir) == recorded(undisturbed)
    # Of a driver killed as it ends, its lease is left, and says that nobody is at work.
    assert not [file for file in (workdir / "running").glob("*.json") if lease.working(file)]


@pytest.mark.parametrize(
    "launcher",
    [["--workers=4"], ["--launcher=slurm", "--config.launch.cluster=local", "--workers=4"]],
    ids=["local", "slurm"],
)
def test_a_study_whose_workers_are_killed_for_minutes_ends_with_the_same_tables(tmp_path, undisturbed, launcher):
    """Any process of the study is hit, the driver too; when it dies, the same command is given again."""
    if "slurm" in launcher[0] and not importlib.util.find_spec("submitit"):
        pytest.skip("submitit is not installed")
    luck, begun = random.Random(0), time.monotonic()
    signals = [signal.SIGKILL] * KILLS + [signal.SIGTERM] * TERMS
    luck.shuffle(signals)
    sent, drivers, rounds = 0, 0, 0
    while sent < len(signals):
        rounds += 1
        workdir = tmp_path / f"round{rounds}"
        code = None
        while code != 0:
            drivers += 1
            with (tmp_path / "log.txt").open("a") as log:
                driver = psutil.Popen(command(workdir, *launcher, config=STUDY), stdout=log, stderr=log)
            while driver.poll() is None:
                time.sleep(luck.uniform(0.2, 1.8) * SECONDS / len(signals))
                workers = driver.children(recursive=True) if driver.is_running() else []
                workers = [each for each in workers if "resource_tracker" not in " ".join(_command_of(each))]
                if workers and sent < len(signals):
                    # Every tenth hits the driver, but only once it has workers: else it would never get so far.
                    try:
                        (driver if sent % 10 == 9 else luck.choice(workers)).send_signal(signals[sent])
                        sent += 1
                    except psutil.NoSuchProcess:
                        pass
                if sent == len(signals) and time.monotonic() - begun > SECONDS:
                    break
            code = driver.wait()
            assert code in (0, 143, -signal.SIGKILL, -signal.SIGTERM), (tmp_path / "log.txt").read_text()[-3000:]
        check(workdir, undisturbed)
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
    print(f"{sent} signals in {time.monotonic() - begun:.0f} s, {drivers} drivers, {rounds} studies")


def test_ray_makes_the_same_tables_though_one_of_its_workers_is_killed(tmp_path):
    if not importlib.util.find_spec("ray"):
        pytest.skip("ray is not installed")
    alone = finished(tmp_path / "alone", SMALL)
    cpus = {"launch.cpus": 1, "launch.gpus": 0, "launch.memory_gb": 1}
    asked = command(tmp_path / "ray", "--launcher=ray", "--workers=2", config=SMALL | cpus)
    driver = psutil.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running = tmp_path / "ray/running"
    killed = False
    while driver.poll() is None and not killed:
        time.sleep(0.05)
        for file in running.glob("*.json"):
            try:
                there = json.loads(file.read_text())
                if there["what"].startswith("train/"):
                    os.kill(there["process"], signal.SIGKILL)
                    killed = True
            except (OSError, ValueError):
                continue
    said = driver.communicate()[0]
    assert driver.returncode == 0 and killed, said
    check(tmp_path / "ray", alone)


def test_of_two_drivers_started_together_twenty_times_one_works_and_one_is_refused(tmp_path):
    alone = finished(tmp_path / "alone", SMALL)
    refused = 0
    for number in range(20):
        workdir = tmp_path / str(number)
        both = [
            subprocess.Popen(
                command(workdir, config=SMALL),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        said = [driver.communicate() for driver in both]
        codes = sorted(driver.returncode for driver in both)
        assert codes in ([0, 0], [0, 1])  # 0 twice: the second came when all was done
        for driver, (_, error) in zip(both, said, strict=True):
            if driver.returncode:
                refused += 1
                assert error.count("\n") == 1 and f"workdir {workdir} is at work: " in error
        check(workdir, alone)
    assert refused >= 15


def test_commands_run_one_after_the_other_make_the_same_tables(tmp_path):
    alone = finished(tmp_path / "alone", SMALL)
    asked = command(tmp_path / "by-hand", "--launcher=commands", config=SMALL)
    script = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert not (tmp_path / "by-hand").exists()
    subprocess.run(["bash", "-e", "-c", script], check=True, cwd=ROOT)
    check(tmp_path / "by-hand", alone)
