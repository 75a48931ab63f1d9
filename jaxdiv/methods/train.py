"""The training loop that every method shares: optax, checkpoints, validation, metrics, exact resume, many devices."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import ArrayLike, Int, PRNGKeyArray, PyTree

from jaxdiv.data.episodes import prefetch
from jaxdiv.device_memory import Fit, tree_bytes, usable_bytes
from jaxdiv.methods.base import Method
from jaxdiv.methods.checkpointing import Run, open_checkpoints, restore, save
from jaxdiv.methods.metrics import Diverged, Log
from jaxdiv.methods.parallel import Agreement, own_copy, replicate, shard
from jaxdiv.methods.step import TrainSettings, first_state, fit, update
from jaxdiv.nets.precision import default_precision, full_precision

TERMINATED = 143  # the exit code of a process that SIGTERM ended: 128 + 15


@full_precision
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
      sample: key -> the batch that `method.gradient` takes, the same on every host, or spread over the mesh already.
      folder: gets Orbax checkpoints (parameters, model state, optimizer, key, step), `metrics.jsonl`, a line per step
        and per validation, and `tensorboard/`.
      validate: `params, model_state -> {"accuracy": ..., "loss": ...}` on validation tasks; its arguments are on this
        host's first device.
      identity: what else the run is made of, as JSON values; a checkpoint of another identity is refused.
      mesh: devices in one axis, over which the batch's first axis is spread, on however many hosts; None: one device.
      progress: called with the steps done and the last step's metrics, `steps_per_second` among them.

    Returns:
      `step`, `loss`, `accuracy`, `ended` ("steps", "patience" or "minutes"), `seconds`, `platforms`, where it was
      validated `best_step` and `best_accuracy`, and of a method that trains on tasks `tasks_at_once` and `remat`.

    Raises:
      Diverged: a loss is not finite; the checkpoint before it is kept.
      InputError: a checkpoint of another identity, or a batch that the devices cannot share.
      SystemExit: with code 143, after a checkpoint, where the process got SIGTERM.
    """
    for_init, for_steps = jax.random.split(key)
    state = replicate(first_state(method, settings, for_init), mesh)
    with_it = {"precision": default_precision(), **(identity or {}), "key": jax.random.key_data(key).tolist()}
    run = Run({**_identity(settings), **with_it})
    start = time.monotonic()
    with (
        open_checkpoints(folder, run) as manager,
        sigterm() as terminated,
        Log(folder, manager.latest_step, progress) as log,
    ):
        step = manager.latest_step() or 0
        if step:
            state = restore(manager, step, state, run)
        log.begin(step, run.last)
        before = run.seconds
        batches = prefetch(sample, (_keys(for_steps, later)[0] for later in range(step + 1, settings.steps + 1)))
        agreement, fitted = Agreement(step, before), None
        while not (ended := _ended(run, step, settings)):
            step += 1
            batch, for_step = shard(next(batches), mesh), _keys(for_steps, step)[1]
            if fitted is None:
                fitted = _fitted(method, settings, mesh, state, batch, for_step, run)
            state, metrics = update(fitted, settings, mesh, state, batch, for_step)
            log.add(step, metrics)
            validating = bool(validate and settings.validate_every) and step % settings.validate_every == 0
            saving, stopping = validating or step % settings.checkpoint_every == 0 or step == settings.steps, False
            if saving or agreement.due(step):
                stopping, run.seconds = agreement.reach(step, terminated.is_set(), before + time.monotonic() - start)
            if saving or stopping or _ended(run, step, settings):
                log.fetch()
                _check_params(state["params"], step)
                if validating:
                    assert validate is not None
                    found = validate(*own_copy((state["params"], state["model_state"])))
                    run.validated(step, found["accuracy"])
                    log.validated(step, found)
                run.last = log.last()
                # A copy: Orbax writes while the next step already reuses the memory of this state.
                save(manager, step, jax.tree.map(jnp.copy, state), run)
            if stopping:
                manager.wait_until_finished()
                raise SystemExit(TERMINATED)
        manager.wait_until_finished()
        return {**log.last(), "ended": ended, **run.summary(), **run.program}


@jax.jit
def _keys(for_steps: PRNGKeyArray, step: Int[ArrayLike, ""]) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """A step's key for its batch, and the one for its gradient."""
    for_batch, for_gradient = jax.random.split(jax.random.fold_in(for_steps, step))
    return for_batch, for_gradient


def _fitted(
    method: Method,
    settings: TrainSettings,
    mesh: Mesh | None,
    state: PyTree,
    batch: PyTree,
    key: PRNGKeyArray,
    run: Run,
) -> Method:
    """The method with as many tasks at once as fit a device, as a resumed run had them if they do."""
    if not method.remats:
        return method
    if jax.default_backend() == "cpu":
        found = Fit(method.tasks_at_once or 1, method.remats[0])
    else:
        first = Fit(**run.program) if run.program else None
        limit = usable_bytes(
            jax.local_devices()[0], tree_bytes(state) + tree_bytes(batch) // (mesh.size if mesh else 1)
        )
        found = fit(method, settings, mesh, state, batch, key, limit, first)
    run.program = found._asdict()
    return method.at(found)


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
def sigterm() -> Iterator[threading.Event]:
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
