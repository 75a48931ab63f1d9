"""The base data sets from their own archives: TensorFlow Datasets builders that need no TensorFlow.

Each set is stored once as array_record, images as the archive encodes them, under `DATA_DIR/jaxdiv/SET/VERSION`:

    tfds.builder_from_directory(FOLDER).as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})

A record has `image` (encoded bytes), `class`, `group` (superclass, family or alphabet; may be empty) and `file`. TFDS's
own shuffling writer holds a set in memory, and beyond 1 GB needs TensorFlow: its `SequentialWriter` needs neither.
"""

import hashlib
import io
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import requests
import scipy.io
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image
from tensorflow_datasets.core.download import checksums, download_manager, util

from jaxdiv.data.archives import load_arrays, members
from jaxdiv.data.folder import is_image
from jaxdiv.data.store import locked, writing
from jaxdiv.errors import InputError

VERSION = "1.0.0"
_BATCH = 256  # records between two writes of TFDS's metadata


class Example(NamedTuple):
    image: bytes
    of_class: str
    group: str
    file: str


@dataclass(frozen=True)
class Archive:
    """A file of a data set. `sha256`, `md5` and `size` (bytes) are empty where its owners' are not known to us."""

    name: str
    url: str = ""  # empty: behind a form
    size: int = 0
    sha256: str = ""
    md5: str = ""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
      page: where a person gets it.
      read: paths of the archives by their names -> examples, in any order.
      classes, images: what the whole set has.
      sample: an archive with a folder for each class that is taken where the set's own archives are not there.
    """

    title: str
    page: str
    archives: tuple[Archive, ...]
    read: Callable[[dict[str, Path]], Iterator[Example]]
    classes: int
    images: int
    channels: int = 3
    sample: str = ""
    manual: str = ""  # what is accepted, for a set that cannot be downloaded


def read_folders(paths: dict[str, Path], images: str = "", group: bool = False) -> Iterator[Example]:
    """Examples of archives that have a folder for each class.

    Args:
      images: the folder that has the classes' folders; empty: anywhere.
      group: a class is named by its whole path, and its group is the folder that it lies in.
    """
    for path in paths.values():
        for name, file in members(path, lambda name: is_image(name) and name.startswith(images), path.name):
            folder = PurePosixPath(name).parent
            of_class = str(folder) if group else folder.name
            yield Example(file.read(), of_class, folder.parent.name if group else "", name)


def _omniglot(paths: dict[str, Path]) -> Iterator[Example]:
    return read_folders(paths, group=True)


def _dtd(paths: dict[str, Path]) -> Iterator[Example]:
    return read_folders(paths, "dtd/images/")


def _birds(paths: dict[str, Path]) -> Iterator[Example]:
    return read_folders(paths, "CUB_200_2011/images/")


def _flowers(paths: dict[str, Path]) -> Iterator[Example]:
    """`jpg/image_00001.jpg` and on, their classes 1 to 102 in a MATLAB file."""
    (images, labels) = (paths[name] for name in ("102flowers.tgz", "imagelabels.mat"))
    try:
        of_image = scipy.io.loadmat(labels)["labels"].ravel()
    except Exception as error:  # a damaged file raises nearly anything
        raise InputError(f"{labels} is no MATLAB file with `labels` ({error}): get it anew") from None
    for name, file in members(images, is_image, images.name):
        number = re.fullmatch(r"jpg/image_(\d{5})\.jpg", name)
        if not number or not 1 <= int(number[1]) <= len(of_image):
            raise InputError(f"{images}: {name} has no label in {labels.name}: do the two belong together?")
        yield Example(file.read(), str(of_image[int(number[1]) - 1]), "", name)


def _aircraft(paths: dict[str, Path]) -> Iterator[Example]:
    """Images by number; `images_variant_*.txt` and `images_family_*.txt` have a line `NUMBER NAME` for each."""
    (path,) = paths.values()
    labels: dict[str, dict[str, str]] = {"variant": {}, "family": {}}
    lists = re.compile(r"[^/]+/data/images_(variant|family)_(train|val|test)\.txt")
    for name, file in members(path, lambda name: bool(lists.fullmatch(name)), path.name):
        kind = lists.fullmatch(name)[1]  # type: ignore[index]
        labels[kind] |= dict(line.split(" ", 1) for line in file.read().decode().splitlines() if line)
    for name, file in members(path, lambda name: is_image(name) and "/data/images/" in name, path.name):
        number = PurePosixPath(name).stem
        if number not in labels["variant"] or number not in labels["family"]:
            raise InputError(f"{path}: {name} has no variant or no family in its lists: get the archive anew")
        yield Example(file.read(), labels["variant"][number], labels["family"][number], name)


def _cifar100(paths: dict[str, Path]) -> Iterator[Example]:
    """Two pickles of raw pixels and numbered labels, and one of the labels' names."""
    (path,) = paths.values()
    wanted = [f"cifar-100-python/{part}" for part in ("meta", "train", "test")]
    found = {name: _named(load_arrays(file, name)) for name, file in members(path, wanted.__contains__, path.name)}
    if sorted(found) != sorted(wanted):
        raise InputError(f"{path} lacks {' and '.join(sorted({*wanted} - {*found}))}: get it anew")
    fine, coarse = (found[wanted[0]][f"{kind}_label_names"] for kind in ("fine", "coarse"))
    for part in wanted[1:]:
        batch = found[part]
        for pixels, name, label, group in zip(
            batch["data"], batch["filenames"], batch["fine_labels"], batch["coarse_labels"], strict=True
        ):
            image = _png(pixels.reshape(3, 32, 32).transpose(1, 2, 0))
            yield Example(image, fine[label], coarse[group], f"{part}/{name}")


