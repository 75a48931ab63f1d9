"""The whole study from one command.

    python launch.py                                  generated benchmarks, minutes on a CPU
    python launch.py --config=configs/sample.py       real images
    python launch.py --config.maml.steps=500          any field of the configuration
    python launch.py --dry_run                        what would be done

The chain is: prepare (images) -> diversity (Task2Vec) -> train -> evaluate -> correlate -> report; before diversity,
`select` chooses the subsets of a controlled experiment (configs/controlled.py).
Results go to --workdir, one folder per unit of work; a second run does only what is lacking.
WORKDIR/report/report.html is the end of it.
"""

import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags


def fail(message: str) -> int:
    print("error:", " ".join(message.replace("\\n", " ").replace("\\", "").split()), file=sys.stderr)
    return 1


DEFAULT = Path(__file__).parent / "configs" / "default.py"
try:
    CONFIG = config_flags.DEFINE_config_file(
        "config", str(DEFAULT), "The study, and --config.any.field=value to change it."
    )
except AttributeError as error:  # ml_collections looks at the command line already here
    given = " ".join(argument for argument in sys.argv if argument.startswith("--config."))
    hint = str(error).strip("'\"")
    sys.exit(fail(f"unknown configuration field in {given}: {hint}; the file of --config has the names"))
WORKDIR = flags.DEFINE_string("workdir", "study", "Folder of the study's results; made if it is not there.")
STAGES = flags.DEFINE_list(
    "stages",
    "prepare,select,diversity,train,evaluate,correlate,report",
    "Which links of the chain to run, a comma between them.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of the first of the processes that train together; `auto` on a TPU pod or SLURM.",
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are, with --coordinator=HOST:PORT.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, with --coordinator=HOST:PORT.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "List the units of work and what each would do; write nothing.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        return fail(f"unexpected argument {argv[1]!r}: flags begin with --; see --help")
    # Both before the first import of jax. BLAS threads fight XLA's own over the cores, 5 to 20 times slower.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A second start then skips most of the compilation.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "jaxdiv" / "compiled"))
    import jax
    from rich.console import Console

    from jaxdiv import study
    from jaxdiv.errors import InputError

    logging.set_verbosity(logging.ERROR)  # Orbax tells of every save
    try:
        config = CONFIG.value
        config.keys()  # ml_collections raises what was wrong with the file at the first access
    except OSError as error:
        return fail(f"the configuration file cannot be loaded: {error}")
    if COORDINATOR.value:
        found = COORDINATOR.value == "auto"
        try:
            jax.distributed.initialize(None if found else COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
        except (ValueError, RuntimeError) as error:
            return fail(f"--coordinator={COORDINATOR.value}: {str(error).splitlines()[0]}")
    action = study.dry_run if DRY_RUN.value else study.run
    try:
        return action(config, Path(WORKDIR.value), STAGES.value, Console()) or 0
    except InputError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from the last checkpoint")


def parse(argv: list[str]) -> list[str]:
    """absl's own parsing, with one line for a mistake."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, OSError) as error:
        sys.exit(fail(str(error)))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
