"""A data set that TensorFlow Datasets has prepared on this machine, read without TensorFlow and without its builder."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from jaxdiv.data.own.found import Found, OwnSet
from jaxdiv.data.own.records import Part, choose_feature, found_in
from jaxdiv.data.own.splits import split_called
from jaxdiv.errors import InputError, unknown

_CHUNK = 64  # records read at once
_FEATURES = "tensorflow_datasets.core.features."


def is_prepared(path: Path) -> bool:
    """Whether a folder is that of one version of a prepared data set."""
    return (path / "dataset_info.json").is_file() and (path / "features.json").is_file()


def named(name: str) -> Path:
    """The folder of `tfds:NAME`, where NAME may go on with a configuration and a version: `NAME/CONFIG/1.0.0`.

    Raises:
      InputError: it has not been prepared, or has several configurations.
    """
    root = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = root / name.replace(":", "/")
    if not folder.is_dir():
        there = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
        raise InputError(
            f"{unknown('prepared data set', name, there)}; TFDS's folder is {root} (or $TFDS_DATA_DIR): prepare it "
            f"there by `tfds build --file_format=array_record`, or give the folder of its version"
        )
    if version := newest(folder):
        return version
    found = [version for path in sorted(folder.iterdir()) if path.is_dir() and (version := newest(path))]
    if len(found) != 1:
        what = (
            f"{len(found)} configurations: name one, such as tfds:{name}/{found[0].parent.name}" if found else "nothing"
        )
        raise InputError(f"{folder} has {what}")
    return found[0]


def newest(folder: Path) -> Path | None:
    """`folder` itself, or that of the newest version inside, if it is prepared; else None."""
    if is_prepared(folder):
        return folder
    versions = [path for path in folder.glob("*.*.*") if path.name.replace(".", "").isdigit() and is_prepared(path)]
    return max(versions, key=lambda path: list(map(int, path.name.split("."))), default=None)


def find_prepared(path: Path, own: OwnSet) -> Found:
    """The images of a prepared data set, whose labels alone are looked at.

    Raises:
      InputError: it is damaged; its files are not array_record; which feature is the image or the class is not plain.
    """
    _check_features(path / "features.json")
    import tensorflow_datasets as tfds  # here, since it takes a second to import

    try:
        builder = tfds.builder_from_directory(path)
    except Exception as error:  # a damaged file raises nearly anything
        raise _damaged(error) from None
    if builder.info.file_format.value != "array_record":
        raise InputError(
            f"its files are {builder.info.file_format.value}, which only TensorFlow reads: prepare it again by "
            f"`tfds build --file_format=array_record`"
        )
    features = dict(builder.info.features)
    kinds = {name: type(feature) for name, feature in features.items()}
    labels = (tfds.features.ClassLabel, tfds.features.Text)
    image = choose_feature("image", own.columns[0], {n: k is tfds.features.Image for n, k in kinds.items()}, ("image",))
    label = choose_feature("class", own.columns[1], {n: k in labels for n, k in kinds.items()}, ("label", "class"))
    parts = []
    for split in builder.info.splits:
        source = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
        names = [_class(features[label], record[label]) for record in _records(source)]
        parts.append(Part(split, split_called(split), names, partial(_images, source, image)))
    return found_in(parts, [f"TFDS's {builder.info.full_name}: {label} is the class of {image}"])


def _check_features(file: Path) -> None:
    """TFDS imports the module of every class that features.json names: only its own are let through."""
    try:
        pending = [json.loads(file.read_text("utf-8"))]
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(error) from None
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for key in ("pythonClassName", "python_class_name", "type"):
                if isinstance(name := value.get(key), str) and not name.startswith(_FEATURES):
                    raise InputError(f"features.json names the class {name!r}, which is not TFDS's own: refused")
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _records(source: Any) -> Iterator[Any]:
    for start in range(0, len(source), _CHUNK):
        try:
            records = source.__getitems__(list(range(start, min(start + _CHUNK, len(source)))))
        except Exception as error:  # array_record's own, and a parser's
            raise _damaged(error) from None
        yield from records


def _images(source: Any, image: str) -> Iterator[bytes]:
    return (record[image] for record in _records(source))


def _class(feature: Any, value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    number = int(value)
    if number < 0:  # TFDS's "not known"
        return ""
    names = feature.names  # None where the numbers have none
    return names[number] if names else str(number)


def _damaged(error: BaseException) -> InputError:
    return InputError(f"cannot be read ({str(error).partition(chr(10))[0]}): prepare it again")
