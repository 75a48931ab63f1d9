"""The door of a study: a ConfigDict comes in, a frozen `Study` that has checked itself goes out."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from ml_collections import ConfigDict

from jaxdiv.data import prepare, registry, synthetic
from jaxdiv.data.own.found import OwnSet
from jaxdiv.errors import InputError, unknown
from jaxdiv.files import local_path
from jaxdiv.methods.registry import METHODS, entry
from jaxdiv.methods.registry import sections as methods_sections
from jaxdiv.probes.registry import check_pixels
from jaxdiv.probes.weights import IMAGENET
from jaxdiv.stats.controlled import LEVELS
from jaxdiv.study import own_sets, resources, samplers, sections
from jaxdiv.study.flags import in_flags

# How diversity is measured, as a named whole: what `--config.preset` sets of the fields that are left empty.
PRESETS: dict[str, dict[str, Any]] = {
    "jaxdiv": {  # what is statistically right
        "probe.estimator": "exact",
        "probe.head": "converged",
        "probe.distance": "task2vec_scale_free",
        "probe.interval": "jackknife",
        "data.augment.diversity": False,
    },
    "paper": {  # what the code behind the paper's Table 1 did
        "probe.estimator": "reference",
        "probe.head": "adam",
        "probe.distance": "task2vec",
        "probe.interval": "iid_pairs",
        "data.augment.diversity": True,
    },
}


@dataclass(frozen=True)
class Study(sections.Section):
    """A whole study, checked as far as the configuration alone tells."""

    seed: sections.Seed
    benchmarks: Annotated[tuple, sections.Each(str)]
    datasets: dict
    images: str
    preset: str
    methods: Annotated[tuple, sections.Each(str, (sections.OneOf("method", METHODS),))]
    seeds: Annotated[tuple, sections.Each(int, (sections.Range(0, 2**32),))]
    task: sections.Task
    data: sections.Data
    sampling: sections.Sampling
    controlled: sections.Controlled
    choice: sections.Choice
    probe: sections.Probe
    learner: sections.Learner
    compute: sections.Compute
    launch: resources.Launch
    training: sections.Training
    evaluation: sections.Evaluation
    by_method: dict  # the methods' own sections, by name

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("benchmarks", 0), ("methods", 0), ("seeds", 1)):
            sections.check_each_once(name, getattr(self, name), least)
        with in_flags(pixels="--config.probe.pixels"):
            check_pixels(self.probe.name, self.probe.pixels)
        _check_choice(self)
        _check_benchmarks(self)
        _check_sizes(self)
        decay, optimizer = self.training.weight_decay, self.training.optimizer
        if decay and optimizer != "adamw":
            raise InputError(
                f"--config.training.weight_decay is {decay:g}, which optimizer {optimizer!r} does not use: add "
                "--config.training.optimizer=adamw"
            )
        _ = self.data_settings, self.weights  # a path that cannot be one is said before anything else

    @cached_property
    def own(self) -> dict[str, OwnSet]:
        """The user's own data sets by their names; that which a choice adds to comes last."""
        mine, have = own_sets.read(self.datasets, self.images), self.choice.have
        if not have or all(part in mine or registry.is_known(part) for part in have.split("+")):
            return mine
        return own_sets.read(self.datasets, ",".join(filter(None, (self.images, have))))

    @cached_property
    def have(self) -> str:
        """The benchmark whose classes one has already; empty: none."""
        named = len(own_sets.read(self.datasets, self.images))
        return "+".join(tuple(self.own)[named:]) or self.choice.have

    @property
    def pool(self) -> str:
        """The benchmark whose classes a choice is from."""
        return self.choice.pool or "+".join(name for name in self.own if name not in self.have.split("+"))

    @property
    def measured(self) -> tuple[str, ...]:
        """The benchmarks that are named, and a pool; where none is named, each of the user's own data sets, and what a
        choice is about."""
        if self.controlled.pool:
            return (*self.benchmarks, self.controlled.pool)
        if self.benchmarks or not self.choice.classes:
            return self.benchmarks or tuple(self.own)
        named = [part for name in (self.pool, self.have) if name for part in registry.components(name, self.own)]
        return tuple(dict.fromkeys((*self.own, *named)))

    @property
    def names(self) -> tuple[str, ...]:
        """The study's benchmarks: those that are measured, or the subsets of a controlled experiment's pool."""
        if not self.controlled.pool:
            return self.measured
        return tuple(f"{level}-{number + 1}" for level in LEVELS for number in range(self.controlled.subsets))

    @property
    def fixed_test_set(self) -> str:
        """The benchmark that is every model's second test; `all` is the union of every base set of the study."""
        if self.evaluation.fixed_test_set != "all":
            return self.evaluation.fixed_test_set
        return "+".join(dict.fromkeys(base for name in self.measured for base in self.bases(name)))

    def settings(self, method: str) -> sections.MethodSection:
        """How a method trains."""
        return self.by_method[entry(method).section]

    @property
    def weights(self) -> Path | None:
        """The probe's weights: as given, or beside the archives; `imagenet` for torchvision's; None: random ones."""
        if not self.probe.weights:
            return None
        if self.probe.weights == IMAGENET:
            return Path(IMAGENET)
        given = Path(local_path(self.probe.weights, "--config.probe.weights"))
        beside = Path(local_path(self.data.archive_dir, "--config.data.archive_dir")) / given
        return beside if beside.exists() and not given.exists() else given

    @cached_property
    def data_settings(self) -> prepare.DataSettings:
        """How base sets are made."""
        data = self.data
        with in_flags():
            return prepare.DataSettings(
                archive_dir=data.archive_dir,
                dir=data.dir,
                download=data.download,
                partial=data.partial,
                without_imagenet=data.without_imagenet,
                min_images=self.task.shots + self.task.queries,
                own=self.own,
                fractions=data.split.fractions,
                split_seed=data.split.seed,
                split_file=data.split.file,
                skip_broken=data.skip_broken,
                classes=data.classes,
                images_per_class=data.images_per_class,
                seed=self.seed,
            )

    def source(self, benchmark: str) -> str:
        """Where a benchmark's classes come from: a subset's are the pool's, those of `SOURCE@SAMPLER` are SOURCE's."""
        if self.controlled.pool and benchmark in self.names:
            return self.controlled.pool
        return samplers.source(benchmark)

    def bases(self, benchmark: str) -> tuple[str, ...]:
        """The base sets of a benchmark."""
        return registry.components(self.source(benchmark), self.own)