def _mini_imagenet(paths: dict[str, Path]) -> Iterator[Example]:
    """JPEG files that begin with their class (`n0153282900000005.jpg`) or lie in its folder; or the three pickles
    `mini-imagenet-cache-{train,val,test}.pkl` of pixels."""
    (path,) = paths.values()
    wanted = lambda name: is_image(name) or name.endswith(".pkl")
    for name, file in members(path, wanted, path.name):
        if not name.endswith(".pkl"):
            of_class = re.match(r"n\d{8}", PurePosixPath(name).name) or re.search(r"n\d{8}(?=/)", name)
            if not of_class:
                raise InputError(f"{path}: {name} names no WordNet class such as n01532829: is it Mini-ImageNet?")
            yield Example(file.read(), of_class[0], "", name)
            continue
        batch = _named(load_arrays(file, f"{path}: {name}"))
        for of_class, rows in batch["class_dict"].items():
            for row in rows:
                yield Example(_png(batch["image_data"][row]), of_class, "", f"{name}/{row:05}")


def _named(batch: Any) -> Any:
    """Python 2's and 3's pickles alike: text as text."""
    text = lambda value: value.decode() if isinstance(value, bytes) else value
    return {
        text(key): [text(item) for item in value] if isinstance(value, list) else value for key, value in batch.items()
    }


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=1)
    return out.getvalue()


