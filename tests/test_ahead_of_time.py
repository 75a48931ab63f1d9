"""Programs compiled for a TPU v5e that is not here, by `bench/compile.py`: they fit, and copy no table."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

COMMAND = Path(__file__).parents[1] / "bench" / "compile.py"
QUICK = hasattr(jax.config, "jax_exec_time_optimization_effort")  # jax 0.12 has no such setting

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu, which compiles for a TPU, is not installed: .[tpu]"
    ),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The command's own rows, by the words of a program's name."""
    results = tmp_path_factory.mktemp("aot") / "results.jsonl"
    # A TPU's compiler knows nothing of the CPU's flags that this suite sets.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}

    def rows(*words):
        chosen = [f"--effort={'quick' if QUICK else 'full'}", f"--programs={','.join(words)}", f"--results={results}"]
        command = [sys.executable, COMMAND, *chosen]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr[-2000:]
        found = map(json.loads, results.read_text().splitlines())
        return [row for row in found if all(word in row["program"] for word in words)]

    return rows


def test_drawing_tasks_and_batches_copies_no_table(compiled):
    rows = compiled("sampler")
    assert len(rows) == 2
    for row in rows:
        assert row["table_copies"] == 0
        # .83 GB of images; as [n, h, w, c] the temporaries alone were 1.3 GB.
        assert row["temporaries"] < 0.1e9 and row["bytes"] < 1e9


@pytest.mark.skipif(not QUICK, reason="with full effort ResNet-12 compiles for an hour: jax 0.10, as on Python 3.11")
def test_evaluating_resnet12_at_84_px_fits_a_v5e_by_default(compiled):
    """25 tasks at once, as the package had it, need 17.75 GiB of 15.75."""
    (row,) = compiled("evaluation", "resnet12", "fo_maml_10")
    assert row["fits"] and row["bytes"] < 15.75 * 2**30
    assert 25 % row["k"] == 0 and row["k"] < 25
