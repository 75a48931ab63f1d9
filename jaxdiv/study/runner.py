"""Running a study: its units in their order, only those that are missing, and what is shown at the end."""

import json
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from rich.console import Console

from jaxdiv.device_memory import out_of_memory
from jaxdiv.errors import InputError
from jaxdiv.files import replacing
from jaxdiv.methods.checkpointing import latest_step, trained_on
from jaxdiv.methods.metrics import Diverged
from jaxdiv.methods.registry import entry
from jaxdiv.report import data_sets, report, survey
from jaxdiv.report.prose import conclusion, true_beside_measured
from jaxdiv.stats.analysis import Analysis
from jaxdiv.study import config as door
from jaxdiv.study import manifest, planner
from jaxdiv.study.flags import in_flags
from jaxdiv.study.planner import Plan
from jaxdiv.study.progress import Watch
from jaxdiv.study.unit import ON_DEVICES, Unit, needed, platforms


@in_flags()
def run(config: ConfigDict, workdir: Path, stages: Iterable[str], console: Console) -> int:
    """Run the units of `stages` whose results are missing. Returns the exit code: 1 if a unit failed.

    Raises:
      InputError: something cannot be used; all that is known beforehand is checked before anything is written.
    """
    stages = planner.check_stages(stages)
    plan = planner.plan(door.read(config), workdir)
    asked = [unit for unit in plan.units if unit.stage in stages]
    todo = [unit for unit in asked if not unit.done]
    leads = jax.process_index() == 0
    if leads:
        planner.check_files(plan, todo)
        planner.check_sizes(plan, _to_check(plan, stages, todo))
        _say_found(plan, {unit.spec.base for unit in todo if unit.stage == "prepare"}, console)
        _record(plan)
    else:
        console = Console(quiet=True)
    _all_here("planned")
    console.print(f"{workdir}: {len(plan.units)} units, {len(todo)} to run", highlight=False)
    _say_platforms(plan, todo, console)
    failures: list[dict[str, str]] = []
    while todo:
        for unit in todo:
            for problem in unit.problems()[:1]:
                console.print(f"{unit.name} is made again: {problem}", highlight=False, markup=False, soft_wrap=True)
        with Watch(console, todo) as watch:
            for number, unit in enumerate(todo):
                if number and unit.stage != "prepare" and todo[number - 1].stage == "prepare":
                    planner.check_sizes(plan, todo[number:])
                if reason := _attempt(unit, watch, failures):
                    failures.append({"unit": unit.name, "reason": reason})
        # Where an input was made again and says something else, so is what was computed from it: the plan is finite.
        ran = {unit.name for unit in todo}
        todo = [unit for unit in asked if not unit.done and ran & {need.name for need in unit.inputs}]
        todo = [unit for unit in todo if unit.name not in {failure["unit"] for failure in failures}]
    if leads:
        _conclude(plan, stages, failures, console)
    return 1 if failures else 0


@in_flags()
def dry_run(config: ConfigDict, workdir: Path, stages: Iterable[str], console: Console) -> None:
    """Say of each unit whether it is done, would resume or would run. Writes nothing.

    Raises:
      InputError: as `run`; for a missing archive or file of weights, after the list.
    """
    stages = planner.check_stages(stages)
    plan = planner.plan(door.read(config), workdir)
    _say_found(plan, plan.own, console)
    units = [unit for unit in plan.units if unit.stage in stages]
    for unit in units:
        step = latest_step(unit.folder)
        state = "done" if unit.done else f"resume from step {step}" if step else "run"
        settings = ", ".join(f"{key}={value}" for key, value in unit.settings.items())
        console.print(f"{state:24} {unit.name}  ({settings})", highlight=False, markup=False, soft_wrap=True)
    missing = [unit for unit in units if not unit.done]
    _say_platforms(plan, missing, console)
    planner.check_files(plan, missing)
    planner.check_sizes(plan, _to_check(plan, stages, missing))


def _to_check(plan: Plan, stages: Sequence[str], todo: Sequence[Unit]) -> Sequence[Unit]:
    """The units whose splits must be large enough: all of the study where it is only prepared."""
    return todo if {*stages} - {"prepare"} else [unit for unit in plan.units if not unit.done]


def _say_found(plan: Plan, names: Container[str], console: Console) -> None:
    """What the user's data sets hold, before anything is computed."""
    task = plan.study.task
    for name, outlined in plan.outlines.items():
        for line in data_sets.found(name, outlined, task.ways, task.shots + task.queries) if name in names else ():
            console.print(line, highlight=False, markup=False)


