"""Train: a benchmark's train split and a method -> checkpoints and metrics."""

import math
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax

from jaxdiv.data.table import ImageTable
from jaxdiv.methods import train
from jaxdiv.methods.checkpointing import checksum, latest_step
from jaxdiv.methods.hard import HardTasks
from jaxdiv.methods.metrics import Diverged
from jaxdiv.methods.parallel import all_devices, make_mesh
from jaxdiv.methods.registry import entry
from jaxdiv.methods.sampling import TestTasks, spread_table
from jaxdiv.methods.step import TrainSettings
from jaxdiv.study.keys import key_for
from jaxdiv.study.samplers import Mined
from jaxdiv.study.sections import NO_RESULT, Compute, Episodic, Learner, MethodSection, Task, Training
from jaxdiv.study.stages.evaluate import make, test
from jaxdiv.study.tables import Table
from jaxdiv.study.unit import ProgressFn, in_its_precision


@dataclass(frozen=True)
class Spec:
    """What is trained, how.

    Attributes:
      method: with as many inner steps as are trained with.
      steps: outer steps at most. Where nothing else depends on their number, a longer run begins with a shorter one.
      settings: of the method.
      compute: how a device computes.
      validation, validation_tasks: of which tasks; None: it is not validated.
      seed, run: of the study, and of this run among those of the same benchmark and method.
      unit: the unit's name, which its checkpoints carry.
    """

    benchmark: str
    method: str
    table: Table
    validation: Table | None
    validation_tasks: int | None
    task: Task
    learner: Learner
    settings: MethodSection
    compute: Compute
    training: Training
    steps: int
    augment: bool
    seed: int
    run: int
    unit: str = field(metadata=NO_RESULT)

    @property
    def grows(self) -> bool:
        """Whether a run of more steps begins with this one."""
        return self.training.schedule == "constant"


@dataclass(frozen=True)
class Inputs:
    """The train split, the validation split if it is validated, and the folder for checkpoints and metrics."""

    table: ImageTable
    validation: ImageTable | None
    folder: Path


@dataclass(frozen=True)
class Result:
    """How training ended.

    Attributes:
      platforms: on which it was trained.
      tasks_at_once, remat: how the steps of a method that trains on tasks were computed.
      checkpoint: the step of the checkpoint that is tested: the best, or the last where it was not validated.
      checksum: of its parameters and model state.
      best_step, best_accuracy: where it was validated.
    """

    step: int
    loss: float
    accuracy: float
    ended: str
    seconds: float = field(metadata=NO_RESULT)
    platforms: list[str] = field(metadata=NO_RESULT)
    train_classes: int
    train_images: int
    checkpoint: int
    checksum: str
    best_step: int | None = None
    best_accuracy: float | None = None
    tasks_at_once: int | None = field(default=None, metadata=NO_RESULT)
    remat: bool | None = field(default=None, metadata=NO_RESULT)


@in_its_precision
def run(spec: Spec, inputs: Inputs, progress: ProgressFn) -> Result:
    """Train, from the last checkpoint in the folder if there is one. Raises as `methods.train.train`."""
    settings, task = spec.settings, asdict(spec.task)
    mesh, tasks_at_once = make_mesh(settings.size), spec.compute.tasks_at_once
    table = spread_table(inputs.table, mesh)
    how = dict(mesh=mesh, tasks_at_once=tasks_at_once)
    method = make(spec.method, spec.learner, settings, spec.task.ways, len(table.classes), **how)
    if isinstance(spec.table, Mined):
        method = HardTasks(method, spec.table.among, mesh, tasks_at_once)
    unseen = TestTasks(inputs.validation, **task).spread(all_devices()) if inputs.validation else None

    def sample(key: jax.Array) -> Any:
        return method.sample(key, table, settings.size, **task, augment=spec.augment)

    def validate(params: Any, model_state: Any) -> dict[str, float]:
        assert unseen is not None and spec.validation_tasks is not None
        key = key_for(spec.seed, "validate", spec.benchmark)
        try:
            found = test(method, params, model_state, unseen, spec.validation_tasks, key, tasks_at_once)
        except Diverged:  # these parameters are no candidate for the best, and later ones may be
            return {"accuracy": 0.0, "loss": math.nan}
        return {"accuracy": float(found.accuracy.mean()), "loss": float(found.loss.mean())}

    def note(step: int, metrics: dict[str, float]) -> None:
        loss, share, rate = metrics["loss"], metrics["accuracy"], metrics["steps_per_second"]
        word = f"step {step}/{spec.steps}  loss {loss:.3f}  accuracy {share:.3f}  {rate:.3g} steps/s"
        progress(step / spec.steps, word)

    loop = asdict(spec.training)
    del loop["validation_tasks"]
    found = train.train(
        method,
        sample,
        # Not a function of the method: all of them start from the same draws.
        key_for(spec.seed, "train", spec.benchmark, spec.run),
        TrainSettings(steps=spec.steps, learning_rate=settings.learning_rate, **loop),
        inputs.folder,
        validate if spec.validation else None,
        {"unit": spec.unit},
        mesh,
        note,
    )
    tested = found.get("best_step") or found["step"]
    leads = jax.process_index() == 0
    return Result(
        **found,
        train_classes=len(table.classes),
        train_images=len(table.images),
        checkpoint=tested,
        checksum=checksum(inputs.folder, tested) if leads else "",  # the first host alone keeps the result
    )


def cost(spec: Spec) -> float:
    """The seconds that it takes on two cores, roughly."""
    inner, task = entry(spec.method).fields, spec.task
    each = 1.0 if inner.get("first_order", True) else 2.5
    inner_steps = inner.get("inner_steps", 0) * each
    images = spec.settings.size * (1 + spec.table.among / 3 if isinstance(spec.table, Mined) else 1)
    if isinstance(spec.settings, Episodic):  # of tasks; each inner step sees the support again
        images *= task.ways * (task.shots * (1 + inner_steps) + task.queries)
    return spec.steps * ((1 + inner_steps) / 140 + images * 3 * forward_seconds(spec.learner))


def forward_seconds(learner: Learner) -> float:
    """The seconds that an image takes through a network on two cores, roughly; a gradient takes three times as long."""
    # Multiply-adds per pixel of an image: four pooled stages, of ResNet-12 at its one width.
    each = 500_000 if learner.net == "resnet12" else 27 * learner.width + 3 * learner.width**2
    return each * learner.pixels**2 / 25e9


def adopt(folder: Path, shorter: Iterable[Path], steps: int) -> None:
    """Copy the furthest of the runs in `shorter` into `folder`, if it is further than the one there.

    A run that has gone past `steps` is of no use: of its checkpoints only the latest are kept.
    """
    furthest = max(shorter, key=lambda other: _usable(other, steps), default=folder)
    if _usable(furthest, steps) <= latest_step(folder):
        return
    unfinished = folder / ".checkpoints.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(furthest / "checkpoints", unfinished)
    if (furthest / "metrics.jsonl").is_file():
        shutil.copy(furthest / "metrics.jsonl", folder)
    if (furthest / "tensorboard").is_dir():
        shutil.copytree(furthest / "tensorboard", folder / "tensorboard", dirs_exist_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    unfinished.rename(folder / "checkpoints")


def _usable(folder: Path, steps: int) -> int:
    """The latest step of a run, 0 where it has gone past `steps`."""
    latest = latest_step(folder)
    return latest if latest <= steps else 0
