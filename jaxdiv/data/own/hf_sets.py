"""A Hugging Face data set, saved on disk or by its name. It needs the package `datasets`."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from jaxdiv.data.own.found import Found, OwnSet
from jaxdiv.data.own.records import Part, choose_feature, found_in
from jaxdiv.data.own.splits import split_called
from jaxdiv.data.own.tree import read_file
from jaxdiv.errors import InputError

_CHUNK = 1000  # labels read at once


def is_saved(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` leaves."""
    one = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return one or (path / "dataset_dict.json").is_file()


def find_saved(path: Path, own: OwnSet) -> Found:
    """The images of a data set that `save_to_disk` has left in a folder.

    Raises:
      InputError: the package `datasets` is missing; the data set is damaged; which feature is the image or the class is
        not plain.
    """
    datasets = _package()
    return _found(datasets, lambda: datasets.load_from_disk(str(path)), own)


def find_named(name: str, own: OwnSet) -> Found:
    """The images of a data set of the Hub, `NAME` or `NAME:CONFIG`, which is downloaded if need be. No code of it is
    run.

    Raises:
      InputError: as `find_saved`; there is no such data set, or no way to it.
    """
    datasets = _package()
    repository, _, config = name.partition(":")
    return _found(datasets, lambda: datasets.load_dataset(repository, config or None), own)


def _package() -> Any:
    try:
        import datasets  # here, since it is an extra, and takes two seconds to import
    except ImportError as error:
        raise InputError(
            f"a Hugging Face data set needs the package `datasets` ({error}): pip install 'jaxdiv[hf]'"
        ) from None
    return datasets


def _found(datasets: Any, load: Any, own: OwnSet) -> Found:
    bars = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # they would tear our own
    try:
        loaded = load()
        splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or ""): loaded}
        features = next(iter(splits.values())).features
        image = choose_feature("image", own.columns[0], _fit(features, datasets.Image), ("image", "img"))
        labels = _fit(features, datasets.ClassLabel) or {}
        if not any(labels.values()):
            labels = {name: getattr(kind, "dtype", "") in ("string", "int64") for name, kind in features.items()}
        label = choose_feature("class", own.columns[1], labels, ("label", "fine_label", "class"))
        parts = []
        for split, data in splits.items():
            data = data.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
            names = list(_classes(data.select_columns([label]), label))
            parts.append(Part(split, split_called(split), names, partial(_images, data, image)))
    except InputError:
        raise
    except Exception as error:  # of the network, of files, of Arrow: nearly anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"cannot be loaded by the package `datasets` ({reason})") from None
    finally:
        if not bars:
            datasets.enable_progress_bars()
    return found_in(parts, [f"a Hugging Face data set: {label} is the class of {image}"])


def _fit(features: Any, kind: type) -> dict[str, bool]:
    return {name: isinstance(feature, kind) for name, feature in features.items()}


def _classes(data: Any, label: str) -> Iterator[str]:
    names = getattr(data.features[label], "names", None)
    for batch in data.iter(_CHUNK):
        for value in batch[label]:
            known = value is not None and value != -1  # the Hub's "not known"
            yield (names[value] if names else str(value)) if known else ""


def _images(data: Any, image: str) -> Iterator[bytes]:
    for number, record in enumerate(data):
        value = record[image] or {}
        content, path = value.get("bytes"), Path(value.get("path") or "")
        if content is None and not path.is_file():
            raise InputError(f"image {number} of a Hugging Face data set is neither in it nor at {path}")
        yield read_file(path) if content is None else content
