"""What is known before a unit runs: the stages and units that are asked for, missing files, splits too small."""

import difflib
import fnmatch
from collections.abc import Iterable, Sequence

import numpy as np

from jaxdiv.data.prepare import check_inputs
from jaxdiv.errors import InputError, unknown
from jaxdiv.probes.weights import check_weights
from jaxdiv.study import samplers, subsets, tables
from jaxdiv.study.planner import STAGES, Plan, table_folder
from jaxdiv.study.stages import select
from jaxdiv.study.unit import Unit, needed


def check_stages(stages: Iterable[str]) -> tuple[str, ...]:
    """The stages that are asked for, in their order. `diversity` asks for `embed` too.

    Raises:
      InputError: an unknown stage.
    """
    asked = set(stages)
    for stage in sorted(asked - {*STAGES}):
        raise unknown("stage", stage, STAGES)
    return tuple(stage for stage in STAGES if stage in asked or (stage == "embed" and "diversity" in asked))


def check_files(plan: Plan, missing: Iterable[Unit]) -> None:
    """Raise InputError for a file or folder of the user's that the units in `missing` need and that is not there.

    Known at once, while the unit itself may come hours later.
    """
    for unit in missing:
        if unit.stage == "prepare":
            check_inputs(unit.spec.base, unit.spec.data)
        elif unit.stage in ("select", "embed") and (weights := plan.study.weights):
            check_weights(plan.study.probe.name, weights)


def check_sizes(plan: Plan, missing: Iterable[Unit]) -> None:
    """Raise InputError where a split that the units in `missing` use has too few classes or images for a task.

    Of a benchmark of archives that are not prepared yet, this is not known.
    """
    study, checked = plan.study, set()
    for unit in missing:
        for table in (getattr(unit.spec, name, None) for name in ("table", "validation")):
            if table is None or table in checked:
                continue
            checked.add(table)
            parts = plan.parts(table.source, table.pixels)
            folders = [table_folder(need) if need.done else None for need in parts]
            found = tables.outline(table, folders, study.data_settings, plan.outlines)
            if found is None or table.chosen:
                continue
            if unit in plan.candidates:
                choosable = int((np.asarray(found.dataset) < len(study.bases(study.pool))).sum())
                if study.choice.classes > choosable:
                    raise InputError(
                        f"--config.choice.classes is {study.choice.classes}: {study.pool} has {choosable} classes in "
                        f"its train split"
                    )
            if unit is plan.pool:
                rows, chosen = select.candidates(unit.spec, found), study.controlled
                subsets.check_choice(np.asarray(found.dataset)[rows], chosen.classes, chosen.subsets)
            else:
                used = tables.check(table, found, study.task, plan.outlines)
                if isinstance(table, samplers.Chosen):
                    samplers.check_size(table, len(used.classes))


def chosen(plan: Plan, stages: Iterable[str], globs: Sequence[str]) -> list[Unit]:
    """The units of `stages`; with `globs`, those whose names fit one of these patterns, and what they need.

    Raises:
      InputError: a pattern that no unit's name fits.
    """
    units = [unit for unit in plan.units if unit.stage in set(stages)]
    if not globs:
        return units
    wanted: set[str] = set()
    for pattern in globs:
        fitting = [unit for unit in units if fnmatch.fnmatchcase(unit.name, pattern)]
        if not fitting:
            near = difflib.get_close_matches(pattern, [unit.name for unit in units], n=3, cutoff=0.4)
            hint = f": did you mean {' or '.join(near)}?" if near else ";"
            raise InputError(f"no unit of these stages is named like `units`={pattern}{hint} --dry_run lists them all")
        wanted |= {unit.name for unit in fitting}
    for unit in reversed(units):
        if unit.name in wanted:
            wanted |= {need.name for need in unit.inputs}
    return [unit for unit in units if unit.name in wanted]


def check_needs(todo: Sequence[Unit]) -> None:
    """Raise InputError where a unit needs a result that is neither there nor about to be made."""
    coming = {unit.name for unit in todo}
    for unit in todo:
        for need in unit.inputs:
            if need.name not in coming:
                needed(need, unit.name)
