"""The library's errors name arguments, the command's name flags: what each argument is called on the command line."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jaxdiv.errors import InputError

# Names of one meaning in all of the library; those of `draw_classes` have two in a study, and are given where it is
# called.
FLAGS = {
    "ways": "--config.task.ways",
    "shots": "--config.task.shots",
    "queries": "--config.task.queries",
    "batch": "--config.maml.meta_batch (or --config.pt.batch_size)",
    "classes": "--config.controlled.classes",
    "subsets": "--config.controlled.subsets",
    "folder": "--workdir",
    "stages": "--stages",
    "units": "--units",
    "workers": "--workers",
    "devices_per_unit": "--devices_per_unit",
    "DataSettings.archive_dir": "--config.data.archive_dir",
    "DataSettings.dir": "--config.data.dir",
    "DataSettings.partial": "--config.data.partial",
    "DataSettings.without_imagenet": "--config.data.without_imagenet",
    "DataSettings.min_images": "--config.task.shots + --config.task.queries",
    "DataSettings.own": "--config.datasets or --config.images",
    "DataSettings.skip_broken": "--config.data.skip_broken",
    "DataSettings.fractions": "--config.data.split.fractions",
    "DataSettings.split_file": "--config.data.split.file",
    "DataSettings.classes": "--config.data.classes",
    "DataSettings.images_per_class": "--config.data.images_per_class",
}
_OF_DATASET = re.compile(r"--?config\.datasets\.(?P<name>.+)\.(?P<field>\w+)")
_ARGUMENT = re.compile(r"`([\w.]+)(=\w+)?`")  # `ways`, `DataSettings.partial=True`


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


def last_of_each(argv: Sequence[str]) -> list[str]:
    """The command line with the last of each `--config.FIELD=VALUE` that is given more than once.

    ml_collections would add the entries of a list up, and takes the last of everything else.
    """
    given = [argument.partition("=")[0].lstrip("-") if "=" in argument else "" for argument in argv]
    last = {flag: number for number, flag in enumerate(given)}
    return [
        argument
        for number, (argument, flag) in enumerate(zip(argv, given, strict=True))
        if not (argument.startswith("-") and flag.startswith("config.")) or last[flag] == number
    ]


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """The command line without `--config.datasets.NAME.FIELD=VALUE`, and these: ml_collections sets no new fields.

    Raises:
      InputError: a field without a value.
    """
    rest: list[str] = []
    given: list[tuple[str, str, str]] = []
    waiting = iter(argv)
    for argument in waiting:
        flag, equals, value = argument.partition("=")
        if not (found := _OF_DATASET.fullmatch(flag)):
            rest.append(argument)
            continue
        if not equals and (value := next(waiting, "--")).startswith("--"):
            raise InputError(f"{flag} has no value")
        given.append((found["name"], found["field"], value))
    return rest, given
