"""The diversity of your own images: no training, no study.

    python launch.py --config=configs/folder.py --config.images=DIR --workdir=mine

DIR (or a .zip or .tar) has one sub-folder of images for each class: at least 5 classes of at least 20 images; any
common format, size and colour. The probe is torchvision's ImageNet ResNet-18, downloaded once; offline, give its file
by --config.probe.weights=FILE. mine/report holds the coefficient with its interval and a figure of the tasks.
"""

from ml_collections import ConfigDict

from jaxdiv.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.benchmarks = ("images",)
    config.methods = ()  # nothing is trained: the report is of diversity alone
    config.data.split.fractions = (1.0, 0.0, 0.0)  # of all classes
    config.probe.update({"name": "resnet18", "weights": "imagenet", "pixels": 84, "tasks": 50})
    return config
