"""A user's own data sets as tests write them, and what is found in them."""

import zipfile

from official_archives import write_tar, write_zip

from jaxdiv.data.own.layout import OwnSet, find

PNG = b"\x89PNG\r\n\x1a\n"  # an image, to whoever looks at the first bytes alone


def content(name):
    """What a test's image called `name` holds: no other holds the same."""
    return PNG + name.encode()


def images(*names):
    return {name: content(name) for name in names}


def write(path, files, kind="folder"):
    """`files` by their names as a folder or an archive, whose path is returned."""
    if kind != "folder":
        path = path.with_name(f"{path.name}.{kind}")
        if kind == "zip":
            return write_zip(path, files, zipfile.ZIP_DEFLATED)
        return write_tar(path, files, {"tar": "w"}.get(kind, "w:" + kind.removeprefix("tar.")))
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    path.mkdir(exist_ok=True)
    return path


def classes(path, **fields):
    """The names of each class's images at `path`."""
    found = {}
    for item in find(OwnSet(str(path), **fields)).items:
        found.setdefault(item.of_class, []).append(item.name)
    return found


def split_of(found):
    """The split of each class, of which every image must have the same."""
    splits = {}
    for item in found.items:
        assert splits.setdefault(item.of_class, item.split) == item.split
    return splits
