"""Weights as people have them: prefixes, checkpoints, other heads, any suffix; and what is said of other files."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_resnet import torchvision_tensors
from torch_files import state_dict

from jaxdiv.errors import InputError
from jaxdiv.probes.registry import load_probe
from jaxdiv.probes.resnet import NETS
from jaxdiv.probes.weights import fit, resembles

NARROW = NETS["resnet10_narrow"]
CONV1, MEAN = np.arange(12.0).reshape(3, 4), np.ones(3)
SHAPES = {"conv1.weight": (3, 4), "bn1.running_mean": (3,)}


def below(*prefixes, **more):
    """A network once for each prefix, with other numbers each time."""
    copies = {p: {f"{p}conv1.weight": CONV1 + i, f"{p}bn1.running_mean": MEAN + i} for i, p in enumerate(prefixes)}
    return {name: value for copy in copies.values() for name, value in copy.items()} | more


def fitted(tensors):
    return fit(tensors, SHAPES, "net.pth")


PREFIXES = ["", "module.", "backbone.", "encoder_q.", "model.", "encoder.", "net.", "module.encoder_q.", "state_dict."]


@pytest.mark.parametrize("prefix", [*PREFIXES, "state_dict.model.backbone.", "model.conv1."])
def test_a_prefix_is_found_by_what_it_leaves(prefix):
    head = {f"{prefix}fc.0.weight": MEAN, "head.weight": MEAN, "model.conv1.alone.weight": MEAN}
    found = fitted(below(prefix, **head))
    np.testing.assert_array_equal(found["conv1.weight"], CONV1)
    np.testing.assert_array_equal(found["bn1.running_mean"], MEAN)
    assert "fc.0.weight" in found and ("head.weight" in found) == (prefix == "")


def test_a_prefix_of_the_right_names_and_the_wrong_shapes_is_none():
    other = {"backbone.conv1.weight": CONV1.T, "backbone.bn1.running_mean": MEAN}
    assert fitted(below("encoder.") | other)["conv1.weight"].shape == (3, 4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("module.encoder_q.", "module.encoder_k."),  # MoCo
        ("teacher.backbone.", "student.module.backbone."),  # DINO
    ],
)
def test_of_two_copies_the_one_that_its_authors_evaluate_is_taken(one, other):
    for prefixes, number in (((one, other), 0), ((other, one), 1)):
        np.testing.assert_array_equal(fitted(below(*prefixes))["conv1.weight"], CONV1 + number)


def test_other_copies_are_not_chosen_between():
    with pytest.raises(InputError) as error:
        fitted(below("model.", "model_ema."))
    says = "net.pth holds this architecture 2 times, below 'model.' and 'model_ema.': save one of them in a file of its"
    assert str(error.value) == f"{says} own"


def narrow():
    return {name: np.asarray(value, np.float32) for name, value in torchvision_tensors(NARROW).items()}


def loaded(path):
    params = load_probe("resnet10_narrow", path).params
    return params["params"]["layer2"]["0"]["downsample"]["0"]["kernel"], params


@pytest.mark.parametrize(
    "name", ["net.pth", "net.pt", "net.bin", "last.ckpt", "moco.pth.tar", "net", "net.safetensors"]
)
def test_pytorchs_files_are_known_by_their_content_whatever_they_are_called(tmp_path, name):
    tensors = narrow()
    path = tmp_path / name
    path.write_bytes(state_dict({f"module.encoder_q.{name}": value for name, value in tensors.items()}))
    expected = tensors["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded(path)[0], expected)


def test_safetensors_are_known_by_their_content_too(tmp_path):
    save_file(narrow(), tmp_path / "model.bin")
    assert loaded(tmp_path / "model.bin")[0].shape == (1, 1, 16, 32)


@pytest.mark.parametrize("classes", [None, 3, 1000])
def test_a_probe_takes_any_number_of_classes_and_none(tmp_path, classes):
    tensors = {name: value for name, value in narrow().items() if not name.startswith("fc.")}
    if classes:
        tensors |= {"fc.weight": np.zeros((classes, 128), np.float32), "fc.bias": np.zeros(classes, np.float32)}
    save_file(tensors | {"projector.0.weight": np.zeros((9, 128), np.float32)}, tmp_path / "net.safetensors")
    _, params = loaded(tmp_path / "net.safetensors")
    assert (params["fc"]["kernel"].shape == (128, classes)) if classes else "fc" not in params


def test_a_deeper_network_of_the_same_family_is_refused(tmp_path):
    more = {f"layer3.1.{name}": np.zeros(64, np.float32) for name in ("bn1.weight", "bn1.bias")}
    more |= {"layer3.1.conv1.weight": np.zeros((64, 64, 3, 3), np.float32)}
    save_file(narrow() | more, tmp_path / "deeper.safetensors")
    with pytest.raises(InputError) as error:
        loaded(tmp_path / "deeper.safetensors")
    assert "deeper.safetensors: a ResNet-12 (1, 1, 2, 1 basic blocks)? 3 parameters are not of this" in str(error.value)
    assert "layer3.1.bn1.weight" in str(error.value)


def test_the_error_says_what_the_file_holds(tmp_path):
    tensors = {f"model.{name}": value for name, value in narrow().items() if "layer3" not in name}
    save_file(
        {**tensors, "model.layer3.0.conv1.weight": np.zeros((5, 5, 3, 3), np.float32)}, tmp_path / "a.safetensors"
    )
    with pytest.raises(InputError) as error:
        loaded(tmp_path / "a.safetensors")
    message = str(error.value)
    assert "14 parameters are missing: layer3.0.bn1.weight" in message
    assert f"; the file holds {len(tensors) + 1} tensors (model.bn1.bias (16,), " in message
    assert message.endswith("), as a ResNet-10 (1, 1, 1, 1 basic blocks) has")


def resnet(stages, convolutions):
    return {
        f"module.layer{number}.{block}.conv{i}.weight": (1, 1, 1, 1)
        for number, blocks in enumerate(stages, 1)
        for block in range(blocks)
        for i in range(1, convolutions + 1)
    }


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (resnet((3, 4, 6, 3), 3), "a ResNet-50 (3, 4, 6, 3 bottleneck blocks)"),
        (resnet((3, 4, 23, 3), 3), "a ResNet-101 (3, 4, 23, 3 bottleneck blocks)"),
        (resnet((2, 2, 2, 2), 2), "a ResNet-18 (2, 2, 2, 2 basic blocks)"),
        (
            {f"blocks.{i}.attn.qkv.weight": (2304, 768) for i in range(12)},
            "a vision transformer of width 768 and 12 blocks",
        ),
        ({"features.denseblock1.denselayer1.norm1.weight": (64,)}, "a DenseNet"),
        ({"w": (3,)}, ""),
    ],
)
def test_an_architecture_is_known_by_its_parameters_names(shapes, says):
    assert resembles(shapes) == says
