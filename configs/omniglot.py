"""Does MAML learn? Conv-4 on Omniglot, 5-way 5-shot: first order, higher order and pre-training.

    python launch.py --config=configs/omniglot.py --workdir=study-omniglot --config.data.archive_dir=DIR \
        --stages=prepare,train,evaluate,correlate,report

DIR holds Omniglot. Published, for 5-way 1-shot and far longer training: 99.1% (Finn et al. 2017).
"""

from ml_collections import ConfigDict

from jaxdiv.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.benchmarks = ("omniglot",)
    config.methods = ("fo_maml_5", "ho_maml_5", "pt")
    config.learner.update({"net": "conv4", "width": 32, "pixels": 28})
    config.maml.update({"steps": 1500, "meta_batch": 4, "learning_rate": 3e-3})
    config.pt.update({"steps": 3000, "batch_size": 64, "learning_rate": 3e-3})
    config.training.update({"schedule": "cosine", "validate_every": 250, "validation_tasks": 100})
    config.training.checkpoint_every = 250
    config.evaluation.tasks = 500
    return config
