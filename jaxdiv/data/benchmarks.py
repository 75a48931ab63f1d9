"""The table of facts: which data sets there are, their class splits, pixel statistics, augmentation, and unions.

A benchmark's name is a base data set, a generated one (`gauss-S`), a user's own (by its name), a named union, or
several of these joined by `+`. `images` is the union of all of the user's own.
"""

import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiv.data import folder, sources, store, synthetic
from jaxdiv.data.augment import Augmentation
from jaxdiv.data.episodes import ImageTable, place, table_of, union
from jaxdiv.data.store import Stored
from jaxdiv.download import cache_folder
from jaxdiv.errors import InputError, at_least, unknown

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Look:
    """Pixel statistics (of pixels in 0..1) and train augmentation."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = field(default_factory=Augmentation)


# Protocol, section 1.
_NATURAL = Look((0.5853, 0.5335, 0.4950), (0.2348, 0.2260, 0.2242), Augmentation(0.18, 8 / 84, 0.4, True))
_CIFAR = Look((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), Augmentation(1.0, 4 / 32, 0.4, True))
_MINI = Look(
    tuple(v / 255 for v in (120.396, 115.594, 104.540)),
    tuple(v / 255 for v in (70.682, 68.276, 72.545)),
    Augmentation(1.0, 8 / 84, 0.4, True),
)
# The study's own transform of Omniglot is 1 - x: strokes 1 on background 0. As a mean of 1 and a "std" of -1.
_DRAWINGS = Look((1.0,) * 3, (-1.0,) * 3)
_IMAGENET = Look((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), _NATURAL.augmentation)
_GENERATED = Look((0.5,) * 3, (0.25,) * 3)


@dataclass(frozen=True)
class BaseSet:
    """One data set: whose images it has, how its classes are split, and what its pixels look like.

    Attributes:
      source: key of `sources.SOURCES`; two sets may share one.
      splits: key in splits.json; empty: by order of the classes' names, in the sizes of `sizes`.
      label, listed: what of a record (`class`, or its `group`) is a class here, and what the split's list names.
      look, in_union: alone, and as part of a union, where that differs.
      pixels: the side of its images in the study, alone; in a union it is 84.
      cut_bottom: rows of the original image that are no part of it.
    """

    title: str
    source: str
    look: Look
    splits: str = ""
    sizes: tuple[int, int, int] = (0, 0, 0)
    label: str = "class"
    listed: str = "class"
    in_union: Look | None = None
    pixels: int = 84
    gray: bool = False
    rotates: bool = False
    cut_bottom: int = 0


BASE_SETS = {
    "cifar_fs": BaseSet("CIFAR-FS", "cifar100", _CIFAR, "cifar_fs", in_union=_NATURAL, pixels=32),
    "fc100": BaseSet("FC100", "cifar100", _CIFAR, "fc100_superclasses", listed="group", in_union=_NATURAL, pixels=32),
    "mini_imagenet": BaseSet("Mini-ImageNet", "mini_imagenet", _MINI, "mini_imagenet"),
    # The lowest 20 rows are a banner with the photographer's name, which the set's own notes tell to cut off. The
    # study's code kept it and read families for classes: `aircraft_family` is the set as that code had it.
    "aircraft": BaseSet("Aircraft", "aircraft", _NATURAL, "aircraft", cut_bottom=20),
    "aircraft_family": BaseSet(
        "Aircraft families", "aircraft", _NATURAL, "aircraft_family", label="group", listed="group"
    ),
    "flower": BaseSet("VGG Flower", "flower", _NATURAL, "vgg_flower"),
    "dtd": BaseSet("DTD", "dtd", _NATURAL, "dtd"),
    "cu_birds": BaseSet("CUBirds", "cu_birds", _NATURAL, "cu_birds"),
    "omniglot": BaseSet("Omniglot", "omniglot", _DRAWINGS, sizes=(1100, 100, 423), gray=True, rotates=True),
}
UNIONS = {
    "mio": ("mini_imagenet", "omniglot"),  # hdb1
    "hdb2": ("cifar_fs", "omniglot"),
    "hdb5": ("aircraft", "flower"),
    "hdb7_afto": ("aircraft", "flower", "dtd", "omniglot"),
    "hdb8_cado": ("cu_birds", "aircraft", "dtd", "omniglot"),
    "hdb9_cavdo": ("cu_birds", "aircraft", "flower", "dtd", "omniglot"),
    "hdb10_micova": ("mini_imagenet", "omniglot", "cifar_fs", "flower", "aircraft"),
    "hdb12": ("aircraft", "flower", "fc100", "omniglot"),
    "hdb13": ("mini_imagenet", "cifar_fs", "fc100", "omniglot"),
    "hdb14": ("dtd", "cu_birds", "mini_imagenet", "omniglot"),
    "hdb15": ("flower", "aircraft", "cifar_fs", "omniglot"),
    "hdb16": ("dtd", "fc100", "mini_imagenet", "omniglot"),
}
STUDY = (  # the study's thirteen, in the order of its Table 1
    *("cifar_fs", "fc100", "mini_imagenet", "aircraft", "flower", "dtd", "cu_birds", "omniglot"),
    *("mio", "hdb7_afto", "hdb8_cado", "hdb9_cavdo", "hdb10_micova"),
)
OWN = "images"  # all of a user's own data sets as one benchmark
_EXPECTED = "a folder (or .zip, .tar) with one sub-folder of images for each class"


@dataclass(frozen=True)
class DataSettings:
    """How base sets are made.

    Attributes:
      archive_dir: where the archives of real data sets lie; those that are not there are downloaded.
      dir: where prepared data sets and downloads are kept; empty: `$JAXDIV_CACHE` or `~/.cache/jaxdiv`, in `datasets`.
      download: whether lacking archives may be downloaded.
      partial: the archives are samples: classes that are absent or have fewer than `min_images` images are left out
        and named in the facts. Otherwise they are an error.
      min_images: shots + queries: the images that a task needs of a class.
      own: the user's data sets: a folder (or .zip, .tar) of images by its name, a sub-folder per class.
      fractions, split_seed, split_file: how their classes are split (`folder.split_classes`).
      skip_broken: leave out their images that cannot be decoded, and name them in the facts; otherwise an error.
      classes, images, seed: of a generated benchmark: classes per split, images per class, the draw.
    """

    archive_dir: str = ""
    dir: str = ""
    download: bool = True
    partial: bool = False
    min_images: int = 20
    own: Mapping[str, str] = field(default_factory=dict)
    fractions: tuple[float, ...] = (1.0, 0.0, 0.0)
    split_seed: int = 0
    split_file: str = ""
    skip_broken: bool = False
    classes: tuple[int, int, int] = (32, 8, 16)
    images: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.own, Mapping):
            raise InputError(f"`DataSettings.own` is {self.own!r}: give each set's path by its name, {{'birds': DIR}}")


def is_known(name: str) -> bool:
    """Whether `name` is a benchmark without any data set of the user's."""
    return name in BASE_SETS or name in UNIONS or name == OWN or synthetic.spread(name) is not None


