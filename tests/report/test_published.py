"""The paper's values, and when they may stand beside ours."""

import pytest

from jaxdiv.methods.registry import METHODS
from jaxdiv.report import published


def test_published_values_are_found_under_any_spelling():
    assert published.paper_diversity("cifar_fs", "resnet18") == (0.106, 0.00166)
    assert published.paper_diversity("flowers", "ResNet-34") == (0.117, 0.00234)
    assert published.paper_diversity("my_photos", "resnet18") is None
    assert published.paper_diversity("mio", "resnet50") is None
    assert set(published.PAPER_TABLE2) <= set(METHODS) and set(published.PAPER_CLAIM) <= set(METHODS)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({}, ""),
        ({"probe": "resnet34"}, ""),
        ({"weights": "/somewhere/resnet18-f37072fd.pth"}, ""),  # its hash is checked where it is read
        ({"estimator": "exact"}, "estimator reference (here exact)"),
        ({"augment": False}, "augmented tasks (here not)"),
        ({"interval": None}, "interval iid_pairs (here unknown)"),
        ({"pixels": 64}, "84 px (here 64)"),
        ({"shots": 1}, "shots 5 (here 1)"),
        ({"probe": "resnet50"}, "probe resnet18 or resnet34 (here resnet50)"),
        ({"weights": ""}, "here random"),
        ({"weights": "mine.safetensors"}, "here mine.safetensors"),
        ({"probe": "resnet34", "weights": "resnet18-f37072fd.pth"}, "resnet34-b627a593.pth"),
    ],
)
def test_a_diversity_is_measured_as_the_papers_only_with_every_setting_of_it(other, reason):
    row = {"estimator": "reference", "head": "adam", "distance": "task2vec", "interval": "iid_pairs"}
    row |= {"augment": True, "weights": "imagenet", "probe": "resnet18", "pixels": 84}
    row |= {"ways": 5, "shots": 5, "queries": 15}
    found = published.unlike(row | other)
    assert published.measured_alike(row | other) == (not reason) == (not found)
    assert len(found) <= 1 and reason in "".join(found)
    assert not published.measured_alike(row | {"own": True})  # a user's own "flowers" are not the paper's
    assert not published.measured_alike({"benchmark": "dtd", "probe": "resnet18", "diversity": 0.1})
