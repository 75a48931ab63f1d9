"""What a study's configuration must be: its names, its numbers, and the workdir that it claims."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxdiv.data import benchmarks, own
from jaxdiv.errors import InputError, unknown
from jaxdiv.files import replacing
from jaxdiv.methods.maml import GRAD_REDUCTIONS, INNER_PARAMS
from jaxdiv.methods.registry import METHODS, sections
from jaxdiv.methods.train import OPTIMIZERS, SCHEDULES
from jaxdiv.nets.network import BATCH_NORM, COMPUTE, NETS
from jaxdiv.probes.registry import PROBES, check_pixels
from jaxdiv.probes.weights import IMAGENET
from jaxdiv.stats.controls import LEVELS
from jaxdiv.task2vec import fisher
from jaxdiv.task2vec.coefficient import DISTANCES, INTERVALS
from jaxdiv.task2vec.head import HEADS

STAGES = ("prepare", "select", "diversity", "train", "evaluate", "correlate", "report")
TEST_SETS = ("own", "fixed")
# What the library's errors call by an argument, and the command by a flag. Names of one meaning in all of the library;
# those of `draw_classes` have two in a study, and are given where it is called.
FLAGS = {
    "ways": "--config.task.ways",
    "shots": "--config.task.shots",
    "queries": "--config.task.queries",
    "batch": "--config.maml.meta_batch (or --config.pt.batch_size)",
    "classes": "--config.controlled.classes",
    "subsets": "--config.controlled.subsets",
    "folder": "--workdir",
    "stages": "--stages",
    "DataSettings.archive_dir": "--config.data.archive_dir",
    "DataSettings.dir": "--config.data.dir",
    "DataSettings.partial": "--config.data.partial",
    "DataSettings.min_images": "--config.task.shots + --config.task.queries",
    "DataSettings.own": "--config.images",
    "DataSettings.fractions": "--config.data.split.fractions",
    "DataSettings.split_file": "--config.data.split.file",
    "DataSettings.classes": "--config.data.classes",
    "DataSettings.images": "--config.data.images",
}
_ARGUMENT = re.compile(r"`([\w.]+)(=\w+)?`")  # `ways`, `DataSettings.partial=True`
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
# Where the data lie does not change what they are; a preset has become the fields that it sets.
_NOT_IDENTITY = ("data.archive_dir", "data.dir", "data.download", "preset")


def with_preset(config: ConfigDict) -> ConfigDict:
    """A copy of `config` in which the preset has filled the fields that are empty: a field that is given stays.

    Raises InputError for an unknown preset.
    """
    if config.preset not in PRESETS:
        raise unknown("preset", config.preset, PRESETS)
    filled = config.copy_and_resolve_references()
    fields = PRESETS[config.preset]
    filled.update_from_flattened_dict({path: value for path, value in fields.items() if config[path] in ("", None)})
    return filled


def own_sets(config: ConfigDict) -> dict[str, str]:
    """The path of each of the user's own data sets by its name; InputError as `own.parse`."""
    with in_flags():
        return own.parse(config.images, lambda name: name == "all" or benchmarks.is_known(name))


@contextmanager
def in_flags(**more: str) -> Iterator[None]:
    """Inside, an InputError of the library speaks of the command's flags (FLAGS, and `more`) instead of arguments."""
    flags = FLAGS | more

    def flag(found: re.Match[str]) -> str:
        name, value = found.group(1), found.group(2) or ""
        return flags[name] + {"=True": "=true", "=False": "=false"}.get(value, value) if name in flags else found[0]

    try:
        yield
    except InputError as error:
        raise InputError(_ARGUMENT.sub(flag, str(error))) from error.__cause__


