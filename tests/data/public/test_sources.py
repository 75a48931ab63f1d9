"""Readers of the owners' formats: what a damaged or another file gives is one line that names it."""

import pickle

import numpy as np
import official_archives as official
import pytest
from sample_archives import check_one_line

from jaxdiv.data.public.sources import read_cifar100
from jaxdiv.errors import InputError

META = {"fine_label_names": ["apple", "bear"], "coarse_label_names": ["fruit"]}
BATCH = {
    "data": np.zeros((2, 3072), np.uint8),
    "filenames": ["a.png", "b.png"],
    "fine_labels": [0, 1],
    "coarse_labels": [0, 0],
}


def cifar100(folder, meta=META, dumps=official.python2_pickle, **changed):
    parts = {"meta": meta, "train": BATCH | changed, "test": BATCH}
    files = {f"cifar-100-python/{part}": dumps(value) for part, value in parts.items() if value is not None}
    return {"cifar": official.write_tar(folder / "cifar-100-python.tar.gz", files)}


@pytest.mark.parametrize("dumps", [official.python2_pickle, *(lambda v, p=p: pickle.dumps(v, p) for p in range(6))])
def test_cifar_100_is_read_as_every_python_writes_it(tmp_path, dumps):
    found = list(read_cifar100(cifar100(tmp_path, dumps=dumps)))
    assert [(e.of_class, e.group, e.file) for e in found[:2]] == [
        ("apple", "fruit", "cifar-100-python/train/a.png"),
        ("bear", "fruit", "cifar-100-python/train/b.png"),
    ]
    assert len(found) == 4


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (dict(fine_labels=[0]), "has not one label, one name and 3072 bytes for each image"),
        (dict(fine_labels=[0, 2]), "has not one label, one name and 3072 bytes for each image"),
        (dict(coarse_labels=[0, -1]), "has not one label, one name and 3072 bytes for each image"),
        (dict(fine_labels=["apple", "bear"]), "has labels that are no whole numbers"),
        (dict(filenames=["a.png"]), "has not one label, one name and 3072 bytes for each image"),
        (dict(data=np.zeros((2, 3072), "f4")), "has not one label, one name and 3072 bytes for each image"),
        (dict(data=np.zeros((2, 30), "u1")), "has not one label, one name and 3072 bytes for each image"),
        (dict(data=np.zeros((), "u1")), "has not one label, one name and 3072 bytes for each image"),
        (dict(data=None), "has no `data` as it should"),
        (dict(meta=[1]), "has no `fine_label_names` as it should"),
        (dict(meta=None), "is without cifar-100-python/meta"),
    ],
)
def test_what_is_wrong_in_cifar_100_is_said(tmp_path, changed, says):
    paths = cifar100(tmp_path, **changed)
    with pytest.raises(InputError) as error:
        list(read_cifar100(paths))
    check_one_line(error, paths["cifar"], says)
