"""One shell command for each unit, for any scheduler: a script whose steps follow one another."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxdiv.study.unit import Unit
from jaxdiv.study.worker import unit_id


def script(units: Sequence[Unit], command: Sequence[str], folder: Path, after: Sequence[str]) -> Iterator[str]:
    """Its lines. Units of one step can run at the same time; a step needs all that is before it.

    Args:
      units: what is to be done, each after its inputs.
      command: the command of the study, program first, to which `--unit` is added.
      folder: where it is to be run.
      after: the stages that come after all units, which one process does.
    """
    steps = in_steps(units)
    count = len(steps) + bool(after)
    yield f"cd {shlex.quote(str(folder))}"
    for number, step in enumerate(steps, 1):
        together = f"{len(step)} units, at the same time or in any order" if len(step) > 1 else "1 unit"
        yield f"# step {number} of {count}: {together}"
        for unit in step:
            yield shlex.join([*command, f"--unit={unit_id(unit)}"])
    if after:
        yield f"# step {count} of {count}: statistics and report"
        yield shlex.join([*command, f"--stages={','.join(after)}"])


def in_steps(units: Sequence[Unit]) -> list[list[Unit]]:
    """Units by the number of others among them that must come before."""
    depth: dict[str, int] = {}
    for unit in units:
        depth[unit.name] = 1 + max((depth.get(need.name, 0) for need in unit.inputs), default=0)
    steps: list[list[Unit]] = [[] for _ in range(max(depth.values(), default=0))]
    for unit in units:
        steps[depth[unit.name] - 1].append(unit)
    return steps
