"""A process that keeps freed memory meets no page fault when the same program runs again."""

import os
import subprocess
import sys

import pytest

from jaxdiv.host_memory import keep_freed_memory

PROGRAM = """
import resource, sys
from jaxdiv.host_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
import jax, jax.numpy as jnp
program = jax.jit(lambda x: jnp.outer(x, x) + 1)  # 64 MB
x = jnp.ones(4096)
for _ in range(20):
    program(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    program(x).block_until_ready()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 8)
"""


def faults(kind):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    line = [sys.executable, "-c", PROGRAM, kind]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted, and glibc's options set, on Linux only")
def test_a_program_run_again_finds_its_memory_still_there():
    usual, kept = faults("usual"), faults("kept")
    if usual < 2048:
        pytest.skip(f"this machine gives 64 MB in {usual:.0f} faults: it has huge pages")
    assert kept < usual / 2


def test_without_glibc_it_says_that_it_could_not(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
