"""Any source -> a stored table of one base set: archives, a user's own images, or generated ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np

from jaxdiv.data import store, synthetic
from jaxdiv.data.decode import decoder
from jaxdiv.data.own.found import OwnSet
from jaxdiv.data.own.layout import check_exists
from jaxdiv.data.own.outline import TOO_SMALL, Outline, outline
from jaxdiv.data.own.prepare import check_normalisation, write_own
from jaxdiv.data.own.splits import check_split
from jaxdiv.data.public import sources
from jaxdiv.data.registry import BASE_SETS, OWN, SOURCES, SPLITS, split_lists
from jaxdiv.download import cache_folder
from jaxdiv.errors import InputError, at_least
from jaxdiv.files import local_path

_ABSENT = "a class that is not in the archives"
_IN_IMAGENET = "an image that is also in ImageNet"
_CHUNK = 256  # images decoded at once
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class DataSettings:
    """How base sets are made.

    Attributes:
      archive_dir: where the archives of real data sets are; missing ones are downloaded.
      dir: where prepared data sets and downloads are kept; empty: `$JAXDIV_CACHE` or `~/.cache/jaxdiv`, in `datasets`.
      download: whether missing archives may be downloaded.
      partial: the archives are samples: classes that are absent or have fewer than `min_images` images are left out
        and named in the facts. Otherwise they are an error.
      without_imagenet: leave out images of CUB that are also in ImageNet, on which probes are pre-trained.
      min_images: shots + queries: the images that a task needs of a class.
      own: the user's data sets by their names, each an `OwnSet` or only its path.
      fractions, split_seed, split_file: how the classes of those are split that have no split of their own.
      skip_broken: leave out their images that cannot be decoded, and name them in the facts; otherwise an error.
      classes, images_per_class, seed: of a generated benchmark: classes per split, images per class, the draw.
    """

    archive_dir: str = ""
    dir: str = ""
    download: bool = True
    partial: bool = False
    without_imagenet: bool = False
    min_images: int = 20
    own: Mapping[str, OwnSet | str] = field(default_factory=dict)
    fractions: tuple[float, ...] = (1.0, 0.0, 0.0)
    split_seed: int = 0
    split_file: str = ""
    skip_broken: bool = False
    classes: tuple[int, int, int] = (32, 8, 16)
    images_per_class: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.own, Mapping):
            raise InputError(f"`DataSettings.own` is {self.own!r}: give each set's path by its name, {{'birds': DIR}}")
        for name in ("archive_dir", "dir", "split_file"):
            object.__setattr__(self, name, local_path(getattr(self, name), f"`DataSettings.{name}`"))
        object.__setattr__(self, "own", {name: self._checked(name, given) for name, given in self.own.items()})

    def _checked(self, name: str, given: OwnSet | str) -> OwnSet:
        if not isinstance(given, OwnSet | str | Path):
            raise InputError(f"`DataSettings.own` has {given!r} as {name!r}: give its path, or an `OwnSet`")
        own = given if isinstance(given, OwnSet) else OwnSet(str(given))
        check_normalisation(own.normalisation)
        path, split, labels = (
            local_path(getattr(own, each), f"`OwnSet.{each}`") for each in ("path", "split", "labels")
        )
        return replace(own, path=path, split=split or self.split_file, labels=labels)

    def own_set(self, name: str) -> OwnSet:
        """One of the user's data sets."""
        own = self.own[name]
        assert isinstance(own, OwnSet)  # `__post_init__` made it one
        return own

    def outline(self, name: str) -> Outline:
        """What one of the user's data sets gives before a pixel is read. Raises InputError as `outline.outline`."""
        return outline(self.own_set(name), self.min_images, self.partial, self.fractions, self.split_seed)


def prepare_base_set(
    base: str,
    pixels: int,
    settings: DataSettings,
    into: Path,
    progress: Progress = lambda share, note: None,
    outlined: Outline | None = None,
) -> dict[str, Any]:
    """Make one base set's table at `pixels` x `pixels` in the folder `into`, from its archives or generated.

    Args:
      outlined: the outline of a user's set, where it is known already.

    Returns:
      Facts for the manifest: classes and images per split; the least, median and greatest number of images of a class;
      what was left out, what was recognised, and how many images were changed, in words; the sha256 of the pixels; and
      each archive's name, sha256 and size.

    Raises:
      InputError: archives as `builders.prepare`; a class that is absent or too small; a broken image; a full disk.
    """
    at_least(1, pixels=pixels)
    check_inputs(base, settings)
    archives: list[dict[str, Any]] = []
    left_out: Mapping[str, Sequence[str]] = {}
    notes: Sequence[str] = ()
    changed: dict[str, int] = {}
    count: Sequence[int]
    split: Sequence[int]
    if base in settings.own:
        outlined = outlined or settings.outline(base)
        how = (settings.min_images, settings.partial, settings.skip_broken)
        digest, settled, left_out, changed = write_own(settings.own_set(base), outlined, pixels, into, *how, progress)
        count, split, notes = settled.counts, settled.split, outlined.found.notes
    else:
        pieces: Iterator[np.ndarray]
        if (spread := synthetic.spread(base)) is not None:
            by_class, names, split = _generate(spread, pixels, settings)
            count, pieces = [len(images) for images in by_class], iter(by_class)
        else:
            count, pieces, names, split, left_out, archives = _read(base, pixels, settings, progress)
        digest = store.write_table(into, pieces, count, split, names)
    facts: dict[str, Any] = {
        "left_out": {reason: list(lost) for reason, lost in left_out.items() if lost},
        "notes": list(notes),
        "changed": dict(sorted(changed.items())),
        "images_per_class": {
            "least": int(min(count)),
            "median": float(np.median(count)),
            "most": int(max(count)),
        },
        "sha256": digest,
        "archives": archives,
    }
    for number, title in enumerate(SPLITS):
        mine = np.asarray(split) == number
        facts[title] = {"classes": int(mine.sum()), "images": int(np.asarray(count)[mine].sum())}
    return facts


