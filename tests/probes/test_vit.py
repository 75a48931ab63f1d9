"""ViT-S/16 against PyTorch's modules (and timm, which agreed with them), its weights' files, and its Fisher."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from safetensors.numpy import save_file
from timm_tensors import SIZES, pictures, timm_tensors
from torch_files import state_dict

from jaxdiv.errors import InputError
from jaxdiv.nets.logistic import Head
from jaxdiv.probes import vit
from jaxdiv.probes.generic import probe_from
from jaxdiv.probes.registry import check_pixels, load_probe
from jaxdiv.probes.vit import ViT, ViTProbe, from_timm
from jaxdiv.task2vec import aws, embed, fisher

TINY = ViT(width=12, depth=2, heads=3, patch=4, grid=3)
WAYS = 3


def tiny_tensors():
    return timm_tensors(TINY.width, TINY.depth, TINY.patch, TINY.grid)


def tiny(h=12, w=12, count=4):
    """A tiny probe, images, and a head of middling confidence."""
    probe = ViTProbe("tiny", TINY, from_timm(TINY, tiny_tensors()))
    rng = np.random.default_rng(2)
    head = Head(rng.normal(0, 0.4, (TINY.width, WAYS)).astype(np.float32), rng.normal(size=WAYS).astype(np.float32))
    return probe, pictures(h, w, count), head


@pytest.mark.parametrize("size", SIZES, ids=["its own grid", "positions resampled, not square"])
def test_features_equal_pytorchs(size):
    expected = json.loads(Path(__file__).with_name("vit_features.json").read_text())
    probe = ViTProbe("vit_small", ViT(), from_timm(ViT(), timm_tensors()))
    found = probe.features(pictures(*size))[0]
    np.testing.assert_allclose(found, expected[f"{size[0]} x {size[1]}"], rtol=1e-4, atol=1e-4)


def test_parameters_and_entries_of_vit_small_number_timms():
    probe = jax.eval_shape(lambda: load_probe("vit_small"))
    assert sum(leaf.size for leaf in jax.tree.leaves(probe.params)) == 21_665_664  # timm's with num_classes=0
    assert len(probe.layer_names) == 384 + 12 * (3 * 384 + 384 + 4 * 384 + 384)
    assert repr(probe) == "Probe(vit_small, 41,856 entries, 21.7 M parameters)"
    assert list(dict.fromkeys(probe.layer_names))[:3] == ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj"]


def fisher_by_single_gradients(probe, images, head):
    """E_x Σ_y p(y|x) (∂ log p(y|x)/∂w)², a gradient at a time -> the mean over each unit's weights."""

    def log_p(weights, image):
        scores = jax.nn.log_softmax(probe.training_features(weights, image[None])[0] @ head.kernel + head.bias)
        return scores, scores

    gradients = jax.jit(jax.jacrev(log_p, has_aux=True))
    total = jax.tree.map(jnp.zeros_like, probe.weights)
    for image in images:
        jacobian, scores = gradients(probe.weights, image)
        assert float(scores.max()) < np.log(0.99)  # or there would be little to compare
        for label in range(WAYS):
            p = jnp.exp(scores[label])
            total = jax.tree.map(lambda t, j, p=p, y=label: t + p * j[y] ** 2 / len(images), total, jacobian)
    return np.concatenate([total[name].mean(0) for name in TINY.dense])


def test_exact_equals_one_gradient_per_image_and_label():
    single = tiny(4, 20)  # not the grid that positions are stored for
    with enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), single)
        expected = np.asarray(fisher_by_single_gradients(*double))
        np.testing.assert_allclose(fisher.exact(*double), expected, rtol=1e-9)
    assert (expected > 0).all()
    np.testing.assert_allclose(fisher.exact(*single), expected, rtol=1e-3)


def test_the_fisher_is_that_of_the_same_network_as_a_generic_probe():
    probe, images, head = tiny()
    axes = lambda name, shape: (-1,) if name.endswith("kernel") else ()
    generic = probe_from(lambda params, images: vit.forward(TINY, params, images)[0], probe.params, None, axes)
    ours, theirs = (fisher.fisher(p, images, head) for p in (probe, generic))
    names = np.array(generic.layer_names)  # in the order of the sorted names
    ordered = np.concatenate([theirs[names == name] for name in dict.fromkeys(probe.layer_names)])
    np.testing.assert_allclose(ours, ordered, rtol=1e-4)


def test_the_fisher_does_not_depend_on_chunk():
    probe, images, head = tiny()
    np.testing.assert_allclose(
        fisher.fisher(probe, images, head, chunk=3), fisher.fisher(probe, images, head), rtol=1e-4
    )


