"""A folder of images for each class: which folders are classes, which are splits, parts of a class, or around it all.

Recognised, in this order, and said in the notes:

1. One folder around everything else is ignored.
2. `train/`, `val/`, `test/` (or alike) with folders of classes inside are splits.
3. Where every image is in a folder of its own class, that is all. Folders in folders are a class and its parts where
   most of the outer ones hold images themselves, or hold only one folder each. Otherwise there are two readings, and
   `OwnSet.nested` says which is meant.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from jaxdiv.data.own.splits import split_called
from jaxdiv.data.own.text import alike, composed
from jaxdiv.errors import InputError, check_known

LOOSE = "an image in no folder of a class"
_BESIDE = "an image beside the folders of the splits"
# What people call the folder of all images: it is no class.
_ALL = {"images", "image", "imgs", "img", "jpg", "jpeg", "jpegs", "jpegimages", "png", "photos", "pictures", "data"}
_NESTED: dict[str, Callable[[tuple[str, ...]], str]] = {
    "outer": lambda folders: folders[0],
    "inner": lambda folders: folders[-1],
    "path": lambda folders: "/".join(folders),
}


class Labelled(NamedTuple):
    """Images by their names in the source, each with its class and split; what was left out; what was recognised; the
    files that say so."""

    images: list[tuple[str, str, str]]
    left_out: dict[str, list[str]]
    notes: list[str]
    tables: tuple[str, ...] = ()


class _Image(NamedTuple):
    name: str
    folders: tuple[str, ...]
    split: str = ""


def label_by_folder(images: Sequence[str], nested: str = "") -> Labelled:
    """The class of each image by the folder that it is in; none where no image is in such a folder.

    Args:
      images: their names, `/` between folders.
      nested: `OwnSet.nested`.

    Raises:
      InputError: two readings, which the message names.
    """
    if nested:
        check_known("value of `OwnSet.nested`", nested, _NESTED)
    left_out: dict[str, list[str]] = {}
    notes: list[str] = []
    found = [_Image(name, tuple(map(composed, PurePosixPath(name).parts[:-1]))) for name in images]
    loose, found = _unwrapped(found)
    found, beside = _splits(found, notes)
    loose += [image for image in found if not image.folders]
    found = [image for image in found if image.folders]
    for why, names in ((LOOSE, loose), (_BESIDE, beside)):
        if names:
            left_out[why] = [image.name for image in names]
    if not found:
        return Labelled([], left_out, notes)
    class_of = _classes([image.folders for image in found], nested, notes)
    check_alike({class_of(image.folders) for image in found}, "folder", notes)
    _same_names(found, class_of, notes)
    return Labelled([(image.name, class_of(image.folders), image.split) for image in found], left_out, notes)


def _unwrapped(images: list[_Image]) -> tuple[list[_Image], list[_Image]]:
    """Images outside any folder, and the others without the folders that are around all of them."""
    loose = [image for image in images if not image.folders]
    inside = [image for image in images if image.folders]
    while inside and len({image.folders[0] for image in inside}) == 1 and any(len(i.folders) > 1 for i in inside):
        inside = [image._replace(folders=image.folders[1:]) for image in inside]
        loose += [image for image in inside if not image.folders]
        inside = [image for image in inside if image.folders]
    all_in = {image.folders for image in inside}
    if len(all_in) == 1 and min(all_in)[-1].lower() in _ALL:
        return loose + inside, []
    return loose, inside


def _splits(images: list[_Image], notes: list[str]) -> tuple[list[_Image], list[_Image]]:
    """Images with their splits, where folders are those of splits; and images beside these folders."""
    tops: dict[str, list[_Image]] = {}
    for image in images:
        tops.setdefault(image.folders[0], []).append(image)
    called = {top: split for top in tops if (split := split_called(top))}
    deep = {top for top, inside in tops.items() if any(len(image.folders) > 1 for image in inside)}
    if len(set(called.values())) < 2 or not deep & set(called):
        if len(set(called.values())) >= 2 and len(called) == len(tops):
            raise InputError(
                f"the folders {_listed(called)} are splits without folders of classes inside: make a folder for each "
                f"class, or give a CSV of labels (`OwnSet.labels`)"
            )
        return images, []
    if others := sorted(deep - set(called)):
        raise InputError(
            f"the folders {_listed(called)} are splits, or, as {_listed(others[:1])} beside them has folders too, "
            f"classes: put the splits, or all that are classes, into a folder of their own"
        )
    notes.append(f"the folders {_listed(called)} are its splits")
    found: list[_Image] = []
    for top, split in called.items():
        inside = [image._replace(folders=image.folders[1:], split=split) for image in tops[top]]
        loose, rest = _unwrapped(inside)
        found += [image._replace(folders=()) for image in loose] + rest
    return found, [image for top in tops if top not in called for image in tops[top]]


def _listed(folders: Iterable[str]) -> str:
    return ", ".join(f"{folder}/" for folder in sorted(folders))


def _classes(folders: Sequence[tuple[str, ...]], nested: str, notes: list[str]) -> Callable[[tuple[str, ...]], str]:
    """The class of images in a folder."""
    inside: dict[str, set[tuple[str, ...]]] = {}
    for path in set(folders):
        inside.setdefault(path[0], set()).add(path)
    deepest = max(map(len, folders))
    if deepest == 1:
        return _NESTED["outer"]
    example = min(path for path in folders if len(path) > 1)
    if nested:
        notes.append(f"of {'/'.join(example)}/, the class is {_NESTED[nested](example)!r} (`OwnSet.nested`)")
        return _NESTED[nested]
    direct = sum((outer,) in paths for outer, paths in inside.items())
    if all(len(paths) == 1 for paths in inside.values()):
        notes.append(f"the folders inside the classes' folders ({'/'.join(example)}/) are ignored: each has only one")
    elif 2 * direct >= len(inside):
        notes.append(f"folders inside a class's folder are parts of the class ({'/'.join(example)}/)")
    else:
        inner = len({path[-1] for path in folders})
        raise InputError(
            f"folders of images are nested ({'/'.join(example)}/), which has more than one reading: "
            f"{len(inside)} classes such as {example[0]!r} (`OwnSet.nested`='outer'), {inner} such as {example[-1]!r} "
            f"('inner'), or {len(set(folders))} such as {'/'.join(example)!r} ('path'): say which"
        )
    return _NESTED["outer"]


def check_alike(classes: Iterable[str], what: str, notes: list[str]) -> None:
    """Raise InputError for two classes whose names differ in the letters' case or in spaces alone; classes that are
    single letters (of an alphabet) are meant so.

    Args:
      what: where the names are from: "folder", "label".
    """
    seen: dict[str, str] = {}
    for name in sorted(classes):
        other = seen.setdefault(alike(name), name)
        if other != name and len(other.rsplit("/", 1)[-1]) > 1:
            raise InputError(
                f"the {what}s {other!r} and {name!r} are one class by two names or two classes: give them the same "
                f"name, or names that differ in more than the case of letters or in spaces"
            )
        if other != name and not any("capital" in note for note in notes):
            notes.append(f"capital and small letters are different classes ({other!r} and {name!r})")


def _same_names(images: Sequence[_Image], class_of: Callable[[tuple[str, ...]], str], notes: list[str]) -> None:
    """Say which folders became one class by their name, and which of one name did not."""
    raw: dict[tuple[str, str], set[str]] = {}
    for image in images:
        raw.setdefault((image.split, class_of(image.folders)), set()).add(str(PurePosixPath(image.name).parent))
    forms = [
        folders for folders in raw.values() if len(folders) > 1 and len(set(map(composed, folders))) < len(folders)
    ]
    if forms:
        notes.append(
            f"{len(forms)} classes have two folders whose names differ in their Unicode form alone: taken together"
        )
    last: dict[str, set[str]] = {}
    for image in images:
        last.setdefault(image.folders[-1], set()).add(class_of(image.folders))
    several = sorted(name for name, classes in last.items() if len(classes) > 1)
    if several and class_of is _NESTED["path"]:
        notes.append(f"{len(several)} names of folders are of several classes ({several[0]!r}): these are kept apart")
