"""Checkpoints of a training run (Orbax): saved, resumed from, and read for a test."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from jaxdiv.errors import InputError
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
    """

    def __init__(self, identity: Mapping[str, Any]):
        self.identity = dict(identity)
        self.best_step: int | None = None
        self.best_accuracy = -math.inf
        self.waited = 0
        self.seconds = 0.0
        self.program: dict[str, Any] = {}
        self.platforms = [jax.default_backend()]

    def record(self) -> dict[str, Any]:
        """All of it as JSON values."""
        best = self.best_accuracy if self.best_step else None
        times = {"waited": self.waited, "seconds": self.seconds}
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
        self.waited, self.seconds, self.program = record["waited"], record["seconds"], record.get("program") or {}
        self.platforms = sorted({*self.platforms, *record.get("platforms", ())})

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


def open_checkpoints(folder: Path, run: Run, alone: bool = False) -> ocp.CheckpointManager:
    """Orbax's manager of the checkpoints under `folder`, which all hosts use together, or one `alone`."""
    folder.mkdir(parents=True, exist_ok=True)
    me = jax.process_index()
    hosts = ocp.options.MultiprocessingOptions(
        primary_host=me if alone else 0,
        active_processes={me} if alone else None,
        barrier_sync_key_prefix="alone" if alone else None,
    )
    options = ocp.CheckpointManagerOptions(preservation_policy=run, multiprocessing_options=hosts, create=not alone)
    return ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, state: PyTree, run: Run) -> None:
    """Save `state` and the record of the run; Orbax writes while training goes on."""
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run.record()))
    manager.save(step, args=args)


def restore(manager: ocp.CheckpointManager, step: int, state: PyTree, run: Run) -> PyTree:
    """The arrays of a checkpoint, with the shapes and shardings of `state`; `run` goes on from its record.

    Raises:
      InputError: a checkpoint of another identity.
    """
    args = ocp.args.Composite(run=ocp.args.JsonRestore())
    run.resume(manager.restore(step, args=args)["run"], f"{manager.directory}/{step}")
    # Abstract, with this run's shardings: the devices need not be those that wrote it.
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]


def load_params(folder: Path, method: Method) -> tuple[PyTree, PyTree]:
    """Parameters and model state: of the best checkpoint under `folder`, of the latest if none was validated."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    like = dict(zip(("params", "model_state"), shapes, strict=True))
    with open_checkpoints(folder, Run({}), alone=True) as manager:
        latest = manager.latest_step()
        record = manager.restore(latest, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        step = record["best_step"] or latest
        # The optimizer's moments stay on the disk.
        how = ocp.checkpoint_utils.construct_restore_args(like)
        args = ocp.args.PyTreeRestore(like, restore_args=how, partial_restore=True)
        state = manager.restore(step, args=ocp.args.Composite(state=args))["state"]
    return state["params"], state["model_state"]


def latest_step(folder: Path) -> int:
    """The step of the latest whole checkpoint under `folder`, 0 if there is none."""
    steps = ocp.utils.checkpoint_steps(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    return max(steps, default=0)


def trained_on(folder: Path) -> list[str]:
    """The platforms on which the latest checkpoint under `folder` was trained; none where there is no checkpoint."""
    if not latest_step(folder):
        return []
    with open_checkpoints(folder, Run({}), alone=True) as manager:
        args = ocp.args.Composite(run=ocp.args.JsonRestore())
        return list(manager.restore(latest_step(folder), args=args)["run"].get("platforms", ()))
