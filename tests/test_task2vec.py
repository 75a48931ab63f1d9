"""The Fisher diagonal against one gradient per image and label, in float64, and the estimators against it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import task2vec
from jaxdiv.errors import InputError
from jaxdiv.nets.resnet import ARCHITECTURES, Probe, ResNet
from jaxdiv.task2vec import Head

# Small maps with many filters take the Gram matrix of patches, large maps with few take each image's gradient.
TINY = ResNet((1, 1), (4, 24), small_stem=True)
CASES = {  # the net, an image's size, how many
    "basic blocks": (TINY, (7, 5), 5),
    "bottlenecks, max-pool": (ResNet((0, 1), (3, 8), bottleneck=True), (21, 15), 2),
}
WAYS = 3


@functools.cache
def setting(net, size, images):
    """A random probe whose batch norms differ from filter to filter, images, and a head of middling confidence."""
    rng = np.random.default_rng(1)
    draw = {
        "kernel": lambda shape: rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape),
        "scale": lambda shape: rng.uniform(0.5, 1.5, shape),
        "bias": lambda shape: rng.normal(0, 0.2, shape),
        "mean": lambda shape: rng.normal(0, 0.2, shape),
        "var": lambda shape: rng.uniform(0.5, 1.5, shape),
    }
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.float32(draw[path[-1].key](leaf.shape)),
        {collection: shapes[collection] for collection in ("params", "batch_stats")},
    )
    probe = Probe("probe", net, params)
    pixels = rng.normal(size=(images, *size, 3)).astype(np.float32)
    features = probe.features(pixels)
    kernel = rng.normal(size=(features.shape[1], WAYS)) / np.sqrt((features**2).sum(1).mean())
    return probe, pixels, Head(np.float32(kernel), np.float32(rng.normal(0, 0.3, WAYS)))


def fisher_by_single_gradients(probe, images, head):
    """E_x Σ_y p(y|x) (∂ log p(y|x)/∂w)², a gradient at a time -> the mean over each filter's weights, by layer."""

    def log_p(params, image):
        features = probe.net.apply({**probe.variables, "params": params}, image[None])[0]
        scores = jax.nn.log_softmax(features @ head.kernel + head.bias)
        return scores, scores

    gradients = jax.jit(jax.jacrev(log_p, has_aux=True))
    params = probe.variables["params"]
    total = jax.tree.map(jnp.zeros_like, params)
    for image in images:
        jacobian, scores = gradients(params, image)
        assert float(scores.max()) < np.log(0.99)  # or there would be little to compare
        for label in range(WAYS):
            p = jnp.exp(scores[label])
            total = jax.tree.map(lambda t, j, p=p, y=label: t + p * j[y] ** 2 / len(images), total, jacobian)
    found = {}
    for name in dict.fromkeys(probe.layer_names):
        layer = functools.reduce(lambda tree, step: tree[step], name.split("."), total)
        found[name] = layer["kernel"].mean((0, 1, 2)) if "kernel" in layer else layer["scale"]
    return found


def assert_equal_by_layer(found, expected, probe, tolerance):
    """Errors beside the largest entry of the same layer."""
    assert found.shape == (probe.filters,)
    names = np.array(probe.layer_names)
    for name, values in expected.items():
        error = np.abs(found[names == name] - values).max() / np.abs(values).max()
        assert error < tolerance, f"{name}: {error}"


@pytest.mark.parametrize("case", CASES)
def test_exact_equals_one_gradient_per_image_and_label(case):
    single = setting(*CASES[case])
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), single)
        expected = fisher_by_single_gradients(*double)
        assert_equal_by_layer(task2vec.exact(*double), expected, double[0], 1e-10)
        expected = {name: np.asarray(values) for name, values in expected.items()}
    assert_equal_by_layer(task2vec.exact(*single), expected, single[0], 1e-3)


@functools.cache
def draws(estimator, keys=300):
    """The estimator's embeddings of one task by many keys -> each layer's sums over that of the exact embedding."""
    probe, images, head = setting(*CASES["basic blocks"])
    exact = np.asarray(task2vec.exact(probe, images, head), np.float64)
    drawn = [
        task2vec.ESTIMATORS[estimator](probe, images, head, key) for key in jax.random.split(jax.random.key(2), keys)
    ]
    drawn, names = np.stack(drawn).astype(np.float64), np.array(probe.layer_names)
    return {n: drawn[:, names == n].sum(1) / exact[names == n].sum() for n in dict.fromkeys(probe.layer_names)}


@pytest.mark.parametrize("estimator", ["rademacher", "mc"])
def test_estimator_is_unbiased(estimator):
    for name, ratios in draws(estimator).items():
        error = ratios.std(ddof=1) / np.sqrt(len(ratios))
        # One seed, 12 layers: 4.5 standard errors are passed by chance once in 10,000 times.
        assert 0 < error < 0.06, name
        assert abs(ratios.mean() - 1) < 4.5 * error, name