def test_reference_is_the_squared_gradient_of_a_batchs_mean_cross_entropy(monkeypatch):
    monkeypatch.setattr(aws, "_BATCHES", 2)
    probe, images, head = tiny()
    images, total, key = jnp.asarray(images), 0, jax.random.key(3)

    def loss(weights, rows, key):
        logits = probe.training_features(weights, images[rows]) @ head.kernel + head.bias
        labels = jax.random.categorical(key, jax.lax.stop_gradient(logits))
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    for of_batch in jax.random.split(key, 2):  # the draws, as the estimator makes them
        for_rows, for_labels = jax.random.split(of_batch)
        rows = jax.random.randint(for_rows, (64,), 0, len(images))
        gradient = jax.jit(jax.grad(loss))(probe.weights, rows, for_labels)
        total += np.concatenate([(gradient[name] ** 2).mean(0) for name in TINY.dense]) / 2
    np.testing.assert_allclose(fisher.reference(probe, images, head, key), total, rtol=2e-3, atol=1e-6 * total.max())


def test_a_random_vit_depends_on_its_seed_alone_and_embeds_a_task():
    probes = [ViTProbe("tiny", TINY, vit.random_params(jax.random.key(seed), TINY)) for seed in (1, 1, 2)]
    images = pictures(8, 12, 6)
    one, same, other = (probe.features(images) for probe in probes)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1
    found = embed.embed(probes[0], images, np.arange(6) % WAYS, WAYS, "rademacher", jax.random.key(0), head="adam")
    assert found.shape == (len(probes[0].layer_names),) and float(found.max()) > 0


def test_random_parameters_are_the_same_float32_in_double_precision():
    expected = vit.random_params(jax.random.key(0), TINY)
    with enable_x64(True):
        found = vit.random_params(jax.random.key(0), TINY)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}


@pytest.fixture
def registered(monkeypatch):
    """The tiny architecture under the name of the small one: files of it are small."""
    monkeypatch.setattr(vit, "NETS", {"vit_small": TINY})


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_files_of_both_kinds_under_timms_and_dinos_names_give_the_same_probe(tmp_path, registered, prefix):
    tensors = {prefix + name: value for name, value in tiny_tensors().items()}
    save_file(tensors, tmp_path / "vit.safetensors")
    (tmp_path / "vit.pth").write_bytes(state_dict(tensors))
    expected = from_timm(TINY, tiny_tensors())
    for name in ("vit.safetensors", "vit.pth"):
        jax.tree.map(np.testing.assert_array_equal, load_probe("vit_small", tmp_path / name).params, expected)


def test_positions_of_another_size_are_taken_from_the_file():
    tensors = timm_tensors(TINY.width, TINY.depth, TINY.patch, grid=5)
    assert from_timm(TINY, tensors)["pos_embed"].shape == (1, 26, TINY.width)


def layer_scale(tensors):
    tensors["blocks.0.ls1.gamma"] = np.ones(TINY.width, np.float32)


def distilled(tensors):
    tensors["pos_embed"] = np.zeros((1, 2 + TINY.grid**2, TINY.width), np.float32)


def shallow(tensors):
    for name in [name for name in tensors if name.startswith("blocks.1.")]:
        del tensors[name]


def other_patches(tensors):
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"][..., :-1, :-1]


def not_finite(tensors):
    tensors["norm.weight"][3] = np.inf


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (layer_scale, "1 parameters are not its own: blocks.0.ls1.gamma"),
        (distilled, "pos_embed is (1, 11, 12), not (1, 10, 12)"),
        (shallow, "12 parameters are missing: blocks.1.attn.qkv.weight"),
        (other_patches, "patch_embed.proj.weight is (12, 3, 3, 3), not (12, 3, 4, 4)"),
        (not_finite, "NaN or infinity in norm.weight"),
        (lambda tensors: tensors.clear(), "parameters are missing: cls_token"),
    ],
)
def test_a_file_of_another_architecture_is_refused_by_the_parameters_name(tmp_path, registered, spoil, says):
    tensors = tiny_tensors()
    spoil(tensors)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, tmp_path / "other.safetensors")
    with pytest.raises(InputError) as caught:
        load_probe("vit_small", tmp_path / "other.safetensors")
    message = str(caught.value)
    assert says in message and "other.safetensors" in message and "\n" not in message


def test_a_missing_file_and_torchvisions_weights_are_refused():
    with pytest.raises(InputError, match=r"no weights at nowhere\.pth: expected a \.safetensors or \.pth file"):
        load_probe("vit_small", "nowhere.pth")
    with pytest.raises(InputError, match="torchvision has no ImageNet weights for vit_small, only for"):
        load_probe("vit_small", "imagenet")


def test_images_that_are_no_whole_patches_are_refused_in_one_line():
    probe, _, head = tiny()
    with pytest.raises(InputError, match="images are 12 x 14 pixels: this probe takes multiples of 4 only"):
        fisher.fisher(probe, pictures(12, 14), head)
    check_pixels("vit_small", 96)
    check_pixels("resnet18", 85)
    with pytest.raises(InputError, match=r"`pixels` is 84: .*vit_small.* multiples of 16 only, such as 80 or 96"):
        check_pixels("vit_small", 84)