_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_OMNIGLOT = "https://github.com/brendenlake/omniglot"
# sha256 and sizes: as TensorFlow Datasets registers them, CIFAR-100's Python archive as Keras does. FGVC-Aircraft's
# MD5 is what public loaders agree on; of Mini-ImageNet nobody publishes anything.
SOURCES = {
    "omniglot": Source(
        "Omniglot",
        _OMNIGLOT,
        (
            Archive(
                "images_background.zip",
                f"{_OMNIGLOT}/raw/master/python/images_background.zip",
                9464212,
                "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
            ),
            Archive(
                "images_evaluation.zip",
                f"{_OMNIGLOT}/raw/master/python/images_evaluation.zip",
                6462886,
                "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
            ),
        ),
        _omniglot,
        1623,
        32460,
        channels=1,
        sample="omniglot_png.zip",
    ),
    "mini_imagenet": Source(
        "Mini-ImageNet",
        "https://github.com/renmengye/few-shot-ssl-public",
        (Archive("mini-imagenet.tar.gz"),),
        _mini_imagenet,
        100,
        60000,
        sample="miniimagenet_sample.tar",
        manual="1.1 GB with the three pickles mini-imagenet-cache-*.pkl; a .tar or .zip of the 60000 JPEG files, "
        "each in its class's folder or named as n0153282900000005.jpg, will do under the same name",
    ),
    "cifar100": Source(
        "CIFAR-100",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        (
            Archive(
                "cifar-100-python.tar.gz",
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                169001437,
                "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            ),
        ),
        _cifar100,
        100,
        60000,
    ),
    "aircraft": Source(
        "FGVC-Aircraft",
        f"{_VGG}/fgvc-aircraft/",
        (
            Archive(
                "fgvc-aircraft-2013b.tar.gz",
                f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                md5="d4acdd33327262359767eeaa97a4f732",
            ),
        ),
        _aircraft,
        100,
        10000,
    ),
    "flower": Source(
        "VGG Flower 102",
        f"{_VGG}/flowers/102/",
        (
            Archive(
                "102flowers.tgz",
                f"{_VGG}/flowers/102/102flowers.tgz",
                344862509,
                "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
            ),
            Archive(
                "imagelabels.mat",
                f"{_VGG}/flowers/102/imagelabels.mat",
                502,
                "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
            ),
        ),
        _flowers,
        102,
        8189,
        sample="flowers_sample.tar",
    ),
    "dtd": Source(
        "DTD",
        f"{_VGG}/dtd/",
        (
            Archive(
                "dtd-r1.0.1.tar.gz",
                f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz",
                625239812,
                "e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
            ),
        ),
        _dtd,
        47,
        5640,
        sample="dtd_sample.tar",
    ),
    "cu_birds": Source(
        "CUB-200-2011",
        "https://data.caltech.edu/records/65de6-vp158",
        (
            Archive(
                "CUB_200_2011.tgz",
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                1150585339,
                "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            ),
        ),
        _birds,
        200,
        11788,
    ),
}


class _Config(tfds.core.BuilderConfig):
    """What one builder needs to know beyond TFDS's own: its source and where its archives lie."""

    def __init__(self, name: str, source: Source, paths: dict[str, Path], progress: Callable[[float, str], None]):
        super().__init__(name=name, version=VERSION, description=source.title)
        self.source = source
        self.paths = paths
        self.progress = progress
        self.facts: list[dict[str, Any]] = []


class Jaxdiv(tfds.core.GeneratorBasedBuilder):
    """TFDS's builder of every set of `SOURCES`, one configuration each."""

    VERSION = tfds.core.Version(VERSION)
    name = "jaxdiv"

    @property
    def url_infos(self):
        return {
            archive.url: checksums.UrlInfo(tfds.core.utils.Size(archive.size), archive.sha256, archive.name)
            for archive in self.builder_config.source.archives
            if archive.sha256
        }

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, self.builder_config.source.channels)),
            "class": tfds.features.Text(),
            "group": tfds.features.Text(),
            "file": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            homepage=self.builder_config.source.page,
            metadata=tfds.core.MetadataDict(),
        )

    def _log_download_bytes(self):
        """TFDS's lines on the terminal would tear the progress bars."""

    _log_download_done = _log_download_bytes

    def _split_generators(self, dl_manager):
        config = self.builder_config
        lacking = {a.name: a.url for a in config.source.archives if a.name not in config.paths}
        if config.paths and config.source.sample in config.paths:
            return {"train": read_folders(config.paths, group=config.source.channels == 1)}
        if lacking:
            with _downloading(self, dl_manager, lacking):
                got = dl_manager.download(lacking)
            config.paths |= {name: Path(path) for name, path in got.items()}
        ordered = {archive.name: config.paths[archive.name] for archive in config.source.archives}
        return {"train": self._generate_examples(ordered)}

    def _generate_examples(self, paths):
        return self.builder_config.source.read(paths)

    def _download_and_prepare(self, dl_manager, download_config):
        config = self.builder_config
        examples = self._split_generators(dl_manager)["train"]
        # One more, since `self.info` keeps the final folder, and this is TFDS's unfinished one, renamed at the end.
        info = self._info()
        info.set_file_format("array_record", override=True)
        writer = tfds.core.SequentialWriter(info, max_examples_per_shard=10_000, file_format="array_record")
        writer.initialize_splits(["train"])

        def write(do: Callable[..., None], *args: Any) -> None:
            try:
                do(*args)
            except RuntimeError as error:  # array_record's own, of a full disk for one
                raise OSError(str(error).partition(";")[0]) from None

        count, batch = 0, []
        for example in examples:
            image, of_class, group, file = example
            batch.append({"image": image, "class": of_class, "group": group, "file": file})
            count += 1
            if len(batch) == _BATCH:
                write(writer.add_examples, {"train": batch})
                batch = []
                config.progress(min(count / config.source.images, 1.0), f"{count} images")
        if not count:
            raise InputError(f"{', '.join(map(str, config.paths.values()))}: no image of {config.source.title} inside")
        write(writer.add_examples, {"train": batch})
        write(writer.close_all)
        self.info.set_splits(info.splits)
        self.info.metadata["archives"] = [_facts(name, path) for name, path in config.paths.items()]


class Records(NamedTuple):
    """A prepared set: its records, and what it was made from (`file`, `sha256`, `size` of each archive)."""

    records: Any  # TFDS's sequence of records, with `__getitems__` for many at once
    archives: list[dict[str, Any]]


