"""Which units a study has, and what each of them takes from the others. What they do is in `stages`.

prepare -> select -> embed -> diversity ---------------> correlate -> report
                  -> train -> evaluate (own, fixed) --^
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from jaxdiv.data import registry, synthetic
from jaxdiv.data.own.outline import Outline
from jaxdiv.data.table import ImageTable
from jaxdiv.methods.registry import with_inner_steps
from jaxdiv.probes.base import Probe
from jaxdiv.study import own_sets, samplers, tables
from jaxdiv.study.config import Study
from jaxdiv.study.sections import MAML, Episodic
from jaxdiv.study.stages import choose, diversity, embed, evaluate, prepare, select, train
from jaxdiv.study.tables import Table
from jaxdiv.study.unit import ProgressFn, Unit, arrays_in, needed
from jaxdiv.task2vec import fisher

_TABLE = "table"  # the folder of the images in a unit of `prepare`
STAGES = ("prepare", "select", "embed", "diversity", "train", "evaluate", "correlate", "report")


@dataclass(frozen=True)
class Plan:
    """The units of a study but those of the last two stages, by what they are of.

    Attributes:
      own: what is known of each of the user's data sets that is used.
      prepared: by base set and pixels.
      classes: of each benchmark whose tasks are sampled by its classes' embeddings, those embeddings.
      pool, subsets: of a controlled experiment: its classes embedded, and the subsets chosen.
      embedded, measured: by benchmark.
      trained: by benchmark, method and run.
      tested: by benchmark, method, run and test set.
      candidates, choice: of a choice for people: its classes embedded, from all images and from each half; the choice.
    """

    study: Study
    workdir: Path
    own: Mapping[str, prepare.Known]
    prepared: Mapping[tuple[str, int], Unit]
    classes: Mapping[str, Unit]
    pool: Unit | None
    subsets: Unit | None
    embedded: Mapping[str, Unit]
    measured: Mapping[str, Unit]
    trained: Mapping[tuple[str, str, int], Unit]
    tested: Mapping[tuple[str, str, int, str], Unit]
    candidates: tuple[Unit, ...] = ()
    choice: Unit | None = None

    @property
    def units(self) -> list[Unit]:
        """All of them, each after its inputs."""
        of_pool = [unit for unit in (self.pool, self.subsets, *self.candidates, self.choice) if unit]
        groups = (self.classes, self.embedded, self.measured, self.trained, self.tested)
        rest = [unit for group in groups for unit in group.values()]
        found: dict[str, Unit] = {}

        def put(unit: Unit) -> None:
            if unit.name not in found:
                for need in unit.inputs:  # hard tasks are embedded after a learner is trained
                    put(need)
                found[unit.name] = unit

        for unit in (*self.prepared.values(), *of_pool, *rest):
            put(unit)
        return list(found.values())

    @property
    def outlines(self) -> dict[str, Outline]:
        """Of the user's data sets, by name."""
        return {name: known.outline for name, known in self.own.items()}

    def parts(self, benchmark: str, pixels: int) -> list[Unit]:
        """The units that make a benchmark's base sets."""
        return [self.prepared[base, pixels] for base in self.study.bases(benchmark)]


