"""A study of your own data sets, as many as you have: whether diversity predicts accuracy on them.

    python launch.py --config=configs/own.py --workdir=mine --config.datasets.birds.path=DIR \
        --config.datasets.moths.path=moths.zip --config.datasets.signs.path=signs.npz

Or copy this file and name them below. Each data set is a benchmark by its name, alone or in a union (`birds+omniglot`).
A path is a folder or an archive with a sub-folder of images for each class, or one of the other kinds in docs/data.md.
Look at what was found first: `--stages=prepare` writes WORKDIR/data, with a contact sheet of each, and trains nothing.
A task takes 5 classes of 20 images of one split, so that a set split in three needs about 25 classes.

The probe is torchvision's ImageNet ResNet-18, downloaded once; three methods train a conv-4 on each set, and each is
tested on the set's own test classes and on those of all of them together. With few sets a correlation can show little:
see docs/statistics.md.
"""

from ml_collections import ConfigDict

from jaxdiv.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.datasets = {
        # "birds": {"path": "~/birds"},
        # "moths": {"path": "~/moths.zip", "split": "~/moths.txt"},  # a line `train CLASS` for each, or val, or test
        # "leaves": {"path": "~/leaves", "labels": "labels.csv", "columns": ("file", "species", "part")},
        # "scans": {"path": "~/scans", "value_range": (0, 4095)},  # black and white of 16-bit or float images
        # "icons": {"path": "~/icons", "background": "black"},  # shows through transparent pixels
        # "drawings": {"path": "~/drawings", "normalisation": "measured"},  # instead of ImageNet's statistics
    }
    config.benchmarks = ()  # each of them; or some, and unions: ("birds", "moths", "birds+moths", "birds+omniglot")
    config.methods = ("fo_maml_5", "ho_maml_5", "pt")
    config.probe.update({"name": "resnet18", "weights": "imagenet", "pixels": 84, "tasks": 50})
    config.learner.update({"net": "conv4", "width": 32, "pixels": 28})
    config.maml.update({"steps": 1500, "meta_batch": 4, "learning_rate": 3e-3})
    config.pt.update({"steps": 3000, "batch_size": 64, "learning_rate": 3e-3})
    config.training.update({"schedule": "cosine", "validate_every": 250, "validation_tasks": 100})
    config.training.checkpoint_every = 250
    config.evaluation.tasks = 500
    return config
