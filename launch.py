"""The whole study from one command.

    python launch.py                                  generated benchmarks, minutes on a CPU
    python launch.py --config=configs/sample.py       real images
    python launch.py --config.maml.steps=500          any field of the configuration
    python launch.py --dry_run                        what would be done

The chain is: prepare (images) -> diversity (Task2Vec) -> train -> evaluate -> correlate -> report.
Results go to --workdir, one folder per unit of work; a second run does only what is lacking. WORKDIR/report/report.html is the end of it.
"""

import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

HERE = Path(__file__).parent
CONFIG = config_flags.DEFINE_config_file(
    "config", str(HERE / "configs" / "default.py"), "The study, and --config.any.field=value to change it."
)
WORKDIR = flags.DEFINE_string("workdir", "study", "Folder of the study's results; made if it is not there.")
STAGES = flags.DEFINE_list(
    "stages",
    "prepare,diversity,train,evaluate,correlate,report",
    "Which links of the chain to run, a comma between them.",
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "List the units of work and what each would do; write nothing.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        return fail(f"unexpected argument {argv[1]!r}: flags begin with --; see --help")
    # Before the first import of jax. A second start then skips most of the compilation.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "jaxdiv" / "compiled"))
    from rich.console import Console

    from jaxdiv import study
    from jaxdiv.errors import InputError

    logging.set_verbosity(logging.ERROR)  # Orbax tells of every save
    action = study.dry_run if DRY_RUN.value else study.run
    try:
        return action(CONFIG.value, Path(WORKDIR.value), STAGES.value, Console()) or 0
    except InputError as error:
        return fail(str(error))


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    app.run(main)
