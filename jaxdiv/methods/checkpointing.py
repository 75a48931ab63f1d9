"""Checkpoints of a training run (Orbax): saved, resumed from, and read for a test.

Each carries a checksum of every array and of its record, so that none is used that is not what was saved.
"""

import hashlib
import json
import math
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from jaxdiv.errors import Damage, InputError
from jaxdiv.methods.base import Method


class Run:
    """What a checkpoint knows of its run besides the arrays: identity, best validation, time.

    It is Orbax's policy on which checkpoints stay, too: the latest two, and the best.

    Attributes:
      identity: what the run is made of, as JSON values.
      best_step, best_accuracy: of the best validation; None and minus infinity before the first.
      waited: validations since the best.
      seconds: of training, earlier runs included.
      program: how its steps are computed, which changes no result beyond rounding: a resumed run goes on alike.
      platforms: on which it was trained, such as "gpu", earlier runs included.
      last: the last step's metrics.
    """

    def __init__(self, identity: Mapping[str, Any]):
        self.identity = dict(identity)
        self.best_step: int | None = None
        self.best_accuracy = -math.inf
        self.waited = 0
        self.seconds = 0.0
        self.program: dict[str, Any] = {}
        self.platforms = [jax.default_backend()]
        self.last: dict[str, Any] = {}

    def record(self) -> dict[str, Any]:
        """All of it as JSON values."""
        best = self.best_accuracy if self.best_step else None
        times = {"waited": self.waited, "seconds": self.seconds, "last": self.last}
        how = {"program": self.program, "platforms": self.platforms}
        return {"identity": self.identity, "best_step": self.best_step, "best_accuracy": best, **times, **how}

    def resume(self, record: Mapping[str, Any], where: str) -> None:
        """Go on from the record of a checkpoint.

        Raises:
          InputError: it is of another identity.
        """
        theirs = record["identity"]
        differ = sorted(name for name in {*theirs, *self.identity} if theirs.get(name) != self.identity.get(name))
        if differ:
            shown = ", ".join(f"{n} ({theirs.get(n)} there, {self.identity.get(n)} asked for)" for n in differ[:3])
            raise InputError(f"{where} is a checkpoint of another configuration: {shown}; choose another folder")
        self.best_step = record["best_step"]
        self.best_accuracy = record["best_accuracy"] if self.best_step else -math.inf
        self.waited, self.seconds, self.last = record["waited"], record["seconds"], record["last"]
        self.program = record["program"]
        self.platforms = sorted({*self.platforms, *record["platforms"]})

    def validated(self, step: int, accuracy: float) -> None:
        """Count a validation; of equal accuracies the first is the best."""
        self.waited += 1
        if accuracy > self.best_accuracy:
            self.best_step, self.best_accuracy, self.waited = step, accuracy, 0

    def summary(self) -> dict[str, Any]:
        """The best validation, if there was any, the seconds of training, and where it was trained."""
        best = {"best_step": self.best_step, "best_accuracy": self.best_accuracy} if self.best_step else {}
        return {**best, "seconds": round(self.seconds, 3), "platforms": self.platforms}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's question."""
        latest = len(checkpoints) - 2
        return [number >= latest or info.step == self.best_step for number, info in enumerate(checkpoints)]


def open_checkpoints(folder: Path, run: Run) -> ocp.CheckpointManager:
    """Orbax's manager of the checkpoints under `folder`, which all hosts use together.

    Checkpoints that are damaged are first put aside (`put_damaged_aside`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        put_damaged_aside(folder)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("checkpoints looked at")
    options = ocp.CheckpointManagerOptions(
        preservation_policy=run,
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0),
        # Orbax reads the time of day: a clock that is set an hour ahead must not look like a save that takes so long.
        # And making folders aside has a limit of 5 minutes.
        async_options=ocp.AsyncOptions(timeout_secs=24 * 3600, create_directories_asynchronously=False),
    )
    return ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, state: PyTree, run: Run) -> None:
    """Save `state` and the record of the run; Orbax writes while training goes on."""
    record = run.record() | {"arrays": _checksums(state)}
    record = json.loads(json.dumps(record))
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state), run=ocp.args.JsonSave({**record, "checksum": _of_record(record)})
    )
    manager.save(step, args=args)


def restore(manager: ocp.CheckpointManager, step: int, state: PyTree, run: Run) -> PyTree:
    """The arrays of a checkpoint, with the shapes and shardings of `state`; `run` goes on from its record.

    Raises:
      InputError: a checkpoint of another identity.
    """
    args = ocp.args.Composite(run=ocp.args.JsonRestore())
    run.resume(manager.restore(step, args=args)["run"], f"{manager.directory}/{step}")
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    found = _read(Path(manager.directory) / str(step), abstract)
    # With this run's shardings: the devices need not be those that wrote it.
    on_devices = lambda array, like: jax.make_array_from_callback(like.shape, like.sharding, lambda at: array[at])
    return jax.tree.map(on_devices, found, state)


def load_params(folder: Path, method: Method, step: int | None = None) -> tuple[PyTree, PyTree]:
    """Parameters and model state of a checkpoint under `folder`.

    Args:
      step: of which checkpoint; None: the best, or the latest if none was validated.

    Raises:
      InputError: there is no such checkpoint, or it is damaged.
    """
    found = steps(folder)
    if not found or step not in (None, *found):
        there = f"of step {step} " if step else ""
        raise InputError(f"{folder} has no checkpoint {there}to test: train again, which resumes from what is whole")
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    like = dict(zip(("params", "model_state"), shapes, strict=True))
    try:
        record = _record(folder, step or found[-1])
        if not step and record["best_step"] not in (None, found[-1]):
            record = _record(folder, record["best_step"])
        step = int(record["step"])
        state = _read(folder / "checkpoints" / str(step), like)  # the optimizer's moments stay on the disk
        if any(record["arrays"].get(name) != found for name, found in _checksums(state).items()):
            raise ValueError("its arrays are not what was saved")
    except Exception as error:  # Orbax and what it is built on have many kinds for a file that is not what it was
        raise InputError(
            f"{folder}/checkpoints/{step} is damaged ({_line(error)}): train again, which resumes from what is whole"
        ) from None
    state = jax.device_put(state, jax.local_devices()[0])
    return state["params"], state["model_state"]


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints under `folder`, damaged ones among them, in order."""
    try:
        return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    except OSError:
        return []


