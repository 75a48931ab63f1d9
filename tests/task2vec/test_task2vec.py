"""The Fisher diagonal against one gradient per image and label, in float64, and the estimators against it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from random_probe import CASES, WAYS, setting
from scipy import stats
from test_resnet import forward_in_numpy, torchvision_tensors

from jaxdiv import load_probe
from jaxdiv.data.table import make_table
from jaxdiv.errors import InputError
from jaxdiv.nets.logistic import Head
from jaxdiv.probes.resnet import NETS, ResNet
from jaxdiv.probes.resnet_probe import ResNetProbe, from_torchvision
from jaxdiv.task2vec import aws, embed, fisher
from jaxdiv.task2vec.head import fit_head


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
    assert found.shape == (len(probe.layer_names),)
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
    """The estimator's embeddings of one task by many keys -> each layer's sums over that of the exact embed."""
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
        probe = ResNetProbe("probe", net, params)
        found = np.asarray(fisher.reference(probe, jnp.asarray(images, jnp.float64), head, key))
        batches = []  # the draws, as the estimator makes them
        for of_batch in jax.random.split(key, 2):
            for_rows, for_labels = jax.random.split(of_batch)
            rows = np.asarray(jax.random.randint(for_rows, (64,), 0, 10, jnp.int32))
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
        probe = ResNetProbe("probe", net, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params))
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
            rows = jax.random.randint(for_rows, (64,), 0, 80, jnp.int32)
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
    found = aws.features(ResNetProbe("probe", net, from_torchvision(net, tensors)), images)
    np.testing.assert_allclose(found, np.concatenate(parts), rtol=1e-3, atol=1e-4)


def test_adam_head_is_pytorchs_adam_written_out():
    # Adam with weight decay in the gradient (torch.optim.Adam's), from the same start and the same draws, in float64.
    rng = np.random.default_rng(8)
    labels = np.repeat(np.arange(WAYS), 4)
    features = (rng.normal(size=(12, 6)) + 2 * np.eye(6)[labels]).astype(np.float32)
    key = jax.random.key(9)
    found = fit_head(features, labels, WAYS, "adam", key)
    initial, draws = jax.random.split(key)
    weights = np.asarray(jax.random.uniform(initial, (7, WAYS), minval=-(6**-0.5), maxval=6**-0.5), np.float64)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    inputs = np.concatenate([features, np.ones((12, 1))], 1)  # the bias as the weight of a constant
    rows_of = jax.jit(jax.vmap(lambda key: aws.balanced_rows(key, jnp.asarray(labels), WAYS)))
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
    on_device = jnp.asarray(labels)
    keys = jax.random.split(jax.random.key(0), 100)
    rows = np.asarray(jax.vmap(lambda key: aws.balanced_rows(key, on_device, 3))(keys))
    assert stats.chisquare(np.bincount(labels[rows.ravel()])).pvalue > 1e-3
    assert stats.chisquare(np.bincount(rows.ravel(), minlength=40)[12:]).pvalue > 1e-3  # and within a class


def some_tasks(count):
    probe, images, _ = setting(ResNet((1,), (5,), small_stem=True), (7, 5), 6)
    stacked = np.stack([np.roll(images, i, axis=2) * (1 + i) for i in range(count)])
    return probe, stacked, np.tile(np.arange(6) % WAYS, (count, 1))


def test_many_tasks_are_embedded_as_each_alone():
    probe, images, labels = some_tasks(2)
    key = jax.random.key(3)
    together = embed.embed_tasks(probe, images, labels, WAYS, "reference", key, head="adam")
    for i in range(2):
        for_task = jax.random.fold_in(key, i)
        alone = embed.embed(probe, images[i], labels[i], WAYS, "reference", for_task, head="adam")
        np.testing.assert_allclose(together[i], alone, rtol=2e-3, atol=1e-4 * alone.max())


def test_exact_does_not_depend_on_chunk():
    probe, images, head = setting(*CASES["basic blocks"])
    whole = fisher.fisher(probe, images, head)
    found = fisher.fisher(probe, images, head, chunk=2)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-6 * whole.max())  # float32, summed in another order


def test_embedding_does_not_depend_on_chunk():
    probe, images, _ = setting(*CASES["basic blocks"])
    labels = np.arange(5) % WAYS
    whole = embed.embed(probe, images, labels, WAYS)
    np.testing.assert_allclose(
        embed.embed(probe, images, labels, WAYS, chunk=2), whole, rtol=1e-3, atol=1e-5 * whole.max()
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
    probe = ResNetProbe(name, NETS[name], {})
    assert len(probe.layer_names) == filters


def test_layer_names_of_resnet18_are_torchvisions_in_module_order():
    probe = ResNetProbe("resnet18", NETS["resnet18"], {})
    block = ["conv1", "bn1", "conv2", "bn2"]
    first = [*block, "downsample.0", "downsample.1"]
    expected = ["conv1", "bn1"]
    expected += [f"layer1.0.{n}" for n in block] + [f"layer1.1.{n}" for n in block]
    for stage in ("layer2", "layer3", "layer4"):
        expected += [f"{stage}.0.{n}" for n in first] + [f"{stage}.1.{n}" for n in block]
    assert list(dict.fromkeys(probe.layer_names)) == expected
    assert probe.layer_names.count("layer3.0.downsample.1") == 256


def test_layer_names_of_resnet50_are_torchvisions_in_module_order():
    names = list(dict.fromkeys(ResNetProbe("resnet50", NETS["resnet50"], {}).layer_names))
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
        "NaN": ({"batch": np.full((5, 7, 5, 3), np.nan, np.float32)}, "images: NaN"),
        "bytes": ({"batch": np.zeros((5, 7, 5, 3), np.uint8)}, "uint8"),
        "one channel": ({"batch": np.zeros((5, 7, 5, 1), np.float32)}, "(5, 7, 5, 1)"),
        "no images": ({"batch": np.zeros((0, 7, 5, 3), np.float32)}, "at least one image"),
        "chunk": ({"chunk": 0}, "chunk"),
        "label too large": ({"labels": np.array([0, 1, 2, 3, 0])}, "0..2, not 0..3"),
        "label negative": ({"labels": np.array([0, 1, 2, -1, 0])}, "0..2, not -1..2"),
        "labels too few": ({"labels": np.array([0, 1])}, "[5]"),
        "labels of floats": ({"labels": np.zeros(5, np.float32)}, "whole numbers, not float32"),
        "one class": ({"ways": 1, "labels": np.zeros(5, int)}, "`ways` is 1: it must be a whole number, at least 2"),
    }.values(),
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_unusable_input_is_named_in_one_line(changed, says):
    probe, images, _ = setting(*CASES["basic blocks"])
    arguments = {"batch": images, "labels": np.arange(5) % WAYS, "ways": WAYS, **changed}
    with pytest.raises(InputError) as caught:
        embed.embed(probe, **arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_tasks_of_unlike_shapes_are_named_in_one_line():
    probe, images, labels = some_tasks(2)
    with pytest.raises(InputError, match=r"labels \[tasks, examples\], not \(2, 6, 7, 5, 3\) and \(2, 5\)"):
        embed.embed_tasks(probe, images, labels[:, :5], WAYS)


def test_lists_do_as_well_as_arrays():
    probe, images, _ = setting(*CASES["basic blocks"])
    labels = np.arange(5) % WAYS
    found = embed.embed(probe, images.tolist(), labels.tolist(), WAYS)
    np.testing.assert_array_equal(found, embed.embed(probe, images, labels, WAYS))


@pytest.mark.parametrize(("kernel", "bias"), [((5, 3), (3,)), ((24, 3), (2,)), ((24, 1), (1,)), ((24,), (3,))], ids=str)
def test_a_head_that_does_not_fit_the_features_is_named(kernel, bias):
    probe, images, _ = setting(*CASES["basic blocks"])
    says = r"kernel \[24, ways\] and a bias \[ways\]" + f".* not {re.escape(str(kernel))} and {re.escape(str(bias))}"
    with pytest.raises(InputError, match=says):
        fisher.fisher(probe, images, Head(np.ones(kernel, np.float32), np.ones(bias, np.float32)))


@pytest.mark.usefixtures("unchecked")
def test_keys_that_are_not_one_a_task_are_an_error_and_the_older_kind_draws_alike():
    probe, images, labels = some_tasks(2)
    by = lambda key: embed.embed_tasks(probe, images, labels, WAYS, "rademacher", key)
    np.testing.assert_array_equal(by(jax.random.PRNGKey(3)), by(jax.random.key(3)))
    with pytest.raises(InputError, match=r"`key` has the shape \(3,\): give one key, or one for each of 2 tasks"):
        by(jax.random.split(jax.random.key(3), 3))


@pytest.mark.parametrize("name", ["tasks", "ways", "shots", "queries"])
def test_a_benchmark_embedded_in_tasks_of_no_size_is_an_error(name):
    table = make_table([np.zeros((20, 8, 8, 3), np.uint8)] * 5, list("abcde"), [0.5] * 3, [0.25] * 3)
    with pytest.raises(InputError, match=f"`{name}` is 0"):
        embed.embed_benchmark(load_probe("resnet10_narrow"), table, **{"tasks": 2, name: 0})
