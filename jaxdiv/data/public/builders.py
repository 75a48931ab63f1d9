"""The base data sets as TensorFlow Datasets builders that need no TensorFlow, from the archives of `registry.SOURCES`.

Each set is stored once as array_record, images as the archive encodes them, under `DATA_DIR/jaxdiv/SET/VERSION`:

    tfds.builder_from_directory(FOLDER).as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})

A record has `image` (encoded bytes), `class`, `group` (superclass, family or alphabet; may be empty) and `file`. TFDS's
own shuffling writer holds a set in memory, and beyond 1 GB needs TensorFlow: its `SequentialWriter` needs neither.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from absl import logging

from jaxdiv.data.public.sources import Archive, Source, find, is_image, missing, read_folders
from jaxdiv.data.registry import SOURCES
from jaxdiv.download import differs, fetch
from jaxdiv.errors import InputError
from jaxdiv.files import locked, replacing, writing

VERSION = "1.0.0"
_HASHES = "sha256.json"  # in a prepared set's folder: the sha256 of each of its other files
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
        if config.source.sample in config.paths:
            return {"train": read_folders(config.paths, group=config.source.channels == 1)}
        return {"train": self._generate_examples(config.paths)}

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
        self.info.metadata["archives"] = [
            {"file": name, "sha256": sha256_of(path), "size": sum(file.stat().st_size for file in _files(path))}
            for name, path in config.paths.items()
        ]


class Records(NamedTuple):
    """A prepared set: its records, and what it was made from (`file`, `sha256`, `size` of each archive)."""

    records: Any  # TFDS's sequence of records, with `__getitems__` for many at once
    archives: list[dict[str, Any]]

    def at(self, rows: Iterable[int]) -> list[dict[str, Any]]:
        """Some of the records.

        Raises:
          InputError: the set's files are damaged.
        """
        try:
            return self.records.__getitems__(list(rows))
        except Exception as error:  # ArrayRecord and Protocol Buffers each have kinds of their own
            raise _damaged(self.records.dataset_info.data_dir, error) from None


def prepare(
    name: str,
    archive_dir: Path | None,
    data_dir: Path,
    download: bool = True,
    progress: Callable[[float, str], None] = lambda share, note: None,
) -> Records:
    """A set of `SOURCES` as records, made from its archives the first time.

    Args:
      archive_dir: where the set's own archives are, or other forms of it, or its `sample`; missing archives are
        downloaded.
      data_dir: where prepared sets are kept, as TFDS lays them out, and downloads.
      download: whether missing archives may be downloaded.

    Raises:
      InputError: an archive that is missing and cannot be downloaded, has another hash, is broken or unsafe; a folder
        that cannot be written or a full disk. Nothing half-written counts as prepared.
    """
    source = SOURCES[name]
    paths = find(source, archive_dir, download)
    config_name = name
    published = not (source.sample in paths or source.other_forms)  # or else of other bytes, which tell them apart
    if paths and not (published and all(archive.sha256 or archive.md5 for archive in source.archives)):
        config_name += "_" + "_".join(sha256_of(path)[:12] for path in paths.values())
    config = _Config(config_name, source, paths, progress)
    folder = data_dir / "jaxdiv" / config_name / VERSION
    with _quiet():
        # One that is there is used without a lock, so that it may be on a disk that cannot be written.
        if not Jaxdiv(config=config, data_dir=data_dir).is_prepared():
            with writing(data_dir, "`DataSettings.dir`"), locked(folder):
                _make(config, data_dir, published, data_dir / "downloads" / name)
        try:
            _check_whole(folder)
            reader = tfds.builder_from_directory(folder)
            records = reader.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
            return Records(records, [dict(facts) for facts in reader.info.metadata["archives"]])
        except Exception as error:  # as in `Records.at`
            raise _damaged(folder, error) from None


def _make(config: _Config, data_dir: Path, published: bool, downloads: Path) -> None:
    """Make a set from its archives, unless another process has meanwhile."""
    builder = Jaxdiv(config=config, data_dir=data_dir)
    if builder.is_prepared():
        return
    source, paths = config.source, config.paths
    if published:
        for archive in source.archives:
            if archive.name in paths:
                _check(paths[archive.name], archive)
    for archive in (lacking := missing(source, paths)):
        config.paths[archive.name] = _download(archive, lacking, downloads, config.progress)
    for unfinished in Path(builder.data_dir).parent.glob("incomplete.*"):  # of a run that was killed
        shutil.rmtree(unfinished)
    builder.download_and_prepare(
        file_format="array_record",
        download_dir=data_dir / "downloads",
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
    made = Path(builder.data_dir)
    hashes = {file.name: sha256_of(file) for file in sorted(made.iterdir())}
    with replacing(made / _HASHES) as temporary:
        temporary.write_text(json.dumps(hashes))


def _check_whole(folder: Path) -> None:
    """Raise ValueError where a file of a prepared set is not as it was written: ArrayRecord reads what is left of one
    that was cut as if it were all. Decoding takes many times longer than this."""
    if not (folder / _HASHES).exists():
        return  # of an earlier version, or of a run that was killed at its end
    for name, known in json.loads((folder / _HASHES).read_bytes()).items():
        if not (folder / name).is_file() or sha256_of(folder / name) != known:
            raise ValueError(f"{name} is not what was written")


def _damaged(folder: str | Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return InputError(f"the prepared data set {folder} is damaged ({reason}): delete this folder, and run again")


def _check(path: Path, archive: Archive) -> None:
    if reason := differs(path, archive.sha256, archive.md5, archive.size):
        raise InputError(f"{path} {reason}: damaged, or another version; remove it and get it from {archive.url}")


def _download(archive: Archive, lacking: list[Archive], folder: Path, progress: Callable[[float, str], None]) -> Path:
    """One archive among those that are `lacking`, from its owners or a mirror, or as it came an earlier time."""
    file = folder / archive.name
    facts = (archive.sha256, archive.md5, archive.size)
    if file.exists():
        if not differs(file, *facts):
            return file
        file.unlink()
    total = sum(other.size for other in lacking) / 2**20
    before = sum(other.size for other in lacking[: lacking.index(archive)]) / 2**20

    def report(share: float) -> None:
        came = before + share * archive.size / 2**20
        of_all = f"{came:.0f} of {total:.0f} MiB" if total else archive.name
        progress(came / total if total else share, f"downloading {of_all}")

    by_hand = f"as {archive.name} into a folder, for `DataSettings.archive_dir`"
    fetch(
        [archive.url, *archive.mirrors],
        file,
        archive.sha256,
        report,
        md5=archive.md5,
        size=archive.size,
        by_hand=by_hand,
        place="`DataSettings.dir`",
    )
    return file


def sha256_of(path: Path) -> str:
    """The sha256 of a file; of a folder, that of its images', pickles' and tables' names and sha256."""
    if path.is_dir():
        names = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in _files(path)]
        return hashlib.sha256("".join(names).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    counts = lambda name: is_image(name) or name.endswith((".pkl", ".pickle", ".csv"))
    return sorted(file for file in path.rglob("*") if counts(file.name) and file.is_file())


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
