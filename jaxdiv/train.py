"""The training loop that every method shares: optax, Orbax, metrics, exact resume."""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree

from jaxdiv.learner import Learner

# How many steps' metrics wait on the device before they are fetched: fetching each would stall an accelerator.
_FETCH_EVERY = 10


class Diverged(ArithmeticError):
    """A loss became NaN or infinite. The message names the step and the last good checkpoint."""


def train(
    learner: Learner,
    sample: Callable[[Array], Any],
    key: Array,
    steps: int,
    learning_rate: float,
    folder: Path,
    checkpoint_every: int,
    progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> dict[str, float]:
    """Train for `steps` outer steps of Adam and return the last one's metrics; resume where `folder` has a checkpoint.

    Every random draw is a function of `key` and the step, so a resumed run equals an undisturbed one bit for bit.

    Args:
      sample: key -> the batch that `learner.gradient` takes.
      folder: gets Orbax checkpoints (parameters, optimizer, step), the last of which `load_params` reads, and
        `metrics.jsonl`, a line per step.
      progress: called with the steps done and the last step's metrics.
    Raises:
      Diverged: a loss is not finite; the checkpoint before it is kept.
    """
    for_init, for_steps = jax.random.split(key)
    optimizer, update = _update(learner, learning_rate)
    params = jax.jit(learner.init)(for_init)
    state = {"params": params, "optimizer": optimizer.init(params)}
    with _manager(folder) as manager:
        done = manager.latest_step() or 0
        if done:
            state = manager.restore(done, args=ocp.args.StandardRestore(state))
        metrics_file = folder / "metrics.jsonl"
        _drop_lines_after(metrics_file, done)
        with metrics_file.open("a") as log:
            pending: list[dict[str, Array]] = []
            for step in range(done + 1, steps + 1):
                for_batch, for_loss = jax.random.split(jax.random.fold_in(for_steps, step))
                state, metrics = update(state, sample(for_batch), for_loss)
                pending.append(metrics)
                save = step % checkpoint_every == 0 or step == steps
                if save or len(pending) == _FETCH_EVERY:
                    last = _write(log, pending, step, manager)
                    progress(step, last)
                    pending = []
                if save:
                    _check_params(state["params"], step)
                    manager.save(step, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
    return json.loads(metrics_file.read_text().splitlines()[-1])


def load_params(folder: Path, learner: Learner) -> PyTree:
    """The parameters of the latest checkpoint under `folder`."""
    like = jax.eval_shape(learner.init, jax.random.key(0))
    optimizer = jax.eval_shape(optax.adam(0.0).init, like)
    with _manager(folder) as manager:
        abstract = {"params": like, "optimizer": optimizer}
        return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(abstract))["params"]


def latest_step(folder: Path) -> int:
    """The step of the latest whole checkpoint under `folder`, 0 if there is none."""
    steps = ocp.utils.checkpoint_steps(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    return max(steps, default=0)


@cache
def _update(learner, learning_rate):
    """The optimizer and the jitted step; cached, so that one method compiles once for all benchmarks."""
    optimizer = optax.adam(learning_rate)

    @jax.jit
    def update(state, batch, key):
        gradient, metrics = learner.gradient(state["params"], batch, key)
        updates, optimizer_state = optimizer.update(gradient, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "optimizer": optimizer_state}, metrics

    return optimizer, update


def _manager(folder: Path) -> ocp.CheckpointManager:
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    return ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)


def _write(log, pending, step, manager):
    """Log the fetched metrics of the steps up to `step`; raise at the first that is not finite."""
    values = {}
    for number, metrics in enumerate(jax.device_get(pending), start=step - len(pending) + 1):
        values = {name: float(value) for name, value in metrics.items()}
        if not math.isfinite(values["loss"]):
            good = manager.latest_step()
            kept = f"the checkpoint of step {good} is kept" if good else "no checkpoint was made yet"
            raise Diverged(f"the loss is {values['loss']} at step {number}; {kept}; lower the learning rates")
        log.write(json.dumps({"step": number, **values}) + "\n")
    log.flush()
    return values


def _check_params(params, step):
    """A gradient can be NaN where the loss is not; its parameters must not become the last good checkpoint."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
        raise Diverged(f"the parameters are not finite after step {step}; lower the learning rates")


def _drop_lines_after(file: Path, step: int) -> None:
    """Forget metrics of steps that a killed run logged after its last checkpoint."""
    if file.exists():
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:step]))