def read(config: ConfigDict) -> Study:
    """The study that `config` describes; the preset fills the fields that are empty, and one that is given stays.

    Raises:
      InputError: with the nearest name, for a field or a value that does not exist or cannot be used.
    """
    values = config.copy_and_resolve_references().to_dict()
    if values.get("preset") not in PRESETS:
        raise unknown("preset", str(values.get("preset")), PRESETS)
    for path, value in PRESETS[values["preset"]].items():
        *outer, name = path.split(".")
        section = values
        for part in outer:
            section = section.get(part) or {}
        if section.get(name) in ("", None):
            section[name] = value
    mine = {name: _section(sections.method_section(name), values.pop(name, None), name) for name in methods_sections()}
    return _section(Study, {**values, "by_method": mine})


def as_config(study: Study) -> dict[str, Any]:
    """The fields of a study as the configuration has them."""
    values = asdict(study)
    return {**values, **values.pop("by_method")}


def flat(study: Study) -> dict[str, Any]:
    """Every field of a study by its dotted path, as JSON values."""
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        else:
            found[prefix] = list(value) if isinstance(value, tuple) else value

    walk("", as_config(study))
    return found


def _section(kind: Any, values: Any, name: str = "") -> Any:
    """The dataclass `kind` from a mapping of the same fields, the section `name` of the configuration."""
    if not isinstance(values, Mapping):
        raise InputError(f"--config.{name} is {values!r}: it must be a section with fields; see configs/default.py")
    known = {each.name: each.type for each in fields(kind)}
    for each in values:
        if each not in known:
            near = difflib.get_close_matches(each, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"unknown field --config.{kind.PATH}{each}: {hint}valid: {', '.join(known)}")
    given: dict[str, Any] = {}
    for each, wanted in known.items():
        if each not in values:
            raise InputError(f"--config.{kind.PATH}{each} is missing: begin with default.get_config()")
        value = values[each]
        if is_dataclass(wanted):
            given[each] = _section(wanted, value, f"{kind.PATH}{each}")
        else:
            given[each] = tuple(value) if wanted is tuple and isinstance(value, list) else value
    return kind(**given)