def plan(study: Study, workdir: Path) -> Plan:
    """The units of `study` under `workdir`. Reads no result and writes nothing there.

    Raises:
      InputError: one of the user's data sets is missing or cannot be understood, or `workdir` is inside it.
    """
    root, names = workdir / "units", study.names
    for_probe, for_learner = study.probe.pixels, study.learner.pixels
    wanted = [(base, for_probe) for name in names for base in study.bases(name)]
    if study.choice.classes:
        wanted += [(base, for_probe) for name in (study.pool, study.have) if name for base in study.bases(name)]
    if study.methods:
        tested_on = [*names, *([study.fixed_test_set] if "fixed" in study.evaluation.test_sets else [])]
        wanted += [(base, for_learner) for name in tested_on for base in study.bases(name)]
    mine = [base for base in dict.fromkeys(base for base, _ in wanted) if base in study.own]
    own_sets.check_workdir(study.own, workdir)
    own = {base: prepare.look(base, study.data_settings) for base in mine}
    prepared = {each: _prepare(study, root, *each, own.get(each[0])) for each in dict.fromkeys(wanted)}
    parts = lambda name, pixels: tuple(prepared[base, pixels] for base in study.bases(name))
    pool = subsets = None
    if study.controlled.pool:
        pool = _pool(study, root, parts(names[0], for_probe))
        subsets = _subsets(study, root, pool)
    candidates: tuple[Unit, ...] = ()
    choice = None
    if study.choice.classes:
        both = "+".join(filter(None, (study.pool, study.have)))
        candidates = _candidates(study, root, both, parts(both, for_probe))
        choice = _choice(study, root, candidates)
    sources = dict.fromkeys(study.source(name) for name in names if samplers.by_classes(name))
    classes = {source: _classes(study, root, source, parts(source, for_probe)) for source in sources}

    def chosen(name: str) -> tuple[Unit, ...]:
        """What chose a benchmark's classes, or how its tasks get theirs."""
        of_classes = (classes[study.source(name)],) if samplers.by_classes(name) else ()
        return (*of_classes, *((subsets,) if subsets else ()))

    trained, tested = {}, {}
    for test_set, name, method, run in product(study.evaluation.test_sets, names, study.methods, study.seeds):
        taught = _trained_as(study, method)
        if (name, taught, run) not in trained:
            inputs = (*parts(name, for_learner), *chosen(name))
            trained[name, taught, run] = _train(study, root, name, taught, run, inputs)
        where = samplers.source(name) if test_set == "own" else study.fixed_test_set
        inputs = (trained[name, taught, run], *parts(where, for_learner))
        tested[name, method, run, test_set] = _evaluate(study, root, name, method, run, test_set, inputs)
    embedded = {}
    for name in names:
        inputs = (*parts(name, for_probe), *chosen(name))
        if samplers.on_line(name):
            learner = trained[name, _trained_as(study, _miner(study)), study.seeds[0]]
            # The same images, where both sizes are one.
            inputs = tuple({need.name: need for need in (*inputs, *parts(name, for_learner), learner)}.values())
        embedded[name] = _embed(study, root, name, inputs)
    measured = {name: _diversity(study, root, unit) for name, unit in embedded.items()}
    groups = (prepared, classes, pool, subsets, embedded, measured, trained, tested, candidates, choice)
    return Plan(study, workdir, own, *groups)


def table_folder(prepared: Unit) -> Path:
    """Where a prepared base set's images are."""
    return prepared.folder / _TABLE


def shown(study: Study) -> tuple[str, ...]:
    """The benchmarks whose images are shown: of subsets and samplers, the one that they are from."""
    return tuple(dict.fromkeys(map(study.source, study.names)))


def _prepare(study: Study, root: Path, base: str, pixels: int, known: prepare.Known | None) -> Unit:
    spec = prepare.spec(base, pixels, study.data_settings, known)
    work = lambda unit, progress: prepare.run(spec, table_folder(unit), progress)
    cost = 0.5 if synthetic.spread(base) is not None else 20.0
    name, keeps = f"prepare/{base}/{pixels}px", lambda result: [_TABLE]
    return Unit(name, spec, work, root, cost=cost, returns=prepare.Result, keeps=keeps)


def _pool(study: Study, root: Path, inputs: tuple[Unit, ...]) -> Unit:
    chosen, probe = study.controlled, study.probe
    table = Table(chosen.pool, "train", probe.pixels, own=tuple(study.own))
    spec = _pool_spec(study, table, chosen.candidates, chosen.images)
    return _embed_pool(study, root, f"select/pool/{probe.name}", spec, inputs, chosen.candidates * len(inputs))


def _classes(study: Study, root: Path, source: str, inputs: tuple[Unit, ...]) -> Unit:
    """The embeddings of all classes of a train split, for samplers."""
    table = _train_split(study, source, study.probe.pixels)
    spec = _pool_spec(study, table, 0, study.sampling.class_images)
    name, classes = f"select/classes/{source}/{study.probe.name}", study.data.cut.classes or 100
    return _embed_pool(study, root, name, spec, inputs, classes)


def _candidates(study: Study, root: Path, source: str, inputs: tuple[Unit, ...]) -> tuple[Unit, ...]:
    """The embeddings of the classes that a choice is about, from all images and from each half of them."""
    table, probe = Table(source, "train", study.probe.pixels, own=tuple(study.own)), study.probe.name
    whole = _pool_spec(study, table, 0, study.choice.images)
    specs = {"all": whole} | {f"half-{n + 1}": select.HalfSpec(**vars(whole), half=n) for n in (0, 1)}
    each = lambda name, spec: _embed_pool(study, root, f"select/candidates/{name}/{probe}", spec, inputs, 100)
    return tuple(each(name, spec) for name, spec in specs.items())


def _choice(study: Study, root: Path, candidates: tuple[Unit, ...]) -> Unit:
    asked, pool = study.choice, study.bases(study.pool)
    bases = (*pool, *(study.bases(study.have) if study.have else ()))
    spec = choose.Spec(bases, len(pool), asked.classes, asked.goal, study.probe.distance, study.seed)
    work = lambda unit, progress: choose.run(spec, [need.load(select.Pool) for need in candidates], progress)
    return Unit(f"select/choice/{study.probe.name}", spec, work, root, candidates, returns=choose.Result)


