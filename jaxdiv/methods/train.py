"""The training loop that every method shares: optax, Orbax, validation, metrics, exact resume, many devices."""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxdiv.data.episodes import prefetch
from jaxdiv.errors import InputError
from jaxdiv.methods.learner import Learner

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
TERMINATED = 143  # the exit code of a process that SIGTERM ended: 128 + 15
# How many steps' metrics wait on the device before they are fetched: fetching each would stall an accelerator.
_FETCH_EVERY = 10
_MOMENTUM = 0.9


class Diverged(ArithmeticError):
    """A loss became NaN or infinite. The message names the step and the last good checkpoint."""


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
      steps: outer steps at most.
      learning_rate: its peak, where there is a schedule.
      optimizer: `adam`, `adamw` (with `weight_decay`) or `sgd` (momentum .9).
      schedule: `constant`, or `cosine`: down to 0 at `steps`.
      warmup: steps over which the rate first rises from 0.
      clip: global norm to which gradients are cut; 0: none.
      checkpoint_every: steps.
      validate_every: steps; 0: never. The best checkpoint by validation accuracy is then kept beside the latest.
      patience: validations in a row without a new best accuracy after which training has converged; 0: no such end.
      minutes: of training, earlier runs included, after which it stops; 0: no such end.
    """

    steps: int
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    clip: float = 0.0
    checkpoint_every: int = 500
    validate_every: int = 0
    patience: int = 0
    minutes: float = 0.0


def train(
    learner: Learner,
    sample: Callable[[PRNGKeyArray], PyTree],
    key: PRNGKeyArray,
    settings: Settings,
    folder: Path,
    validate: Callable[[PyTree, PyTree], dict[str, float]] | None = None,
    identity: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> dict[str, Any]:
    """Train, and return the last step's metrics and how it ended; resume where `folder` has a checkpoint.

    Every random draw is a function of `key` and the step, so a resumed run equals an undisturbed one bit for bit.

    Args:
      sample: key -> the batch that `learner.gradient` takes, the same on every host.
      folder: gets Orbax checkpoints (parameters, what is carried, optimizer, key, step), `metrics.jsonl`, a line per
        step and per validation, and `tensorboard/`.
      validate: `params, carried -> {"accuracy": ..., "loss": ...}` on validation tasks.
      identity: what else the run is made of, as JSON values; a checkpoint of another identity is refused.
      mesh: devices in one axis, over which the batch's first axis is spread, on however many hosts; None: one device.
      progress: called with the steps done and the last step's metrics, `steps_per_second` among them.
    Returns:
      `step`, `loss`, `accuracy`, `ended` ("steps", "patience" or "minutes"), `seconds`, and where it was validated
      `best_step` and `best_accuracy`.
    Raises:
      Diverged: a loss is not finite; the checkpoint before it is kept.
      InputError: a checkpoint of another identity, or a batch that the devices cannot share.
      SystemExit: with code 143, after a checkpoint, where the process got SIGTERM.
    """
    for_init, for_steps = jax.random.split(key)
    optimizer, update = _update(learner, settings, mesh)
    params, carried = jax.jit(learner.init)(for_init)
    state = place({"params": params, "carried": carried, "optimizer": optimizer.init(params)}, mesh)
    run = _Run({**_of_settings(settings), **(identity or {}), "key": jax.random.key_data(key).tolist()})
    start = time.monotonic()
    with _manager(folder, run) as manager, _sigterm() as terminated, _Log(folder, run, manager, progress) as log:
        step = manager.latest_step() or 0
        if step:
            state = _restore(manager, step, state, run)
        log.begin(step)
        before = run.seconds
        keys_of = lambda step: jax.random.split(jax.random.fold_in(for_steps, step))
        batches = prefetch(sample, (keys_of(later)[0] for later in range(step + 1, settings.steps + 1)))
        while not (ended := run.ended(step, settings)):
            step += 1
            state, metrics = update(state, place(next(batches), mesh, spread=True), keys_of(step)[1])
            log.add(step, metrics)
            stopping, run.seconds = _agreed(terminated.is_set(), before + time.monotonic() - start)
            validating = bool(validate and settings.validate_every) and step % settings.validate_every == 0
            if validating or stopping or step % settings.checkpoint_every == 0 or run.ended(step, settings):
                log.fetch()
                _check_params(state["params"], step)
                if validating:
                    assert validate is not None
                    log.validated(step, validate(*_on_host((state["params"], state["carried"]))))
                args = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run.record()))
                manager.save(step, args=args)
            if stopping:
                manager.wait_until_finished()
                raise SystemExit(TERMINATED)
        manager.wait_until_finished()
        return {**log.last(), "ended": ended, **run.summary()}


def load_params(folder: Path, learner: Learner) -> tuple[PyTree, PyTree]:
    """Parameters and what is carried: of the best checkpoint under `folder`, of the latest if none was validated."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    like = dict(zip(("params", "carried"), shapes, strict=True))
    with _manager(folder, _Run({}), alone=True) as manager:
        latest = manager.latest_step()
        record = manager.restore(latest, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        step = record["best_step"] or latest
        # The optimizer's moments stay on the disk.
        how = ocp.checkpoint_utils.construct_restore_args(like)
        args = ocp.args.PyTreeRestore(like, restore_args=how, partial_restore=True)
        state = manager.restore(step, args=ocp.args.Composite(state=args))["state"]
    return state["params"], state["carried"]


def latest_step(folder: Path) -> int:
    """The step of the latest whole checkpoint under `folder`, 0 if there is none."""
    steps = ocp.utils.checkpoint_steps(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    return max(steps, default=0)


def make_mesh(batch: int) -> Mesh | None:
    """The devices that share a batch of `batch`, as a mesh of one axis; None where that is one.

    Of a single host's devices as many as divide the batch; of several hosts' all, else InputError.
    """
    devices = jax.devices()
    count = math.gcd(batch, len(devices))
    if jax.process_count() > 1 and count < len(devices):
        raise InputError(
            f"a batch of {batch} cannot be spread evenly over {len(devices)} devices of {jax.process_count()} hosts: "
            f"make `batch` a multiple of {len(devices)}"
        )
    if count == 1:
        return None
    # Auto: XLA finds the sharding of what lies between the batch and the parameters.
    return jax.make_mesh((count,), ("tasks",), axis_types=(AxisType.Auto,), devices=devices[:count])


class _Run:
    """What a checkpoint knows of its run besides the arrays: identity, best validation, time. Also Orbax's policy on
    which checkpoints stay: the latest two, and the best."""

    def __init__(self, identity: Mapping[str, Any]):
        self.identity = dict(identity)
        self.best_step: int | None = None
        self.best_accuracy = -math.inf
        self.waited = 0  # validations since the best
        self.seconds = 0.0

    def record(self) -> dict[str, Any]:
        best = self.best_accuracy if self.best_step else None
        times = {"waited": self.waited, "seconds": self.seconds}
        return {"identity": self.identity, "best_step": self.best_step, "best_accuracy": best, **times}

    def resume(self, record: Mapping[str, Any], where: str) -> None:
        theirs = record["identity"]
        differ = sorted(name for name in {*theirs, *self.identity} if theirs.get(name) != self.identity.get(name))
        if differ:
            shown = ", ".join(f"{n} ({theirs.get(n)} there, {self.identity.get(n)} asked for)" for n in differ[:3])
            raise InputError(f"{where} is a checkpoint of another configuration: {shown}; choose another folder")
        self.best_step = record["best_step"]
        self.best_accuracy = record["best_accuracy"] if self.best_step else -math.inf
        self.waited, self.seconds = record["waited"], record["seconds"]

    def validated(self, step: int, accuracy: float) -> None:
        self.waited += 1
        if accuracy > self.best_accuracy:
            self.best_step, self.best_accuracy, self.waited = step, accuracy, 0

    def ended(self, step: int, settings: Settings) -> str | None:
        if step >= settings.steps:
            return "steps"
        if settings.patience and self.waited >= settings.patience:
            return "patience"
        return "minutes" if settings.minutes and self.seconds >= 60 * settings.minutes else None

    def summary(self) -> dict[str, Any]:
        best = {"best_step": self.best_step, "best_accuracy": self.best_accuracy} if self.best_step else {}
        return {**best, "seconds": round(self.seconds, 3)}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        latest = len(checkpoints) - 2
        return [number >= latest or info.step == self.best_step for number, info in enumerate(checkpoints)]


class _Log:
    """Metrics: on the device until they are fetched, then lines in `metrics.jsonl` and points for TensorBoard."""

    def __init__(self, folder: Path, run: _Run, manager: ocp.CheckpointManager, progress: Callable[..., None]):
        self._folder, self._run, self._manager, self._progress = folder, run, manager, progress
        self._mine = jax.process_index() == 0
        self._pending: list[tuple[int, dict[str, Array]]] = []
        self._clock = (0, 0.0)

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._mine and hasattr(self, "_lines"):
            self._lines.close()
            self._board.close()

    def begin(self, step: int) -> None:
        """Go on after `step`: what a killed run logged after its last checkpoint is forgotten."""
        self._clock = (step, time.monotonic())
        file = self._folder / "metrics.jsonl"
        if not self._mine:
            return
        from tensorboardX import SummaryWriter  # half a second, and only training needs it

        kept = file.read_text().splitlines(keepends=True) if file.exists() else []
        file.write_text("".join(line for line in kept if json.loads(line)["step"] <= step))
        self._lines = file.open("a")
        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, metrics: dict[str, Array]) -> None:
        self._pending.append((step, metrics))
        if len(self._pending) > 1:
            # One step ahead of the device is enough to keep it busy, and SIGTERM has not to wait for ten.
            jax.block_until_ready(self._pending[-2][1])
        if len(self._pending) == _FETCH_EVERY or time.monotonic() - self._clock[1] > 1:
            self.fetch()

    def fetch(self) -> None:
        """Log what is pending; Diverged at the first loss that is not finite."""
        values: dict[str, float] = {}
        for step, metrics in jax.device_get(self._pending):
            values = {name: float(value) for name, value in metrics.items()}
            if not math.isfinite(values["loss"]):
                good = self._manager.latest_step()
                kept = f"the checkpoint of step {good} is kept" if good else "no checkpoint was made yet"
                raise Diverged(f"the loss is {values['loss']} at step {step}; {kept}; lower the learning rates")
            self._write(step, "train", values, {"step": step, **values})
        if self._pending:
            step = self._pending[-1][0]
            since, began = self._clock
            self._clock = (step, time.monotonic())
            rate = (step - since) / max(self._clock[1] - began, 1e-9)
            self._progress(step, {**values, "steps_per_second": rate})
        self._pending = []
        if self._mine:
            self._lines.flush()

    def validated(self, step: int, found: dict[str, float]) -> None:
        self._run.validated(step, found["accuracy"])
        self._write(step, "validation", found, {"step": step, "validation": found})
        if self._mine:
            self._lines.flush()
            self._board.flush()

    def last(self) -> dict[str, Any]:
        """The last step's line."""
        lines = map(json.loads, (self._folder / "metrics.jsonl").read_text().splitlines())
        return [line for line in lines if "loss" in line][-1]

    def _write(self, step: int, part: str, values: Mapping[str, float], line: Mapping[str, Any]) -> None:
        if self._mine:
            self._lines.write(json.dumps(line) + "\n")
            for name, value in values.items():
                self._board.add_scalar(f"{part}/{name}", value, step)


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """The optimizer that `settings` describes."""
    rate: Any = settings.learning_rate
    if settings.schedule == "cosine":
        rate = optax.cosine_decay_schedule(settings.learning_rate, max(settings.steps - settings.warmup, 1))
    elif settings.warmup:
        rate = optax.constant_schedule(settings.learning_rate)
    if settings.warmup:
        rise = optax.linear_schedule(0.0, settings.learning_rate, settings.warmup)
        rate = optax.join_schedules([rise, rate], [settings.warmup])
    step = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=settings.weight_decay),
        "sgd": lambda: optax.sgd(rate, _MOMENTUM),
    }[settings.optimizer]()
    return optax.chain(optax.clip_by_global_norm(settings.clip), step) if settings.clip else step


