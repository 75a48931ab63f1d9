"""The whole command on two hosts, as processes of one machine: the study of one."""

import json
import os
import socket
import subprocess

import pytest
from test_study import command
from tiny_study import TINY

pytestmark = pytest.mark.slow  # two processes compile everything: minutes

STUDY = TINY | {"benchmarks": "('gauss-0.5','gauss-1.5')", "learner.pixels": 16, "pt.steps": 6, "maml.steps": 4}
STUDY |= {"maml.meta_batch": 8, "training.checkpoint_every": 3, "compute.deterministic": True}


def launched(cache, workdir, devices, *arguments):
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    return subprocess.Popen(command(workdir, *arguments, config=STUDY), env=environment, stdout=subprocess.DEVNULL)


def results(workdir):
    files = sorted((workdir / "units").rglob("result.json"))
    return {file.parent.parent.relative_to(workdir): json.loads(file.read_text()) for file in files}


def test_two_hosts_of_four_devices_give_the_study_of_one_device(tmp_path):
    """Data, embeddings, training, tests and report: the same accuracies, and losses to what float32 rounds."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    one = launched(tmp_path / "compiled", tmp_path / "one", 1)
    assert one.wait(600) == 0
    hosts = (f"--coordinator=localhost:{port}", "--processes=2")
    both = [launched(tmp_path / "compiled", tmp_path / "two", 4, *hosts, f"--process_id={host}") for host in (0, 1)]
    assert [process.wait(900) for process in both] == [0, 0]
    wanted, found = results(tmp_path / "one"), results(tmp_path / "two")
    assert found.keys() == wanted.keys() and len(found) == 19
    for name, record in found.items():
        assert "deterministic_ops=true" in record["provenance"]["XLA_FLAGS"]
        for field, value in record["result"].items():
            if field != "seconds" and isinstance(value, int | float):
                # Accuracies are the same but for the order of a float32 mean: one image more would show.
                rel = 1e-6 if "accuracy" in field else 1e-4
                assert value == pytest.approx(wanted[name]["result"][field], rel=rel), (name, field)
