"""The Fisher diagonal against one gradient per image and label, in float64, and the estimators against it."""

import functools
import os
import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from scipy import stats
from test_resnet import forward_in_numpy, torchvision_tensors

from jaxdiv import load_benchmark, load_probe, sample_tasks
from jaxdiv.data import prepare, registry
from jaxdiv.data.table import make_table
from jaxdiv.errors import InputError
from jaxdiv.probes.resnet import ARCHITECTURES, Probe, ResNet
from jaxdiv.probes.weights import from_torchvision
from jaxdiv.task2vec import aws, embedding, fisher
from jaxdiv.task2vec.fisher import Head

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
    with enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), single)
        expected = fisher_by_single_gradients(*double)
        assert_equal_by_layer(fisher.exact(*double), expected, double[0], 1e-10)
        expected = {name: np.asarray(values) for name, values in expected.items()}
    assert_equal_by_layer(fisher.exact(*single), expected, single[0], 1e-3)


@functools.cache
def draws(estimator, keys=300):
    """The estimator's embeddings of one task by many keys -> each layer's sums over that of the exact embedding."""
    probe, images, head = setting(*CASES["basic blocks"])
    exact = np.asarray(fisher.exact(probe, images, head), np.float64)
    drawn = [
        fisher.ESTIMATORS[estimator](probe, images, head, key) for key in jax.random.split(jax.random.key(2), keys)
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


def cross_entropy_in_numpy(tensors, head, images, labels):
    features, _ = forward_in_numpy(tensors, images, stride_first=False, train=True)
    logits = features @ np.float64(head.kernel) + np.float64(head.bias)
    shifted = logits - logits.max(1, keepdims=True)
    return (np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).mean(), logits


def test_reference_is_the_squared_gradient_of_a_batchs_mean_cross_entropy_in_training_mode(monkeypatch):
    monkeypatch.setattr(aws, "_BATCHES", 2)
    net = ResNet((1,), (5,), small_stem=True)
    tensors = torchvision_tensors(net, seed=4)
    images = np.random.default_rng(5).normal(size=(10, 6, 7, 3)).astype(np.float32)
    key = jax.random.key(6)
    with enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), from_torchvision(net, tensors))
        rng = np.random.default_rng(7)
        head = Head(jnp.asarray(rng.normal(size=(5, WAYS))), jnp.asarray(rng.normal(size=WAYS)))
        probe = Probe("probe", net, params)
        found = np.asarray(fisher.reference(probe, jnp.asarray(images, jnp.float64), head, key))
        batches = []  # the draws, as the estimator makes them
        for of_batch in jax.random.split(key, 2):
            for_rows, for_labels = jax.random.split(of_batch)
            rows = np.asarray(jax.random.randint(for_rows, (64,), 0, 10))
            _, logits = cross_entropy_in_numpy(tensors, head, images[rows], np.zeros(64, int))
            batches.append((rows, np.asarray(jax.random.categorical(for_labels, jnp.asarray(logits)))))

    def slope(name, index, rows, labels, h=1e-6):
        values = []
        for sign in (1, -1):
            moved = {n: v.astype(np.float64) for n, v in tensors.items()}
            moved[name][index] += sign * h
            values.append(cross_entropy_in_numpy(moved, head, images[rows], labels)[0])
        return (values[0] - values[1]) / (2 * h)

    names = np.array(probe.layer_names)
    for layer, filter_ in (("conv1", 2), ("bn1", 1), ("layer1.0.conv2", 4), ("layer1.0.bn2", 0)):
        weights = tensors[f"{layer}.weight"][filter_]
        indices = [(filter_, *rest) for rest in np.ndindex(weights.shape)]
        squares = [slope(f"{layer}.weight", i, *batch) ** 2 for batch in batches for i in indices]
        assert found[names == layer][filter_] == pytest.approx(np.mean(squares), rel=1e-5), layer