def latest_step(folder: Path) -> int:
    """The step of the latest checkpoint under `folder`, 0 if there is none."""
    return max(steps(folder), default=0)


def trained_on(folder: Path) -> list[str]:
    """The platforms on which the latest checkpoint under `folder` was trained; none where there is no checkpoint, or
    its record is damaged."""
    try:
        return list(_record(folder, latest_step(folder))["platforms"])
    except (OSError, ValueError, KeyError):
        return []


def checksum(folder: Path, step: int) -> str:
    """The checksum of the parameters and the model state of a checkpoint, as they were saved."""
    arrays = _record(folder, step)["arrays"]
    return _of_record({name: found for name, found in arrays.items() if not name.startswith("optimizer/")})


def damage(folder: Path, step: int) -> str | None:
    """What is wrong with a checkpoint, in words that follow its name; None if it is whole. Reads all of it.

    A checkpoint whose record names another one as the best is whole only together with it.
    """
    try:
        record = _record(folder, step)
        if _checksums(_read(folder / "checkpoints" / str(step))) != record["arrays"]:
            return "is damaged (its arrays are not what was saved)"
    except Exception as error:  # as in `load_params`
        return f"is damaged ({_line(error)})"
    best = record["best_step"]
    if best not in (None, step) and (reason := damage(folder, best)):
        return f"goes with the best one, {best}, which {reason}"
    return None


def put_damaged_aside(folder: Path) -> None:
    """Move the latest checkpoints out of the way until the latest is whole; a warning `Damage` names them.

    They go to `folder/damaged`, so that nothing is lost where the disk alone was at fault.
    """
    lost = []
    while (found := steps(folder)) and (reason := damage(folder, found[-1])):
        aside = folder / "damaged" / str(found[-1])
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        (folder / "checkpoints" / str(found[-1])).rename(aside)
        lost.append(f"checkpoint {found[-1]} {reason}")
    if lost:
        then = f"resumes from step {found[-1]}" if found else "begins again"
        warnings.warn(f"{folder}: {'; '.join(lost)}: put into `damaged`, and training {then}", Damage, stacklevel=3)


def _read(checkpoint: Path, like: PyTree = None) -> PyTree:
    """The arrays of a checkpoint, or those of them that are in the tree `like`, as NumPy's: for a device's Orbax reads
    further files, so that what `damage` calls whole could not be restored. Each host reads by itself."""
    where, me = (checkpoint / "state").absolute(), jax.process_index()
    hosts = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix="alone")
    reader = ocp.PyTreeCheckpointHandler(multiprocessing_options=hosts)
    with _without_late_callbacks(), ocp.Checkpointer(reader, multiprocessing_options=hosts) as reading:
        tree = reader.metadata(where).tree if like is None else like
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        args = ocp.args.PyTreeRestore(like, restore_args=how, partial_restore=like is not None)
        return reading.restore(where, args=args)


@contextmanager
def _without_late_callbacks() -> Iterator[None]:
    """When one array cannot be read, Orbax closes its event loop while others are read: each of these would print a
    traceback when it comes, which may be after the error was dealt with."""
    usual = sys.unraisablehook
    sys.unraisablehook = lambda found: None if str(found.exc_value) == "Event loop is closed" else usual(found)
    yield
    sys.unraisablehook = usual  # not after an error


def _record(folder: Path, step: int) -> dict[str, Any]:
    """The record of a checkpoint, with its `step`. Raises ValueError or OSError where it is not what was saved."""
    record = json.loads((folder / "checkpoints" / str(step) / "run" / "metadata").read_bytes())
    if not isinstance(record, dict) or record.pop("checksum", None) != _of_record(record):
        raise ValueError("its record is not what was saved")
    return {**record, "step": step}


def _checksums(state: PyTree) -> dict[str, str]:
    """The sha256 of each array, by its name in the tree. Of arrays on several hosts, all alike, this host's."""
    name = lambda key: str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", None))))
    return {"/".join(map(name, path)): _of_array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _of_array(leaf: Any) -> str:
    array = np.ascontiguousarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)
    found = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    found.update(array.view(np.uint8).data if array.ndim and array.size else array.tobytes())
    return found.hexdigest()


def _of_record(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
