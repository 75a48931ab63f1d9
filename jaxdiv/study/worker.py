"""Run one unit in a workdir: what every launcher does, in whatever process and on whatever machine."""

import ast
import contextlib
import json
import os
import platform
import time
import traceback
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jax
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from jaxdiv.device_memory import out_of_memory
from jaxdiv.download import cache_folder
from jaxdiv.errors import InputError, damage_in_one_line, unknown
from jaxdiv.files import replacing
from jaxdiv.host_memory import keep_freed_memory
from jaxdiv.methods.metrics import Diverged
from jaxdiv.methods.registry import entry
from jaxdiv.study import config as door
from jaxdiv.study import lease, planner
from jaxdiv.study.flags import in_flags
from jaxdiv.study.planner import Plan
from jaxdiv.study.unit import ON_DEVICES, ProgressFn, Unit, needed

_DIGITS = 12  # of a digest, in folders and on a command line
_FAILED = "failed.json"  # in a unit's folder: why its last try failed


@dataclass(frozen=True)
class Job:
    """A unit for another process, which makes the plan again from the same configuration.

    Attributes:
      config: the configuration as a Python literal, since JSON has no tuples.
      workdir: of the study.
      unit: NAME/DIGEST.
      folder: the folder that relative paths of the configuration begin at.
    """

    config: str
    workdir: str
    unit: str
    folder: str


@dataclass(frozen=True)
class Outcome:
    """How a unit ended.

    Attributes:
      reason: why it failed; None: it is done.
      died: the process ended before the unit did, so that another try can help.
    """

    reason: str | None = None
    died: bool = False


def set_up_process() -> None:
    """What every process that runs units sets before the first of them."""
    from threadpoolctl import threadpool_limits

    keep_freed_memory()
    damage_in_one_line()
    threadpool_limits(1, "blas")  # BLAS threads fight XLA's own over the cores, 5 to 20 times slower
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # a second start then skips most of the compilation
        with contextlib.suppress(InputError):  # no home folder: it then compiles every time
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:  # JAX keeps what took a second
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every save


def unit_id(unit: Unit) -> str:
    """NAME/DIGEST: a unit on a command line, and its folder under `WORKDIR/units`."""
    return f"{unit.name}/{unit.digest[:_DIGITS]}"


def lease_file(unit: Unit) -> Path:
    """The lease of a unit's folder."""
    name = unit.name if unit.at else unit.digest[:_DIGITS]
    return unit.root.parent / "running" / f"{name}.json"


def perform(unit: Unit, progress: ProgressFn, again: bool = False, together: bool = True) -> str | None:
    """Run a unit whose inputs are done, unless it is done already. Returns the reason if it failed by itself.

    If another process works at the unit, this one waits for it.

    Args:
      again: run it even if it is done.
      together: all hosts of this job call it, and wait for one another; otherwise the first does alone.

    Raises:
      InputError: an input's result is not there, the unit cannot be done as it was asked for, or the device's memory
        is too small.
    """
    # Several hosts decide together, before any of them runs a unit.
    alone = not together or jax.process_count() == 1
    if alone and unit.done and not again:
        return None
    for need in unit.inputs:
        needed(need, unit.name)
    leads, reason = jax.process_index() == 0, None
    with contextlib.ExitStack() as stack:
        if leads:
            told = lambda there: progress(0.0, f"{there} works at it")
            mine = lease.take(lease_file(unit), unit.name, wait=True, told=told)
            assert isinstance(mine, lease.Lease)
            stack.enter_context(mine)
            if alone and unit.done and not again:
                return None
            progress = _both(mine.say, progress)
            unit.begin()
        if not alone:
            all_here(f"begin {unit.name}")
        try:
            # Hosts of one job train, test and embed together; what does not need them all is the first one's.
            if unit.stage in ON_DEVICES or leads:
                unit.execute(progress)
        except (Diverged, InputError, MemoryError, jax.errors.JaxRuntimeError) as error:
            reason = _reason(unit, error)
            if leads:
                note_failure(unit, reason)
            if not isinstance(error, Diverged):
                raise InputError(reason) from None
        else:
            if leads:
                (unit.folder / _FAILED).unlink(missing_ok=True)
        if not alone:
            all_here(unit.name)
    return reason