def _pool_spec(study: Study, table: Table, candidates: int, images: int) -> select.PoolSpec:
    probe = study.probe
    which = (table, probe.name, probe.weights, embed.contents(study.weights), probe.seed)
    return select.PoolSpec(*which, candidates, images, study.seed, study.compute, probe.chunk)


def _embed_pool(
    study: Study, root: Path, name: str, spec: select.PoolSpec, inputs: tuple[Unit, ...], classes: int
) -> Unit:
    """The unit that embeds about so many classes."""
    work = lambda unit, progress: select.embed_pool(
        spec, (_images(spec.table, unit), _probe(study, progress)), progress
    )
    cost = classes * (0.05 if study.probe.name == "resnet10_narrow" else 1.5)
    return Unit(name, spec, work, root, inputs, cost)


def _subsets(study: Study, root: Path, pool: Unit) -> Unit:
    chosen = study.controlled
    spec = select.Spec(study.probe.distance, chosen.classes, chosen.subsets, study.seed)
    work = lambda unit, progress: select.run(spec, pool.load(select.Pool), progress)
    return Unit(f"select/subsets/{study.probe.name}", spec, work, root, (pool,))


def _embed(study: Study, root: Path, benchmark: str, inputs: tuple[Unit, ...]) -> Unit:
    probe, stochastic = study.probe, fisher.is_stochastic(study.probe.estimator, study.probe.head)
    spec = embed.Spec(
        benchmark=benchmark,
        table=_train_split(study, benchmark, probe.pixels),
        task=study.task,
        probe=probe.name,
        weights=probe.weights,
        contents=embed.contents(study.weights),
        probe_seed=probe.seed,
        estimator=probe.estimator,
        head=probe.head,
        augment=study.data.augment.diversity,
        tasks=probe.tasks,
        floor_tasks=probe.floor_tasks if stochastic else 0,
        seed=study.seed,
        # Subsets meet tasks of the same data sets, whose draw would otherwise outweigh what they differ in.
        purpose="diversity/subset" if study.controlled.pool else f"diversity/{benchmark}/{probe.name}",
        compute=study.compute,
        chunk=probe.chunk,
    )

    def work(unit: Unit, progress: ProgressFn) -> embed.Result:
        found = [(tasks, arrays) for tasks, folder in unit.kin("tasks", here=True) if (arrays := arrays_in(folder))]
        _, most = max(found, key=lambda item: item[0], default=(0, {}))
        before = embed.Result(**most) if most else None
        images, probe = _images(spec.table, unit), _probe(study, progress)
        if isinstance(spec.table, samplers.Mined):  # of other numbers of tasks, others are the hardest
            return embed.run(spec, embed.Inputs(images, probe, None, _learned(study, unit)), progress)
        return embed.run(spec, embed.Inputs(images, probe, before), progress)

    cost = (probe.tasks + spec.floor_tasks) * (0.25 if probe.name == "resnet10_narrow" else 8.0)
    return Unit(f"embed/{benchmark}/{probe.name}", spec, work, root, inputs, cost)


def _miner(study: Study) -> str:
    """The method for whose learner tasks are hard: the first that trains on tasks, if there is one."""
    on_tasks = [method for method in study.methods if isinstance(study.settings(method), Episodic)]
    return (on_tasks or list(study.methods))[0]


def _learned(study: Study, unit: Unit) -> embed.Learned:
    """The learner among the inputs of a unit that embeds hard tasks."""
    (trained,) = (need for need in unit.inputs if need.stage == "train")
    spec, result = trained.spec, needed(trained, unit.name).result
    how = (spec.learner, spec.settings, spec.task.ways, result["train_classes"])
    method = evaluate.make(_miner(study), *how)
    params, model_state = evaluate.load_params(trained.folder, method, result["checkpoint"])
    return embed.Learned(method, params, model_state, _images(spec.table, unit))


def _diversity(study: Study, root: Path, embedded: Unit) -> Unit:
    benchmark = embedded.spec.benchmark
    spec = diversity.Spec(
        distance=study.probe.distance,
        interval=study.probe.interval,
        own=any(base in study.own for base in study.bases(benchmark)),
        true_diversity=_true_diversity(study, benchmark),
        embedded=embedded.spec,
    )
    work = lambda unit, progress: diversity.run(spec, embedded.load(embed.Result), progress)
    return Unit(f"diversity/{benchmark}/{study.probe.name}", spec, work, root, (embedded,), 0.1)


def _true_diversity(study: Study, benchmark: str) -> float | None:
    """In closed form; None where it has none, as for a part of a benchmark's classes or tasks."""
    return registry.true_diversity(benchmark, study.own) if study.source(benchmark) == benchmark else None