def test_reference_equals_a_batch_with_every_copy_whether_or_not_its_distinct_images_are_few(monkeypatch):
    # Of 80 images a batch of 64 draws 44 on average; as many as 44 count as few here, so both programs have work.
    monkeypatch.setattr(aws, "_BATCHES", 6)
    monkeypatch.setattr(aws, "usually_distinct", lambda images: 44)
    net = ResNet((1,), (4,), small_stem=True)
    with enable_x64(True):
        params = from_torchvision(net, torchvision_tensors(net, seed=4))
        probe = Probe("probe", net, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params))
        rng = np.random.default_rng(5)
        images = jnp.asarray(rng.normal(size=(80, 5, 4, 3)))
        head = Head(jnp.asarray(rng.normal(size=(4, WAYS))), jnp.asarray(rng.normal(size=WAYS)))
        distinct = []

        def log_likelihood(params, rows, key):
            variables = {**probe.variables, "params": params}
            logits = net.apply(variables, images[rows], mutable=["batch_stats"])[0] @ head.kernel + head.bias
            labels = jax.random.categorical(key, jax.lax.stop_gradient(logits))
            return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

        wanted = 0
        key = jax.random.key(7)
        for of_batch in jax.random.split(key, 6):
            for_rows, for_labels = jax.random.split(of_batch)
            rows = jax.random.randint(for_rows, (64,), 0, 80)
            distinct.append(len(np.unique(rows)))
            gradient = jax.jit(jax.grad(log_likelihood))(probe.variables["params"], rows, for_labels)
            parts = dict.fromkeys(probe.layer_names)
            for name in parts:
                layer = functools.reduce(lambda tree, step: tree[step], name.split("."), gradient)
                parts[name] = (layer["kernel"] ** 2).mean((0, 1, 2)) if "kernel" in layer else layer["scale"] ** 2
            wanted += np.concatenate(list(parts.values())) / 6
        assert min(distinct) <= 44 < max(distinct)
        np.testing.assert_allclose(fisher.reference(probe, images, head, key), wanted, rtol=1e-8)


def test_most_of_a_references_batches_have_no_more_distinct_images_than_usual():
    drawn = np.random.default_rng(0).integers(0, 100, (2000, 64))
    share = np.mean([len(np.unique(rows)) <= aws.usually_distinct(100) for rows in drawn])
    assert 0.93 < share < 0.99
    assert aws.usually_distinct(20) == 20  # all of them: one program
    assert aws.usually_distinct(5000) == 64  # hardly a copy: one program


def test_references_features_are_of_64_images_each_on_their_own_statistics():
    net = ResNet((1,), (5,), small_stem=True)
    tensors = torchvision_tensors(net, seed=4)
    images = np.random.default_rng(5).normal(size=(70, 6, 7, 3)).astype(np.float32)
    parts = [forward_in_numpy(tensors, part, False, train=True)[0] for part in (images[:64], images[64:])]
    found = aws.features(Probe("probe", net, from_torchvision(net, tensors)), images)
    np.testing.assert_allclose(found, np.concatenate(parts), rtol=1e-3, atol=1e-4)


