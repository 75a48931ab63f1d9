"""Diversity: embeddings of a benchmark's tasks -> its coefficient with an interval: a row of Table 1."""

from dataclasses import dataclass, field

from jaxdiv.study.sections import NO_RESULT
from jaxdiv.study.stages import embed
from jaxdiv.study.unit import ProgressFn
from jaxdiv.task2vec.coefficient import complexity, diversity, noise_floor


@dataclass(frozen=True)
class Spec:
    """How the coefficient is made; `embedded` says how the embeddings were.

    Attributes:
      own: whether any of the images are the user's own.
      true_diversity: of a benchmark that is generated, in closed form.
    """

    distance: str
    interval: str
    own: bool
    true_diversity: float | None
    embedded: embed.Spec = field(metadata=NO_RESULT)  # the input's digest has it


@dataclass(frozen=True)
class Result:
    """A row of Table 1: the value, and everything that it was measured with."""

    benchmark: str
    probe: str
    diversity: float
    ci_low: float
    ci_high: float
    tasks: int
    estimator: str
    head: str
    distance: str
    interval: str
    own: bool
    augment: bool
    pixels: int
    weights: str
    ways: int
    shots: int
    queries: int
    noise_floor: float | None
    complexity: float
    true_diversity: float | None


def run(spec: Spec, inputs: embed.Result, progress: ProgressFn) -> Result:
    """The coefficient.

    Raises:
      InputError: the embeddings do not suit the distance.
    """
    how, rows, again = spec.embedded, inputs.embeddings, inputs.again
    value, low, high = diversity(rows, spec.distance, spec.interval)
    return Result(
        benchmark=how.benchmark,
        probe=how.probe,
        diversity=value,
        ci_low=low,
        ci_high=high,
        tasks=how.tasks,
        estimator=how.estimator,
        head=how.head,
        distance=spec.distance,
        interval=spec.interval,
        own=spec.own,
        augment=how.augment,
        pixels=how.table.pixels,
        weights=how.weights,
        ways=how.task.ways,
        shots=how.task.shots,
        queries=how.task.queries,
        noise_floor=noise_floor(rows[: len(again)], again, spec.distance) if len(again) else None,
        complexity=complexity(rows).value,
        true_diversity=spec.true_diversity,
    )
