"""Worker processes on this machine, each of which runs one unit after the other."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from jaxdiv.study.unit import Unit
from jaxdiv.study.worker import Job, Outcome, run_job, set_up_process

_PATIENCE = 90.0  # seconds that a worker has for a checkpoint after SIGTERM


class Worker:
    """A process that runs the jobs it is given.

    Args:
      environment: variables that its environment has besides this process's own.
    """

    def __init__(self, environment: Mapping[str, str]):
        context = multiprocessing.get_context("spawn")  # a fork of a process with JAX in it can hang
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,))
        with _environment(environment):
            self._process.start()
        theirs.close()  # then the end of the process is the end of the connection

    @property
    def pid(self) -> int | None:
        """The id of the process."""
        return self._process.pid

    def start(self, job: Job) -> None:
        """Give it a job; its last one must be over."""
        with suppress(OSError):  # it is dead: `outcome` says so
            self._connection.send(job)

    def outcome(self) -> Outcome | None:
        """How the job ended; None while it has not. After an outcome `died` the worker is of no more use."""
        try:
            return self._connection.recv() if self._connection.poll() else None
        except (EOFError, OSError):
            self._process.join()
            return Outcome(f"its process ended{_how(self._process.exitcode)}", died=True)

    def ask_to_end(self) -> None:
        """SIGTERM: training saves a checkpoint first."""
        if self._process.is_alive():
            self._process.terminate()

    def end(self) -> None:
        """Wait until it has ended, and kill it if that takes too long."""
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()


class Local:
    """Workers on this machine.

    Args:
      environments: of each worker, the variables that give it its devices.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]], retries: int):
        self.at_once, self.retries = len(environments), retries
        self._idle: list[tuple[Mapping[str, str], Worker | None]] = [(each, None) for each in environments]
        self._busy: list[_Running] = []

    def room(self) -> int:
        return len(self._idle)

    def submit(self, units: Sequence[tuple[Unit, Job]]) -> Sequence["_Running"]:
        handles = []
        for _, job in units:
            environment, worker = self._idle.pop()
            worker = worker or Worker(environment)
            worker.start(job)
            handles.append(_Running(self, environment, worker))
        self._busy += handles
        return handles

    def give_back(self, running: "_Running", usable: bool) -> None:
        """A worker is free again, or dead."""
        self._busy.remove(running)
        if not usable:
            running.worker.end()
        self._idle.append((running.environment, running.worker if usable else None))

    def close(self) -> None:
        workers = [running.worker for running in self._busy] + [worker for _, worker in self._idle if worker]
        for worker in workers:
            worker.ask_to_end()
        for worker in workers:
            worker.end()
        self._busy, self._idle = [], []


class _Running:
    """A unit at a worker."""

    def __init__(self, owner: Local, environment: Mapping[str, str], worker: Worker):
        self._owner, self.environment, self.worker = owner, environment, worker

    def outcome(self) -> Outcome | None:
        found = self.worker.outcome()
        if found:
            self._owner.give_back(self, usable=not found.died)
        return found


def serve(jobs: Connection) -> None:
    """The process of a worker: run the jobs that come, until the process that gives them ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends its workers in good order
    threading.Thread(target=_follow_parent, daemon=True).start()
    set_up_process()
    with suppress(EOFError, OSError):  # the driver is gone: what was done is in the workdir
        while True:
            job: Job = jobs.recv()
            jobs.send(run_job(job))


def _follow_parent() -> None:
    """End this process as SIGTERM does, after a checkpoint, when the one that started it is gone."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)


def _how(code: int | None) -> str:
    """An exit code in words."""
    if code is None or code >= 0:
        return f" with code {code}"
    return f" by {signal.Signals(-code).name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Inside, a process that is started gets the variables `more`."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