def test_adam_head_is_pytorchs_adam_written_out():
    # Adam with weight decay in the gradient (torch.optim.Adam's), from the same start and the same draws, in float64.
    rng = np.random.default_rng(8)
    labels = np.repeat(np.arange(WAYS), 4)
    features = (rng.normal(size=(12, 6)) + 2 * np.eye(6)[labels]).astype(np.float32)
    key = jax.random.key(9)
    found = fisher.fit_head(features, labels, WAYS, "adam", key)
    initial, draws = jax.random.split(key)
    weights = np.asarray(jax.random.uniform(initial, (7, WAYS), minval=-(6**-0.5), maxval=6**-0.5), np.float64)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    inputs = np.concatenate([features, np.ones((12, 1))], 1)  # the bias as the weight of a constant
    rows_of = jax.jit(jax.vmap(lambda key: aws.balanced_rows(key, labels, WAYS)))
    for step, rows in enumerate(np.asarray(rows_of(jax.random.split(draws, 1560))), 1):
        scores = np.exp(inputs[rows] @ weights)
        error = scores / scores.sum(1, keepdims=True) - np.eye(WAYS)[labels[rows]]
        gradient = inputs[rows].T @ error / 64 + 1e-4 * weights
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weights -= 4e-4 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(found.kernel, weights[:-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.bias, weights[-1], rtol=1e-3, atol=1e-4)


def test_the_adam_heads_batches_are_balanced_over_unequal_classes():
    labels = np.repeat([0, 1, 2], [2, 10, 28])
    keys = jax.random.split(jax.random.key(0), 100)
    rows = np.asarray(jax.vmap(lambda key: aws.balanced_rows(key, labels, 3))(keys))
    assert stats.chisquare(np.bincount(labels[rows.ravel()])).pvalue > 1e-3
    assert stats.chisquare(np.bincount(rows.ravel(), minlength=40)[12:]).pvalue > 1e-3  # and within a class


def some_tasks(count):
    probe, images, _ = setting(ResNet((1,), (5,), small_stem=True), (7, 5), 6)
    stacked = np.stack([np.roll(images, i, axis=2) * (1 + i) for i in range(count)])
    return probe, stacked, np.tile(np.arange(6) % WAYS, (count, 1))


def test_many_tasks_are_embedded_as_each_alone():
    probe, images, labels = some_tasks(2)
    key = jax.random.key(3)
    together = embedding.embed_tasks(probe, images, labels, WAYS, "reference", key, head="adam")
    for i in range(2):
        for_task = jax.random.fold_in(key, i)
        alone = fisher.embed(probe, images[i], labels[i], WAYS, "reference", for_task, head="adam")
        np.testing.assert_allclose(together[i], alone, rtol=2e-3, atol=1e-4 * alone.max())


def test_eight_devices_give_the_embeddings_of_one(tmp_path):
    script = """
import jax, numpy as np
from jaxdiv.task2vec import embedding
from test_task2vec import WAYS, some_tasks
assert jax.local_device_count() == 8
probe, images, labels = some_tasks(11)
key = jax.random.key(3)
one = jax.make_mesh((1,), ("tasks",), devices=jax.devices()[:1])
found = embedding.embed_tasks(probe, images, labels, WAYS, "rademacher", key)
alone = embedding.embed_tasks(probe, images, labels, WAYS, "rademacher", key, mesh=one)
assert found.shape == alone.shape == (11, probe.filters)
np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-6 * alone.max())
print("same")
"""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "same", ended.stderr


def test_exact_does_not_depend_on_chunk():
    probe, images, head = setting(*CASES["basic blocks"])
    whole = fisher.fisher(probe, images, head)
    found = fisher.fisher(probe, images, head, chunk=2)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-6 * whole.max())  # float32, summed in another order


def test_embedding_does_not_depend_on_chunk():
    probe, images, _ = setting(*CASES["basic blocks"])
    labels = np.arange(5) % WAYS
    whole = fisher.embed(probe, images, labels, WAYS)
    np.testing.assert_allclose(
        fisher.embed(probe, images, labels, WAYS, chunk=2), whole, rtol=1e-3, atol=1e-5 * whole.max()
    )


def test_stick_breaking_columns_give_the_scores_covariance():
    with enable_x64(True):
        p = np.array([[0.2, 0.5, 0.3, 0.0], [1e-12, 1e-300, 1 - 1e-12, 0.0], [0.25] * 4, [0.0, 1.0, 0.0, 1e-9]])
        p[3] /= p[3].sum()
        columns = np.asarray(fisher.stick_breaking(jnp.asarray(p)))
    found = np.einsum("nki,nkj->nij", columns, columns)
    np.testing.assert_allclose(found, np.eye(4) * p[:, None] - p[:, None] * p[:, :, None], atol=1e-16)