def test_rademacher_is_less_noisy_than_mc():
    noise = {e: np.mean([ratios.std() for ratios in draws(e).values()]) for e in ("rademacher", "mc")}
    assert noise["rademacher"] < noise["mc"]


def test_exact_does_not_depend_on_chunk():
    probe, images, head = setting(*CASES["basic blocks"])
    whole = task2vec.fisher(probe, images, head)
    found = task2vec.fisher(probe, images, head, chunk=2)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-6 * whole.max())  # float32, summed in another order


def test_embedding_does_not_depend_on_chunk():
    probe, images, _ = setting(*CASES["basic blocks"])
    labels = np.arange(5) % WAYS
    whole = task2vec.embed(probe, images, labels, WAYS)
    np.testing.assert_allclose(
        task2vec.embed(probe, images, labels, WAYS, chunk=2), whole, rtol=1e-3, atol=1e-5 * whole.max()
    )


def test_stick_breaking_columns_give_the_scores_covariance():
    with jax.enable_x64(True):
        p = np.array([[0.2, 0.5, 0.3, 0.0], [1e-12, 1e-300, 1 - 1e-12, 0.0], [0.25] * 4, [0.0, 1.0, 0.0, 1e-9]])
        p[3] /= p[3].sum()
        columns = np.asarray(task2vec.stick_breaking(jnp.asarray(p)))
    found = np.einsum("nki,nkj->nij", columns, columns)
    np.testing.assert_allclose(found, np.eye(4) * p[:, None] - p[:, None] * p[:, :, None], atol=1e-16)


def test_head_of_a_confident_classifier_gives_a_finite_fisher():
    probe, images, head = setting(*CASES["basic blocks"])
    assert np.isfinite(task2vec.fisher(probe, images, Head(1e4 * head.kernel, head.bias))).all()


@pytest.mark.parametrize(("name", "filters"), [("resnet18", 9_600), ("resnet34", 17_024), ("resnet50", 53_120)])
def test_an_embedding_has_two_entries_for_each_convolution_filter(name, filters):
    probe = Probe(name, ARCHITECTURES[name], {})
    assert probe.filters == filters == len(probe.layer_names)


def test_layer_names_of_resnet18_are_torchvisions_in_module_order():
    probe = Probe("resnet18", ARCHITECTURES["resnet18"], {})
    block = ["conv1", "bn1", "conv2", "bn2"]
    first = [*block, "downsample.0", "downsample.1"]
    expected = ["conv1", "bn1"]
    expected += [f"layer1.0.{n}" for n in block] + [f"layer1.1.{n}" for n in block]
    for stage in ("layer2", "layer3", "layer4"):
        expected += [f"{stage}.0.{n}" for n in first] + [f"{stage}.1.{n}" for n in block]
    assert list(dict.fromkeys(probe.layer_names)) == expected
    assert probe.layer_names.count("layer3.0.downsample.1") == 256


def test_layer_names_of_resnet50_are_torchvisions_in_module_order():
    names = list(dict.fromkeys(Probe("resnet50", ARCHITECTURES["resnet50"], {}).layer_names))
    block = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3"]
    assert names[2:10] == [f"layer1.0.{n}" for n in [*block, "downsample.0", "downsample.1"]]
    assert names[10:16] == [f"layer1.1.{n}" for n in block]
    assert len(names) == 2 * 53


@pytest.mark.parametrize(
    ("changed", "says"),
    {
        "unknown estimator": ({"estimator": "exakt"}, "did you mean 'exact'"),
        "no key": ({"estimator": "rademacher"}, "key"),
        "NaN": ({"images": np.full((5, 7, 5, 3), np.nan, np.float32)}, "images: NaN"),
        "bytes": ({"images": np.zeros((5, 7, 5, 3), np.uint8)}, "uint8"),
        "one channel": ({"images": np.zeros((5, 7, 5, 1), np.float32)}, "(5, 7, 5, 1)"),
        "no images": ({"images": np.zeros((0, 7, 5, 3), np.float32)}, "at least one image"),
        "chunk": ({"chunk": 0}, "chunk"),
        "label too large": ({"labels": np.array([0, 1, 2, 3, 0])}, "0..2, not 0..3"),
        "label negative": ({"labels": np.array([0, 1, 2, -1, 0])}, "0..2, not -1..2"),
        "labels too few": ({"labels": np.array([0, 1])}, "[5]"),
    }.values(),
    ids=str,
)
def test_unusable_input_is_named_in_one_line(changed, says):
    probe, images, _ = setting(*CASES["basic blocks"])
    arguments = {"images": images, "labels": np.arange(5) % WAYS, "ways": WAYS, **changed}
    with pytest.raises(InputError) as caught:
        task2vec.embed(probe, **arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
