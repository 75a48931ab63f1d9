"""Report: what was found -> a folder for people, with report.html in it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdiv.report import report, survey
from jaxdiv.report.curves import read_curve, write_curves
from jaxdiv.stats.analysis import Analysis
from jaxdiv.study.sections import NO_RESULT
from jaxdiv.study.unit import ProgressFn


@dataclass(frozen=True)
class Spec:
    """What the report shows besides what was found.

    Attributes:
      fixed_test_set: as the user named it: the union of all data sets spelt out would fill a figure's title.
      generated: the benchmarks whose every image is generated.
      failures: the units that failed, and why.
      unfinished: as in `report.write_report`.
      settings: of the study, shown as they are.
    """

    title: str
    fixed_test_set: str
    generated: tuple[str, ...]
    failures: tuple[Mapping[str, str], ...]
    unfinished: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any] = field(metadata=NO_RESULT)


@dataclass(frozen=True)
class Inputs:
    """What is drawn.

    Attributes:
      found: what statistics say of a study that trains, or what a study without training measured.
      curves: benchmark, method and folder of each run that was trained.
      contact_sheets: PNG files by benchmark.
      provenance: what the report is made with, and when.
      folder: gets the report.
      former: the files of an earlier report there.
    """

    found: Analysis | survey.Survey
    curves: Sequence[tuple[str, str, Path]]
    contact_sheets: Mapping[str, Path]
    provenance: Mapping[str, Any]
    folder: Path
    former: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """The files of the report."""

    files: list[str]


def run(spec: Spec, inputs: Inputs, progress: ProgressFn) -> Result:
    """Write the report whole, then replace the earlier one and remove those of its files that are not in this one."""
    fresh = inputs.folder.with_name(f".{inputs.folder.name}.unfinished")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _write(spec, inputs, fresh)
        inputs.folder.mkdir(parents=True, exist_ok=True)
        names = sorted(file.name for file in fresh.iterdir())
        for name in names:
            if (inputs.folder / name).is_dir():  # no file can take its place
                shutil.rmtree(inputs.folder / name)
            (fresh / name).replace(inputs.folder / name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # what is left on a full disk is in the way of everything else
    for name in set(inputs.former) - set(names):
        (inputs.folder / name).unlink(missing_ok=True)
    return Result(names)


def _write(spec: Spec, inputs: Inputs, folder: Path) -> None:
    if isinstance(inputs.found, survey.Survey):
        survey.write_survey(
            folder, inputs.found, spec.settings, inputs.provenance, inputs.contact_sheets, spec.unfinished
        )
        return
    report.write_report(
        folder,
        inputs.found,
        spec.settings,
        inputs.provenance,
        spec.failures,
        spec.fixed_test_set,
        inputs.contact_sheets,
        spec.title,
        spec.generated,
        spec.unfinished,
    )
    write_curves(folder, [read_curve(name, method, run / "metrics.jsonl") for name, method, run in inputs.curves])
