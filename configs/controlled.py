"""The controlled experiment: does diversity itself help? Subsets of one pool, of equal size and mixture.

    python launch.py --config=configs/controlled.py --workdir=study-controlled
    python launch.py --config=configs/controlled.py:real --workdir=study-controlled-real --config.data.archive_dir=DIR

Of one pool of classes, subsets of as many classes and images, and as many of each data set, are chosen for low, middle
and high diversity by their classes' Task2Vec embeddings. The methods learn on each of them with several seeds and are
tested on the pool's held-out classes, the same tasks for all. The report estimates what .1 of diversity changes.
`real`: Mini-ImageNet, Omniglot and Flowers (samples will do) with an ImageNet ResNet-50; DIR as in configs/sample.py.
"""

from ml_collections import ConfigDict

from jaxdiv.configs import default, sample


def get_config(data: str = "generated") -> ConfigDict:
    config = default.get_config()
    config.benchmarks = ()
    config.seeds = (0, 1)
    config.evaluation.test_sets = ("fixed",)
    config.evaluation.tasks = 100
    if data == "real":
        config.data.partial = True
        config.probe = sample.get_config().probe
        config.learner.update({"width": 16, "pixels": 28})
        config.pt.steps = 600
        config.maml.update({"steps": 150, "meta_batch": 2})
        config.controlled.update({"pool": "mini_imagenet+omniglot+flower", "classes": 24, "candidates": 60})
    else:
        config.data.classes = (192, 8, 32)
        config.controlled.update({"pool": "gauss-0.4", "classes": 24, "candidates": 192})
    config.training.checkpoint_every = 50
    return config
