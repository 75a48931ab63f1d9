"""Evaluate: what was trained -> its accuracy and cross-entropy on test tasks, which every method meets alike."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from jaxdiv.data.table import ImageTable
from jaxdiv.methods import evaluate
from jaxdiv.methods.base import Method, make_method
from jaxdiv.methods.checkpointing import load_params
from jaxdiv.methods.parallel import all_devices
from jaxdiv.methods.sampling import TestTasks
from jaxdiv.nets.network import make_network
from jaxdiv.study.keys import key_for
from jaxdiv.study.sections import NO_RESULT, Compute, Learner, MethodSection, Task
from jaxdiv.study.tables import Table
from jaxdiv.study.unit import ProgressFn, in_its_precision


@dataclass(frozen=True)
class Spec:
    """What is tested, on what.

    Attributes:
      test_set: "own" or "fixed".
      where: the benchmark that this is; the draw of the tasks depends on its name.
      table: where the tasks are from.
      dropout: whether MAML drops in a test too.
      compute: how a device computes.
      learner, settings: as it was trained with, so that the input's digest has them.
    """

    benchmark: str
    method: str
    run: int
    test_set: str
    where: str
    table: Table
    task: Task
    tasks: int
    dropout: bool
    compute: Compute
    seed: int
    learner: Learner = field(metadata=NO_RESULT)
    settings: MethodSection = field(metadata=NO_RESULT)


@dataclass(frozen=True)
class Inputs:
    """The test split, the folder of the checkpoints, which of them is tested, and how large the train split was."""

    table: ImageTable
    folder: Path
    checkpoint: int
    train_classes: int
    train_images: int


@dataclass(frozen=True)
class Result:
    """A point of the study; accuracies are shares, losses nats per query image, `_ci` half a 95% interval."""

    benchmark: str
    method: str
    seed: int
    test_set: str
    accuracy: float
    accuracy_ci: float
    loss: float
    loss_ci: float
    train_images: int
    train_classes: int
    batch_norm: str
    net: str
    pixels: int
    tasks: int
    task_accuracy: Float[np.ndarray, " tasks"]
    task_loss: Float[np.ndarray, " tasks"]


@in_its_precision
def run(spec: Spec, inputs: Inputs, progress: ProgressFn) -> Result:
    """Test a checkpoint.

    Raises:
      InputError: it is damaged.
    """
    how = (spec.learner, spec.settings, spec.task.ways, inputs.train_classes)
    method = make(spec.method, *how, test_dropout=spec.dropout)
    params, model_state = load_params(inputs.folder, method, inputs.checkpoint)
    heard = lambda done: progress(done / spec.tasks, "")
    key = key_for(spec.seed, "evaluate", spec.where)
    unseen = TestTasks(inputs.table, **asdict(spec.task))
    found = test(method, params, model_state, unseen, spec.tasks, key, spec.compute.tasks_at_once, heard)
    accuracy, accuracy_ci = evaluate.mean_interval(found.accuracy)
    loss, loss_ci = evaluate.mean_interval(found.loss)
    return Result(
        benchmark=spec.benchmark,
        method=spec.method,
        seed=spec.run,
        test_set=spec.test_set,
        accuracy=accuracy,
        accuracy_ci=accuracy_ci,
        loss=loss,
        loss_ci=loss_ci,
        train_images=inputs.train_images,
        train_classes=inputs.train_classes,
        batch_norm=spec.learner.batch_norm,
        net=spec.learner.net,
        pixels=spec.learner.pixels,
        tasks=spec.tasks,
        task_accuracy=found.accuracy,
        task_loss=found.loss,
    )


def test(
    method: Method,
    params: PyTree,
    model_state: PyTree,
    unseen: TestTasks,
    tasks: int,
    key: jax.Array,
    tasks_at_once: int,
    progress: Callable[[int], None] = lambda done: None,
) -> evaluate.Evaluation:
    """A method on test tasks, on every device. They depend on `key` and not on the method: all meet the same ones."""
    given = (method, params, model_state, unseen, key, tasks)
    return evaluate.evaluate(*given, progress=progress, tasks_at_once=tasks_at_once, mesh=all_devices())


def make(name: str, learner: Learner, settings: MethodSection, ways: int, classes: int, **more: Any) -> Method:
    """A method by its name, for a train split of `classes` classes.

    Args:
      more: other fields of the method's value.
    """
    net = make_network(learner.net, ways, learner.pixels, learner.width, learner.dropout, learner.compute)
    return make_method(name, net, ways, classes, {**asdict(settings), "batch_norm": learner.batch_norm, **more})
