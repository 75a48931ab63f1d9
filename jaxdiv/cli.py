"""The command `jaxdiv` (in a clone also `python launch.py`): the whole study from one line.

The chain is: prepare (images) -> embed (Task2Vec) -> diversity -> train -> evaluate -> correlate -> report; before
embed, `select` chooses the subsets of a controlled experiment. Results go to --workdir, one folder for each unit of
work and its settings; a second run does only the missing work. WORKDIR/report/report.html is the end of it.
"""

import ast
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from jaxdiv.errors import InputError, unknown, visible
from jaxdiv.files import is_address, local_path
from jaxdiv.study.flags import last_of_each, split_flags

if TYPE_CHECKING:
    from rich.console import Console

_HELP = """\
{program}: how diverse is an image data set, and does that predict how well a model learns from it?

    {program}                                           the embedded study: generated images, minutes on a CPU
    {program} --config=folder --config.images=DIR       the diversity of your own images, a sub-folder for each class
    {program} --config=own --config.datasets.birds.path=DIR   a study of your own data sets, as many as you have
    {program} --config=sample --config.data.archive_dir=DIR   a small study of real images
    {program} --config=PATH.py                          a configuration of your own
    {program} --config.maml.steps=500                   any field of the configuration
    {program} --dry_run                                 what would be done

Results go to --workdir. Run the same command again and it does only the missing work.
WORKDIR/report/report.html is the end of it.

Configurations that come with jaxdiv, for --config (copy one from {configs}):
{names}

Flags:
{flags}
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command; never returns. argv: the command line, its program first; None: the process's own."""
    argv = list(sys.argv if argv is None else argv)
    if {"--help", "-help", "--helpshort", "-h"} & set(argv[1:]):
        _define_flags([argv[0]])
        print(_help(argv[0]), end="")
        sys.exit(0)
    try:
        argv, own = split_flags(last_of_each(_named(argv)))
        _define_flags(argv)
    except InputError as error:
        sys.exit(_fail(str(error)))
    except (AttributeError, KeyError) as error:  # ml_collections already looks at the command line here
        sys.exit(_fail(_unknown_field(argv, error)))
    app.run(partial(_run, own), argv, flags_parser=_parse)
    raise AssertionError("app.run exits")


def configurations() -> dict[str, Traversable]:
    """The configurations that come with jaxdiv: name -> file."""
    files = sorted(resources.files("jaxdiv.configs").iterdir(), key=lambda file: file.name)
    return {file.name[:-3]: file for file in files if file.name.endswith(".py") and not file.name.startswith("_")}


def _define_flags(argv: list[str]) -> None:
    default = str(configurations()["default"])
    text = "The study: a name (see above) or a path; and --config.any.field=value to change it."
    config_flags.DEFINE_config_file("config", default, text, sys_argv=argv)
    flags.DEFINE_string(
        "workdir", "study", "The study's results: a folder, made if it is not there, or gs://.., s3://.."
    )
    stages = "prepare,select,embed,diversity,train,evaluate,correlate,report"
    flags.DEFINE_list(
        "stages",
        stages,
        "Which links of the chain to run, a comma between them; or verify, alone: every result against its checksum.",
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of the first of the processes that train together; `auto` on a TPU pod or SLURM.",
    )
    flags.DEFINE_integer("processes", None, "How many processes there are, with --coordinator=HOST:PORT.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, with --coordinator=HOST:PORT.")
    flags.DEFINE_bool("dry_run", False, "List the units of work and how each is, and the time left; write nothing.")
    flags.DEFINE_list("units", [], "Patterns of units' names, as train/*/pt/*: only these, and what they need.")
    flags.DEFINE_string("launcher", "local", "Who runs the units: local, slurm, ray, or commands (prints them).")
    flags.DEFINE_integer("workers", 0, "How many units at once, each in a process of its own; 0: one, in this process.")
    flags.DEFINE_integer("devices_per_unit", 0, "Devices of each unit, so that several share a machine; 0: all.")
    flags.DEFINE_string("unit", None, "Run this one unit, NAME/DIGEST, as --launcher=commands prints it.")


def _run(own: list[tuple[str, str, str]], argv: list[str]) -> int:
    if len(argv) > 1:
        quoted = "put quotes around a value with a space, --workdir='my study'"
        return _fail(f"unexpected argument {argv[1]!r}: flags begin with --; {quoted}; see --help")
    import jax

    from jaxdiv.study import own_sets, worker
    from jaxdiv.study.terminal import Terminal

    worker.set_up_process()
    given = flags.FLAGS
    if _elsewhere() and not given.unit:
        jax.config.update("jax_platforms", "cpu")  # this process computes nothing: the devices are the workers'
    try:
        config = given.config
        config.keys()  # ml_collections raises what was wrong with the file at the first access
    except OSError as error:
        return _fail(f"the configuration file cannot be loaded: {error}")
    try:
        own_sets.with_flags(config, own)
    except InputError as error:
        return _fail(str(error))
    _deterministic(config)
    if given.coordinator and _elsewhere():
        return _fail("--coordinator: its hosts run each unit together: no --launcher, --workers or --devices_per_unit")
    if given.coordinator:
        found = given.coordinator == "auto"
        try:
            jax.distributed.initialize(None if found else given.coordinator, given.processes, given.process_id)
        except (ValueError, RuntimeError) as error:
            return _fail(f"--coordinator={given.coordinator}: {str(error).splitlines()[0]}")
    try:
        jax.local_devices()
    except (AssertionError, RuntimeError) as error:  # JAX_PLATFORMS=cuda without CUDA, or nothing that JAX knows
        reason = (str(error).splitlines() or ["not found"])[0]
        asked = os.environ.get("JAX_PLATFORMS", "")
        return _fail(f"JAX has no device on JAX_PLATFORMS={asked!r} ({reason}): unset it, or `cpu`")
    try:
        if not given.workdir.strip():
            return _fail("--workdir is empty: give the folder of the study's results")
        if is_address(given.workdir):
            return _act_remotely(config, given.workdir, Terminal())
        return _act(config, Path(local_path(given.workdir, "--workdir")), Terminal())
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted; the same command resumes from the last checkpoint")


