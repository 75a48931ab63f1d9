"""The ResNets against torchvision's architecture written in NumPy, and weights from files."""

import io
import json
import os
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from PIL import Image
from safetensors.numpy import save_file

from jaxdiv.errors import InputError
from jaxdiv.probes.registry import load_probe
from jaxdiv.probes.resnet import NETS, ResNet, layers
from jaxdiv.probes.resnet_probe import ResNetProbe, from_torchvision

BRANCHES = {  # every branch of the architecture at small widths; odd sizes make padding and stride count
    "basic blocks": (ResNet((2, 1), (4, 6)), (37, 30)),
    "basic blocks, small stem": (ResNet((1, 2), (4, 6), small_stem=True), (11, 8)),
    "bottlenecks": (ResNet((1, 2), (3, 5), bottleneck=True), (30, 37)),
    "bottlenecks, stride first": (ResNet((2, 1), (3, 5), bottleneck=True, stride_first=True), (33, 36)),
}


def torchvision_tensors(net, classes=7, seed=0):
    """Random tensors under the names, and of the shapes, that torchvision's `state_dict` has for `net`."""
    rng = np.random.default_rng(seed)
    tensors = {}

    def conv(name, out, inputs, kernel):
        std = (2 / (inputs * kernel**2)) ** 0.5
        tensors[f"{name}.weight"] = rng.normal(0, std, (out, inputs, kernel, kernel)).astype(np.float32)

    def norm(name, width):
        for leaf in ("weight", "running_var"):
            tensors[f"{name}.{leaf}"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        for leaf in ("bias", "running_mean"):
            tensors[f"{name}.{leaf}"] = rng.normal(0, 0.3, width).astype(np.float32)
        tensors[f"{name}.num_batches_tracked"] = np.array(1, np.int64)

    conv("conv1", net.widths[0], 3, 3 if net.small_stem else 7)
    norm("bn1", net.widths[0])
    inputs = net.widths[0]
    for stage, (depth, width) in enumerate(zip(net.depths, net.widths, strict=True), 1):
        out = 4 * width if net.bottleneck else width
        plan = [(width, 1), (width, 3), (out, 1)] if net.bottleneck else [(width, 3), (width, 3)]
        for block in range(depth):
            path, last = f"layer{stage}.{block}", inputs
            for i, (filters, kernel) in enumerate(plan, 1):
                conv(f"{path}.conv{i}", filters, last, kernel)
                norm(f"{path}.bn{i}", filters)
                last = filters
            if block == 0 and (stage > 1 or inputs != out):
                conv(f"{path}.downsample.0", out, inputs, 1)
                norm(f"{path}.downsample.1", out)
            inputs = out
    tensors["fc.weight"] = rng.normal(size=(classes, inputs)).astype(np.float32)
    tensors["fc.bias"] = rng.normal(size=classes).astype(np.float32)
    return tensors


def forward_in_numpy(tensors, images, stride_first, train=False):
    """torchvision's forward pass, NCHW and float64, its shape read off the tensors' names.

    `train`: batch norm on the batch's own statistics, as in PyTorch's training mode.
    """
    tensors = {name: value.astype(np.float64) for name, value in tensors.items()}

    def windows(x, kernel, stride, padding, fill=0.0):
        pad = (padding, padding)
        x = np.pad(x, ((0, 0), (0, 0), pad, pad), constant_values=fill)
        return np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]

    def conv(x, name, stride):
        weight = tensors[f"{name}.weight"]
        kernel = weight.shape[-1]
        return np.einsum("nihwab,oiab->nohw", windows(x, kernel, stride, kernel // 2), weight, optimize=True)

    def norm(x, name):
        mean, var, weight, bias = (
            tensors[f"{name}.{leaf}"][:, None, None] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        if train:
            mean, var = (moment(x, (0, 2, 3))[:, None, None] for moment in (np.mean, np.var))
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    relu = lambda x: np.maximum(x, 0)
    small = tensors["conv1.weight"].shape[-1] == 3
    x = relu(norm(conv(images.transpose(0, 3, 1, 2), "conv1", 1 if small else 2), "bn1"))
    if not small:
        x = windows(x, 3, 2, 1, -np.inf).max((4, 5))
    for path in dict.fromkeys(n.rsplit(".conv", 1)[0] for n in tensors if n.startswith("layer") and ".conv" in n):
        stage, block = int(path[5]), int(path[7:])
        stride = 2 if stage > 1 and block == 0 else 1
        if f"{path}.conv3.weight" in tensors:
            strides = [stride, 1, 1] if stride_first else [1, stride, 1]
        else:
            strides = [stride, 1]
        out = x
        for i, s in enumerate(strides, 1):
            out = norm(conv(out, f"{path}.conv{i}", s), f"{path}.bn{i}")
            out = relu(out) if i < len(strides) else out
        if f"{path}.downsample.0.weight" in tensors:
            x = norm(conv(x, f"{path}.downsample.0", stride), f"{path}.downsample.1")
        x = relu(out + x)
    features = x.mean((2, 3))
    return features, features @ tensors["fc.weight"].T + tensors["fc.bias"]


@pytest.mark.parametrize("case", BRANCHES)
def test_features_and_logits_equal_torchvisions_architecture_in_numpy(case):
    net, size = BRANCHES[case]
    tensors = torchvision_tensors(net)
    images = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    features, logits = forward_in_numpy(tensors, images, net.stride_first)
    probe = ResNetProbe("probe", net, from_torchvision(net, tensors))
    np.testing.assert_allclose(probe.features(images), features, rtol=1e-4, atol=1e-5 * features.max())
    np.testing.assert_allclose(probe.logits(images), logits, rtol=1e-4, atol=1e-5 * np.abs(logits).max())


PROBES = ("resnet18", "resnet34", "resnet50")


def logits_case(name):
    """Weights and images of the case that `make_torchvision_logits.py` gave to torchvision itself."""
    images = np.random.default_rng(1).normal(size=(2, 61, 70, 3)).astype(np.float32)
    return torchvision_tensors(NETS[name], seed=3), images


@pytest.mark.parametrize("name", PROBES)
def test_logits_equal_torchvisions_own(name):
    tensors, images = logits_case(name)
    expected = np.array(json.loads(Path(__file__).with_name("torchvision_logits.json").read_text())[name])
    net = NETS[name]
    found = np.asarray(ResNetProbe(name, net, from_torchvision(net, tensors)).logits(images))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_parameters_of_resnet18_and_resnet50_number_torchvisions():
    count = lambda net: sum(n.inputs * n.filters * n.kernel**2 + 2 * n.filters for n in layers(net))
    assert count(NETS["resnet18"]) + 513 * 1000 == 11_689_512
    assert count(NETS["resnet34"]) + 513 * 1000 == 21_797_672
    assert count(NETS["resnet50"]) + 2049 * 1000 == 25_557_032
    assert count(NETS["resnet50_v1"]) + 2049 * 1000 == 25_557_032


@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
def test_max_pool_and_its_derivative_equal_laxs_where_values_tie(size):
    net = ResNet((0,), (3,))  # stem, max-pool, mean
    tensors = torchvision_tensors(net)
    tensors["conv1.weight"][:] = 0
    tensors["conv1.weight"][:, :, 3, 3] = np.eye(3)  # the stem picks pixels
    for leaf, value in (("weight", 1), ("running_var", 1 - 1e-5), ("bias", 1), ("running_mean", 0)):
        tensors[f"bn1.{leaf}"][:] = value
    probe = ResNetProbe("probe", net, from_torchvision(net, tensors))
    images = np.random.default_rng(2).integers(0, 3, (2, *size, 3)).astype(np.float32)

    def laxs(images):
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        picked = images[:, ::2, ::2] + 1
        return lax.reduce_window(picked, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding).mean((1, 2))

    np.testing.assert_allclose(probe.features(images), laxs(images), rtol=1e-6)
    ours, theirs = (jax.grad(lambda x, f=f: (f(x) ** 2).sum())(images) for f in (probe.features, laxs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


NARROW = NETS["resnet10_narrow"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_file_under_torchvisions_names_gives_its_numbers_in_float32(tmp_path, dtype):
    tensors = {
        name: value.astype(dtype) if value.ndim == 4 else value for name, value in torchvision_tensors(NARROW).items()
    }
    save_file(tensors, tmp_path / "narrow.safetensors")
    probe = load_probe("resnet10_narrow", tmp_path / "narrow.safetensors")
    kernel = probe.params["params"]["layer2"]["0"]["downsample"]["0"]["kernel"]
    expected = tensors["layer2.0.downsample.0.weight"].astype(np.float32)
    np.testing.assert_array_equal(kernel, expected.transpose(2, 3, 1, 0))
    stored = probe.params["batch_stats"]["layer3"]["0"]["bn2"]["var"]
    np.testing.assert_array_equal(stored, tensors["layer3.0.bn2.running_var"])
    assert {leaf.dtype for leaf in jax.tree.leaves(probe.params)} == {jnp.dtype("float32")}
    assert probe.params["fc"]["kernel"].shape == (128, 7)


def without_a_mean(tensors):
    del tensors["layer3.0.bn2.running_mean"]


def narrower_kernel(tensors):
    tensors["layer2.0.conv1.weight"] = tensors["layer2.0.conv1.weight"][:, :-1]


def not_finite(tensors):
    tensors["layer1.0.bn1.weight"][2] = np.nan


def wrong_classifier(tensors):
    tensors["fc.weight"] = tensors["fc.weight"][:, :-1]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_a_mean, "1 parameters are missing: layer3.0.bn2.running_mean"),
        (narrower_kernel, "layer2.0.conv1.weight is (32, 15, 3, 3), not (32, 16, 3, 3)"),
        (not_finite, "NaN or infinity in layer1.0.bn1.weight"),
        (wrong_classifier, "fc.weight is (7, 127)"),
    ],
)
def test_file_of_another_architecture_is_refused_by_the_parameters_name(tmp_path, spoil, says):
    tensors = torchvision_tensors(NARROW)
    spoil(tensors)
    path = tmp_path / "spoilt.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    assert says in refusal(path)


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "cut.safetensors"
    save_file(torchvision_tensors(NARROW), path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "truncated" in refusal(path)
    path.write_bytes(b"")
    assert "truncated" in refusal(path)


def test_missing_file_and_other_kinds_of_file_are_refused(tmp_path):
    assert "no weights at" in refusal(tmp_path / "nowhere.safetensors")
    (tmp_path / "resnet18.pth").write_bytes(b"PK")
    assert "truncated, or no file of torch.save" in refusal(tmp_path / "resnet18.pth")
    np.savez(tmp_path / "resnet18.npz", x=np.zeros(3))
    assert "a zip archive of x.npy, without the data.pkl of torch.save" in refusal(tmp_path / "resnet18.npz")
    (tmp_path / "folder.safetensors").mkdir()
    assert "no weights at" in refusal(tmp_path / "folder.safetensors")
    (tmp_path / "text.safetensors").write_text("these are no tensors")
    assert "not a .safetensors file" in refusal(tmp_path / "text.safetensors")


def refusal(path):
    """The one line that refuses a file of weights; it names the file."""
    with pytest.raises(InputError) as caught:
        load_probe("resnet10_narrow", path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return message


def test_unknown_probe_names_the_nearest():
    with pytest.raises(InputError, match="unknown probe 'resnet19': did you mean 'resnet18'"):
        load_probe("resnet19")


def test_probe_without_classifier_says_so():
    tensors = {n: v for n, v in torchvision_tensors(NARROW).items() if not n.startswith("fc")}
    probe = ResNetProbe("narrow", NARROW, from_torchvision(NARROW, tensors))
    with pytest.raises(InputError, match="no classifier"):
        probe.logits(np.zeros((1, 8, 8, 3), np.float32))


def test_random_probe_depends_on_its_seed_alone_and_keeps_activations_of_order_one():
    one, same, other = (load_probe("resnet10_narrow", seed=seed) for seed in (1, 1, 2))
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(one.features(images), same.features(images))
    assert np.abs(one.features(images) - other.features(images)).max() > 0.1
    # ReLU of a sum of two variables of variance 1 has mean square 1; white noise is not what it was calibrated on.
    assert 0.1 < float((one.features(images) ** 2).mean() ** 0.5) < 10


def real(name):
    folder = os.environ.get("JAXDIV_TEST_DATA")
    if not folder:
        pytest.skip("JAXDIV_TEST_DATA names no folder of real images and weights")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"JAXDIV_TEST_DATA has no {name}")
    return path


def crop_224(file):
    """The centre of an image of short side 256, normalised as torchvision's probes want it."""
    image = Image.open(file).convert("RGB")
    assert min(image.size) == 256
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])


def test_real_resnet50_classifies_at_least_90_of_100_imagenet_images():
    weights, archive = real("resnet50_imagenet_fp16.safetensors"), real("imagenet_sample.tar")
    probe = load_probe("resnet50_v1", weights)
    with tarfile.open(archive) as tar:
        files = [member for member in tar.getmembers() if member.name.endswith(".JPEG")]
        truth = np.array([int(Path(member.name).name.split("_")[0]) for member in files])
        images = np.stack([crop_224(io.BytesIO(tar.extractfile(member).read())) for member in files])
    assert len(truth) == 100
    # A net this large mostly runs: optimised, whatever XLA_FLAGS say.
    logits = jax.jit(ResNetProbe.logits).lower(probe, images[:20]).compile({"xla_backend_optimization_level": 3})
    found = np.concatenate([logits(probe, images[i : i + 20]).argmax(1) for i in range(0, 100, 20)])
    assert (found == truth).sum() >= 90


@pytest.mark.parametrize("name", NETS)
def test_a_probe_is_one_line_that_counts_its_parameters(name):
    net = NETS[name]
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    probe = ResNetProbe(name, net, shapes)
    millions = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) / 1e6
    assert repr(probe) == f"Probe({name}, {len(probe.layer_names):,} entries, {millions:.1f} M parameters)"
    assert str(probe) == repr(probe.replace(params={})) == repr(jax.tree.map(lambda leaf: 0, probe)) == repr(probe)
