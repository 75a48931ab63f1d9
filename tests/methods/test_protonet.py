"""Prototypical networks against NumPy in float64, finite differences and scikit-learn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from small_network import NET, WAYS, check_gradient, double, images, tasks

from jaxdiv.data.episodes import Task
from jaxdiv.methods.maml import MAML
from jaxdiv.methods.protonet import ProtoNet, distance_logits, prototypes
from jaxdiv.methods.train import TrainSettings, train
from jaxdiv.nets.network import BATCH_NORM, NETS, Network, make_network

HEADLESS = NET.with_ways(0)


class Projection(nn.Module):
    """A network whose features are a linear map of the images."""

    @nn.compact
    def __call__(self, images, dropblock_scale=0.0):
        features = images @ self.param("w", nn.initializers.normal(1.0), (6, 4))
        return features, features


LINEAR = ProtoNet(Network(Projection(), (6,)), WAYS)


def numpy_protonet(w, support, labels, queries, targets):
    """Loss, accuracy and gradient of one task with features x·w, derived by hand.

    d is the squared distance of query q to the mean of class k. The loss is the mean of d[q, y] + log Σ exp(-d[q, k]),
    whose slope in d[q, k] is g = (1[y = k] - p[q, k]) / n; that of d is 2 (f - c) in f and -2 (f - c) in c.
    """
    f, s = queries @ w, support @ w
    members = [np.flatnonzero(labels == k) for k in range(WAYS)]
    c = np.stack([s[rows].mean(0) for rows in members])
    d = np.array([[((q - k) ** 2).sum() for k in c] for q in f])
    p = np.exp(-d) / np.exp(-d).sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(f)), targets]).mean()
    g = (np.eye(WAYS)[targets] - p) / len(f)
    slope = np.zeros_like(w)
    for q in range(len(f)):
        for k in range(WAYS):
            along = 2 * g[q, k] * (f[q] - c[k])
            slope += np.outer(queries[q] - support[members[k]].mean(0), along)
    return loss, (d.argmin(1) == targets).mean(), slope


def linear_tasks(count=2):
    """Tasks of vectors, with different numbers of support examples of each class."""
    draw = np.random.default_rng(0)
    labels, targets = np.array([0, 0, 0, 1, 2, 2]), np.tile(np.arange(WAYS), 5)
    means = draw.normal(size=(count, WAYS, 6)) / 2
    part = lambda y: jnp.asarray(means[:, y] + draw.normal(size=(count, len(y), 6)) / 2)
    same = lambda y: jnp.tile(jnp.asarray(y), (count, 1))
    return Task(part(labels), same(labels), part(targets), same(targets))


def test_loss_accuracy_and_gradient_equal_those_derived_by_hand_in_float64():
    with enable_x64(True):
        params, model_state = double(LINEAR.init(jax.random.key(1)))
        batch = linear_tasks()
        gradient, _, metrics = jax.jit(LINEAR.gradient)(params, model_state, batch, jax.random.key(0))
    each = [
        numpy_protonet(np.asarray(params["w"]), *(np.asarray(leaf[i]) for leaf in jax.tree.leaves(batch)))
        for i in (0, 1)
    ]
    loss, share, slope = (np.mean(values, 0) for values in zip(*each, strict=True))
    assert 0.2 < share < 1 and float(metrics["accuracy"]) == pytest.approx(share, abs=1e-6)
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(gradient["w"], slope, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_the_gradient_is_that_of_the_query_loss_under_each_policy(batch_norm):
    with enable_x64(True):
        check_gradient(ProtoNet(HEADLESS, WAYS, batch_norm), tasks())


def test_a_test_task_is_classified_as_scikit_learns_nearest_centroid_does():
    neighbors = pytest.importorskip("sklearn.neighbors")
    params, _ = LINEAR.init(jax.random.key(1))
    task = jax.tree.map(lambda leaf: leaf[0], linear_tasks())
    predict = LINEAR.adapt(params, {}, task.support_images, task.support_labels, jax.random.key(0))
    support, queries = (np.asarray(x @ params["w"], np.float64) for x in (task.support_images, task.query_images))
    theirs = neighbors.NearestCentroid().fit(support, task.support_labels)
    np.testing.assert_array_equal(predict(task.query_images).argmax(1), theirs.predict(queries))
    ours = prototypes(task.support_images @ params["w"], task.support_labels, WAYS)
    np.testing.assert_allclose(ours, theirs.centroids_, rtol=1e-4, atol=1e-5)


def test_logits_are_negative_squared_distances():
    draw = np.random.default_rng(2)
    features, centres = jnp.asarray(draw.normal(size=(7, 5))), jnp.asarray(draw.normal(size=(3, 5)))
    wanted = [[-(np.linalg.norm(f - c) ** 2) for c in centres] for f in features]
    np.testing.assert_allclose(distance_logits(features, centres), wanted, rtol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_the_network_has_no_head_and_begins_as_mamls(name):
    net = make_network(name, WAYS, 16, width=4)
    ours, _ = ProtoNet(net.with_ways(0), WAYS).init(jax.random.key(0))
    theirs, _ = MAML(net).init(jax.random.key(0))
    assert "head" not in ours
    del theirs["head"]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_under_support_statistics_queries_are_normalised_by_the_support_set():
    method = ProtoNet(HEADLESS, WAYS, "support_statistics")
    params, _ = method.init(jax.random.key(0))
    support, labels, queries = images(0, 6), jnp.arange(6) % WAYS, images(1, 9)
    found = method.adapt(params, {}, support, labels, jax.random.key(2))(queries)
    # By hand from the convolution's output.
    conv = lambda x: nn.Conv(4, (3, 3), use_bias=False).apply({"params": params["Conv_0"]}, x)
    x, y = conv(support), conv(queries)
    normal = lambda z: np.tanh((z - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)).reshape(len(z), -1)
    centres = np.stack([normal(x)[np.asarray(labels) == k].mean(0) for k in range(WAYS)])
    wanted = -((normal(y)[:, None] - centres) ** 2).sum(-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_training_makes_classes_that_differ_in_one_direction_separable(tmp_path):
    """Of six directions five are noise five times as large, which the network has to learn to leave out."""

    @jax.jit
    def sample(key):
        for_support, for_query = jax.random.split(key)
        scale = jnp.array([0.2, 5, 5, 5, 5, 5])

        def part(key, count):
            labels = jnp.tile(jnp.arange(count) % WAYS, (4, 1))
            return scale * jax.random.normal(key, (4, count, 6)) + labels[..., None] * jnp.eye(6)[0], labels

        return Task(*part(for_support, 15), *part(for_query, 30))

    before = LINEAR.gradient(*LINEAR.init(jax.random.key(0)), sample(jax.random.key(1)), jax.random.key(2))[2]
    found = train(LINEAR, sample, jax.random.key(0), TrainSettings(200, 0.05), tmp_path)
    assert float(before["accuracy"]) < 0.6 and found["accuracy"] > 0.85
