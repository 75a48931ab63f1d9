"""Archives in the layouts that the data sets' owners publish, made small: every class, a few images of each.

An image of class C is one colour, `colour(C)`, so that whatever a builder does with it can be told.
"""

import hashlib
import io
import pickle
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from jaxdiv.data.public import builders
from jaxdiv.data.registry import split_lists

BANNER = 20  # rows at the bottom of an aircraft's image


def colour(name):
    return tuple(hashlib.sha256(name.encode()).digest()[:3])


def encoded(name, kind="JPEG", size=(8, 8), banner=0):
    image = Image.new("RGB", size, colour(name))
    image.paste((0, 0, 0), (0, size[1] - banner, *size))
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return out.getvalue()


def write_tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode, **({"compresslevel": 1} if "gz" in mode else {})) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_zip(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def listed(name):
    return [of_class for classes in split_lists()[name].values() for of_class in classes]


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its strings, and names NumPy's modules as it did then."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012 (as the class it replaces has it)

    def __init__(self, file):
        super().__init__(file, protocol=2)

    def save_string(self, value):
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__name__}\n".encode())
        self.memoize(value)

    dispatch[type] = dispatch[type(len)] = save_global


def python2_pickle(value):
    out = io.BytesIO()
    Python2Pickler(out).dump(value)
    return out.getvalue()


