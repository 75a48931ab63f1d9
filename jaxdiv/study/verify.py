"""Verify: every file of a unit's result read and compared with what was written."""

from jaxdiv.methods import checkpointing
from jaxdiv.study.unit import Unit


def verify(unit: Unit) -> list[str]:
    """What no longer matches of a unit: its result, arrays, tables and checkpoints, those of an unfinished run as well.

    Reads every file, whatever its size and times say.

    Returns:
      A line for each problem, without the unit's name; none where all is whole, or where nothing is there yet.
    """
    problems = unit.problems(thorough=True)
    for step in checkpointing.steps(unit.folder):
        if damage := checkpointing.damage(unit.folder, step):
            problems.append(f"checkpoint {step} {damage}")
    return problems