@cache
def _update(learner: Learner, settings: Settings, mesh: Mesh | None):
    """The optimizer and the jitted step; cached, so that one method compiles once for all benchmarks."""
    optimizer = make_optimizer(settings)
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    @jax.jit
    def update(state, batch, key):
        gradient, carried, metrics = learner.gradient(state["params"], state["carried"], batch, key)
        updates, optimizer_state = optimizer.update(gradient, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        after = {"params": params, "carried": carried, "optimizer": optimizer_state}, metrics
        return after if whole is None else jax.lax.with_sharding_constraint(after, whole)

    return optimizer, update


def _of_settings(settings: Settings) -> dict[str, Any]:
    """The settings that decide what a step does; a run may be made longer, or be saved more often."""
    names = ["learning_rate", "optimizer", "schedule", "warmup", "weight_decay", "clip"]
    return {name: getattr(settings, name) for name in names + (["steps"] if settings.schedule == "cosine" else [])}


def _restore(manager: ocp.CheckpointManager, step: int, state: PyTree, run: _Run) -> PyTree:
    args = ocp.args.Composite(run=ocp.args.JsonRestore())
    run.resume(manager.restore(step, args=args)["run"], f"{manager.directory}/{step}")
    # Abstract, with this run's shardings: the devices need not be those that wrote it.
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]