# CIFAR-100's superclasses and classes: all that a class list needs is which belong together.
def cifar_classes():
    groups = listed("fc100_superclasses")
    fine = listed("cifar_fs")
    return {name: groups[i // 5] for i, name in enumerate(sorted(fine))}


def cifar100(folder, images):
    group_of = cifar_classes()
    fine, coarse = sorted(group_of), sorted(set(group_of.values()))
    files = {"cifar-100-python/meta": python2_pickle({"fine_label_names": fine, "coarse_label_names": coarse})}
    for part, count in (("train", images - 1), ("test", 1)):
        labels = [i for i in range(100) for _ in range(count)]
        pixels = np.array([colour(fine[i]) for i in labels], np.uint8)
        batch = {
            "filenames": [f"{fine[i]}_s_{n:06}.png" for n, i in enumerate(labels)],
            "batch_label": part,
            "fine_labels": labels,
            "coarse_labels": [coarse.index(group_of[fine[i]]) for i in labels],
            "data": np.repeat(pixels[:, :, None], 1024, 2).reshape(len(labels), 3072),
        }
        files[f"cifar-100-python/{part}"] = python2_pickle(batch)
    return [write_tar(folder / "cifar-100-python.tar.gz", files)]


def mini_imagenet(folder, images):
    """As JPEG files, named as the set's own."""
    names = listed("mini_imagenet")
    files = {f"images/{name}{i:08}.jpg": encoded(name) for name in names for i in range(images)}
    return [write_tar(folder / "mini-imagenet.tar.gz", files)]


def pixels_of(classes, images):
    """[n, 4, 4, 3]: the images of each class together."""
    return np.tile(
        np.repeat([colour(name) for name in classes], images, 0).astype(np.uint8)[:, None, None], (1, 4, 4, 1)
    )


def mini_imagenet_cache(images, dumps=python2_pickle, val="val"):
    """The three pickles of few-shot-ssl-public by their names; `val` is "validation" on Zenodo."""
    files = {}
    for split, classes in split_lists()["mini_imagenet"].items():
        rows = {name: list(range(i * images, (i + 1) * images)) for i, name in enumerate(classes)}
        name = f"mini-imagenet-cache-{val if split == 'val' else split}.pkl"
        files[name] = dumps({"image_data": pixels_of(classes, images), "class_dict": rows})
    return files


def mini_imagenet_splits(images, dumps=python2_pickle):
    """MetaOptNet's five: labels count on from one split to the next, and two have other images of train classes."""
    files, first = {}, 0
    lists = split_lists()["mini_imagenet"]
    for split, classes in lists.items():
        number_of = {name: first + i for i, name in enumerate(classes)}
        labels = [number for number in number_of.values() for _ in range(images)]
        first += len(classes)
        batch = {"data": pixels_of(classes, images), "labels": labels, "catname2label": number_of}
        part = "train_phase_train" if split == "train" else split
        files[f"miniImageNet_category_split_{part}.pickle"] = dumps(batch)
        if split == "train":
            other = batch | {"data": 255 - batch["data"]}
            files |= {f"miniImageNet_category_split_train_phase_{p}.pickle": dumps(other) for p in ("val", "test")}
    return files


def mini_imagenet_pickles(folder, images):
    """As the three pickles in one archive, with what lies beside them on a Mac and after a run of learn2learn."""
    files = {"._mini-imagenet-cache-train.pkl": b"\0\5\x16\7", "mini-imagenet-bookkeeping-train.pkl": b"no pickle"}
    return [write_tar(folder / "mini-imagenet.tar.gz", files | mini_imagenet_cache(images))]


def aircraft(folder, images):
    """Every variant a family of the list's, in turn; images are 30 high, the lowest 20 a black banner."""
    variants, families = listed("aircraft"), listed("aircraft_family")
    root, files = "fgvc-aircraft-2013b/data", {}
    lines = {(kind, part): "" for kind in ("variant", "family") for part in ("train", "val", "test")}
    for v, variant in enumerate(variants):
        for i in range(images):
            number = f"{v * images + i + 1000000}"
            files[f"{root}/images/{number}.jpg"] = encoded(variant, size=(8, 10 + BANNER), banner=BANNER)
            part = ("train", "val", "test")[i % 3]
            lines["variant", part] += f"{number} {variant}\n"
            lines["family", part] += f"{number} {families[v % len(families)]}\n"
    # The lists after the images, as a reader must not count on them coming first.
    files |= {f"{root}/images_{kind}_{part}.txt": text.encode() for (kind, part), text in lines.items()}
    files[f"{root}/families.txt"] = "\n".join(families).encode()
    return [write_tar(folder / "fgvc-aircraft-2013b.tar.gz", files)]


def flower(folder, images):
    names = {int(name[:3]): name for name in listed("vgg_flower")}
    labels = [number for number in sorted(names) for _ in range(images)]
    files = {f"jpg/image_{n:05}.jpg": encoded(names[label]) for n, label in enumerate(labels, 1)}
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    return [write_tar(folder / "102flowers.tgz", files), folder / "imagelabels.mat"]


def dtd(folder, images):
    names = listed("dtd")
    files = {f"dtd/images/{name}/{name}_{i:04}.jpg": encoded(name) for name in names for i in range(images)}
    files |= {"dtd/labels/train1.txt": b"banded/banded_0002.jpg\n", "dtd/imdb/imdb.mat": b"no matter"}
    return [write_tar(folder / "dtd-r1.0.1.tar.gz", files)]


def cu_birds(folder, images):
    names = listed("cu_birds")
    files = {
        f"CUB_200_2011/images/{name}/{name[4:]}_{i:04}_1.jpg": encoded(name) for name in names for i in range(images)
    }
    files |= {"CUB_200_2011/classes.txt": b"1 001\n", "attributes.txt": b"1 has_bill_shape\n"}
    return [write_tar(folder / "CUB_200_2011.tgz", files)]


def omniglot(folder, images):
    """964 characters and 659, on white."""
    written = []
    for part, characters in (("images_background", 964), ("images_evaluation", 659)):
        files = {
            f"{part}/Alphabet_{c // 40:02}/character{c % 40:02}/{i:02}.png": c
            for c in range(characters)
            for i in range(images)
        }
        drawn = {}
        for c in range(characters):
            pixels = np.full((6, 6), 255, np.uint8)
            pixels[0, : c % 6 + 1] = 0
            out = io.BytesIO()
            Image.fromarray(pixels).convert("1").save(out, "PNG")
            drawn[c] = out.getvalue()
        written.append(write_zip(folder / f"{part}.zip", {name: drawn[c] for name, c in files.items()}))
    return written


MAKERS = {
    "cifar100": cifar100,
    "mini_imagenet": mini_imagenet,
    "aircraft": aircraft,
    "flower": flower,
    "dtd": dtd,
    "cu_birds": cu_birds,
    "omniglot": omniglot,
}


def with_hashes_of(source, paths: list[Path]):
    """`source` as if its owners had published these archives."""
    found = {path.name: path for path in paths}
    archives = [
        replace(
            archive,
            sha256=builders.sha256_of(found[archive.name]) if archive.sha256 else "",
            md5=hashlib.md5(found[archive.name].read_bytes()).hexdigest() if archive.md5 else "",
            size=found[archive.name].stat().st_size,
        )
        if archive.name in found
        else archive
        for archive in source.archives
    ]
    return replace(source, archives=tuple(archives))


def make(name, folder, images, monkeypatch, maker=None):
    """The archives of a source in `folder`, whose hashes count as the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (maker or MAKERS[name])(folder, images)
    monkeypatch.setitem(builders.SOURCES, name, with_hashes_of(builders.SOURCES[name], paths))
    return paths