def components(name: str, own: Collection[str] = ()) -> tuple[str, ...]:
    """The base sets of a benchmark; InputError with the nearest names for one that does not exist.

    own: the names of the user's data sets, which are base sets too.
    """
    parts: tuple[str, ...] = ()
    for part in name.split("+"):
        if part in UNIONS:
            parts += UNIONS[part]
        elif part == OWN and own:
            parts += tuple(own)
        elif part in own or is_known(part):
            parts += (part,)
        else:
            raise unknown("benchmark", part, [*BASE_SETS, *UNIONS, *own, OWN, "gauss-0.25"])
    return parts


def shares(name: str, own: Collection[str] = ()) -> dict[str, float]:
    """The share of each base set in a benchmark's tasks."""
    parts = components(name, own)
    return {part: parts.count(part) / len(parts) for part in parts}


def native_pixels(name: str, own: Collection[str] = ()) -> int:
    """The side of a benchmark's images in the study: 32 for CIFAR's two alone, 84 for all else."""
    parts = components(name, own)
    return BASE_SETS[parts[0]].pixels if len(parts) == 1 and parts[0] in BASE_SETS else 84


def true_diversity(name: str, own: Collection[str] = ()) -> float | None:
    """The diversity of a generated benchmark in closed form; None where an image is real."""
    spreads = [synthetic.spread(part) for part in components(name, own)]
    return None if None in spreads else synthetic.true_diversity([s for s in spreads if s is not None])