def test_head_of_a_confident_classifier_gives_a_finite_fisher():
    probe, images, head = setting(*CASES["basic blocks"])
    assert np.isfinite(fisher.fisher(probe, images, Head(1e4 * head.kernel, head.bias))).all()


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
        "unknown head": ({"head": "adm"}, "did you mean 'adam'"),
        "no key for the head": ({"head": "adam"}, "head 'adam' draws at random"),
        "NaN": ({"images": np.full((5, 7, 5, 3), np.nan, np.float32)}, "images: NaN"),
        "bytes": ({"images": np.zeros((5, 7, 5, 3), np.uint8)}, "uint8"),
        "one channel": ({"images": np.zeros((5, 7, 5, 1), np.float32)}, "(5, 7, 5, 1)"),
        "no images": ({"images": np.zeros((0, 7, 5, 3), np.float32)}, "at least one image"),
        "chunk": ({"chunk": 0}, "chunk"),
        "label too large": ({"labels": np.array([0, 1, 2, 3, 0])}, "0..2, not 0..3"),
        "label negative": ({"labels": np.array([0, 1, 2, -1, 0])}, "0..2, not -1..2"),
        "labels too few": ({"labels": np.array([0, 1])}, "[5]"),
        "labels of floats": ({"labels": np.zeros(5, np.float32)}, "whole numbers, not float32"),
        "one class": ({"ways": 1, "labels": np.zeros(5, int)}, "`ways` is 1: it must be a whole number, at least 2"),
    }.values(),
    ids=str,
)
def test_unusable_input_is_named_in_one_line(changed, says):
    probe, images, _ = setting(*CASES["basic blocks"])
    arguments = {"images": images, "labels": np.arange(5) % WAYS, "ways": WAYS, **changed}
    with pytest.raises(InputError) as caught:
        fisher.embed(probe, **arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tasks_of_unlike_shapes_are_named_in_one_line():
    probe, images, labels = some_tasks(2)
    with pytest.raises(InputError, match=r"labels \[tasks, images\], not \(2, 6, 7, 5, 3\) and \(2, 5\)"):
        embedding.embed_tasks(probe, images, labels[:, :5], WAYS)


def test_lists_do_as_well_as_arrays():
    probe, images, _ = setting(*CASES["basic blocks"])
    labels = np.arange(5) % WAYS
    found = fisher.embed(probe, images.tolist(), labels.tolist(), WAYS)
    np.testing.assert_array_equal(found, fisher.embed(probe, images, labels, WAYS))


@pytest.mark.parametrize(("kernel", "bias"), [((5, 3), (3,)), ((24, 3), (2,)), ((24, 1), (1,)), ((24,), (3,))], ids=str)
def test_a_head_that_does_not_fit_the_features_is_named(kernel, bias):
    probe, images, _ = setting(*CASES["basic blocks"])
    says = r"kernel \[24, ways\] and a bias \[ways\]" + f".* not {re.escape(str(kernel))} and {re.escape(str(bias))}"
    with pytest.raises(InputError, match=says):
        fisher.fisher(probe, images, Head(np.ones(kernel, np.float32), np.ones(bias, np.float32)))


def test_keys_that_are_not_one_a_task_are_an_error_and_the_older_kind_draws_alike():
    probe, images, labels = some_tasks(2)
    embed = lambda key: embedding.embed_tasks(probe, images, labels, WAYS, "rademacher", key)
    np.testing.assert_array_equal(embed(jax.random.PRNGKey(3)), embed(jax.random.key(3)))
    with pytest.raises(InputError, match=r"`key` has the shape \(3,\): give one key, or one for each of 2 tasks"):
        embed(jax.random.split(jax.random.key(3), 3))


@pytest.mark.parametrize("name", ["tasks", "ways", "shots", "queries"])
def test_a_benchmark_embedded_in_tasks_of_no_size_is_an_error(name):
    table = make_table([np.zeros((20, 8, 8, 3), np.uint8)] * 5, list("abcde"), [0.5] * 3, [0.25] * 3)
    with pytest.raises(InputError, match=f"`{name}` is 0"):
        embedding.embed_benchmark(load_probe("resnet10_narrow"), table, **{"tasks": 2, name: 0})


@pytest.fixture
def anew():
    """As in a process that has not warned yet."""
    fisher._warn_once.cache_clear()
    yield
    fisher._warn_once.cache_clear()


def warned(call):
    """The messages of the warnings that `call` gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


PUBLIC = {
    "embed": lambda probe, images, labels, head: fisher.embed(probe, images, labels, WAYS),
    "fisher": lambda probe, images, labels, head: fisher.fisher(probe, images, head),
    "pooled_features": lambda probe, images, labels, head: fisher.pooled_features(probe, images),
    "embed_tasks": lambda probe, images, labels, head: embedding.embed_tasks(probe, images[None], labels[None], WAYS),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_unnormalised_images_get_one_line_that_says_what_to_do_once_a_kind(anew, name):
    probe, images, head = setting(*CASES["basic blocks"])
    labels = np.arange(5) % WAYS
    pixels = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.float32)
    call = lambda given: warned(lambda: PUBLIC[name](probe, given, labels, head))
    assert call(images) == []
    (of_bytes,) = call(pixels)
    assert "0..255" in of_bytes and "(images / 255 - mean) / std" in of_bytes and "\n" not in of_bytes
    (of_shares,) = call(pixels / 255)
    assert "0..1" in of_shares and "(images - mean) / std" in of_shares and "\n" not in of_shares
    for text in (of_bytes, of_shares):  # the numbers that a user copies from it
        mean, std = re.findall(r"\([\d.]+, [\d.]+, [\d.]+\)", text)
        assert (mean, std) == (str(registry._IMAGENET.mean), str(registry._IMAGENET.std))
    assert call(pixels) == call(pixels / 255) == []


def test_a_warning_names_the_line_of_the_user(anew):
    probe, images, head = setting(*CASES["basic blocks"])
    with pytest.warns(UserWarning, match="0..255") as caught:
        fisher.fisher(probe, 100 * abs(images), head)
    assert caught[0].filename == __file__


def test_nothing_is_looked_at_or_warned_of_inside_jit(anew):
    probe, images, head = setting(*CASES["basic blocks"])
    inside = jax.jit(lambda pixels: fisher.fisher(probe, pixels, head))
    assert warned(lambda: inside(100 * abs(images))) == []


def test_images_are_reduced_once_however_many_parts_look_at_them(anew, monkeypatch):
    probe, images, _ = setting(*CASES["basic blocks"])
    looks = []
    one_look = fisher._extremes
    monkeypatch.setattr(fisher, "_extremes", lambda given: looks.append(given.shape) or one_look(given))
    fisher.embed(probe, images, np.arange(5) % WAYS, WAYS)
    embedding.embed_tasks(probe, images[None], (np.arange(5) % WAYS)[None], WAYS)
    assert looks == [(5, 7, 5, 3), (1, 5, 7, 5, 3)]


def drawings(pixels, ink):
    """White sheets with a dark stroke over `ink` of their height, as Omniglot's are stored."""
    images = np.full((20, pixels, pixels, 1), 255, np.uint8)
    images[:, : round(ink * pixels)] = 0
    return images


@pytest.mark.parametrize("base", [*registry.BASE_SETS, registry.OWN, "gauss-0.1", "gauss-1.6"])
@pytest.mark.parametrize("alone", [True, False])
def test_no_task_of_the_study_is_taken_for_unnormalised(anew, base, alone):
    """Any photograph, with the mean and std of its data set: here noise over the whole range; drawings; generated."""
    if base.startswith("gauss"):
        table = load_benchmark(base, pixels=16)
    else:
        noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
        gray = base in registry.BASE_SETS and registry.BASE_SETS[base].gray
        look = registry.preprocessing(base, alone)
        table = make_table([drawings(16, 0.36) if gray else noise] * 5, list("abcde"), look.mean, look.std)
    task = sample_tasks(jax.random.key(0), table, augment=True)
    assert warned(lambda: fisher.check_images(task.query_images[0], None)) == []


def test_omniglot_is_not_taken_for_unnormalised_even_at_the_smallest_size(anew, real, tmp_path):
    """There strokes spread over most of the pixels."""
    table = load_benchmark("omniglot", pixels=8, settings=prepare.DataSettings(str(real), str(tmp_path)))
    for images in sample_tasks(jax.random.key(0), table, tasks=200).query_images:
        assert warned(lambda images=images: fisher.check_images(images, None)) == []
