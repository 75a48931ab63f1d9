"""Tasks per second of the resident sampler against learn2learn's on the same images in memory, on one core.

    taskset -c 0 python bench/data.py --archive_dir=DIR [--learn2learn=FOLDER]

DIR holds Mini-ImageNet, whole or a sample. learn2learn 0.2.0 does not install: its generated C is for Python 3.7. In
its unpacked source, `cython<3` builds the three modules of `learn2learn/data` again, as they are; FOLDER is where the
package `learn2learn` then lies, of which only `learn2learn.data` is imported. Without it there is no comparison.

A task is 5-way, 5 shots and 15 queries: 100 images. Seconds are CPU seconds of the process, so that other work on the
core does not count; sides alternate. learn2learn's rows: `tensors`: float images normalised beforehand, its fastest;
`transforms`: bytes in memory, torchvision's ToTensor and Normalize; `augmented`: the study's train augmentation as
torchvision has it, on PIL images. The meta-step is one task of conv-4 (width 32), HO-MAML with 5 inner steps.
"""

import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from jaxdiv import load_benchmark, meta_gradient, sample_tasks
from jaxdiv.data.augment import Augmentation
from jaxdiv.data.prepare import DataSettings
from jaxdiv.host_memory import keep_freed_memory
from jaxdiv.nets.network import make_network

ARCHIVES = flags.DEFINE_string("archive_dir", None, "Where Mini-ImageNet lies.", required=True)
PEER = flags.DEFINE_string("learn2learn", None, "Where the built package `learn2learn` lies.")
PIXELS = flags.DEFINE_list("pixels", "28,32,84", "Image sizes.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each row is timed; the median counts.")

WAYS, SHOTS, QUERIES = 5, 5, 15
AUGMENTATION = Augmentation(0.18, 8 / 84, 0.4, True)


def main(argv: list[str]) -> int:
    keep_freed_memory()  # for both sides; launch.py does it too
    print("| px | row | CPU ms a task | tasks/s | plain: ours x | augmented: ours x |")
    print("|--:|---|--:|--:|--:|--:|")
    for pixels in map(int, PIXELS.value):
        table = load_benchmark(
            "mini_imagenet", "train", pixels, DataSettings(archive_dir=ARCHIVES.value, partial=True)
        ).replace(augmentation=(AUGMENTATION,))
        rows = _ours(table)
        if PEER.value:
            rows |= _theirs(table, pixels)
        seconds = _medians(rows)
        for row, spent in seconds.items():
            against = ["–", "–"]
            if row.startswith("learn2learn"):
                kind = int("augmented" in row)
                best = min(seconds[f"jaxdiv{', augmented' if kind else ''}, {n} at once"] for n in (1, 4))
                against[kind] = f"{spent / best:.1f}"
            print(f"| {pixels} | {row} | {1e3 * spent:.2f} | {1 / spent:.0f} | {' | '.join(against)} |")
        step = _medians({"step": (_meta_step(table, pixels), 1, 1)})["step"]
        for kind in ("", ", augmented"):
            share = seconds[f"jaxdiv{kind}, 4 at once"] / step
            print(f"| {pixels} | of a HO-5 meta-step ({1e3 * step:.0f} ms){kind} | {share:.1%} | | | |")
    return 0


# What is timed: a call, how many tasks one gives, how many calls there are in a round.
Row = tuple[Callable[[], object], int, int]


def _medians(rows: dict[str, Row]) -> dict[str, float]:
    """CPU seconds a task of each row, the rows in turn."""
    found: dict[str, list[float]] = {name: [] for name in rows}
    for call, _, _ in rows.values():
        call()
    for _ in range(ROUNDS.value):
        for name, (call, tasks, calls) in rows.items():
            start = time.process_time()
            for _ in range(calls):
                call()
            found[name].append((time.process_time() - start) / (tasks * calls))
    return {name: float(np.median(times)) for name, times in found.items()}


def _ours(table) -> dict[str, Row]:
    def row(tasks: int, augment: bool) -> Row:
        keys = iter(jax.random.split(jax.random.key(1), 10_000))
        size = (WAYS, SHOTS, QUERIES, tasks, augment)
        return lambda: jax.block_until_ready(sample_tasks(next(keys), table, *size)), tasks, 4 if augment else 40

    return {
        f"jaxdiv{', augmented' if augment else ''}, {tasks} at once": row(tasks, augment)
        for augment in (False, True)
        for tasks in (1, 4)
    }


def _theirs(table, pixels: int) -> dict[str, Row]:
    import torch
    from PIL import Image
    from torchvision import transforms as T

    torch.set_num_threads(1)
    package = types.ModuleType("learn2learn")  # without its __init__, which imports gym and more
    package.__path__ = [str(Path(PEER.value) / "learn2learn")]
    sys.modules["learn2learn"] = package
    from learn2learn import data as l2l_data
    from learn2learn.data import transforms as l2l

    package.data = l2l_data
    images, count = np.asarray(table.images), np.asarray(table.count)
    labels = np.repeat(np.arange(len(count)), count)
    mean, std = (np.asarray(values)[0].tolist() for values in (table.mean, table.std))
    normalise = T.Compose([T.ToTensor(), T.Normalize(mean, std)])
    crop = T.RandomResizedCrop(pixels, (AUGMENTATION.scale, 1.0))
    augment = T.Compose(
        [
            crop,
            T.RandomCrop(pixels, round(pixels * AUGMENTATION.padding)),
            T.ColorJitter(*3 * [AUGMENTATION.jitter]),
            T.RandomHorizontalFlip(),
            normalise,
        ]
    )

    class InMemory(torch.utils.data.Dataset):
        def __init__(self, samples, transform):
            self.samples, self.transform = samples, transform

        def __len__(self):
            return len(self.samples)

        def __getitem__(self, i):
            return (self.transform(self.samples[i]) if self.transform else self.samples[i]), int(labels[i])

    def row(samples, transform, calls: int) -> Row:
        dataset = l2l_data.MetaDataset(InMemory(samples, transform))
        steps = [
            l2l.FusedNWaysKShots(dataset, n=WAYS, k=SHOTS + QUERIES),
            l2l.LoadData(dataset),
            l2l.RemapLabels(dataset),
            l2l.ConsecutiveLabels(dataset),
        ]
        tasks = l2l_data.Taskset(dataset, steps, num_tasks=-1)
        return lambda: l2l_data.partition_task(*tasks.sample(), shots=SHOTS), 1, calls

    pictures = [Image.fromarray(image) for image in images]
    return {
        "learn2learn, tensors": row(torch.stack([normalise(image) for image in images]), None, 10),
        "learn2learn, transforms": row(images, normalise, 5),
        "learn2learn, augmented": row(pictures, augment, 2),
    }


def _meta_step(table, pixels: int) -> Callable[[], object]:
    network = make_network("conv4", WAYS, pixels, 32)
    params, _ = network.init(jax.random.key(0))
    tasks = sample_tasks(jax.random.key(0), table, WAYS, SHOTS, QUERIES)
    apply = lambda params, images: network.apply_batch_stats(params, images).logits
    step = jax.jit(lambda params, tasks: meta_gradient(apply, params, tasks, 5))
    return lambda: jax.block_until_ready(step(params, tasks))


if __name__ == "__main__":
    app.run(main)
