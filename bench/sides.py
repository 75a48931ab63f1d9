"""What the benchmarks against other frameworks share: a process for each side, its peak memory, and the machine.

Every row of a table has its own process, so that its peak memory is its own; the processes take turns, so that a slow
minute of the machine meets all of them.
"""

import ctypes
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiv.host_memory import keep_freed_memory

Commands = dict[str, Callable[..., Any]]


class Failed(Exception):
    """A row's process could not do what it was asked."""


class Worker:
    """The process of one row, which does what it is asked and answers.

    `set_up(commands)` runs in it on the first question, whose name must be `set_up`: it fills `commands` and returns a
    note. It must be importable, because it runs in a new process.
    """

    def __init__(self, set_up: Callable[[Commands], str]):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, set_up), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, command: str, *arguments: Any) -> Any:
        try:
            self._pipe.send((command, arguments))
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise Failed(f"its process ended with code {self._process.exitcode} (-9: out of memory?)") from None
        if isinstance(answer, Failed):
            raise answer
        return answer

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, set_up: Callable[[Commands], str]) -> None:
    keep_freed_memory()  # for every side alike; PyTorch's smaller pieces are mostly kept without it
    commands: Commands = {}
    commands.update(set_up=lambda: set_up(commands), peak=peak, gemm=gemm)
    while True:
        try:
            command, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = commands[command](*arguments)
        except Exception as error:  # the error itself may not survive the pipe
            answer = Failed(" ".join(f"{type(error).__name__}: {error}".split())[:300])
        pipe.send(answer)


def nothing(commands: Commands) -> str:
    """The set-up of a worker that is asked only for what every worker can do."""
    return ""


def peak() -> float:
    """MB, of the process's whole life or since `forget_peak`. Not ru_maxrss, which begins at the parent's."""
    return _status("VmHWM")


def resident() -> float:
    """MB that the process holds now."""
    return _status("VmRSS")


def forget_peak() -> bool:
    """Reset `peak` to the resident memory; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


def give_back() -> None:
    """Return to the system what the process has freed, kept though it is: `resident` is then what is in use (glibc)."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024
    except (OSError, StopIteration):
        return float("nan")


def gemm() -> tuple[float, float]:
    """GFLOP/s of a float32 matrix product, the best of several: NumPy's and torch's."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    n = 1536
    a = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
    rates = []
    for matrix in (a, torch.from_numpy(a)):
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            matrix @ matrix
            seconds.append(time.perf_counter() - start)
        rates.append(2e-9 * n**3 / min(seconds))
    return rates[0], rates[1]


def jax_compiling() -> Callable[[], float]:
    """From now on, a question for the seconds of tracing and compiling since it was last asked."""
    import jax

    spans: list[tuple[float, float]] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            spans.append((time.perf_counter() - seconds, time.perf_counter()))
            if event.startswith("/jax/core/compile/")
            else None
        )
    )

    def compiling() -> float:
        total, end = 0.0, 0.0
        for first, last in sorted(spans):  # the events lie in one another
            total, end = total + max(0.0, last - max(first, end)), max(end, last)
        spans.clear()
        return total

    return compiling


def machine(packages: Sequence[str]) -> str:
    try:
        info = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()

    def named(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"no {name}"

    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    found = ", ".join(map(named, packages))
    return f"{model}, {os.cpu_count()} cores, load at the start {load}; Python {platform.python_version()}, {found}"


def pin(threads: int, environment: Mapping[str, str] = {}) -> str:
    """Keep this process and those of its workers to `threads` cores -> an error, or nothing."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    # XLA takes as many threads as it may use cores.
    os.environ.update(JAX_PLATFORMS="cpu", JAX_ENABLE_COMPILATION_CACHE="false", **environment)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < threads:
            return f"--threads={threads}, but only {len(cores)} cores may be used"
        os.sched_setaffinity(0, cores[:threads])
    return ""


class Report:
    """Prints lines, and keeps the file `path` up to date with them: a later part may take hours."""

    def __init__(self, path: str | None):
        self._path, self._lines = path, []

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self._lines.append(line)
        if self._path:
            Path(self._path).write_text("\n".join(self._lines) + "\n")


def complain(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