def _manager(folder: Path, run: _Run, alone: bool = False) -> ocp.CheckpointManager:
    """Orbax's manager of a run's checkpoints, which all hosts use together, or one `alone`."""
    folder.mkdir(parents=True, exist_ok=True)
    me = jax.process_index()
    hosts = ocp.options.MultiprocessingOptions(
        primary_host=me if alone else 0,
        active_processes={me} if alone else None,
        barrier_sync_key_prefix="alone" if alone else None,
    )
    options = ocp.CheckpointManagerOptions(preservation_policy=run, multiprocessing_options=hosts, create=not alone)
    return ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, as pre-emptible machines send it; the handler before is put back at the end."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def _agreed(stop: bool, seconds: float) -> tuple[bool, float]:
    """Whether any host was told to stop, and the slowest clock: all hosts must save and end at the same step."""
    if jax.process_count() == 1:
        return stop, seconds
    from jax.experimental import multihost_utils

    found = multihost_utils.process_allgather(np.asarray([stop, seconds]))
    return bool(found[:, 0].any()), float(found[:, 1].max())


def place(tree: PyTree, mesh: Mesh | None, spread: bool = False) -> PyTree:
    """Arrays that every host has whole, on the mesh's devices: a copy on each, or the first axis `spread` over them."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]) if spread else PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    part = lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])
    return jax.tree.map(part, jax.device_get(tree))


def _on_host(tree: PyTree) -> PyTree:
    """Replicated arrays as this host's own, so that it can compute with them alone."""
    return jax.tree.map(jnp.asarray, jax.device_get(tree)) if jax.process_count() > 1 else tree


def _check_params(params: PyTree, step: int) -> None:
    """A gradient can be NaN where the loss is not; its parameters must not become the last good checkpoint."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
        raise Diverged(f"the parameters are not finite after step {step}; lower the learning rates")
