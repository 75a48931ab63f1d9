"""Training that is killed, told to stop, or given other devices: always the same run in the end."""

import json
import multiprocessing
import random
import signal
import socket
import time

import numpy as np
import pytest
import training_process

from jaxdiv.methods.checkpointing import latest_step
from jaxdiv.methods.train import TERMINATED

STEPS = 100
# Forked from a process that has imported everything and started no backend: a second instead of five.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["training_process"])


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """Starts a training process; those that still run at the end are killed."""
    cache = str(tmp_path_factory.mktemp("compiled"))
    started = []

    def begin(folder, steps=STEPS, devices=1, pause=0.0, hosts=1, host=0, port=0):
        folder.mkdir(exist_ok=True)
        how = (cache, folder, steps, devices, pause, hosts, host, port)
        process = processes.Process(target=training_process.main, args=how, daemon=True)
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()


def wait_for(path, process):
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.is_alive() and time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.005)


def found_by(process, folder):
    process.join(300)
    assert process.exitcode == 0
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(begin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return found_by(begin(folder), folder)


def test_killed_at_five_random_moments_the_parameters_are_those_of_an_undisturbed_run(begin, undisturbed, tmp_path):
    moments, steps = random.Random(0), [0]
    for number in range(5):
        process = begin(tmp_path, pause=0.02)
        wait_for(tmp_path / "began", process)
        while not number % 2 and latest_step(tmp_path) == steps[-1]:
            time.sleep(0.01)  # every other run comes as far as a new checkpoint, the first among them
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        (tmp_path / "began").unlink()
        steps.append(latest_step(tmp_path))
    assert 0 < steps[-1] < STEPS and len(set(steps)) > 2, steps  # kills that met the run at many places
    assert found_by(begin(tmp_path), tmp_path) == undisturbed


def test_sigterm_saves_the_present_step_within_seconds_and_exits_with_143(begin, undisturbed, tmp_path):
    process = begin(tmp_path, pause=0.05)
    wait_for(tmp_path / "began", process)
    time.sleep(0.5)
    start = time.monotonic()
    process.terminate()
    process.join(60)
    assert process.exitcode == TERMINATED
    assert time.monotonic() - start < 10
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert latest_step(tmp_path) == json.loads(lines[-1])["step"] > 0
    assert found_by(begin(tmp_path), tmp_path) == undisturbed


def check_same_curve(found, wanted):
    """To 1e-6 in float64: devices add up in another order."""
    steps = len(found["losses"])
    np.testing.assert_allclose(found["losses"], wanted["losses"][:steps], rtol=1e-6)
    np.testing.assert_allclose(found["gradient"], wanted["gradient"], rtol=1e-6)


def test_two_hosts_go_on_from_the_checkpoint_of_eight_devices_and_one_from_theirs(begin, undisturbed, tmp_path):
    found = found_by(begin(tmp_path, 10, devices=8), tmp_path)
    assert found["devices"] == 8
    check_same_curve(found, undisturbed)
    (tmp_path / "found.json").unlink()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [begin(tmp_path, 20, hosts=2, host=host, port=port) for host in (1, 0)]
    found = found_by(both[1], tmp_path)
    both[0].join(60)
    assert both[0].exitcode == 0 and found["devices"] == 2 and len(found["losses"]) == 20
    check_same_curve(found, undisturbed)
    found = found_by(begin(tmp_path, 30), tmp_path)
    assert len(found["losses"]) == 30
    check_same_curve(found, undisturbed)
