"""Running a study: its units in their order, only those that are lacking, and what is shown at the end."""

from collections.abc import Iterable
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from rich.console import Console

from jaxdiv.errors import InputError
from jaxdiv.methods import train
from jaxdiv.report import report, survey
from jaxdiv.report.prose import conclusion, true_beside_measured
from jaxdiv.stats.analysis import Analysis
from jaxdiv.study.plan import Maker
from jaxdiv.study.progress import Watch
from jaxdiv.study.settings import check_stages, claim, in_flags
from jaxdiv.study.units import Unit, needed


@in_flags()
def run(config: ConfigDict, workdir: Path, stages: Iterable[str], console: Console) -> int:
    """Run what `stages` of the study still lack. Returns the exit code: 1 if a unit failed.

    Raises InputError for a configuration or a workdir that cannot be used.
    """
    stages = check_stages(stages)
    maker = Maker(config, workdir)
    config, units = maker.config, maker.plan()
    leads = jax.process_index() == 0
    if not leads:
        console = Console(quiet=True)
    if leads:
        maker.check_inputs(unit for unit in units if unit.stage in stages and not unit.done)
        claim(workdir, config)
    _all_here("claim")
    todo = [unit for unit in units if unit.stage in stages and not unit.done]
    _all_here("todo")
    console.print(f"{workdir}: {len(units)} units, {len(todo)} to run", highlight=False)
    failures: list[dict[str, str]] = []
    with Watch(console, todo) as watch:
        for unit in todo:
            if reason := _attempt(unit, watch, failures):
                failures.append({"unit": unit.name, "reason": reason})
    if not leads:
        return 1 if failures else 0
    for failure in failures:
        console.print(f"failed: {failure['unit']}: {failure['reason']}", style="red", markup=False, soft_wrap=True)
    if "prepare" in stages and not failures:
        maker.show_data(units, console)
    if not config.methods:
        if "report" in stages:
            _show_survey(maker, units, workdir / "report" / "report.html", console)
        return 1 if failures else 0
    correlated = maker.correlation(units)
    if "correlate" in stages and not correlated.done:
        correlated.execute(_silent)
    if "report" in stages:
        unit = maker.report(needed(correlated, "report"), failures)
        _show_report(unit, workdir / "report" / "report.html", config.evaluation.fixed_test_set, console)
    return 1 if failures else 0


def _attempt(unit: Unit, watch: Watch, failures: list[dict[str, str]]) -> str | None:
    """Run a unit; the reason if it failed in a way that must not cost the other units."""
    failed = {failure["unit"] for failure in failures}
    progress = watch.start(unit)
    lost = next((need.name for need in unit.inputs if need.name in failed), None)
    reason = f"{lost} failed" if lost else None
    if not lost:
        for need in unit.inputs:
            needed(need, unit.name)
        try:
            # Hosts of one job train together; what does not need them all is the first one's.
            if unit.stage == "train" or jax.process_index() == 0:
                unit.execute(progress)
        except train.Diverged as error:
            reason = str(error)
        except jax.errors.JaxRuntimeError as error:
            if not any(word in str(error) for word in ("RESOURCE_EXHAUSTED", "Out of memory")):
                raise
            raise InputError(f"{unit.name}: {_out_of_memory(unit.stage)}") from None
        _all_here(unit.name)
    watch.end(unit, f"failed: {reason}" if reason else "done")
    return reason


def _all_here(where: str) -> None:
    """Wait for the other hosts of this job, if there are any."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def _out_of_memory(stage: str) -> str:
    if stage == "train":
        lower = "--config.maml.meta_batch or --config.pt.batch, or set --config.maml.remat=true"
    elif stage in ("select", "diversity"):
        lower = "--config.probe.pixels"
    else:
        lower = "--config.learner.pixels or --config.learner.width"
    return f"out of memory on {jax.devices()[0].device_kind}: lower {lower}; the same command goes on from here"


def _show_report(unit: Unit, page: Path, test_set: str, console: Console) -> None:
    """Write the report unless it is there, and show its tables and its answer. test_set: the fixed one."""
    if not unit.done or not page.exists():
        with console.status("drawing the report"):
            unit.execute(_silent)
    found = Analysis.from_json(unit.inputs[0].result)
    first, second = report.terminal_tables(found, console.width)
    say = lambda text: console.print(text, "", sep="\n", highlight=False, markup=False)
    console.print(first)
    if scales := true_beside_measured(found.diversity):
        say(scales)
    console.print(second)
    say(conclusion(found, test_set))
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


def _show_survey(maker: Maker, units: Iterable[Unit], page: Path, console: Console) -> None:
    """Write the report of a study that trains nothing, unless it is there, and show what it says."""
    found = maker.surveyed(units)
    unit = maker.survey(units, found)
    if not unit.done or not page.exists():
        with console.status("drawing the report"):
            unit.execute(_silent)
    for part in survey.terminal(found, console.width):
        console.print(part, highlight=False, markup=False)
    console.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)


def _silent(share: float, note: str) -> None:
    pass


@in_flags()
def dry_run(config: ConfigDict, workdir: Path, stages: Iterable[str], console: Console) -> None:
    """Say of each unit whether it is done, would resume or would run. Writes nothing.

    Raises InputError as `run`, where a file that would be needed is missing after the list.
    """
    stages = check_stages(stages)
    maker = Maker(config, workdir)
    units = [unit for unit in maker.plan() if unit.stage in stages]
    for unit in units:
        step = train.latest_step(unit.scratch)
        state = "done" if unit.done else f"resume from step {step}" if step else "run"
        settings = ", ".join(f"{key}={value}" for key, value in unit.settings.items())
        console.print(f"{state:24} {unit.name}  ({settings})", highlight=False, markup=False, soft_wrap=True)
    maker.check_inputs(unit for unit in units if not unit.done)
