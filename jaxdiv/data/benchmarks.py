"""The table of facts: which data sets there are, their class splits, pixel statistics, and unions.

A benchmark's name is a base data set, a generated one (`gauss-S`), a named union, or several of these joined by `+`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiv.data import folder, synthetic
from jaxdiv.data.episodes import ImageTable, make_table, union
from jaxdiv.errors import InputError, unknown

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class BaseSet:
    """One data set: what its archive is, how its folders name classes, and what its pixels look like."""

    title: str
    archive: str  # the file (or folder) expected under the archive directory, its classes in folders
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: str = ""  # key in splits.json; empty: by order of folders, in the sizes of `sizes`
    sizes: tuple[int, int, int] = (0, 0, 0)
    gray: bool = False
    rotates: bool = False


_META_DATASET_MEAN, _META_DATASET_STD = (0.5853, 0.5335, 0.4950), (0.2348, 0.2260, 0.2242)

BASE_SETS = {
    # The study's own transform of Omniglot is 1 - x: strokes 1 on background 0. As a mean of 1 and a "std" of -1.
    "omniglot": BaseSet(
        "Omniglot",
        "omniglot_png.zip",
        (1.0,) * 3,
        (-1.0,) * 3,
        sizes=(1100, 100, 423),
        gray=True,
        rotates=True,
    ),
    "mini_imagenet": BaseSet(
        "Mini-ImageNet",
        "miniimagenet_sample.tar",
        tuple(v / 255 for v in (120.396, 115.594, 104.540)),
        tuple(v / 255 for v in (70.682, 68.276, 72.545)),
        splits="mini_imagenet",
    ),
    "flower": BaseSet(
        "VGG Flower 102", "flowers_sample.tar", _META_DATASET_MEAN, _META_DATASET_STD, splits="vgg_flower"
    ),
}
UNIONS = {"mio": ("mini_imagenet", "omniglot")}
OWN = "images"  # the name of a user's own folder as a benchmark
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DataSettings:
    """How base sets are made.

    Attributes:
      archive_dir: where the archives of real data sets lie.
      partial: the archives are samples: classes that are absent or have fewer than `min_images` images are left out
        and named in the facts. Otherwise they are an error.
      min_images: shots + queries: the images that a task needs of a class.
      own: a user's folder (or .zip, .tar) of images, a sub-folder a class; all its classes are train classes.
      skip_broken: leave out its images that cannot be decoded, and name them in the facts; otherwise an error.
      classes, images, seed: of a generated benchmark: classes per split, images per class, the draw.
    """

    archive_dir: str = ""
    partial: bool = False
    min_images: int = 20
    own: str = ""
    skip_broken: bool = False
    classes: tuple[int, int, int] = (32, 8, 16)
    images: int = 20
    seed: int = 0


def components(name: str) -> tuple[str, ...]:
    """The base sets of a benchmark; InputError with the nearest names for one that does not exist."""
    parts: tuple[str, ...] = ()
    for part in name.split("+"):
        if part in UNIONS:
            parts += UNIONS[part]
        elif part in BASE_SETS or part == OWN or synthetic.spread(part) is not None:
            parts += (part,)
        else:
            raise unknown("benchmark", part, [*BASE_SETS, *UNIONS, OWN, "gauss-0.25"])
    return parts


def true_diversity(name: str) -> float | None:
    """The diversity of a generated benchmark in closed form; None where an image is real."""
    spreads = [synthetic.spread(part) for part in components(name)]
    return None if None in spreads else synthetic.true_diversity([s for s in spreads if s is not None])


def prepare(
    base: str, pixels: int, settings: DataSettings, progress: Callable[[float], None] = lambda share: None
) -> tuple[dict[str, np.ndarray], dict]:
    """One base set at `pixels` x `pixels`, from its archive or generated.

    Returns:
      Arrays: images `[n, h, w, c]` uint8 grouped by class, `count` and `split` (0, 1, 2) and `name` per class.
      Facts: classes and images per split, and the classes left out, for the manifest.
    """
    if (spread := synthetic.spread(base)) is not None:
        by_class, names, split = _generate(spread, pixels, settings)
        left_out: list[str] = []
    elif base == OWN:
        by_class, names, split, left_out = _read_own(pixels, settings, progress)
    else:
        by_class, names, split, left_out = _read(base, pixels, settings, progress)
    count = np.array([len(images) for images in by_class])
    arrays = {"images": np.concatenate(by_class), "count": count, "split": split, "name": np.array(names)}
    facts: dict[str, Any] = {"left_out": left_out}
    for number, title in enumerate(SPLITS):
        facts[title] = {"classes": int((split == number).sum()), "images": int(count[split == number].sum())}
    return arrays, facts


def table(base: str, arrays: dict[str, np.ndarray], split: str) -> ImageTable:
    """One split of a prepared base set, gray images as RGB so that every benchmark fits every network."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    chosen = np.flatnonzero(arrays["split"] == SPLITS.index(split))
    ends = np.cumsum(arrays["count"])
    rgb = lambda images: np.repeat(images, 3, -1) if images.shape[-1] == 1 else images
    by_class = [rgb(arrays["images"][ends[i] - arrays["count"][i] : ends[i]]) for i in chosen]
    if not by_class:
        raise InputError(f"data set {base!r} has no class in its {split} split")
    facts = BASE_SETS.get(base)
    mean, std = (facts.mean, facts.std) if facts else ((0.5,) * 3, (0.25,) * 3)
    if base == OWN:
        mean, std = _IMAGENET_MEAN, _IMAGENET_STD
    names = [str(arrays["name"][i]) for i in chosen]
    return make_table(by_class, names, mean, std, rotates=bool(facts and facts.rotates))