def check_inputs(base: str, settings: DataSettings) -> None:
    """Raise InputError for what is needed and cannot be found, as far as that is known without reading any of it."""
    archive_dir = _archive_dir(settings)
    if archive_dir:
        sources.check_folder(archive_dir)
    if base in settings.own or base == OWN:
        if base == OWN:  # all of the user's own sets, of which there are none
            raise InputError(f"benchmark {OWN!r} is your own folder of images: name it by `DataSettings.own`")
        check_exists(settings.own_set(base))
        check_split(settings.fractions, settings.own_set(base).split, SPLITS)
    elif base in BASE_SETS:
        sources.find(SOURCES[BASE_SETS[base].source], archive_dir, settings.download)
    else:
        classes, images = tuple(settings.classes), settings.images_per_class
        if images < 1 or len(classes) != 3 or min(classes) < 0 or not sum(classes):
            raise InputError(
                f"`DataSettings.classes` is {classes} and `DataSettings.images_per_class` {images}: give how many "
                f"classes there are for train, val and test, and at least 1 image of each"
            )


def _archive_dir(settings: DataSettings) -> Path | None:
    return Path(settings.archive_dir) if settings.archive_dir else None


def _generate(spread, pixels, settings):
    total = sum(settings.classes)
    # The spread enters the key, so that two generated benchmarks share no draw.
    key = jax.random.fold_in(jax.random.key(settings.seed), round(spread * 1e6))
    images, _ = synthetic.generate(key, spread, total, settings.images_per_class, pixels)
    return list(images), [f"class {i}" for i in range(total)], np.repeat([0, 1, 2], settings.classes).tolist()


def _read(base, pixels, settings, progress):
    from jaxdiv.data.public import builders  # here, since TensorFlow Datasets takes a second to import

    facts = BASE_SETS[base]
    source = SOURCES[facts.source]
    data_dir = Path(settings.dir) if settings.dir else cache_folder() / "datasets"
    prepared = builders.prepare(
        facts.source, _archive_dir(settings), data_dir, settings.download, lambda share, note: progress(share / 2, note)
    )
    records, archives = prepared
    where = " and ".join(archive["file"] for archive in archives)
    by_class: dict[str, list[tuple[str, int]]] = {}
    listed: dict[str, str] = {}
    seen_before: list[str] = []
    for start in range(0, len(records), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(records)))
        for row, record in zip(rows, prepared.at(rows), strict=True):
            label, file = record[facts.label].decode(), record["file"].decode()
            if settings.without_imagenet and PurePosixPath(file).name in facts.in_imagenet:
                seen_before.append(file)
                continue
            by_class.setdefault(label, []).append((file, row))
            listed[label] = record[facts.listed].decode()
    if facts.splits:
        names, split_of, missing = _split_by_name(facts, listed, where)
    else:
        names, split_of, missing = _split_by_order(facts, listed, where)
    small = [label for label in split_of if len(by_class[label]) < settings.min_images]
    if not settings.partial:
        if missing or small:
            what = f"has no class {missing[0]!r}" if missing else f"has only {len(by_class[small[0]])} of {small[0]!r}"
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
    decode = decoder(pixels, facts.gray, facts.cut_bottom, upright=False)  # as the studies of these sets read them

    def pieces():
        one = lambda record: decode(record["image"], f"{where}: {record['file'].decode()}")
        with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter lock
            for start in range(0, len(order), _CHUNK):
                yield np.stack(list(pool.map(one, prepared.at(order[start : start + _CHUNK]))))
                progress(0.5 + start / len(order) / 2, f"{start} of {len(order)} images at {pixels} px")

    count = [len(by_class[label]) for label in kept]
    split = [SPLITS.index(split_of[label]) for label in kept]
    left_out = {
        _ABSENT: sorted(missing),
        TOO_SMALL: sorted(names[label] for label in small),
        _IN_IMAGENET: sorted(seen_before),
    }
    return count, pieces(), [names[label] for label in kept], split, left_out, archives


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