def _say_platforms(plan: Plan, todo: Sequence[Unit], console: Console) -> None:
    """Which platforms' results and checkpoints will stand beside those of this run, if there are others."""
    here, new = jax.default_backend(), [unit for unit in todo if unit.stage in ON_DEVICES]
    if not new:
        return
    begun = Counter("+".join(trained_on(unit.folder)) for unit in new if unit.stage == "train")
    parts = [f"results from {name}: {count}" for name, count in platforms(plan.units).items() if name != here]
    parts += [f"checkpoints from {name}: {count}" for name, count in begun.items() if name not in ("", here)]
    if parts:
        text = f"note: {', '.join(parts)}; this run computes on {here}, which rounds differently (docs/performance.md)"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _attempt(unit: Unit, watch: Watch, failures: list[dict[str, str]]) -> str | None:
    """Run a unit; the reason if it failed in a way that must not cost the other units."""
    failed = {failure["unit"] for failure in failures}
    progress = watch.start(unit)
    lost = next((need.name for need in unit.inputs if need.name in failed), None)
    reason = f"{lost} failed" if lost else None
    if not lost:
        for need in unit.inputs:
            needed(need, unit.name)
        leads = jax.process_index() == 0
        if leads:
            unit.begin()
        _all_here(f"begin {unit.name}")
        try:
            # Hosts of one job train, test and embed together; what does not need them all is the first one's.
            if unit.stage in ("train", "evaluate", "embed", "select") or leads:
                unit.execute(progress)
        except Diverged as error:
            reason = str(error)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise InputError(f"{unit.name}: {_out_of_memory(unit)}") from None
        _all_here(unit.name)
    watch.end(unit, f"failed: {reason}" if reason else "done")
    return reason


def _all_here(where: str) -> None:
    """Wait for the other hosts of this job, if there are any."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def _record(plan: Plan) -> None:
    """`study.json`: what was last asked for in this workdir. It decides nothing."""
    file, text = plan.workdir / "study.json", json.dumps(door.flat(plan.study), indent=1)
    try:
        plan.workdir.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_bytes() != text.encode():
            with replacing(file) as temporary:
                temporary.write_text(text)
    except OSError as error:
        raise InputError(
            f"workdir {plan.workdir} cannot be written ({error.strerror}): choose another --workdir"
        ) from None


def _out_of_memory(unit: Unit) -> str:
    """What to set: first what changes no result, then what is another experiment."""
    device = jax.local_devices()[0]
    section = entry(unit.spec.method).section if unit.stage == "train" else ""
    same = [] if device.platform == "cpu" or section == "pt" else ["--config.compute.tasks_at_once=1"]
    if unit.stage in ("select", "embed"):
        same.append("--config.probe.chunk=1")
    if section == "maml":
        same.append("--config.maml.remat=true")
    if section:
        other = f"--config.{section}.{'batch_size' if section == 'pt' else 'meta_batch'}"
    else:
        other = "--config.probe.pixels" if unit.stage in ("select", "embed") else "--config.learner.pixels"
    keeping = f"set {' and '.join(same)}, which changes no result; if that is not enough, " if same else ""
    return (
        f"out of memory on {device.device_kind}: {keeping}lower {other}, which makes another experiment; "
        f"the same command resumes from here"
    )


def _conclude(plan: Plan, stages: Sequence[str], failures: list[dict[str, str]], console: Console) -> None:
    """What comes after the units: the data folder, statistics over all that is done, the report."""
    for failure in failures:
        console.print(f"failed: {failure['unit']}: {failure['reason']}", style="red", markup=False, soft_wrap=True)
    if "prepare" in stages and not failures and (file := manifest.write(plan)):
        for line in manifest.news(plan):
            console.print(line, highlight=False, markup=False)
        console.print(f"data: {file} and a contact sheet of each benchmark", highlight=False, soft_wrap=True)
    if not plan.study.methods:
        if "report" in stages:
            _report(planner.reporting(plan, None), console)
            for part in survey.terminal(planner.surveyed(plan), console.width):
                console.print(part, highlight=False, markup=False)
            _say_where(plan, console)
        return
    correlated = planner.correlation(plan)
    if "correlate" in stages and not correlated.done:
        correlated.begin()
        correlated.execute(_silent)
    if "report" in stages:
        _report(planner.reporting(plan, needed(correlated, "report"), failures), console)
        _show_tables(plan, correlated, console)
        _say_where(plan, console)


def _report(unit: Unit, console: Console) -> None:
    """Write the report unless it is there as it was written."""
    if not unit.done:
        with console.status("drawing the report"):
            unit.execute(_silent)


def _show_tables(plan: Plan, correlated: Unit, console: Console) -> None:
    """A study's tables and its answer."""
    found = Analysis.from_json(correlated.result)
    first, second = report.terminal_tables(found, console.width)
    say = lambda text: console.print(text, "", sep="\n", highlight=False, markup=False)
    console.print(first)
    if scales := true_beside_measured(found.diversity):
        say(scales)
    console.print(second)
    say(conclusion(found, plan.study.evaluation.fixed_test_set))


def _say_where(plan: Plan, console: Console) -> None:
    page = plan.workdir / "report" / "report.html"
    console.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)


def _silent(share: float, note: str) -> None:
    pass
