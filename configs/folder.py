"""The diversity of your own images: no training, no study.

    python launch.py --config=configs/folder.py --config.images=DIR --workdir=mine
    python launch.py --config=configs/folder.py --config.images=DIR1,DIR2 --workdir=both
    python launch.py --config=configs/folder.py --config.images=birds=DIR1,moths=DIR2 --workdir=both

DIR (or a .zip or .tar) has one sub-folder of images for each class: at least 5 classes of at least 20 images; any
common format, size and colour. Several folders are measured alike, each a benchmark with the folder's name or the one
that you give it. The probe is torchvision's ImageNet ResNet-18, downloaded once; offline, give its file by
--config.probe.weights=FILE. The result is mine/report/report.html: the coefficient of each folder with its interval, a
figure of its tasks, the distances between folders, whether one is more diverse, and what may be compared.

--config.preset=paper measures as the paper's Table 1 was measured: the reference's estimator, Adam's head, its distance
and interval, and tasks with the study's train augmentation of photographs. The report then shows the paper's values. A
setting that you give yourself wins over the preset; the report then says what differs and leaves the paper's values
out.
"""

from ml_collections import ConfigDict

from jaxdiv.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.benchmarks = ()  # each folder of --config.images
    config.methods = ()  # nothing is trained: the report is of diversity alone
    config.data.split.fractions = (1.0, 0.0, 0.0)  # of all classes
    config.probe.update({"name": "resnet18", "weights": "imagenet", "pixels": 84, "tasks": 50})
    return config