Progress = Callable[[float, str], None]


def prepare(
    base: str, pixels: int, settings: DataSettings, into: Path, progress: Progress = lambda share, note: None
) -> dict[str, Any]:
    """Make one base set's table at `pixels` x `pixels` in the folder `into`, from its archives or generated.

    Returns:
      Facts for the manifest: classes and images per split, the classes left out, the sha256 of the pixels, and each
      archive's name, sha256 and size.
    Raises:
      InputError: archives as `builders.prepare`; a class that is absent or too small; a broken image; a full disk.
    """
    at_least(1, pixels=pixels)
    check_inputs(base, settings)
    archives: list[dict[str, Any]] = []
    left_out: list[str] = []
    pieces: Iterator[np.ndarray]
    if base in settings.own or base == OWN:
        by_class, names, split, left_out = _read_own(base, pixels, settings, progress)
        count, pieces = [len(images) for images in by_class], iter(by_class)
    elif (spread := synthetic.spread(base)) is not None:
        by_class, names, split = _generate(spread, pixels, settings)
        count, pieces = [len(images) for images in by_class], iter(by_class)
    else:
        count, pieces, names, split, left_out, archives = _read(base, pixels, settings, progress)
    digest = store.write_table(into, pieces, count, split, names)
    facts: dict[str, Any] = {"left_out": left_out, "sha256": digest, "archives": archives}
    for number, title in enumerate(SPLITS):
        mine = np.asarray(split) == number
        facts[title] = {"classes": int(mine.sum()), "images": int(np.asarray(count)[mine].sum())}
    return facts


def check_inputs(base: str, settings: DataSettings) -> None:
    """Raise InputError for what `prepare` needs and cannot find, as far as that is known without reading any of it."""
    archive_dir = _archive_dir(settings)
    if archive_dir:
        sources.check_folder(archive_dir)
    if base in settings.own or base == OWN:
        if base == OWN:  # all of the user's own sets, of which there are none
            raise InputError(f"benchmark {OWN!r} is your own folder of images: name it by `DataSettings.own`")
        if not Path(settings.own[base]).exists():
            raise folder.missing(Path(settings.own[base]), _EXPECTED)
        folder.check_split(settings.fractions, settings.split_file, SPLITS)
    elif base in BASE_SETS:
        sources.find(sources.SOURCES[BASE_SETS[base].source], archive_dir, settings.download)
    elif settings.images < 1 or len(settings.classes) != 3 or min(settings.classes) < 0 or not sum(settings.classes):
        raise InputError(
            f"`DataSettings.classes` is {tuple(settings.classes)} and `DataSettings.images` {settings.images}: give "
            f"how many classes there are for train, val and test, and at least 1 image of each"
        )


def _archive_dir(settings: DataSettings) -> Path | None:
    return Path(settings.archive_dir) if settings.archive_dir else None


def table(base: str, stored: Stored, split: str, alone: bool = True) -> ImageTable:
    """One split of a prepared base set, `alone` or with the looks that it has in a union. No pixel is read."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    chosen = np.flatnonzero(stored.split == SPLITS.index(split))
    if not len(chosen):
        raise InputError(f"data set {base!r} has no class in its {split} split")
    # The classes of a split follow each other, so that its images are one piece of the memory map.
    assert (np.diff(chosen) == 1).all()
    ends = np.cumsum(stored.count)
    start, end = ends[chosen[0]] - stored.count[chosen[0]], ends[chosen[-1]]
    look, facts = _look(base, alone), BASE_SETS.get(base)
    return table_of(
        stored.images[start:end],
        stored.count[chosen].tolist(),
        [stored.names[i] for i in chosen],
        look.mean,
        look.std,
        bool(facts and facts.rotates),
        look.augmentation,
    )


def _look(base: str, alone: bool) -> Look:
    facts = BASE_SETS.get(base)
    if facts is None:  # a user's own are taken for photographs, as the probe's own
        return _IMAGENET if synthetic.spread(base) is None else _GENERATED
    return facts.look if alone or facts.in_union is None else facts.in_union


def join(name: str, stored: Sequence[Stored], split: str, own: Collection[str] = ()) -> ImageTable:
    """A benchmark's split from the prepared tables of its components, on the device if it fits there (`place`)."""
    bases = components(name, own)
    tables = [table(base, of_base, split, len(bases) == 1) for base, of_base in zip(bases, stored, strict=True)]
    return place(tables[0] if len(tables) == 1 else union(tables))


