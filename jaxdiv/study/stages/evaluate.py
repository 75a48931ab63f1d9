"""Evaluate: what was trained -> its accuracy and cross-entropy on test tasks, which every method meets alike."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from jaxdiv.data.episodes import sample_tasks
from jaxdiv.data.table import ImageTable
from jaxdiv.methods import evaluate, train
from jaxdiv.methods.make import make_learner
from jaxdiv.study.keys import key_for
from jaxdiv.study.sections import MAML, NO_RESULT, Learner, Pretraining, Task
from jaxdiv.study.tables import Table
from jaxdiv.study.unit import ProgressFn


@dataclass(frozen=True)
class Spec:
    """What is tested, on what.

    Attributes:
      test_set: "own" or "fixed".
      where: the benchmark that this is; the draw of the tasks depends on its name.
      table: where the tasks are from.
      dropout: whether MAML drops in a test too.
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
    seed: int
    learner: Learner = field(metadata=NO_RESULT)
    settings: Pretraining | MAML = field(metadata=NO_RESULT)


@dataclass(frozen=True)
class Inputs:
    """The test split, the folder of the checkpoints, and how large the train split was."""

    table: ImageTable
    folder: Path
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


def run(spec: Spec, inputs: Inputs, progress: ProgressFn) -> Result:
    """Test the best checkpoint, or the latest where none was validated."""
    learner = make(spec.method, spec.learner, spec.settings, spec.task.ways, inputs.train_classes, spec.dropout)
    params, carried = train.load_params(inputs.folder, learner)
    heard = lambda done: progress(done / spec.tasks, "")
    key = key_for(spec.seed, "evaluate", spec.where)
    found = test(learner, params, carried, inputs.table, spec.task, spec.tasks, key, heard)
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
    learner: Any,
    params: Any,
    carried: Any,
    table: ImageTable,
    task: Task,
    tasks: int,
    key: jax.Array,
    progress: Callable[[int], None] = lambda done: None,
) -> evaluate.Evaluation:
    """A learner on tasks of `table`. They depend on `key` and not on the method: every method meets the same ones."""
    sample = lambda key, number: sample_tasks(key, table, **asdict(task), tasks=number)
    return evaluate.evaluate(learner, params, carried, sample, key, tasks, progress=progress)


def make(
    method: str,
    learner: Learner,
    settings: Pretraining | MAML,
    ways: int,
    classes: int,
    dropout: bool = False,
    mesh: Mesh | None = None,
) -> Any:
    """The learner of a method, for a train split of `classes` classes."""
    net = (learner.net, learner.pixels, learner.width, learner.dropout, learner.compute)
    inner: tuple = ()
    if isinstance(settings, MAML):
        summed = settings.grad_reduction == "sum"
        inner = (settings.inner_lr, settings.remat, settings.inner_params, settings.learn_inner_lr, summed)
    return make_learner(
        method, net, ways, classes, learner.batch_norm, inner or (0.0, False, "all", False, False), dropout, mesh
    )
