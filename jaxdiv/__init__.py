"""Task2Vec data diversity, MAML and pre-training in JAX, and what the one says about the other."""

import sys

if sys.argv[:1] == ["-m"]:  # only while `python -m` locates its module, which is then the one before the arguments
    _asked = sys.orig_argv[-len(sys.argv)]
    _asked = _asked.partition("m")[2] if _asked.startswith("-") else _asked  # -mjaxdiv.study
    if _asked.startswith("jaxdiv.") and _asked != "jaxdiv.__main__":
        hint = "run `jaxdiv` (or `python -m jaxdiv`); see `jaxdiv --help`"
        print(f"error: {_asked} is no command: the modules of jaxdiv are a library; {hint}", file=sys.stderr)
        sys.exit(2)

from jaxdiv.data.benchmarks import DataSettings, load_benchmark
from jaxdiv.data.episodes import sample_tasks
from jaxdiv.methods.maml import meta_gradient
from jaxdiv.probes.weights import load_probe
from jaxdiv.stats.regression import r_squared
from jaxdiv.task2vec.coefficient import cross_diversity, diversity, pairwise_distances
from jaxdiv.task2vec.embedding import embed_benchmark
from jaxdiv.task2vec.fisher import embed, fisher, fit_head
from jaxdiv.version import __version__

__all__ = [
    "DataSettings",
    "__version__",
    "cross_diversity",
    "diversity",
    "embed",
    "embed_benchmark",
    "fisher",
    "fit_head",
    "load_benchmark",
    "load_probe",
    "meta_gradient",
    "pairwise_distances",
    "r_squared",
    "sample_tasks",
]