def _train(study: Study, root: Path, benchmark: str, method: str, run: int, inputs: tuple[Unit, ...]) -> Unit:
    name, settings = f"train/{benchmark}/{method}/seed{run}", study.settings(method)
    pixels, loop, validated = study.learner.pixels, study.training, bool(study.training.validate_every)
    spec = train.Spec(
        benchmark=benchmark,
        method=method,
        table=_train_split(study, benchmark, pixels),
        validation=_whole(study, benchmark, "val") if validated else None,
        validation_tasks=loop.validation_tasks if validated else None,
        task=study.task,
        learner=study.learner,
        settings=settings,
        compute=study.compute,
        training=loop,
        steps=settings.steps,
        augment=study.data.augment.training,
        seed=study.seed,
        run=run,
        unit=name,
    )

    def begin(unit: Unit) -> None:
        if spec.grows:
            train.adopt(unit.folder, [folder for _, folder in unit.kin("steps")], spec.steps)

    def work(unit: Unit, progress: ProgressFn) -> train.Result:
        validation = _images(spec.validation, unit) if spec.validation else None
        return train.run(spec, train.Inputs(_images(spec.table, unit), validation, unit.folder), progress)

    keeps = lambda result: [f"checkpoints/{result['checkpoint']}"]
    return Unit(name, spec, work, root, inputs, train.cost(spec), begin, returns=train.Result, keeps=keeps)


def _evaluate(
    study: Study, root: Path, benchmark: str, method: str, run: int, test_set: str, inputs: tuple[Unit, ...]
) -> Unit:
    trained, tasks = inputs[0], study.evaluation.tasks
    where = samplers.source(benchmark) if test_set == "own" else study.fixed_test_set
    spec = evaluate.Spec(
        benchmark=benchmark,
        method=method,
        run=run,
        test_set=test_set,
        where=where,
        table=_whole(study, where, "test"),
        task=study.task,
        tasks=tasks,
        dropout=study.evaluation.dropout,
        compute=study.compute,
        seed=study.seed,
        learner=study.learner,
        settings=trained.spec.settings,
    )

    def work(unit: Unit, progress: ProgressFn) -> evaluate.Result:
        size = trained.result
        which = trained.folder, size["checkpoint"], size["train_classes"], size["train_images"]
        return evaluate.run(spec, evaluate.Inputs(_images(spec.table, unit), *which), progress)

    cost = tasks * (0.02 + 3 * study.task.ways * study.task.queries * train.forward_seconds(study.learner))
    return Unit(f"evaluate/{benchmark}/{method}/seed{run}/{test_set}", spec, work, root, inputs, cost)


def _trained_as(study: Study, method: str) -> str:
    """The method that is trained for `method`: methods that differ in the test alone share it."""
    settings = study.settings(method)
    steps = settings.train_inner_steps if isinstance(settings, MAML) else 0
    return with_inner_steps(method, steps) if steps else method


def _train_split(study: Study, benchmark: str, pixels: int) -> Table:
    """The images of a train split that a study uses, and their tasks: all, a cut, a subset's, or a sampler's."""
    whole = Table(study.source(benchmark), "train", pixels, own=tuple(study.own))
    if study.controlled.pool:
        return replace(whole, images=study.controlled.images, seed=study.seed, chosen=True)
    cut = study.data.cut
    smaller = replace(whole, classes=cut.classes, images=cut.images, seed=study.seed)
    used = smaller if cut.classes or cut.images else whole
    return samplers.sampled(benchmark, used, study.sampling, study.probe.distance, study.seed)


def _whole(study: Study, benchmark: str, split: str) -> Table:
    return Table(study.source(benchmark), split, study.learner.pixels, own=tuple(study.own))


def _images(table: Table, unit: Unit) -> ImageTable:
    """The images of `table`, from what the inputs of `unit` prepared and chose."""
    if isinstance(table, samplers.Sampled | samplers.Chosen):
        embedded = [need.arrays["embeddings"] for need in unit.inputs if need.stage == "select"]
        return samplers.with_choice(_images(table.of, unit), table, unit.spec.task.ways, *embedded)
    mine = [need for need in unit.inputs if need.stage == "prepare" and need.name.endswith(f"/{table.pixels}px")]
    folders = tuple(table_folder(need) for need in mine)
    rows: tuple[int, ...] = ()
    if table.chosen:
        (chosen,) = (need for need in unit.inputs if need.stage == "select")
        rows = tuple(chosen.result["rows"][unit.spec.benchmark])
    return tables.read(table, folders, rows)


def _probe(study: Study, progress: ProgressFn) -> Probe:
    return embed.probe(study.probe.name, study.weights, study.probe.seed, progress)