def prepare(
    name: str,
    archive_dir: Path | None,
    data_dir: Path,
    download: bool = True,
    progress: Callable[[float, str], None] = lambda share, note: None,
) -> Records:
    """A set of `SOURCES` as records, made from its archives the first time.

    Args:
      archive_dir: where the set's own archives lie, or its `sample`; what is lacking is downloaded.
      data_dir: where prepared sets and downloads are kept, as TFDS lays them out.
      download: whether lacking archives may be downloaded.
    Raises:
      InputError: an archive that is missing and cannot be downloaded, has another hash, is broken or unsafe; a folder
        that cannot be written or a full disk. Nothing half-written counts as prepared.
    """
    source = SOURCES[name]
    paths = _find(source, archive_dir, download)
    known = [a for a in source.archives if a.sha256 or a.md5]
    config_name = name
    if source.sample in paths or len(known) < len(source.archives):
        # Archives of which nobody published a hash are told apart by what they hold.
        config_name += "_" + "_".join(sha256_of(path)[:12] for path in paths.values())
    config = _Config(config_name, source, paths, progress)
    folder = data_dir / "jaxdiv" / config_name / VERSION
    with writing(data_dir, "--config.data.dir"), locked(folder), _quiet():
        builder = Jaxdiv(config=config, data_dir=data_dir)
        if not builder.is_prepared():
            for archive in source.archives:
                if archive.name in paths:
                    _check(paths[archive.name], archive)
            for unfinished in folder.parent.glob("incomplete.*"):  # of a run that was killed
                shutil.rmtree(unfinished)
            builder.download_and_prepare(
                file_format="array_record",
                download_dir=data_dir / "downloads",
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
        reader = tfds.builder_from_directory(folder)
        records = reader.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    return Records(records, [dict(facts) for facts in reader.info.metadata["archives"]])


def _find(source: Source, archive_dir: Path | None, download: bool) -> dict[str, Path]:
    folder = archive_dir or Path(".")
    if archive_dir and not archive_dir.is_dir():
        raise InputError(f"--config.data.archive_dir is {archive_dir}, which is no folder")
    names = [archive.name for archive in source.archives]
    there = {name: folder / name for name in names if archive_dir and (folder / name).exists()}
    if not there and archive_dir and source.sample and (folder / source.sample).exists():
        return {source.sample: folder / source.sample}
    for archive in source.archives:
        if archive.name not in there and not (download and archive.url):
            size = f", {archive.size} bytes" if archive.size else ""
            where = archive_dir or "a folder and name it by --config.data.archive_dir"
            why = "" if not archive.url else " (downloads are off)"
            accepted = f" ({source.manual})" if source.manual else ""
            instead = f"; or {source.sample}, a folder per class" if source.sample else ""
            raise InputError(
                f"{folder / archive.name if archive_dir else archive.name} is missing{why}: get {source.title}"
                f"{size}{accepted} from {archive.url or source.page} and put it as {archive.name} into {where}{instead}"
            )
    return there


def _check(path: Path, archive: Archive) -> None:
    for kind, expected in (("sha256", archive.sha256), ("md5", archive.md5)):
        if expected:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != expected:
                raise InputError(
                    f"{path}: its {kind} is {found}, not {expected}: it is damaged or another version; remove it and "
                    f"get it from {archive.url}"
                )


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _facts(name: str, path: Path) -> dict[str, Any]:
    return {"file": name, "sha256": sha256_of(path), "size": path.stat().st_size}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's bars and warnings (of its custom configurations), which would tear our own."""
    level = logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        tfds.enable_progress_bar()


@contextmanager
def _downloading(builder: Jaxdiv, dl_manager: Any, urls: dict[str, str]) -> Iterator[None]:
    """TFDS's errors as one line, and its progress: what has come so far of what is known to come."""
    source = builder.builder_config.source
    folder = Path(dl_manager.download_dir)
    total = sum(archive.size for archive in source.archives if archive.name in urls)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            came = sum(file.stat().st_size for file in folder.glob("**/*.tmp.*/*") if file.exists())
            note = f"downloading {came / 2**20:.0f}" + (f" of {total / 2**20:.0f} MiB" if total else " MiB")
            builder.builder_config.progress(min(came / total, 1.0) if total else 0.0, note)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    by_hand = f"or get {' and '.join(urls.values())} by other means into a folder, for --config.data.archive_dir"
    try:
        yield
    except download_manager.NonMatchingChecksumError as error:
        expected, found = re.findall(r"checksum='(\w+)'", str(error))
        raise InputError(
            f"{' or '.join(urls.values())}: the sha256 of what came is {found}, not {expected}: try again, {by_hand}"
        ) from None
    except (requests.RequestException, util.DownloadError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{source.title} cannot be downloaded ({reason}): try again, {by_hand}") from None
    finally:
        over.set()
        watching.join()
