"""The embedded study in seconds, one for every test that runs the command: equal studies share what they compile."""

TINY = {
    "benchmarks": "('gauss-0.1','gauss-0.5','gauss-1.5')",
    "methods": "('pt','fo_maml_5')",
    "task.shots": 2,
    "task.queries": 3,
    "data.classes": "(8,5,6)",
    "data.images_per_class": 6,
    "probe.tasks": 3,
    "learner.width": 4,
    "pt.steps": 30,
    "pt.batch_size": 8,
    "maml.steps": 30,
    "evaluation.tasks": 4,
    "training.checkpoint_every": 10,
}
PRE_TRAINING = {**TINY, "methods": "('pt',)"}


def flags(config):
    """As arguments of the command."""
    return [f"--config.{name}={value}" for name, value in config.items()]
