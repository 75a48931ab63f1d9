"""The base data sets as TensorFlow Datasets builders that need no TensorFlow, from the archives of `registry.SOURCES`.

Each set is stored once as array_record, images as the archive encodes them, under `DATA_DIR/jaxdiv/SET/VERSION`:

    tfds.builder_from_directory(FOLDER).as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})

A record has `image` (encoded bytes), `class`, `group` (superclass, family or alphabet; may be empty) and `file`. TFDS's
own shuffling writer holds a set in memory, and beyond 1 GB needs TensorFlow: its `SequentialWriter` needs neither.
"""

import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.download import checksums, download_manager, util

from jaxdiv.data.registry import SOURCES
from jaxdiv.data.sources import Archive, Source, find, read_folders
from jaxdiv.errors import InputError
from jaxdiv.files import locked, writing

VERSION = "1.0.0"
_BATCH = 256  # records between two writes of TFDS's metadata


class _Config(tfds.core.BuilderConfig):
    """What one builder needs to know beyond TFDS's own: its source and where its archives are."""

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
      archive_dir: where the set's own archives are, or its `sample`; missing ones are downloaded.
      data_dir: where prepared sets and downloads are kept, as TFDS lays them out.
      download: whether missing archives may be downloaded.

    Raises:
      InputError: an archive that is missing and cannot be downloaded, has another hash, is broken or unsafe; a folder
        that cannot be written or a full disk. Nothing half-written counts as prepared.
    """
    source = SOURCES[name]
    paths = find(source, archive_dir, download)
    known = [a for a in source.archives if a.sha256 or a.md5]
    config_name = name
    if source.sample in paths or len(known) < len(source.archives):
        # Archives of which nobody published a hash are told apart by what they hold.
        config_name += "_" + "_".join(sha256_of(path)[:12] for path in paths.values())
    config = _Config(config_name, source, paths, progress)
    folder = data_dir / "jaxdiv" / config_name / VERSION
    with writing(data_dir, "`DataSettings.dir`"), locked(folder), _quiet():
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
    by_hand = f"or get {' and '.join(urls.values())} by other means into a folder, for `DataSettings.archive_dir`"
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