def load_benchmark(
    name: str, split: str = "train", pixels: int | None = None, settings: DataSettings | None = None
) -> ImageTable:
    """A benchmark's split as an `ImageTable`, from its archives.

    Args:
      pixels: the side of the images; None: as in the study (`native_pixels`).
    Raises:
      InputError: unknown name or split; an archive that is missing, broken or of the wrong kind.
    """
    settings = settings or DataSettings()
    with tempfile.TemporaryDirectory() as folder_name:
        stored = []
        for number, base in enumerate(components(name, settings.own)):
            into = Path(folder_name) / str(number)
            prepare(base, native_pixels(name, settings.own) if pixels is None else pixels, settings, into)
            stored.append(store.read_table(into))
        made = join(name, stored, split, settings.own)
        # What stays on the host is read into memory, since its file is not kept.
        return replace(made, images=np.array(made.images)) if made.on_host else made


def sheet(name: str, stored: Sequence[Stored], own: Collection[str] = ()):
    """The contact sheet of a benchmark from the prepared tables of its components: a row is a class."""
    sections = []
    for base, of_base in zip(components(name, own), stored, strict=True):
        inverted = bool(base in BASE_SETS and BASE_SETS[base].gray)
        for number, split in enumerate(SPLITS):
            mine = of_base.split == number
            title = f"{base} {split}: {mine.sum()} classes, {of_base.count[mine].sum()} images"
            sections.append((title, of_base, number, inverted))
    return store.contact_sheet(sections)


def _generate(spread, pixels, settings):
    total = sum(settings.classes)
    # The spread enters the key, so that two generated benchmarks share no draw.
    key = jax.random.fold_in(jax.random.key(settings.seed), round(spread * 1e6))
    images, _ = synthetic.generate(key, spread, total, settings.images, pixels)
    return list(images), [f"class {i}" for i in range(total)], np.repeat([0, 1, 2], settings.classes)


_CHUNK = 256  # images decoded at once


def _read(base, pixels, settings, progress):
    from jaxdiv.data import builders  # here, since TensorFlow Datasets takes a second to import

    facts = BASE_SETS[base]
    source = sources.SOURCES[facts.source]
    data_dir = Path(settings.dir) if settings.dir else cache_folder() / "datasets"
    records, archives = builders.prepare(
        facts.source, _archive_dir(settings), data_dir, settings.download, lambda share, note: progress(share / 2, note)
    )
    where = " and ".join(archive["file"] for archive in archives)
    by_class: dict[str, list[tuple[str, int]]] = {}
    listed: dict[str, str] = {}
    for start in range(0, len(records), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(records)))
        for row, record in zip(rows, records.__getitems__(list(rows)), strict=True):
            label = record[facts.label].decode()
            by_class.setdefault(label, []).append((record["file"].decode(), row))
            listed[label] = record[facts.listed].decode()
    if facts.splits:
        names, split_of, missing = _split_by_name(facts, listed, where)
    else:
        names, split_of, missing = _split_by_order(facts, listed, where)
    small = [label for label in split_of if len(by_class[label]) < settings.min_images]
    if not settings.partial:
        if missing or small:
            what = f"lacks class {missing[0]!r}" if missing else f"has only {len(by_class[small[0]])} of {small[0]!r}"
            more = f" (and {len(missing) + len(small) - 1} more such)"
        elif len(records) != source.images:
            what, more = f"has {len(records)} images of the {source.images} of {source.title}", ""
        if missing or small or len(records) != source.images:
            raise InputError(
                f"{where} {what}{more}: get the whole of it, or leave such classes out by `DataSettings.partial=True`"
            )
    kept = [label for label in split_of if label not in small]
    if not kept:
        raise InputError(f"{where} holds no class of {facts.title} with {settings.min_images} images")
    order = [row for label in kept for _, row in sorted(by_class[label])]
    decode = folder.decoder(pixels, facts.gray, facts.cut_bottom)

    def pieces():
        one = lambda record: decode(record["image"], f"{where}: {record['file'].decode()}")
        with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter lock
            for start in range(0, len(order), _CHUNK):
                yield np.stack(list(pool.map(one, records.__getitems__(order[start : start + _CHUNK]))))
                progress(0.5 + start / len(order) / 2, f"{start} of {len(order)} images at {pixels} px")

    count = [len(by_class[label]) for label in kept]
    split = [SPLITS.index(split_of[label]) for label in kept]
    left_out = sorted({*missing, *(names[label] for label in small)})
    return count, pieces(), [names[label] for label in kept], split, left_out, archives


