"""Choosing data by diversity: training on the most diverse classes, against training on as many random ones.

    python launch.py --config=configs/selection.py:DIR --workdir=selection

DIR as in configs/replication.py, whose sets, splits, probe and learner these are. Each pool is 60 classes, which
all of them have for training but the traffic signs. docs/choosing.md has the hypotheses and the test.
"""

from ml_collections import ConfigDict

from jaxdiv.configs import replication

SOURCES = ("characters", "mini", "tiny", "caltech", "flowers")
SIZES = (6, 12, 24)
CHOICES = ("most_diverse", "random", "random-1", "random-2")
POOL = 60


def get_config(archive_dir: str = ".") -> ConfigDict:
    config = replication.get_config(archive_dir)
    config.benchmarks = tuple(f"{source}@{size}_{choice}" for source in SOURCES for size in SIZES for choice in CHOICES)
    config.data.cut.classes = POOL  # that choices are made from; of 20 images, as in the replication
    config.methods = ("pt", "fo_maml_5", "protonet")
    config.seeds = (0, 1)
    config.probe.tasks = 10
    config.evaluation.test_sets = ("own",)
    return config
