"""The training loop that every method shares: optax, checkpoints, validation, metrics, exact resume, many devices."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray, PyTree

from jaxdiv.data.episodes import prefetch
from jaxdiv.methods.base import Method, Metrics
from jaxdiv.methods.checkpointing import Run, open_checkpoints, restore, save
from jaxdiv.methods.metrics import Diverged, Log
from jaxdiv.methods.parallel import agree, on_host, replicate, shard

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
TERMINATED = 143  # the exit code of a process that SIGTERM ended: 128 + 15
_MOMENTUM = 0.9


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
      steps: outer steps at most.
      learning_rate: its peak, where there is a schedule.
      optimizer: `adam`, `adamw` (with `weight_decay`) or `sgd` (momentum .9).
      schedule: `constant`, or `cosine`: down to 0 at `steps`.
      warmup: steps over which the rate first rises from 0.
      grad_clip_norm: global norm to which gradients are cut; 0: none.
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
    grad_clip_norm: float = 0.0
    checkpoint_every: int = 500
    validate_every: int = 0
    patience: int = 0
    minutes: float = 0.0


def train(
    method: Method,
    sample: Callable[[PRNGKeyArray], PyTree],
    key: PRNGKeyArray,
    settings: TrainSettings,
    folder: Path,
    validate: Callable[[PyTree, PyTree], dict[str, float]] | None = None,
    identity: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> dict[str, Any]:
    """Train, and return the last step's metrics and how it ended; resume where `folder` has a checkpoint.

    Every random draw is a function of `key` and the step, so a resumed run equals an undisturbed one bit for bit.

    Args:
      sample: key -> the batch that `method.gradient` takes, the same on every host.
      folder: gets Orbax checkpoints (parameters, model state, optimizer, key, step), `metrics.jsonl`, a line per step
        and per validation, and `tensorboard/`.
      validate: `params, model_state -> {"accuracy": ..., "loss": ...}` on validation tasks.
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
    state = replicate(_init(method, settings, for_init), mesh)
    run = Run({**_identity(settings), **(identity or {}), "key": jax.random.key_data(key).tolist()})
    start = time.monotonic()
    with (
        open_checkpoints(folder, run) as manager,
        _sigterm() as terminated,
        Log(folder, manager.latest_step, progress) as log,
    ):
        step = manager.latest_step() or 0
        if step:
            state = restore(manager, step, state, run)
        log.begin(step, run.last)
        before = run.seconds
        keys_of = lambda step: jax.random.split(jax.random.fold_in(for_steps, step))
        batches = prefetch(sample, (keys_of(later)[0] for later in range(step + 1, settings.steps + 1)))
        while not (ended := _ended(run, step, settings)):
            step += 1
            state, metrics = _update(method, settings, mesh, state, shard(next(batches), mesh), keys_of(step)[1])
            log.add(step, metrics)
            stopping, run.seconds = agree(terminated.is_set(), before + time.monotonic() - start)
            validating = bool(validate and settings.validate_every) and step % settings.validate_every == 0
            if validating or stopping or step % settings.checkpoint_every == 0 or _ended(run, step, settings):
                log.fetch()
                _check_params(state["params"], step)
                if validating:
                    assert validate is not None
                    found = validate(*on_host((state["params"], state["model_state"])))
                    run.validated(step, found["accuracy"])
                    log.validated(step, found)
                run.last = log.last()
                save(manager, step, state, run)
            if stopping:
                manager.wait_until_finished()
                raise SystemExit(TERMINATED)
        manager.wait_until_finished()
        return {**log.last(), "ended": ended, **run.summary()}


def make_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
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
    clip = settings.grad_clip_norm
    return optax.chain(optax.clip_by_global_norm(clip), step) if clip else step


# Both take the method and its settings by value, so that a method compiles once for all benchmarks.
@partial(jax.jit, static_argnames=("method", "settings"))
def _init(method: Method, settings: TrainSettings, key: PRNGKeyArray) -> PyTree:
    params, model_state = method.init(key)
    return {"params": params, "model_state": model_state, "optimizer": make_optimizer(settings).init(params)}


@partial(jax.jit, static_argnames=("method", "settings", "mesh"))
def _update(
    method: Method, settings: TrainSettings, mesh: Mesh | None, state: PyTree, batch: PyTree, key: PRNGKeyArray
) -> tuple[PyTree, Metrics]:
    gradient, model_state, metrics = method.gradient(state["params"], state["model_state"], batch, key)
    updates, optimizer = make_optimizer(settings).update(gradient, state["optimizer"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    after = {"params": params, "model_state": model_state, "optimizer": optimizer}, metrics
    if mesh is None:
        return after
    return jax.lax.with_sharding_constraint(after, NamedSharding(mesh, PartitionSpec()))


def _identity(settings: TrainSettings) -> dict[str, Any]:
    """The settings that decide what a step does; a run may be made longer, or be saved more often."""
    names = ["learning_rate", "optimizer", "schedule", "warmup", "weight_decay", "grad_clip_norm"]
    return {name: getattr(settings, name) for name in names + (["steps"] if settings.schedule == "cosine" else [])}


def _ended(run: Run, step: int, settings: TrainSettings) -> str | None:
    """Why training is over; None while it is not."""
    if step >= settings.steps:
        return "steps"
    if settings.patience and run.waited >= settings.patience:
        return "patience"
    return "minutes" if settings.minutes and run.seconds >= 60 * settings.minutes else None


def _check_params(params: PyTree, step: int) -> None:
    """A gradient can be NaN where the loss is not; its parameters must not become the last good checkpoint."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
        raise Diverged(f"the parameters are not finite after step {step}; lower the learning rates")


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
