"""Diversity by sampling: the same data, and training tasks that are alike, ordinary or diverse.

    python launch.py --config=configs/samplers.py:DIR --workdir=samplers

DIR as in configs/replication.py, whose sets, cut, splits, probe and learner these are. docs/samplers.md has the
samplers, the hypotheses and the result.
"""

from ml_collections import ConfigDict

from jaxdiv.configs import replication

SOURCES = tuple(replication.SETS)
SAMPLERS = ("one_task", "one_batch", "few_classes", "nearest", "k_dpp", "greedy", "hard")


def get_config(archive_dir: str = ".") -> ConfigDict:
    config = replication.get_config(archive_dir)
    sampled = [f"{source}@{sampler}" for source in SOURCES for sampler in SAMPLERS]
    # A fixed task is an accident: three of them.
    more = [f"{source}@one_task-{number}" for source in SOURCES for number in (1, 2)]
    config.benchmarks = (*SOURCES, *sampled, *more)
    config.methods = ("pt", "fo_maml_5", "protonet")
    config.seeds = (0, 1, 2)
    config.evaluation.test_sets = ("own",)
    return config