def check(config: ConfigDict) -> None:
    """Raise InputError, with the nearest valid name, for a name or number in `config` that cannot be used."""
    mine = own_sets(config)
    if not _measured(config):
        raise InputError(
            "there is nothing to measure: name your folder of images by --config.images=DIR, or benchmarks by "
            "--config.benchmarks"
        )
    used = {base for name in (*_measured(config), fixed_test_set(config)) for base in benchmarks.components(name, mine)}
    _check_controlled(config)
    split = config.data.split
    if config.methods and used & {*mine, benchmarks.OWN} and not split.file and not split.fractions[-1]:
        raise InputError(
            "your own images have no test classes to evaluate on: give some by "
            "--config.data.split.fractions='(.64,.16,.2)' or --config.data.split.file"
        )
    if benchmarks.OWN in used:
        raise InputError(f"benchmark {benchmarks.OWN!r} is your own folder of images: name it by --config.images=DIR")
    for kind, name, valid in (
        *(("method", method, METHODS) for method in config.methods),
        *(("test set", name, TEST_SETS) for name in config.evaluation.test_sets),
        ("probe", config.probe.name, PROBES),
        ("estimator", config.probe.estimator, fisher.ESTIMATORS),
        ("head", config.probe.head, HEADS),
        ("distance", config.probe.distance, DISTANCES),
        ("interval", config.probe.interval, INTERVALS),
        ("network", config.learner.net, NETS),
        ("compute type", config.learner.compute, COMPUTE),
        ("batch-norm policy", config.learner.batch_norm, BATCH_NORM),
        ("choice of maml.inner_params", config.maml.inner_params, INNER_PARAMS),
        ("choice of maml.grad_reduction", config.maml.grad_reduction, GRAD_REDUCTIONS),
        ("optimizer", config.training.optimizer, OPTIMIZERS),
        ("schedule", config.training.schedule, SCHEDULES),
    ):
        if name not in valid:
            raise unknown(kind, name, valid)
    for field, given, least in (
        ("benchmarks", config.benchmarks, 0),
        ("methods", config.methods, 0),
        ("seeds", config.seeds, 1),
        ("evaluation.test_sets", config.evaluation.test_sets, 1),
    ):
        if len(given) < least or len(set(given)) != len(given):
            raise InputError(f"--config.{field} is {given}: give at least {least}, and each once")
    for path, least in {
        "seed": 0,
        "data.split.seed": 0,
        "task.ways": 2,
        "task.shots": 1,
        "task.queries": 1,
        "probe.tasks": 3,
        "probe.floor_tasks": 1,
        "probe.pixels": 8,
        "learner.pixels": 16,
        "learner.width": 1,
        **{f"{section}.steps": 1 for section in sections()},
        **{f"{section}.batch_size": 2 for section in sections() if "batch_size" in config[section]},
        **{f"{section}.meta_batch": 1 for section in sections() if "meta_batch" in config[section]},
        "evaluation.tasks": 2,
        "maml.train_inner_steps": 0,
        "training.checkpoint_every": 1,
        "training.validate_every": 0,
        "training.validation_tasks": 2,
        "training.patience": 0,
        "training.minutes": 0,
        "training.warmup": 0,
        "training.grad_clip_norm": 0,
        "data.cut.classes": 0,
        "data.cut.images": 0,
        "controlled.subsets": 1,
    }.items():
        section, _, name = path.rpartition(".")
        value = (config[section] if section else config)[name]
        if value < least:
            raise InputError(f"--config.{path} is {value}: it must be at least {least}")
    with in_flags(pixels="--config.probe.pixels"):
        check_pixels(config.probe.name, config.probe.pixels)
    if config.training.patience and not config.training.validate_every:
        raise InputError("--config.training.patience counts validations: set --config.training.validate_every too")


def _measured(config: ConfigDict) -> tuple[str, ...]:
    """The benchmarks that the configuration names, and a pool; each of the user's own sets where it names none."""
    if config.controlled.pool:
        return (*config.benchmarks, config.controlled.pool)
    return tuple(config.benchmarks) or tuple(own_sets(config))


