"""A small real study: Omniglot, Mini-ImageNet, Flowers and their unions, an ImageNet ResNet-50 as probe.

    python launch.py --config=configs/sample.py --workdir=study-sample --config.data.archive_dir=DIR

DIR holds `omniglot_png.zip`, `miniimagenet_sample.tar`, `flowers_sample.tar` (a folder per class; samples will do) and
`resnet50_imagenet_fp16.safetensors` (torchvision's names, stride in the first 1x1). Every unit resumes: the same
command goes on after an interruption.
"""

from ml_collections import ConfigDict

from jaxdiv.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.benchmarks = (
        "omniglot",
        "mini_imagenet",
        "flower",
        "mini_imagenet+omniglot",
        "flower+omniglot",
        "mini_imagenet+flower",
        "mini_imagenet+flower+omniglot",
    )
    config.data.partial = True
    config.probe.update(
        {"name": "resnet50_v1", "weights": "resnet50_imagenet_fp16.safetensors", "pixels": 64, "tasks": 10}
    )
    config.learner.update({"width": 16, "pixels": 28})
    config.pt.update({"steps": 600, "batch_size": 64})
    config.maml.update({"steps": 100, "meta_batch": 2, "learning_rate": 3e-3})
    config.evaluation.tasks = 200
    config.training.checkpoint_every = 50
    return config
