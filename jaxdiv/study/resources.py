"""The section `launch` of the configuration: what a unit of each stage asks of a cluster. It changes no result."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from jaxdiv.study.sections import OneOf, Range, Section

CLUSTERS = ("slurm", "local")


@dataclass(frozen=True)
class Resources(Section):
    """What one unit asks for. `partition` is SLURM's, `tpus` are Ray's, `minutes` SLURM's limit for one job."""

    partition: str
    cpus: Annotated[int, Range(1)]
    memory_gb: Annotated[int, Range(1)]
    gpus: Annotated[int, Range(0)]
    tpus: Annotated[int, Range(0)]
    minutes: Annotated[int, Range(1)]


class Prepare(Resources):
    PATH: ClassVar[str] = "launch.prepare."


class Select(Resources):
    PATH: ClassVar[str] = "launch.select."


class Embed(Resources):
    PATH: ClassVar[str] = "launch.embed."


class Diversity(Resources):
    PATH: ClassVar[str] = "launch.diversity."


class Train(Resources):
    PATH: ClassVar[str] = "launch.train."


class Evaluate(Resources):
    PATH: ClassVar[str] = "launch.evaluate."


@dataclass(frozen=True)
class Launch(Resources):
    """How units are handed to a cluster. Each stage has resources of its own, which follow the general ones.

    Attributes:
      retries: how often a unit is tried again whose process died without getting further.
      cluster: submitit's executor; `local` runs its jobs as processes here, to try things out.
      account, qos: SLURM's; empty: the user's own.
      setup: lines of shell before a SLURM job.
      requeues: how often a SLURM job that reached its limit of minutes is queued again.
    """

    PATH: ClassVar[str] = "launch."
    retries: Annotated[int, Range(0)]
    cluster: Annotated[str, OneOf("cluster", CLUSTERS)]
    account: str
    qos: str
    setup: tuple
    requeues: Annotated[int, Range(0)]
    prepare: Prepare
    select: Select
    embed: Embed
    diversity: Diversity
    train: Train
    evaluate: Evaluate

    def of(self, stage: str) -> Resources:
        """What a unit of `stage` asks for."""
        return getattr(self, stage)
