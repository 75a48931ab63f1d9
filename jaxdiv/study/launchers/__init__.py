"""Ways to hand units to other processes: workers on this machine, SLURM, Ray, or commands for any other scheduler.

In: jobs (`worker.Job`). Out: their outcomes. Each engine is imported only where it is asked for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxdiv.errors import InputError, at_least, check_known
from jaxdiv.study.config import Study
from jaxdiv.study.unit import Unit
from jaxdiv.study.worker import Job, Outcome

LAUNCHERS = ("local", "slurm", "ray", "commands")


@runtime_checkable
class Handle(Protocol):
    """A unit that was handed out."""

    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""


@runtime_checkable
class Launcher(Protocol):
    """An engine that runs jobs elsewhere.

    Attributes:
      at_once: how many units it runs at the same time, as far as that is known; for the estimate of the time left.
      retries: how often a unit is tried again after its process died without getting further.
    """

    at_once: int
    retries: int

    def room(self) -> int:
        """How many more units it would take now."""

    def submit(self, units: Sequence[tuple[Unit, Job]]) -> Sequence[Handle]:
        """Take units, not more than `room`."""

    def close(self) -> None:
        """End what still runs, after a checkpoint where there can be one, and take nothing more."""


def launcher(name: str, workdir: Path, workers: int, devices_per_unit: int, study: Study) -> Launcher | None:
    """The launcher `name`, not `commands`; None where this process runs the units itself.

    Args:
      workers: how many units run at once: processes of `local` (0: as many as the devices allow), or at most so many
        of another engine (0: as many as it will).
      devices_per_unit: of each unit; 0: all of a machine's with `local`, the configuration's number otherwise.

    Raises:
      InputError: an engine that is not installed, or a number that does not fit.
    """
    check_known("launcher", name, LAUNCHERS)
    at_least(0, workers=workers, devices_per_unit=devices_per_unit)
    settings = study.launch
    if name == "local":
        if not workers and not devices_per_unit:
            return None
        from jaxdiv.study.launchers import devices, local

        return local.Local(devices.environments(workers, devices_per_unit), settings.retries)
    try:
        if name == "slurm":
            from jaxdiv.study.launchers.slurm import Slurm

            return Slurm(settings, workdir, workers, devices_per_unit)
        from jaxdiv.study.launchers.ray import OnRay

        return OnRay(settings, workers, devices_per_unit)
    except ModuleNotFoundError as error:
        raise InputError(f"--launcher={name} needs {error.name}: pip install 'jaxdiv[{name}]'") from None
