"""Task2Vec data diversity, MAML and pre-training in JAX, and what the one says about the other."""

from jaxdiv.data.benchmarks import DataSettings, load_benchmark
from jaxdiv.data.episodes import sample_tasks
from jaxdiv.diversity import cross_diversity, diversity, pairwise_distances
from jaxdiv.embedding import embed_benchmark
from jaxdiv.maml import meta_gradient
from jaxdiv.nets.weights import load_probe
from jaxdiv.regression import r_squared
from jaxdiv.task2vec import embed, fisher, fit_head
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