def _read_own(base, pixels, settings, progress):
    path = Path(settings.own[base])
    broken: list[str] = []
    lost = broken if settings.skip_broken else None
    decode = folder.decoder(pixels, False)
    images = folder.read_classes(path, _EXPECTED, decode, lambda share: progress(share, ""), lost)
    small = [name for name, of_class in images.items() if len(of_class) < settings.min_images]
    if small and not settings.partial:
        raise InputError(
            f"{path}: class {small[0]!r} (and {len(small) - 1} more) has {len(images[small[0]])} images, fewer than "
            f"`DataSettings.min_images` = {settings.min_images}: lower that, or leave such classes out by "
            f"`DataSettings.partial=True`"
        )
    names = [name for name in images if name not in small]
    if not names:
        raise InputError(f"{path}: none of its {len(images)} classes has {settings.min_images} images")
    split_of = folder.split_classes(names, settings.fractions, settings.split_seed, settings.split_file, SPLITS)
    unlisted = [name for name in names if name not in split_of]
    kept = sorted(split_of, key=lambda name: (SPLITS.index(split_of[name]), name))
    split = [SPLITS.index(split_of[name]) for name in kept]
    return [images[name] for name in kept], kept, split, [*small, *unlisted, *broken]


def _split_by_order(facts, listed, where):
    """Omniglot: background alphabets, then evaluation ones, cut at the study's sizes (protocol, section 1)."""
    if len(listed) != sum(facts.sizes):
        raise InputError(f"{where} holds {len(listed)} classes, but {facts.title} has {sum(facts.sizes)}")
    labels = sorted(listed)
    return {name: name for name in labels}, dict(zip(labels, np.repeat(SPLITS, facts.sizes), strict=True)), []


def _split_by_name(facts, listed, where):
    """Classes by the split's list of names, in its order: what each is called, its split, and which are missing.
    Oxford's flowers have numbers, which begin Meta-Dataset's names for them (`007.moon orchid`)."""
    of_list: dict[str, list[str]] = {}
    for label, name in listed.items():
        of_list.setdefault(name, []).append(label)
    names, split_of, missing = {}, {}, []
    for split, classes in split_lists()[facts.splits].items():
        for name in classes:
            short = str(int(name[:3])) if facts.splits == "vgg_flower" else name
            labels = sorted(of_list.get(short, []))
            missing += [] if labels else [name]
            for label in labels:
                names[label] = name if len(labels) == 1 else label
                split_of[label] = split
    if not split_of:
        raise InputError(
            f"{where} holds none of the classes of {facts.title}, but {min(listed)!r} and the like: "
            f"is it another data set?"
        )
    return names, split_of, missing


@cache
def split_lists() -> dict[str, dict[str, list[str]]]:
    """Every class list of splits.json: list -> split -> classes."""
    return json.loads(resources.files("jaxdiv.data").joinpath("splits.json").read_text())
