"""What the choice of estimator, head and distance does to a coefficient, and how much of it is the estimator's noise.

    python bench/estimators.py --archive_dir=DIR [--pixels=32] [--save=FILE.npz]

Four tasks each of Omniglot, Mini-ImageNet and VGG Flowers (DIR is that of `configs/sample.py`), with the ImageNet
ResNet-50. Every embedding that draws is made twice on the same tasks: the mean distance between the two is noise alone.
"""

import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from jaxdiv import embed_benchmark, load_benchmark, load_probe
from jaxdiv.data.benchmarks import DataSettings
from jaxdiv.task2vec.coefficient import diversity, noise_floor
from jaxdiv.task2vec.fisher import is_stochastic

ARCHIVES = flags.DEFINE_string("archive_dir", None, "Where the archives and the probe's weights lie.", required=True)
WEIGHTS = flags.DEFINE_string("weights", "resnet50_imagenet_fp16.safetensors", "The probe's file there.")
PROBE = flags.DEFINE_string("probe", "resnet50_v1", "The probe's architecture.")
PIXELS = flags.DEFINE_integer("pixels", 32, "Image size.")
TASKS = flags.DEFINE_integer("tasks", 4, "Tasks of each data set.", lower_bound=2)
MANY = flags.DEFINE_integer("many", 48, "Tasks of Mini-ImageNet for the interval's width.", lower_bound=12)
SAVE = flags.DEFINE_string("save", None, "File that keeps the embeddings, so that the same command goes on.")

SETS = ("omniglot", "mini_imagenet", "flower")
CHOICES = [
    ("exact", "converged"),
    ("rademacher", "converged"),
    ("mc", "converged"),
    ("exact", "adam"),
    ("reference", "adam"),
]
SCALE_FREE = "task2vec_scale_free"


def main(argv: list[str]) -> int:
    settings = DataSettings(archive_dir=ARCHIVES.value, partial=True)
    tables = {name: load_benchmark(name, "train", PIXELS.value, settings) for name in SETS}
    probe = load_probe(PROBE.value, Path(ARCHIVES.value) / WEIGHTS.value)
    saved = Path(SAVE.value) if SAVE.value else None
    found = dict(np.load(saved)) if saved and saved.exists() else {}

    def embedded(name: str, tasks: int, estimator: str, head: str, again: bool = False) -> np.ndarray:
        what = f"{name} {tasks} {estimator} {head} {'again' if again else 'once'}"
        if what not in found:
            start = time.monotonic()
            found[what] = embed_benchmark(
                probe, tables[name], tasks, estimator=estimator, head=head, key=jax.random.key(7), again=again
            )
            print(f"{what}: {(time.monotonic() - start) / tasks:.1f} s a task", file=sys.stderr, flush=True)
            if saved:
                np.savez(saved, **found)
        return found[what]

    def all_sets(estimator: str, head: str, again: bool = False) -> np.ndarray:
        return np.concatenate([embedded(name, TASKS.value, estimator, head, again) for name in SETS])

    count, exact = TASKS.value * len(SETS), all_sets("exact", "converged")
    truth = diversity(exact).value
    print(f"{count} tasks, {TASKS.value} of each of {', '.join(SETS)}; {PROBE.value}, {PIXELS.value} px\n")
    print("| estimator | head | distance | coefficient [95%] | beside exact | noise floor | floor within a set's own |")
    print("|---|---|---|--:|--:|--:|--:|")
    for estimator, head in CHOICES:
        once = all_sets(estimator, head)
        again = all_sets(estimator, head, again=True) if is_stochastic(estimator, head) else once
        for distance in (SCALE_FREE, "task2vec", "cosine"):
            value, low, high = diversity(once, distance)
            floor = noise_floor(once, again, distance)
            rows = np.split(once, len(SETS))
            within = np.mean([diversity(of_set, distance).value for of_set in rows])
            print(
                f"| {estimator} | {head} | {distance} | {value:.3f} [{low:.3f}, {high:.3f}] | {value / truth - 1:+.0%} "
                f"| {floor:.3f} | {floor / within:.0%} of {within:.3f} |"
            )
    print("\nThe same task by `exact`, once with either head, or once with either estimator (mean distance):")
    for estimator, head in CHOICES[1:]:
        print(f"- {estimator}, {head}: {noise_floor(exact, all_sets(estimator, head)):.3f}")
    many = embedded("mini_imagenet", MANY.value, "exact", "converged")
    print("\nMini-ImageNet alone, exact: tasks -> coefficient [95%]")
    for tasks in (6, 12, 24, MANY.value):
        value, low, high = diversity(many[:tasks])
        print(f"- {tasks}: {value:.3f} [{low:.3f}, {high:.3f}]")
    return 0


if __name__ == "__main__":
    app.run(main)
