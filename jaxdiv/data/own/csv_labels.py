"""A folder of images with a CSV: a row for each image, with its file, its class and, where given, its split."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxdiv.data.own.class_folders import Labelled, check_alike
from jaxdiv.data.own.found import OwnSet
from jaxdiv.data.own.splits import split_called
from jaxdiv.data.own.text import composed, decoded
from jaxdiv.data.own.tree import Tree
from jaxdiv.errors import InputError, unknown

_NO_FILE = "a row of the CSV without its image"
_NO_ROW = "an image without a row in the CSV"
_NO_LABEL = "a row of the CSV without a class"
_SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class _Table:
    """A CSV. `columns`: the numbers of the file's, the class's and, where there is one, the split's column. `split`: of
    all its rows, where the file's name is that of a split."""

    name: str
    header: list[str]
    rows: list[tuple[int, list[str]]]
    columns: tuple[int, int, int | None] | None
    split: str = ""


def label_by_csv(tree: Tree, own: OwnSet, by_folder: Labelled | None) -> Labelled | None:
    """The class of each image by the CSV of `own`, or by the one that is in the tree; None where there is none.

    Args:
      by_folder: what the folders say, which may be nothing; None: more than one thing.

    Raises:
      InputError: a CSV that is missing or cannot be read, without its columns, or of which rows contradict each other;
        several CSVs; a CSV and folders that do not say the same.
    """
    if own.labels:
        table = _read(*_given(tree, own.labels), own.columns)
        if not table.columns:
            raise _lacks(table, own.columns)
        return _labelled(tree, [table])
    # The labels of a whole set are at its top: tables further down are something else.
    names = [name for name in tree.tables if PurePosixPath(name).suffix.lower() != ".txt"]
    top = min((name.count("/") for name in names), default=0)
    tables = [_read(name, tree.table(name), own.columns) for name in names if name.count("/") == top]
    fit = [table for table in tables if table.columns]
    if not fit and tables and by_folder and not by_folder.images:
        raise _lacks(tables[0], own.columns)
    if not fit:
        if by_folder:
            unused = "is not used: it has no columns {!r} and {!r}".format(*own.columns)
            by_folder.notes.extend(f"{table.name} {unused}" for table in tables)
        return None
    if len(fit) > 1 and len({table.split for table in fit if table.split}) < len(fit):
        raise InputError(f"{fit[0].name} and {fit[1].name} both have labels: name one by `OwnSet.labels`")
    labelled = _labelled(tree, fit)
    if by_folder and by_folder.images:
        _check_folders(labelled, by_folder, fit[0].name)
        split_of = {image: split for image, _, split in by_folder.images if split}
        if split_of and not any(split for _, _, split in labelled.images):
            with_split = [(image, label, split_of.get(image, "")) for image, label, _ in labelled.images]
            labelled = labelled._replace(images=with_split, notes=[*labelled.notes, *by_folder.notes])
    return labelled


def _given(tree: Tree, labels: str) -> tuple[str, bytes]:
    """The name and content of the CSV that the user names: inside the set, beside it, or anywhere."""
    given = Path(labels).expanduser()
    inside = [name for name in tree.tables if f"/{name}".endswith(f"/{labels}") or tree.path / name == given]
    if inside:
        return inside[0], tree.table(inside[0])
    for file in (given, tree.path / given, tree.path.parent / given):
        try:
            return str(file), file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InputError(f"`OwnSet.labels`: {file} cannot be read ({error.strerror or error})") from None
    there = f"; there is {', '.join(tree.tables[:5])}" if tree.tables else ""
    raise InputError(f"`OwnSet.labels` is {labels!r}, which is neither in the set nor beside it{there}")