def benchmark_names(config: ConfigDict) -> tuple[str, ...]:
    """The study's benchmarks: those that it names, each of the user's own sets where it names none, or the subsets of a
    controlled experiment's pool."""
    if not config.controlled.pool:
        return _measured(config)
    return tuple(f"{level}-{number + 1}" for level in LEVELS for number in range(config.controlled.subsets))


def _check_controlled(config: ConfigDict) -> None:
    """A controlled experiment's numbers, and those of a cut."""
    cut, chosen, task = config.data.cut, config.controlled, config.task
    needed, mine = task.shots + task.queries, own_sets(config)
    most = max(len(benchmarks.components(name, mine)) for name in _measured(config))
    if 0 < cut.images < needed or (cut.classes and cut.classes // most < task.ways):
        raise InputError(
            f"--config.data.cut of {cut.classes} classes with {cut.images} images leaves no task: it takes {task.ways} "
            f"classes of each of a union's data sets (here up to {most}), and of shots + queries = {needed} images"
        )
    if not chosen.pool:
        return
    if config.benchmarks or cut.images or cut.classes:
        raise InputError(
            "--config.controlled.pool makes the benchmarks, all of one size: set --config.benchmarks='()' and no "
            "--config.data.cut"
        )
    sets = len(benchmarks.components(chosen.pool, mine))
    each, rest = divmod(chosen.classes, sets)
    if rest or each < task.ways or 2 * chosen.subsets * each > chosen.candidates:
        raise InputError(
            f"--config.controlled.classes is {chosen.classes}: it must be one number for each of the {sets} data "
            f"sets of the pool, at least ways={task.ways}, and twice that for each of {chosen.subsets} subsets at most "
            f"--config.controlled.candidates={chosen.candidates}"
        )
    if chosen.images < needed:
        raise InputError(f"--config.controlled.images is {chosen.images}: a task takes shots + queries = {needed}")


def weights_file(config: ConfigDict) -> Path | None:
    """The probe's weights: as given, or beside the archives; `imagenet` for torchvision's; None for random ones."""
    if not config.probe.weights:
        return None
    if config.probe.weights == IMAGENET:
        return Path(IMAGENET)
    given = Path(config.probe.weights)
    beside = Path(config.data.archive_dir) / given
    return beside if beside.exists() and not given.exists() else given


def check_stages(stages):
    for stage in stages:
        if stage not in STAGES:
            raise unknown("stage", stage, STAGES)
    return tuple(stages)


def fixed_test_set(config: ConfigDict) -> str:
    """`all` stands for the union of every base set that the study uses."""
    if config.evaluation.fixed_test_set != "all":
        return config.evaluation.fixed_test_set
    mine = own_sets(config)
    return "+".join(dict.fromkeys(part for name in _measured(config) for part in benchmarks.components(name, mine)))


def claim(workdir: Path, config: ConfigDict) -> None:
    """Mark `workdir` as this study's; InputError if it cannot be written or holds a study of another configuration."""
    mine = _flat(config)
    file = workdir / "study.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(mine, indent=1))
        theirs = json.loads(file.read_text())
    except OSError as error:
        raise InputError(f"workdir {workdir} cannot be written ({error.strerror}): choose another --workdir") from None
    except json.JSONDecodeError:
        raise InputError(f"{file} is no study's file: choose another --workdir, or remove it") from None
    differ = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
    if differ:
        shown = ", ".join(f"{key} ({theirs.get(key)} there, {mine.get(key)} asked for)" for key in differ[:3])
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise InputError(
            f"workdir {workdir} holds a study of another configuration: {shown}{more}; choose another --workdir"
        )


def _flat(config: ConfigDict) -> dict[str, Any]:
    """Every field by its dotted path, as JSON values, less those that only say where the data lie."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        elif prefix not in _NOT_IDENTITY:
            flat[prefix] = list(value) if isinstance(value, tuple) else value

    walk("", config.to_dict())
    return flat