def _check_benchmarks(study: Study) -> None:
    """That every benchmark exists, and has what is asked of it."""
    if not study.measured:
        raise InputError(
            "there is nothing to measure: name your images by --config.images=DIR or --config.datasets.NAME.path=DIR, "
            "or benchmarks by --config.benchmarks"
        )
    names = (*study.measured, study.fixed_test_set)
    for name in names:
        samplers.check(name, study.own, study.task.ways)
        if samplers.on_line(name) and not study.methods:
            raise InputError(
                f"benchmark {name!r}: which tasks are hard depends on the learner: name one by --config.methods"
            )
    if samplers.source(study.fixed_test_set) != study.fixed_test_set or samplers.source(study.controlled.pool) != (
        study.controlled.pool
    ):
        raise InputError("a sampler is of a benchmark's training alone: no test set and no pool has an @")
    used = {base for name in names for base in study.bases(name)}
    spreads: dict[float | None, str] = {}
    for base in sorted(used):
        if (spread := synthetic.spread(base)) is not None and (same := spreads.setdefault(spread, base)) != base:
            raise InputError(f"--config.benchmarks has {same} and {base}, which are one benchmark: write both alike")
    if registry.OWN in used:
        raise InputError(f"benchmark {registry.OWN!r} is your own folder of images: name it by --config.images=DIR")


def _check_sizes(study: Study) -> None:
    """A cut's numbers, and those of a controlled experiment."""
    cut, chosen, task = study.data.cut, study.controlled, study.task
    needed = task.shots + task.queries
    most = max(len(study.bases(name)) for name in study.measured)
    few = study.sampling.few_classes
    if few < task.ways and any(samplers.is_few(name) for name in study.measured):
        raise InputError(f"--config.sampling.few_classes is {few}: it must be at least ways={task.ways}")
    if 0 < cut.images < needed or (cut.classes and cut.classes // most < task.ways):
        raise InputError(
            f"--config.data.cut of {cut.classes} classes with {cut.images} images leaves no task: it takes {task.ways} "
            f"classes of each of a union's data sets (here up to {most}), and of shots + queries = {needed} images"
        )
    if not chosen.pool:
        return
    if study.benchmarks or cut.images or cut.classes:
        raise InputError(
            "--config.controlled.pool makes the benchmarks, all of one size: set --config.benchmarks='()' and no "
            "--config.data.cut"
        )
    sets = len(registry.components(chosen.pool, study.own))
    each, rest = divmod(chosen.classes, sets)
    if rest or each < task.ways or 2 * chosen.subsets * each > chosen.candidates:
        raise InputError(
            f"--config.controlled.classes is {chosen.classes}: it must be one number for each of the {sets} data "
            f"sets of the pool, at least ways={task.ways}, and twice that for each of {chosen.subsets} subsets at most "
            f"--config.controlled.candidates={chosen.candidates}"
        )
    if chosen.images < needed:
        raise InputError(f"--config.controlled.images is {chosen.images}: a task takes shots + queries = {needed}")


def _check_choice(study: Study) -> None:
    """That a choice has a pool, apart from what one has, and a report that shows it."""
    choice = study.choice
    if not choice.classes:
        if choice.pool or choice.have:
            raise InputError("--config.choice.classes is 0: say how many classes of the pool are chosen")
        return
    if study.methods or study.controlled.pool or study.data.cut.classes or study.data.cut.images:
        raise InputError(
            "--config.choice is of a study that trains nothing and cuts nothing: set --config.methods='()' and no "
            "--config.controlled.pool and no --config.data.cut"
        )
    if "@" in study.pool + study.have:
        raise InputError("--config.choice.pool and --config.choice.have are benchmarks without an @")
    if not study.pool:
        raise InputError(
            "--config.choice has no pool: name your images by --config.images=DIR, or --config.choice.pool"
        )
    pool, have = (registry.components(name, study.own) if name else () for name in (study.pool, study.have))
    if twice := sorted(set(pool) & set(have)):
        raise InputError(
            f"--config.choice.have has {twice[0]}, and so has the pool: a class that one has is not chosen"
        )
    if choice.classes < 2 and not have:
        raise InputError("--config.choice.classes is 1: one class alone has no diversity; choose 2 or more")