def _act(config: ConfigDict, workdir: Path, console: "Console") -> int:
    """Do what the flags ask for; the exit code. Raises InputError as the action does."""
    from jaxdiv.study import launchers, runner

    given = flags.FLAGS
    if given.dry_run:
        runner.dry_run(config, workdir, given.stages, console, given.units, here=not _elsewhere())
        return 0
    if given.stages == ["verify"]:
        return runner.verify_results(config, workdir, given.units, console)
    if given.unit:
        return runner.run_unit(config, workdir, given.unit, console)
    if given.launcher == "commands":
        print(*runner.commands(config, workdir, given.stages, given.units, _command()), sep="\n")
        return 0
    launch = partial(launchers.launcher, given.launcher, workdir, given.workers, given.devices_per_unit)
    return runner.run(config, workdir, given.stages, console, given.units, launch)


def _act_remotely(config: ConfigDict, address: str, console: "Console") -> int:
    """As `_act`, in this machine's mirror of a workdir in an object store."""
    from jaxdiv.study import remote, runner

    given = flags.FLAGS
    for flag, used in (
        ("--coordinator", given.coordinator),
        ("--unit", given.unit),
        ("--launcher=commands", given.launcher == "commands"),
    ):
        if used:
            raise InputError(f"{flag} needs a workdir that all processes see: --workdir is {address!r}, give a path")
    leads = (
        False if given.dry_run or given.stages == ["verify"] else None if {*given.stages} <= runner.READING else True
    )
    with remote.mirrored(address, console, leads) as workdir:
        return _act(config, workdir, console)


def _elsewhere() -> bool:
    """Whether other processes than this one run the units."""
    given = flags.FLAGS
    return bool(given.launcher != "local" or given.workers or given.devices_per_unit)


def _command() -> list[str]:
    """This process's command line without the flags that choose units and who runs them."""
    program, *rest = sys.argv
    script = [str(Path(program).resolve())] if Path(program).name == "launch.py" else ["-m", "jaxdiv"]
    dropped = {"launcher", "workers", "devices_per_unit", "units", "stages"}
    kept, given = [], iter(rest)
    for argument in given:
        flag, equals, _ = argument.lstrip("-").partition("=")
        if flag not in dropped:
            kept.append(argument)
        elif not equals:
            next(given, None)
    return [sys.executable, *script, *kept]


def _deterministic(config: Any) -> None:
    """Where it is asked for, GPU kernels that give the same bits each time: XLA reads it when a device starts."""
    section = config.get("compute")
    if isinstance(section, ConfigDict) and section.get("deterministic") is True:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


def _named(argv: list[str]) -> list[str]:
    """The command line with a configuration's file instead of its name: `--config=folder`, `--config controlled:real`.

    Raises:
      InputError: with the nearest names, for a name that no configuration has and a file that does not exist.
    """
    known = configurations()

    def path(given: str) -> str:
        name, colon, argument = given.partition(":")
        if name in known:
            return f"{known[name]}{colon}{argument}"
        if Path(name).suffix != ".py":
            raise InputError(f"--config={given}: {unknown('configuration', name, known)}, or the path of a .py file")
        if not Path(name).is_file():
            raise InputError(f"--config={given}: no such file; those that come with jaxdiv are {', '.join(known)}")
        return given

    found = list(argv)
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            if equals:
                found[i] = f"{flag}={path(value)}"
            elif i + 1 < len(argv):
                found[i + 1] = path(argv[i + 1])
    return found


def _parse(argv: list[str]) -> list[str]:
    """absl's own parsing, with one line for a mistake."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        sys.exit(_fail(_unknown_field(argv, error)))
    except (flags.Error, OSError) as error:
        sys.exit(_fail(str(error)))


def _unknown_field(argv: Sequence[str], error: Exception) -> str:
    hint = str(error).strip("'\"")
    given = " ".join(argument for argument in argv if argument.startswith("--config."))
    return f"unknown configuration field in {given}: {hint}; the file of --config has the names"


def _help(program: str) -> str:
    script = Path(program).name
    first = lambda file: (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]
    return _HELP.format(
        program="python launch.py" if script == "launch.py" else "jaxdiv",
        names="\n".join(f"    {name:12}{first(file)}" for name, file in configurations().items()),
        configs=resources.files("jaxdiv.configs"),
        flags=flags.FLAGS.module_help(__name__).strip().partition("\n")[2],
    )


def _fail(message: str) -> int:
    print("error:", visible(" ".join(message.replace("\\n", " ").replace("\\", "").split())), file=sys.stderr)
    return 1
