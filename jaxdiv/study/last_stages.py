"""The last two stages of a study, correlate and report: of whatever is done, since a failed unit must not cost the
others' result."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from jaxdiv.data import registry, synthetic
from jaxdiv.report import survey
from jaxdiv.report.choice import Choice
from jaxdiv.stats.analysis import Analysis
from jaxdiv.study import samplers
from jaxdiv.study.config import Study, as_config
from jaxdiv.study.planner import Plan, shown
from jaxdiv.study.stages import correlate, report
from jaxdiv.study.unit import ProgressFn, Unit, needed, platforms, provenance
from jaxdiv.task2vec.classes import Gain


def correlation(plan: Plan) -> Unit:
    """Diversity against performance."""
    measured = {name: unit for name, unit in plan.measured.items() if unit.done}
    tested = [unit for unit in plan.tested.values() if unit.done]
    shares = {name: data_shares(plan.study, name) for name in plan.study.names}
    counterparts = samplers.counterparts(plan.study.names)
    spec = correlate.Spec(shares, plan.subsets is not None, counterparts)

    def work(unit: Unit, progress: ProgressFn) -> Analysis:
        inputs = correlate.Inputs(
            [need.result for need in measured.values()],
            {name: plan.embedded[name].arrays["embeddings"] for name in measured},
            [(need.result, need.arrays) for need in tested],
        )
        return correlate.run(spec, inputs, progress)

    return Unit("correlate", spec, work, plan.workdir / "units", (*measured.values(), *tested))


def data_shares(study: Study, benchmark: str) -> dict[str, float]:
    """The share of each data set in a benchmark's tasks. The user's sets of one path are one set."""
    first: dict[str, str] = {}
    for base in sorted(study.own, key=lambda name: (len(name), name)):
        first.setdefault(study.own[base].path, base)
    found: dict[str, float] = {}
    for base, share in registry.shares(study.source(benchmark), study.own).items():
        whole = first[study.own[base].path] if base in study.own else base
        found[whole] = found.get(whole, 0.0) + share
    return found


def reporting(plan: Plan, correlated: Unit | None, failures: Sequence[Mapping[str, str]] = ()) -> Unit:
    """The report: of what was correlated, or of diversity alone. Of a study that is not finished, of what is done."""
    study, folder = plan.study, plan.workdir / "report"
    title = f"Diversity and performance: {plan.workdir.resolve().name}"
    generated = tuple(
        name for name in study.names if all(synthetic.spread(base) is not None for base in study.bases(name))
    )
    test_set = study.evaluation.fixed_test_set
    unfinished = _unfinished(plan, {failure["unit"] for failure in failures})
    spec = report.Spec(title, test_set, generated, tuple(failures), unfinished, as_config(study))

    def work(unit: Unit, progress: ProgressFn) -> report.Result:
        inputs = report.Inputs(
            Analysis.from_json(correlated.result) if correlated else surveyed(plan),
            [(name, method, need.folder) for (name, method, _), need in plan.trained.items() if need.done],
            {name: plan.workdir / "data" / f"{name}.png" for name in shown(study)},
            {**provenance(), "results_from": platforms(plan.units), "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z")},
            folder,
            unit.previous.get("files", ()),
        )
        return report.run(spec, inputs, progress)

    measured = (*plan.prepared.values(), *plan.measured.values(), *filter(None, (plan.choice,)))
    inputs = (correlated,) if correlated else tuple(filter(_is_done, measured))
    keeps = lambda result: result["files"]
    return Unit("report", spec, work, plan.workdir / "units", inputs, at=folder, keeps=keeps)


def surveyed(plan: Plan) -> survey.Survey:
    """What a study that trains nothing measured so far. InputError if it is nothing."""
    done = {name: unit for name, unit in plan.measured.items() if unit.done}
    for unit in () if done else plan.measured.values():
        needed(unit, "report")
    return survey.Survey(
        [unit.result for unit in done.values()],
        {name: plan.embedded[name].arrays["embeddings"] for name in done},
        {name: _origin(plan, name) for name in done},
        _chosen(plan.study, plan.choice) if plan.choice and plan.choice.done else None,
    )


def _chosen(study: Study, unit: Unit) -> Choice:
    """What was chosen, as the report shows it."""
    found = unit.result
    gains = [Gain(**each) for each in found["gains"]]
    lists = found["candidates"], found["classes"], found["datasets"], gains
    return Choice(study.pool, study.have, study.choice.goal, study.probe.distance, *lists)


def _unfinished(plan: Plan, failed: Collection[str]) -> tuple[Mapping[str, Any], ...]:
    """What is not finished, as `unfinished` of `report.write_report`; what `failed`, and needs it, will not come."""

    def counted(units: Iterable[Unit]) -> list[int]:
        states = [(unit.done, _comes(unit, failed)) for unit in units]
        return [sum(done for done, _ in states), sum(done or comes for done, comes in states)]

    rows = []
    for name in plan.study.names:
        row = {"diversity": counted([plan.measured[name]])}
        for method in plan.study.methods:
            row[method] = counted(unit for which, unit in plan.tested.items() if which[:2] == (name, method))
        rows.append(row)
    if all(done == of for row in rows for done, of in row.values()):
        return ()
    return tuple({"benchmark": name, **row} for name, row in zip(plan.study.names, rows, strict=True))


def _comes(unit: Unit, failed: Collection[str]) -> bool:
    """Whether neither a unit nor what it needs failed."""
    return unit.name not in failed and all(_comes(need, failed) for need in unit.inputs)


def _is_done(unit: Unit) -> bool:
    return unit.done


def _origin(plan: Plan, benchmark: str) -> survey.Source:
    """Where a benchmark that is measured comes from."""
    study = plan.study
    parts = [needed(unit, "report").result for unit in plan.parts(benchmark, study.probe.pixels)]
    cut = study.controlled if study.controlled.pool else plan.embedded[benchmark].spec.table
    kept = cut.count if isinstance(cut, samplers.Chosen) else cut.classes
    each = [kept // len(parts) + (number < kept % len(parts)) for number in range(len(parts))]
    classes = each if kept else [part["train"]["classes"] for part in parts]
    images = [part["train"]["images"] for part in parts]
    if cut.images:
        images = [number * cut.images for number in classes]
    elif kept:
        images = []  # as many as the classes drawn have
    paths = [study.own[base].path for base in study.bases(benchmark) if base in study.own]
    lost: dict[str, list[str]] = {}
    for part in parts:
        for reason, names in part["left_out"].items():
            lost.setdefault(reason, []).extend(names)
    return survey.Source(tuple(paths), tuple(classes), sum(images) or None, lost)
