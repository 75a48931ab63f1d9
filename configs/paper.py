"""The study itself: thirteen benchmarks, ResNet-12, five methods; many days for several accelerators.

    python launch.py --config=configs/paper.py --workdir=paper --config.data.archive_dir=DIR --stages=prepare,diversity
    python launch.py --config=configs/paper.py --workdir=paper --config.data.archive_dir=DIR

"Exploring the Efficacy of Meta-Learning: Unveiling Superior Data Diversity Utilization of MAML Over Pre-training"
(Selva, Vittayaareekul, Miranda). DIR holds the archives that are behind a form; the rest is downloaded. Several hosts
train a unit together by --coordinator. Diversity is jaxdiv's own (exact Fisher, converged head, jackknife over tasks);
Table 1 as the
paper measured it (reference estimator, Adam's head, its distance and interval, augmented tasks): --config.preset=paper;
with its other probe: --config.probe.name=resnet34. All benchmarks are at 84 px, in one learner for all. Its Table 2:
R² of accuracy .149 (PT), .168, .152 (FO-MAML 5, 10), .398, .416 (HO-MAML 5, 10). Not run to its end by its makers.
"""

from ml_collections import ConfigDict

from jaxdiv.configs import default
from jaxdiv.data.registry import STUDY


def get_config() -> ConfigDict:
    config = default.get_config()
    config.benchmarks = STUDY
    config.data.augment.training = True
    config.data.without_imagenet = True
    config.probe.update({"name": "resnet18", "weights": "imagenet", "pixels": 84, "tasks": 50})
    config.learner.update({"net": "resnet12", "pixels": 84})
    config.pt.update({"steps": 100_000, "batch_size": 256, "learning_rate": 1e-3})
    config.maml.update({"steps": 100_000, "meta_batch": 4, "learning_rate": 1e-3, "inner_lr": 0.1})
    # "Until convergence": an end without a new best on validation tasks.
    config.training.update({"validate_every": 1000, "validation_tasks": 100, "patience": 20})
    config.training.checkpoint_every = 1000
    config.evaluation.tasks = 500
    return config
