"""Units as SLURM jobs, by submitit: an array of all that are ready, queued again after pre-emption."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from jaxdiv.errors import InputError
from jaxdiv.study.launchers.local import Worker
from jaxdiv.study.resources import Launch
from jaxdiv.study.unit import Unit
from jaxdiv.study.worker import Job, Outcome

_WARNING = 120  # seconds that SLURM gives between its signal and the end of a job


class Task:
    """A job of submitit's: the unit in a process of its own, which pre-emption asks to end after a checkpoint."""

    def __init__(self, job: Job):
        self._job = job
        self._worker: Worker | None = None

    def __call__(self) -> Outcome:
        worker = self._worker = Worker({})
        worker.start(self._job)
        while not (found := worker.outcome()):
            time.sleep(0.2)
        worker.ask_to_end()
        worker.end()
        return found

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit when SLURM warns that the job will end; what it returns is queued again."""
        if self._worker:
            self._worker.ask_to_end()
            self._worker.end()
        return submitit.helpers.DelayedSubmission(Task(self._job))


class Slurm:
    """SLURM, or submitit's own executor on this machine. Logs are in `WORKDIR/slurm`."""

    def __init__(self, settings: Launch, workdir: Path, workers: int, devices_per_unit: int):
        # submitit's own executor starts at once whatever it is given; SLURM has a queue.
        self._most = workers or (1 if settings.cluster == "local" else 0)
        self.at_once, self.retries = self._most or 16, settings.retries
        self._settings, self._devices = settings, devices_per_unit
        self._running: list[_Submitted] = []
        folder, requeues = workdir / "slurm", {"slurm_max_num_timeout": settings.requeues}
        try:
            self._executor = submitit.AutoExecutor(folder, settings.cluster, **requeues)
        except RuntimeError as error:  # no srun here
            raise InputError(f"--launcher=slurm: {error}; run it on a login node of the cluster") from None

    def room(self) -> int:
        return self._most - len(self._running) if self._most else 10_000

    def submit(self, units: Sequence[tuple[Unit, Job]]) -> Sequence["_Submitted"]:
        handles = {}
        for stage in dict.fromkeys(unit.stage for unit, _ in units):
            self._executor.update_parameters(**self._parameters(stage))
            mine = [(unit, job) for unit, job in units if unit.stage == stage]
            with self._executor.batch():
                jobs = [self._executor.submit(Task(job)) for _, job in mine]
            for (unit, _), job in zip(mine, jobs, strict=True):
                handles[unit.name] = _Submitted(self._running, job)
        self._running += handles.values()
        return [handles[unit.name] for unit, _ in units]

    def close(self) -> None:
        for running in self._running:
            running.job.cancel(check=False)

    def _parameters(self, stage: str) -> dict[str, Any]:
        """What submitit asks of SLURM for a unit of `stage`."""
        settings, asked = self._settings, self._settings.of(stage)
        gpus = self._devices if self._devices and asked.gpus else asked.gpus
        found: dict[str, Any] = {
            "name": f"jaxdiv-{stage}",
            "timeout_min": asked.minutes,
            "cpus_per_task": asked.cpus,
            "mem_gb": asked.memory_gb,
            "gpus_per_node": gpus,
            "slurm_signal_delay_s": _WARNING,
            "slurm_setup": list(settings.setup),
        }
        named = {"partition": asked.partition, "account": settings.account, "qos": settings.qos}
        return found | {f"slurm_{name}": value for name, value in named.items() if value}


class _Submitted:
    """A unit in SLURM's queue."""

    def __init__(self, among: list["_Submitted"], job: submitit.Job[Outcome]):
        self._among, self.job = among, job

    def outcome(self) -> Outcome | None:
        if not self.job.done():
            return None
        self._among.remove(self)
        try:
            return self.job.result()
        except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
            last = (str(error).strip().splitlines() or ["no reason is known"])[-1]
            return Outcome(f"its SLURM job {self.job.job_id} ended without a result: {last}", died=True)