def load_benchmark(
    name: str, split: str = "train", pixels: int = 84, settings: DataSettings | None = None
) -> ImageTable:
    """A benchmark's split as an `ImageTable`, made anew from its archives.

    Raises:
      InputError: unknown name or split; an archive that is missing, broken or of the wrong kind.
    """
    settings = settings or DataSettings()
    tables = [table(base, prepare(base, pixels, settings)[0], split) for base in components(name)]
    return tables[0] if len(tables) == 1 else union(tables)


def _generate(spread, pixels, settings):
    total = sum(settings.classes)
    # The spread enters the key, so that two generated benchmarks share no draw.
    key = jax.random.fold_in(jax.random.key(settings.seed), round(spread * 1e6))
    images, _ = synthetic.generate(key, spread, total, settings.images, pixels)
    return list(images), [f"class {i}" for i in range(total)], np.repeat([0, 1, 2], settings.classes)


def _read(base, pixels, settings, progress):
    facts = BASE_SETS[base]
    expected = f"{facts.title} as {facts.archive}, a folder per class"
    path = Path(settings.archive_dir) / facts.archive
    images = folder.read_classes(path, expected, folder.decoder(pixels, facts.gray), progress)
    split_of = _split_by_order(facts, images, path) if not facts.splits else _split_by_name(facts, images, path)
    small = [name for name, of_class in images.items() if len(of_class) < settings.min_images]
    missing = [name for name in split_of if name not in images]
    if (missing or small) and not settings.partial:
        what = f"lacks class {missing[0]!r}" if missing else f"has only {len(images[small[0]])} of class {small[0]!r}"
        raise InputError(
            f"{path} {what} (and {len(missing) + len(small) - 1} more such): get the whole archive, or leave such "
            f"classes out by --config.data.partial=true"
        )
    kept = [name for name in split_of if name in images and name not in small]
    if not kept:
        raise InputError(f"{path} holds none of the classes of {facts.title}: expected {expected}")
    split = np.array([SPLITS.index(split_of[name]) for name in kept])
    return [images[name] for name in kept], kept, split, sorted({*missing, *small})


def _read_own(pixels, settings, progress):
    if not settings.own:
        raise InputError(f"benchmark {OWN!r} is your own folder of images: name it by --config.images=DIR")
    expected = "a folder (or .zip, .tar) with one sub-folder of images for each class"
    path = Path(settings.own)
    broken: list[str] = []
    lost = broken if settings.skip_broken else None
    images = folder.read_classes(path, expected, folder.decoder(pixels, False), progress, lost, "--config.images")
    small = [name for name, of_class in images.items() if len(of_class) < settings.min_images]
    if small and not settings.partial:
        raise InputError(
            f"{path}: class {small[0]!r} (and {len(small) - 1} more) has {len(images[small[0]])} images, fewer than "
            f"shots + queries = {settings.min_images}: lower --config.task.queries, or leave such classes out by "
            f"--config.data.partial=true"
        )
    kept = [name for name in images if name not in small]
    if not kept:
        raise InputError(f"{path}: none of its {len(images)} classes has {settings.min_images} images")
    return [images[name] for name in kept], kept, np.zeros(len(kept), int), [*small, *broken]


def _split_by_order(facts, images, path):
    """Omniglot: background alphabets, then evaluation ones, cut at the study's sizes (protocol, section 1)."""
    if len(images) != sum(facts.sizes):
        raise InputError(f"{path} holds {len(images)} classes, but {facts.title} has {sum(facts.sizes)}")
    splits = np.repeat(SPLITS, facts.sizes)
    return dict(zip(sorted(images), splits, strict=True))


def _split_by_name(facts, images, path):
    """Folders to splits by the class lists. A folder is matched by its last part: a WordNet id, or the class number
    that begins a Meta-Dataset name (`007.moon orchid`)."""
    folders = {name.rsplit("/", 1)[-1]: name for name in images}
    split_of = {}
    for split, classes in _split_lists()[facts.splits].items():
        for name in classes:
            short = str(int(name[:3])) if name[:3].isdigit() else name
            split_of[folders.get(short, name)] = split
    if not any(name in images for name in split_of):
        raise InputError(
            f"{path} holds none of the classes of {facts.title}, but {sorted(folders)[0]!r} and the like: "
            f"is it another data set?"
        )
    return split_of


@cache
def _split_lists() -> dict[str, dict[str, list[str]]]:
    return json.loads(resources.files("jaxdiv.data").joinpath("splits.json").read_text())