def job(config: ConfigDict, workdir: Path, unit: Unit) -> Job:
    """A unit for another process."""
    return Job(repr(config.copy_and_resolve_references().to_dict()), str(workdir), unit_id(unit), os.getcwd())


def note_failure(unit: Unit, reason: str) -> None:
    """Keep why a unit failed, for `--dry_run` and the report."""
    with contextlib.suppress(OSError):
        unit.folder.mkdir(parents=True, exist_ok=True)
        with replacing(unit.folder / _FAILED) as temporary:
            temporary.write_text(json.dumps({"reason": reason, "host": platform.node(), "time": time.time()}))


def failure(unit: Unit) -> str | None:
    """Why the last try of a unit that is not done failed; None where it did not."""
    try:
        return json.loads((unit.folder / _FAILED).read_text())["reason"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def run_job(job: Job) -> Outcome:
    """Plan the study of `job` and run its unit. What is wrong is the outcome's reason, never an error."""
    try:
        if not Path(job.folder).is_dir():
            raise InputError(f"{job.folder} is not on {platform.node()}: all workers must see the same folders")
        os.chdir(job.folder)
        with in_flags():
            return Outcome(perform(find(_plan(job.config, job.workdir), job.unit), lambda share, note: None))
    except InputError as error:
        return Outcome(str(error))
    except Exception as error:  # a mistake of ours: the other units need not suffer for it
        traceback.print_exc()
        return Outcome(f"{type(error).__name__}: {error}")


def find(plan: Plan, asked: str) -> Unit:
    """The unit of `plan` by its NAME/DIGEST.

    Raises:
      InputError: there is none of that name, or it is of other settings.
    """
    name = asked.rpartition("/")[0]
    units = {unit.name: unit for unit in plan.units}
    if name not in units:
        raise unknown("unit", name, units)
    if unit_id(units[name]) != asked:
        raise InputError(
            f"--unit={asked}: with this configuration, these data and this version of jaxdiv the unit is "
            f"{unit_id(units[name])}: give all workers the command line of the study"
        )
    return units[name]


def all_here(where: str) -> None:
    """Wait for the other hosts of this job, if there are any."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


@lru_cache(maxsize=1)  # a worker process runs many units of one study
def _plan(config: str, workdir: str) -> Plan:
    return planner.plan(door.read(ConfigDict(ast.literal_eval(config))), Path(workdir))


def _both(first: ProgressFn, second: ProgressFn) -> ProgressFn:
    def report(share: float, note: str = "") -> None:
        first(share, note)
        second(share, note)

    return report


def _reason(unit: Unit, error: Exception) -> str:
    """Why a unit failed, in a line. Raises the error itself where it is a mistake of the program."""
    if not isinstance(error, (MemoryError, jax.errors.JaxRuntimeError)):
        return str(error)
    if not out_of_memory(error):
        raise error
    if unit.stage not in ON_DEVICES:
        return f"{unit.name}: out of memory on this machine; with more of it, the same command resumes from here"
    device = jax.local_devices()[0]
    method = entry(unit.spec.method) if unit.stage == "train" else None
    section = method.section if method else ""
    same = [] if device.platform == "cpu" or section == "pt" else ["--config.compute.tasks_at_once=1"]
    if unit.stage in ("select", "embed"):
        same.append("--config.probe.chunk=1")
    if method and method.fields.get("first_order") is False:
        same.append("--config.maml.remat=true")
    if section:
        other = f"--config.{section}.{'batch_size' if section == 'pt' else 'meta_batch'}"
    else:
        other = "--config.probe.pixels" if unit.stage in ("select", "embed") else "--config.learner.pixels"
    keeping = f"set {' and '.join(same)}, which changes no result; if that is not enough, " if same else ""
    return (
        f"{unit.name}: out of memory on {device.device_kind}: {keeping}lower {other}, which makes another experiment; "
        f"the same command resumes from here"
    )