def _read(name: str, data: bytes, columns: Sequence[str]) -> _Table:
    lines = decoded(data, name).splitlines(keepends=True)
    wanted = [composed(column).strip().lower() for column in columns]
    tables = []
    try:
        for separator in _SEPARATORS:
            header = [composed(cell).strip() for cell in next(csv.reader(lines[:1], delimiter=separator), [])]
            small = [cell.lower() for cell in header]
            at = [small.index(column) if column in small else None for column in wanted]
            tables.append((None not in at[:2], len(header), separator, header, at))
        fits, _, separator, header, at = max(tables, key=lambda table: table[:2])
        reader = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=separator)
        next(reader, None)
        rows = [(reader.line_num, list(map(str.strip, row))) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise InputError(f"{name} is no CSV that can be read ({error})") from None
    if fits and at[2] is None and columns[2] not in ("", OwnSet.columns[2]):  # one that is asked for
        raise InputError(f"{name}: {unknown('column', columns[2], header)}; set `OwnSet.columns`")
    found = (at[0], at[1], at[2] if columns[2] else None) if fits else None
    return _Table(name, header, rows, found, split_called(PurePosixPath(name).stem))  # type: ignore[arg-type]


def _lacks(table: _Table, columns: Sequence[str]) -> InputError:
    small = [cell.lower() for cell in table.header]
    lacking = next(column for column in columns[:2] if column.strip().lower() not in small)
    return InputError(f"{table.name}: {unknown('column', lacking, table.header)}; name its columns by `OwnSet.columns`")


class _Names:
    """Images by any name that a CSV may have for them: the path or its end, with or without the suffix."""

    def __init__(self, images: Sequence[str]):
        self._by_key: dict[str, str | list[str]] = {}  # a list where there are several: most have one
        for image in images:
            path = PurePosixPath(composed(image))
            for end in range(len(path.parts)):
                part = "/".join(path.parts[end:])
                for key in {part.casefold(), str(PurePosixPath(part).with_suffix("")).casefold()}:
                    others = self._by_key.setdefault(key, image)
                    if others is not image:
                        self._by_key[key] = [*([others] if isinstance(others, str) else others), image]

    def find(self, given: str) -> list[str]:
        """The images that a row may mean; more than one where its name does not tell."""
        parts = [part for part in composed(given).replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):  # a path on another machine begins with folders that are not here
            key = "/".join(parts[start:])
            if images := self._by_key.get(key.casefold()):
                return [images] if isinstance(images, str) else self._nearest(images, key)
        return []

    def _nearest(self, images: list[str], key: str) -> list[str]:
        whole = [image for image in images if composed(image) == key]
        end = [image for image in images if f"/{composed(image)}".endswith(f"/{key}")]  # the case of letters, a suffix
        return whole or end or images


def _labelled(tree: Tree, tables: Sequence[_Table]) -> Labelled:
    names = _Names(tree.images)
    found: dict[str, tuple[str, str, str]] = {}  # class, split, and the row that says so
    left_out: dict[str, list[str]] = {}
    notes = [f"{' and '.join(table.name for table in tables)} has the classes of its images"]
    several = len({table.split for table in tables}) > 1
    rows = 0
    for table in tables:
        assert table.columns
        for line, row in table.rows:
            file, label, split = (row[at] if at is not None and at < len(row) else "" for at in table.columns)
            where, rows = f"{table.name}, line {line}", rows + 1
            images = names.find(file)
            if len(images) > 1:
                raise InputError(f"{where}: {file!r} may be {images[0]} or {images[1]}: give more of its path")
            if not images or not label:
                left_out.setdefault(_NO_LABEL if images else _NO_FILE, []).append(file)
                continue
            if split and not split_called(split):
                raise InputError(f"{where}: {unknown('split', split, ('train', 'val', 'test'))}")
            split = split_called(split) or (table.split if several else "")
            (image,) = images
            label = composed(label)
            if image in found and found[image][:2] != (label, split):
                other = found[image]
                raise InputError(
                    f"{where}: {image} is of {label!r}{split and f' ({split})'}, but of {other[0]!r}"
                    f"{other[1] and f' ({other[1]})'} in {other[2]}: an image has one class and one split"
                )
            found[image] = (label, split, where)
    if rows and not found:
        first = next(iter(left_out.get(_NO_FILE, [""])))
        raise InputError(
            f"{tables[0].name}: none of its {rows} rows names one of the {len(tree.images)} images: a row has "
            f"{first!r}, an image is {tree.images[0] if tree.images else 'nowhere'}"
        )
    if alone := [image for image in tree.images if image not in found]:
        left_out[_NO_ROW] = alone
    check_alike({label for label, _, _ in found.values()}, "label", notes)
    labelled = [(image, label, split) for image, (label, split, _) in found.items()]
    return Labelled(labelled, left_out, notes, tuple(table.name for table in tables))


def _check_folders(labelled: Labelled, by_folder: Labelled, name: str) -> None:
    """Raise InputError where folders and CSV are two readings: a class of the one is not a class of the other."""
    folder_of: Mapping[str, str] = {image: of_class for image, of_class, _ in by_folder.images}
    pairs = {(folder_of.get(image, ""), label) for image, label, _ in labelled.images}
    folders, labels = ({pair[side] for pair in pairs} for side in (0, 1))
    if len(folders) > 1 and not len(pairs) == len(folders) == len(labels):
        raise InputError(
            f"{name} names {len(labels)} classes ({min(labels)!r}), its folders {len(folders)} others "
            f"({min(folders)!r}): set `OwnSet.labels` to {name!r}, or remove it"
        )
