"""Units as tasks of a Ray cluster, which tries a task again when its process or its node dies."""

import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any

import ray

from jaxdiv.study.resources import Launch
from jaxdiv.study.unit import Unit
from jaxdiv.study.worker import Job, Outcome, run_job, set_up_process

_HOW = ("JAX_", "JAXDIV_", "XLA_")  # variables that say how a unit is computed, which its process needs too


class OnRay:
    """The cluster of `RAY_ADDRESS`, one that was started on this machine, or a new one of this machine alone."""

    def __init__(self, settings: Launch, workers: int, devices_per_unit: int):
        with warnings.catch_warnings():  # JAX warns of every fork; those of Ray only start its programs
            warnings.filterwarnings("ignore", r"os\.fork", RuntimeWarning)
            how = {name: value for name, value in os.environ.items() if name.startswith(_HOW)}
            ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": how})
        self.at_once = workers or max(int(ray.cluster_resources().get("CPU", 1)) // settings.train.cpus, 1)
        self.retries = 0  # Ray's own come first
        self._settings, self._most, self._devices = settings, workers, devices_per_unit
        self._task = ray.remote(_run)
        self._running: list[_Task] = []

    def room(self) -> int:
        return self._most - len(self._running) if self._most else 10_000

    def submit(self, units: Sequence[tuple[Unit, Job]]) -> Sequence["_Task"]:
        handles = [_Task(self._running, self._task.options(**self._options(unit)).remote(job)) for unit, job in units]
        self._running += handles
        return handles

    def close(self) -> None:
        ray.shutdown()

    def _options(self, unit: Unit) -> dict[str, Any]:
        """What Ray is asked for a unit."""
        asked = self._settings.of(unit.stage)
        gpus, tpus = (self._devices if self._devices and number else number for number in (asked.gpus, asked.tpus))
        return {
            "name": unit.name,
            "num_cpus": asked.cpus,
            "num_gpus": gpus,
            "resources": {"TPU": tpus} if tpus else None,
            "memory": asked.memory_gb * 2**30,
            "max_retries": self._settings.retries,
        }


class _Task:
    """A unit that Ray has."""

    def __init__(self, among: list["_Task"], reference: Any):
        self._among, self._reference = among, reference

    def outcome(self) -> Outcome | None:
        if not ray.wait([self._reference], timeout=0)[0]:
            return None
        self._among.remove(self)
        try:
            return ray.get(self._reference)
        except ray.exceptions.RayError as error:
            return Outcome(f"Ray: {(str(error).strip().splitlines() or [type(error).__name__])[0]}", died=True)


def _run(job: Job) -> Outcome:
    set_up_process()
    return run_job(job)
