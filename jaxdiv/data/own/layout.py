"""A user's data set as it lies: which images it has, of which class and split each is, and what was left out.

Any source -> `Found`, without reading a pixel; `prepare` then reads the images, in the source's order, and stores them.
"""

import lzma
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

from jaxdiv.data.decode import HEAD
from jaxdiv.data.own import hf_sets, npz_arrays, tfds_sets
from jaxdiv.data.own.class_folders import LOOSE, Labelled, label_by_folder
from jaxdiv.data.own.csv_labels import label_by_csv
from jaxdiv.data.own.found import Found, Item, OwnSet
from jaxdiv.data.own.kinds import other_kind
from jaxdiv.data.own.splits import by_class, split_items
from jaxdiv.data.own.text import printable
from jaxdiv.data.own.tree import EXPECTED, NO_IMAGE, Tree, list_tree
from jaxdiv.errors import InputError

__all__ = ["Found", "Item", "OwnSet", "check_exists", "find", "split_items"]


def find(own: OwnSet) -> Found:
    """What is at `own.path`, by its layout.

    Raises:
      InputError: missing; damaged or unsafe; of no layout that is known; of two readings, which the message names.
    """
    try:
        return _find(own)
    except InputError as error:
        if str(own.path) in str(error) or str(Path(own.path).expanduser()) in str(error):
            raise
        raise InputError(f"{own.path}: {error}") from None


def check_exists(own: OwnSet) -> None:
    """Raise InputError where there is nothing at `own.path`; what has a name instead of a path is not looked for."""
    if not own.path or not (Path(own.path).expanduser().exists() or _named(own.path)):
        raise InputError(
            f"{own.path or 'the path of a data set'} is missing: expected {EXPECTED}; put it there or set `OwnSet.path`"
        )


def _named(path: str) -> tuple[str, str] | None:
    """Whose data set `tfds:NAME` and `hf:NAME` are, and its name; None for a path."""
    kind, _, name = path.partition(":")
    return (kind, name) if kind in ("tfds", "hf") and name and not Path(path).exists() else None


def _find(own: OwnSet) -> Found:
    check_exists(own)
    path = Path(own.path).expanduser()
    kind, name = _named(own.path) or ("", "")
    if kind == "tfds":
        path = tfds_sets.named(name)
    version = tfds_sets.newest(path) if path.is_dir() else None
    if kind == "hf":
        found = hf_sets.find_named(name, own)
    elif path.is_dir() and hf_sets.is_saved(path):
        found = replace(hf_sets.find_saved(path, own), path=path)
    elif version:
        found = replace(tfds_sets.find_prepared(version, own), path=version)
    elif path.is_file() and npz_arrays.is_npz(path):
        found = replace(npz_arrays.find_arrays(path), path=path)
    else:
        if not path.is_dir():
            _check_kind(path)
        return _of_tree(list_tree(path), own)
    for field in ("labels", "nested"):
        if getattr(own, field):
            raise InputError(f"`OwnSet.{field}` is for a folder or an archive of images: leave it empty")
    return found


def _check_kind(path: Path) -> None:
    """Raise InputError for a file that is no archive; one that is damaged is the archive's reader's to tell."""
    if not path.is_file():
        raise InputError(f"{path} is neither a folder nor a file")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        archive = zipfile.is_zipfile(path) or tarfile.is_tarfile(path)  # whose first bytes may be a file's name
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except (EOFError, zlib.error, lzma.LZMAError):
        return
    if not archive and (kind := other_kind(head)):
        raise InputError(f"{path} is {kind[0]}: {kind[1]}")
    if not archive and path.suffix.lower() in (".csv", ".tsv"):
        raise InputError(f"{path} has labels alone: give the folder of its images, and this as `OwnSet.labels`")


def _of_tree(tree: Tree, own: OwnSet) -> Found:
    """The images of a folder or an archive: their classes by a CSV where there is one, else by their folders."""
    by_folder, unclear = None, None
    try:
        by_folder = label_by_folder(tree.images, own.nested)
    except InputError as error:
        unclear = error
    labelled = label_by_csv(tree, own, by_folder) or by_folder
    if not labelled:
        assert unclear
        raise unclear
    if not labelled.images:
        raise _no_image(tree, labelled)
    split_of, note = by_class(Item(*image) for image in labelled.images)
    rows = sorted((of_class, printable(name), name) for name, of_class, _ in labelled.images)
    items = [Item(shown, of_class, split_of.get(of_class, "")) for of_class, shown, _ in rows]
    numbers = {name: number for number, (_, _, name) in enumerate(rows)}
    unused = {NO_IMAGE: [name for name in tree.tables if name not in labelled.tables]}
    left_out: dict[str, list[str]] = {}
    for part in (tree.left_out, unused, labelled.left_out):
        for why, names in part.items():
            if names:
                left_out.setdefault(why, []).extend(map(printable, names))
    notes = [*tree.notes, *labelled.notes, *([note] if note else [])]
    return Found(items, lambda: tree.read(numbers), left_out, notes, tree.path)


def _no_image(tree: Tree, labelled: Labelled) -> InputError:
    others = [*(name for names in tree.left_out.values() for name in names), *tree.tables]
    loose = labelled.left_out.get(LOOSE, [])
    has = (
        f"{len(loose)} in no such folder ({loose[0]})"
        if loose
        else f"{len(others)} other files ({others[0]})"
        if others
        else "nothing"
    )
    return InputError(
        f"{tree.path} holds no image in a folder of its class, but {has}: expected {EXPECTED}, or images and a CSV of "
        f"their labels"
    )
