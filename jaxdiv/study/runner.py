"""Running a study: its units in their order, only those that are missing, and what is shown at the end."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict
from rich.console import Console

from jaxdiv.errors import InputError
from jaxdiv.files import replacing
from jaxdiv.methods.checkpointing import trained_on
from jaxdiv.report import data_sets, report, survey
from jaxdiv.report.prose import conclusion, true_beside_measured
from jaxdiv.stats.analysis import Analysis
from jaxdiv.study import checks, last_stages, lease, manifest, planner, verify, worker
from jaxdiv.study import config as door
from jaxdiv.study.driver import Work
from jaxdiv.study.flags import in_flags
from jaxdiv.study.launchers import Launcher
from jaxdiv.study.launchers.commands import script
from jaxdiv.study.overview import overview
from jaxdiv.study.planner import Plan
from jaxdiv.study.progress import Watch
from jaxdiv.study.unit import ON_DEVICES, Unit, platforms

READING = {"correlate", "report"}  # the stages that can run while another process drives the study


@in_flags()
def run(
    config: ConfigDict,
    workdir: Path,
    stages: Iterable[str],
    console: Console,
    units: Sequence[str] = (),
    launch: Callable[[door.Study], Launcher | None] = lambda study: None,
) -> int:
    """Run the units of `stages` whose results are missing. Returns the exit code: 1 if a unit failed.

    Args:
      units: patterns of names, as `train/gauss-*/pt/*`: only these units, and what they need.
      launch: makes what runs the units elsewhere; None: this process does.

    Raises:
      InputError: something cannot be used; all that is known beforehand is checked before anything is written. Another
        process drives a study in this workdir.
    """
    stages = checks.check_stages(stages)
    plan = planner.plan(door.read(config), workdir)
    asked = checks.chosen(plan, stages, units)
    todo = [unit for unit in asked if not unit.done]
    leads = jax.process_index() == 0
    if leads:
        checks.check_files(plan, todo)
        checks.check_sizes(plan, _to_check(plan, stages, todo))
        checks.check_needs(todo)
    else:
        console = Console(quiet=True)
    held: lease.Lease | None = None
    with contextlib.ExitStack() as stack:
        if leads:
            if todo:
                say = partial(console.print, highlight=False, markup=False)
                held = stack.enter_context(lease.driving(workdir / "running" / "driver.json", say))
            for line in _found(plan, {unit.spec.base for unit in todo if unit.stage == "prepare"}):
                console.print(line, highlight=False, markup=False)
            if not set(stages) <= READING:
                _record(plan)
        worker.all_here("planned")
        console.print(f"{workdir}: {len(plan.units)} units, {len(todo)} to run", highlight=False)
        failures: list[dict[str, str]] = []
        while todo:
            for unit in todo:
                for problem in unit.problems()[:1]:
                    line = f"{unit.name} is made again: {problem}"
                    console.print(line, highlight=False, markup=False, soft_wrap=True)
            launcher = launch(plan.study)
            if launcher is None:
                _say_platforms(plan, todo, console)
            failures += Work(plan, list(todo), launcher, config, console, held).done()
            # Where an input was made again and says something else, what was computed from it is made again too.
            ran, failed = {unit.name for unit in todo}, {failure["unit"] for failure in failures}
            todo = [unit for unit in asked if not unit.done and ran & {need.name for need in unit.inputs}]
            todo = [unit for unit in todo if unit.name not in failed]
        if leads:
            _conclude(plan, stages, failures, console)
    return 1 if failures else 0


@in_flags()
def dry_run(
    config: ConfigDict,
    workdir: Path,
    stages: Iterable[str],
    console: Console,
    units: Sequence[str] = (),
    here: bool = True,
) -> None:
    """Say of each unit how it is, and how long the rest takes. Writes nothing, and another process may be at work.

    Args:
      here: this process would run the units, on its own devices.

    Raises:
      InputError: as `run`; for a missing archive or file of weights, after the list.
    """
    stages = checks.check_stages(stages)
    plan = planner.plan(door.read(config), workdir)
    for line in _found(plan, plan.own):
        console.print(line, highlight=False, markup=False)
    listed = checks.chosen(plan, stages, units)
    console.out(overview(plan, listed), highlight=False)
    missing = [unit for unit in listed if not unit.done]
    if here:
        _say_platforms(plan, missing, console)
    checks.check_files(plan, missing)
    checks.check_sizes(plan, _to_check(plan, stages, missing))


@in_flags()
def commands(
    config: ConfigDict, workdir: Path, stages: Iterable[str], units: Sequence[str], command: Sequence[str]
) -> Iterator[str]:
    """A script, line by line, of what `run` would do: a command for each unit. Writes nothing.

    Raises:
      InputError: as `run`.
    """
    stages = checks.check_stages(stages)
    plan = planner.plan(door.read(config), workdir)
    todo = [unit for unit in checks.chosen(plan, stages, units) if not unit.done]
    checks.check_files(plan, todo)
    checks.check_sizes(plan, _to_check(plan, stages, todo))
    checks.check_needs(todo)
    # The first stage has nothing left to do then but the data folder.
    after = [stage for stage in stages if stage in {"prepare", *READING}]
    return script(todo, command, Path.cwd(), after)


@in_flags()
def verify_results(config: ConfigDict, workdir: Path, units: Sequence[str], console: Console) -> int:
    """Read every file of every result and compare it with its checksum. Writes nothing.

    Returns the exit code: 1 if something no longer matches.

    Raises:
      InputError: as `dry_run`.
    """
    plan = planner.plan(door.read(config), workdir)
    listed = checks.chosen(plan, planner.STAGES, units)
    correlated = last_stages.correlation(plan)
    if plan.study.methods and not units:
        listed += [correlated, last_stages.reporting(plan, correlated, _all_failures(plan, []))]
    elif not units:
        listed.append(last_stages.reporting(plan, None, _all_failures(plan, [])))
    problems = [f"{unit.name}: {line}" for unit in listed for line in verify.verify(unit)]
    for line in problems:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    there = sum((unit.folder / "result.json").exists() for unit in listed)
    again = "; a run makes what is damaged again" if problems else ""
    console.print(f"{there} results read, {len(problems)} problems{again}", highlight=False)
    return 1 if problems else 0


@in_flags()
def run_unit(config: ConfigDict, workdir: Path, asked: str, console: Console) -> int:
    """Run the unit NAME/DIGEST, for whatever scheduler there is. Returns the exit code: 1 if it failed.

    Raises:
      InputError: as `worker.find` and `worker.perform`.
    """
    plan = planner.plan(door.read(config), workdir)
    unit = worker.find(plan, asked)
    if unit.done:
        console.print(f"{unit.name}: done already", highlight=False)
        return 0
    checks.check_files(plan, [unit])
    checks.check_sizes(plan, [unit])
    with Watch(console, [unit]) as watch:
        reason = worker.perform(unit, watch.start(unit))
        watch.end(unit, f"failed: {reason}" if reason else "done")
    return 1 if reason else 0


def _to_check(plan: Plan, stages: Sequence[str], todo: Sequence[Unit]) -> Sequence[Unit]:
    """The units whose splits must be large enough: all of the study where it is only prepared."""
    return todo if {*stages} - {"prepare"} else [unit for unit in plan.units if not unit.done]


def _found(plan: Plan, names: Container[str]) -> list[str]:
    """What the user's data sets of these names hold, in lines, before anything is computed."""
    task = plan.study.task
    sets = {name: outlined for name, outlined in plan.outlines.items() if name in names}
    size = task.ways, task.shots + task.queries
    return [line for name, outlined in sets.items() for line in data_sets.found(name, outlined, *size)]


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


