"""A choice of classes: of your images the most diverse ones, or those that add most to what you have.

    python launch.py --config=configs/choose.py:DIR --config.choice.classes=20 --workdir=chosen
    python launch.py --config=configs/choose.py:DIR --config.choice.have=DIR2 --workdir=chosen
    python launch.py --config=configs/choose.py:DIR --config.choice.goal=least --workdir=chosen

DIR as in configs/folder.py, whose probe this is; --config.choice.pool=mini_imagenet chooses from a data set of the
study. The list is chosen/report/choice.csv, in the order of choice; report.html has the curve of what it gains over
random classes. docs/choosing.md says how, and how to train on a choice.
"""

from ml_collections import ConfigDict

from jaxdiv.configs import folder


def get_config(images: str = "") -> ConfigDict:
    config = folder.get_config()
    config.images = images
    config.choice.classes = 20
    config.probe.tasks = 12  # of each folder as a whole, beside the choice
    return config
