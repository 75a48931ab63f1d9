"""The replication: whether diversity predicts few-shot accuracy, on 36 real benchmarks of one size.

    python launch.py --config=configs/replication.py:DIR --workdir=replication

DIR holds `omniglot_png.zip`, `miniimagenet_sample.tar`, `tiny_imagenet_sample.tar`, `caltech101_sample.tar`,
`gtsrb_sample.tar`, `flowers_sample.tar`, `dtd_sample.tar` (a folder per class; samples will do) and
`resnet50_imagenet_fp16.safetensors`. docs/replication.md has the rule, the hypotheses and the result.

The rule. The classes of every set are split once, for all benchmarks (`write_splits`). The benchmarks are
  the six sets with classes enough to stand alone;
  parts of one source: Omniglot's five largest alphabets, the animals and the artifacts of Mini- and Tiny-ImageNet;
  all fifteen unions of two of the six sets;
  six unions of five: the textures with four of the six sets that follow each other in `SETS`, around the end.
Each has the same number of train classes and images, and no class that another one tests on.
"""

import re
import sys
import zlib
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from jaxdiv.configs import default
from jaxdiv.data.own.found import OwnSet
from jaxdiv.data.own.layout import find

SETS = {
    "characters": "omniglot_png.zip",
    "mini": "miniimagenet_sample.tar",
    "tiny": "tiny_imagenet_sample.tar",
    "caltech": "caltech101_sample.tar",
    "signs": "gtsrb_sample.tar",
    "flowers": "flowers_sample.tar",
}
TEXTURES = "dtd_sample.tar"  # ten classes are too few to stand alone
ALPHABETS = ("Tifinagh", "Japanese_(hiragana)", "Gujarati", "Japanese_(katakana)", "Malayalam")
BRANCHES = ("animals", "artifacts")
WEIGHTS = "resnet50_imagenet_fp16.safetensors"
SPLITS = Path(__file__).parent / "splits"
# Classes and images of every train split. A part must have as many classes, and a task takes every image of a class.
CLASSES, IMAGES = 25, 20
_ANIMALS, _ARTIFACTS = 2_663_000, 4_620_000
_HELD_OUT, _FEWEST = 0.3, 5  # the share of each stratum that is for tests, and of a whole set at least a task's ways


def get_config(archive_dir: str = ".") -> ConfigDict:
    config = default.get_config()
    files = {**SETS, "textures": TEXTURES, **{name: SETS[source] for name, (source, _) in _parts().items()}}
    config.datasets = {
        name: {
            "path": str(Path(archive_dir) / file),
            "split": str(SPLITS / f"{name}.txt"),
            "nested": "path" if file == SETS["characters"] else "",
        }
        for name, file in files.items()
    }
    names = tuple(SETS)
    circle = [tuple(names[(first + step) % len(names)] for step in range(4)) for first in range(len(names))]
    config.benchmarks = (
        *names,
        *_parts(),
        *("+".join(pair) for pair in combinations(names, 2)),
        *("+".join(("textures", *four)) for four in circle),
    )
    config.methods = ("pt", "fo_maml_5", "fo_maml_10", "ho_maml_5", "ho_maml_10", "protonet")
    config.seeds = (0, 1)
    config.data.partial = True
    config.data.cut.update({"classes": CLASSES, "images": IMAGES})
    config.probe.update({"name": "resnet50_v1", "weights": str(Path(archive_dir) / WEIGHTS), "pixels": 48, "tasks": 20})
    config.learner.update({"width": 16, "pixels": 28})
    config.pt.update({"steps": 1000, "batch_size": 64})
    config.maml.update({"steps": 200, "meta_batch": 2, "learning_rate": 3e-3})
    config.evaluation.update({"tasks": 200, "fixed_test_set": "+".join(names)})
    config.training.checkpoint_every = 100
    return config


def write_splits(archive_dir: Path) -> None:
    """Write `splits/NAME.txt` of every set and part: `python configs/replication.py DIR`.

    Of each stratum (an alphabet, a branch of WordNet, else a whole set) three classes in ten are held out for tests,
    drawn by the set's name; of a whole set at least five. Left out: classes of fewer images than a task takes, and
    those of Tiny-ImageNet that are also Mini-ImageNet's.
    """
    theirs = {name: _classes(archive_dir / file) for name, file in {**SETS, "textures": TEXTURES}.items()}
    theirs["tiny"] = [name for name in theirs["tiny"] if name not in theirs["mini"]]
    SPLITS.mkdir(exist_ok=True)
    for source, classes in theirs.items():
        strata: dict[str, list[str]] = {}
        for name in classes:
            strata.setdefault(_stratum(source, name), []).append(name)
        rng = np.random.default_rng([0, zlib.crc32(source.encode())])
        lines: dict[str, list[str]] = {}
        for stratum, members in strata.items():
            held = int(_HELD_OUT * len(members))
            held = max(held, _FEWEST) if len(strata) == 1 else held
            tested = set(rng.permutation(sorted(members))[:held].tolist())
            lines[stratum] = [f"{'test' if name in tested else 'train'} {name}" for name in members]
        parts = {name: lines[part] for name, (of, part) in _parts().items() if of == source}
        for name, mine in {source: [line for of_one in lines.values() for line in of_one], **parts}.items():
            (SPLITS / f"{name}.txt").write_text("\n".join(mine) + "\n")


def _parts() -> dict[str, tuple[str, str]]:
    """The parts of one set that are benchmarks of their own: name -> set and stratum."""
    of = [("characters", each) for each in ALPHABETS] + [
        (each, branch) for each in ("mini", "tiny") for branch in BRANCHES
    ]
    return {f"{source}-{re.sub('[^a-z]+', '-', part.lower()).strip('-')}": (source, part) for source, part in of}


def _classes(file: Path) -> list[str]:
    """The classes with as many images as a task takes."""
    counts = Counter(
        item.of_class
        for item in find(OwnSet(str(file), nested="path" if file.name == SETS["characters"] else "")).items
    )
    return sorted(name for name, count in counts.items() if count >= IMAGES)


def _stratum(source: str, name: str) -> str:
    """What a class is held out within: its alphabet, its branch of WordNet, or nothing but its set."""
    if source == "characters":
        return name.split("/")[1]
    if source not in ("mini", "tiny"):
        return source
    # WordNet 3.0 numbers its nouns file by file: an animal's offset is below that of every artifact.
    offset = int(name[1:])
    return "animals" if offset < _ANIMALS else "artifacts" if offset < _ARTIFACTS else "rest"


if __name__ == "__main__":
    write_splits(Path(sys.argv[1]))
