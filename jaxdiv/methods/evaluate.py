"""A method on test tasks: accuracy and cross-entropy on each, and their means with intervals."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import scipy  # its packages load when they are first used, and `stats` takes a second
from jax import lax
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from jaxdiv.data.episodes import Task
from jaxdiv.methods.base import Method, accuracy, cross_entropy


class Evaluation(NamedTuple):
    """Per-task values: `accuracy` (share of the query examples) and `loss` (nats per query example)."""

    accuracy: Float[np.ndarray, " tasks"]
    loss: Float[np.ndarray, " tasks"]


def evaluate(
    method: Method,
    params: PyTree,
    model_state: PyTree,
    sample: Callable[[PRNGKeyArray, int], Task],
    key: PRNGKeyArray,
    tasks: int,
    chunk: int = 25,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Adapt a trained method to each of `tasks` test tasks and test it there.

    Task number i depends on `key` and i alone: under one key every method meets the same tasks, so that methods
    compare in pairs.

    Args:
      params, model_state: as `method.init` and `train.load_params` give them.
      sample: key, number -> a batch of so many tasks.
      chunk: tasks on the device at once.
      progress: called with the number of tasks done.
    """
    values = []
    for number, start in enumerate(range(0, tasks, chunk)):
        # Always a whole chunk, so that the last one is neither compiled again nor other tasks than in a longer run.
        for_chunk = jax.random.fold_in(key, number)
        batch, keys = sample(for_chunk, chunk), jax.random.split(jax.random.fold_in(for_chunk, 0), chunk)
        values.append(jax.device_get(_on_tasks(method.tested, params, model_state, batch, keys)))
        progress(min(start + chunk, tasks))
    share, loss = (np.concatenate(parts)[:tasks] for parts in zip(*values, strict=True))
    return Evaluation(np.asarray(share, np.float64), np.asarray(loss, np.float64))


def mean_interval(values: Float[np.ndarray, " n"], level: float = 0.95) -> tuple[float, float]:
    """Mean and the half-width of its interval, t·sem, taking the values as independent."""
    n = len(values)
    return float(values.mean()), float(scipy.stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))


@partial(jax.jit, static_argnames="method")
def _on_tasks(method: Method, params: PyTree, model_state: PyTree, batch: Task, keys: Key[Array, " tasks"]) -> PyTree:
    def on_task(task: Task, key: PRNGKeyArray) -> tuple[Array, Array]:
        logits = method.adapt(params, model_state, task.support_images, task.support_labels, key)(task.query_images)
        return accuracy(logits, task.query_labels), cross_entropy(logits, task.query_labels)

    # As in MAML's meta-gradient: on a CPU a loop over tasks beats their grouped convolutions.
    if jax.default_backend() == "cpu":
        return lax.map(lambda item: on_task(*item), (batch, keys))
    return jax.vmap(on_task)(batch, keys)