def _conclude(plan: Plan, stages: Sequence[str], failures: list[dict[str, str]], console: Console) -> None:
    """What comes after the units: the data folder, statistics over all that is done, the report."""
    for failure in failures:
        console.print(f"failed: {failure['unit']}: {failure['reason']}", style="red", markup=False, soft_wrap=True)
    whole = "prepare" in stages and all(unit.done for unit in plan.prepared.values())
    if whole and not failures and (file := manifest.write(plan)):
        for line in manifest.news(plan):
            console.print(line, highlight=False, markup=False)
        console.print(f"data: {file} and a contact sheet of each benchmark", highlight=False, soft_wrap=True)
    if not READING & {*stages}:
        return
    correlated = last_stages.correlation(plan)
    if not correlated.inputs:
        if set(stages) <= READING:
            raise InputError(f"nothing in {plan.workdir} is finished yet: add diversity to `stages`")
        console.print("nothing is measured yet, so there is no report", highlight=False)
        return
    if plan.study.methods:
        worker.perform(correlated, _silent, together=False)
    if "report" in stages:
        failures = _all_failures(plan, failures)
        _report(last_stages.reporting(plan, correlated if plan.study.methods else None, failures), console)
        _show_tables(plan, correlated, console)
        say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
        if plan.choice and plan.choice.done:
            say(f"choice: {plan.workdir / 'report' / 'choice.csv'}")
        say(f"report: {plan.workdir / 'report' / 'report.html'}")


def _all_failures(plan: Plan, failures: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The failures of this run, and of earlier ones those that nothing has made good since."""
    now = {each["unit"] for each in failures}
    rest = [unit for unit in plan.units if unit.name not in now and not unit.done]
    idle = [unit for unit in rest if not lease.working(worker.lease_file(unit))]
    return [*failures, *({"unit": unit.name, "reason": why} for unit in idle if (why := worker.failure(unit)))]


def _report(unit: Unit, console: Console) -> None:
    """Write the report unless it is there as it was written."""
    if not unit.done:
        with console.status("drawing the report"):
            worker.perform(unit, _silent, again=True, together=False)


def _show_tables(plan: Plan, correlated: Unit, console: Console) -> None:
    """A study's tables and its answer; of a study that trains nothing, the coefficients."""
    say = lambda part: console.print(part, highlight=False, markup=False)
    if not plan.study.methods:
        for part in survey.terminal(last_stages.surveyed(plan), console.width):
            say(part)
        return
    found = Analysis.from_json(correlated.result)
    first, second = report.terminal_tables(found, console.width)
    console.print(first)
    if scales := true_beside_measured(found.diversity):
        say(f"{scales}\n")
    console.print(second)
    say(f"{conclusion(found, plan.study.evaluation.fixed_test_set)}\n")


def _silent(share: float, note: str) -> None:
    pass
