"""The learners' networks, their batch norm, and what its policies let a query image know."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

from jaxdiv.data.episodes import Task
from jaxdiv.methods import maml, pretrain
from jaxdiv.nets.network import BATCH_NORM, NETS, Network, functions, make_network
from jaxdiv.nets.norm import BatchNorm
from jaxdiv.nets.resnet12 import ResNet12, drop_blocks

WAYS, SIZE = 3, 6


class OneBlock(nn.Module):
    @nn.compact
    def __call__(self, images, ramp=0.0):
        x = nn.Conv(4, (3, 3), use_bias=False)(images)
        features = jnp.tanh(BatchNorm()(x)).reshape(len(x), -1)
        return nn.Dense(WAYS, name="head")(features), features


def one_block():
    def init(key):
        variables = OneBlock().init(key, jnp.zeros((2, SIZE, SIZE, 3)))
        return variables["params"], variables["batch_stats"]

    return Network(init, *functions(OneBlock()))


NET = one_block()


def images(seed, count, size=SIZE):
    return jax.random.normal(jax.random.key(seed), (count, size, size, 3))


def tasks(count=2):
    labels = lambda n: jnp.tile(jnp.arange(n) % WAYS, (count, 1))
    part = lambda seed, n: (images(seed, count * n).reshape(count, n, SIZE, SIZE, 3), labels(n))
    return Task(*part(0, 6), *part(1, 9))


# The networks


def test_resnet12_has_the_papers_number_of_parameters():
    for ways, wanted in ((5, 12_427_525), (64, 12_424_320 + 641 * 64)):
        net = make_network("resnet12", ways, 84)
        params, _ = jax.eval_shape(net.init, jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == wanted


def test_conv4_has_the_known_number_of_parameters():
    """Four convolutions, scale and bias of each norm, and a head on 64 features at 28 px."""
    params, _ = jax.eval_shape(make_network("conv4", 5, 28, channels=1).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 9 * 64 + 3 * 9 * 64 * 64 + 4 * 2 * 64 + 65 * 5


def test_resnet12s_kernels_are_he_normal_by_fan_out():
    params, _ = make_network("resnet12", 5, 16, width=32).init(jax.random.key(0))
    kernel = params["block4"]["conv2"]["kernel"]
    assert float(kernel.std()) == pytest.approx((2 / (9 * 320)) ** 0.5, rel=0.01)
    assert abs(float(kernel.mean())) < 1e-3


@pytest.mark.parametrize("name", NETS)
def test_given_its_own_statistics_a_batch_comes_out_the_same(name):
    net = make_network(name, WAYS, 16, width=4)
    params, _ = net.init(jax.random.key(0))
    x = images(1, 5, 16)
    own = jax.jit(net.by_batch)(params, x)
    given = jax.jit(net.by_stats)(params, own.stats, x)
    np.testing.assert_allclose(given.logits, own.logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(own.logits, own.features @ params["head"]["kernel"] + params["head"]["bias"], rtol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_bfloat16_computes_nearly_the_same_with_float32_parameters(name):
    x = images(1, 5, 16)
    found = {}
    for compute in ("float32", "bfloat16"):
        net = make_network(name, WAYS, 16, width=4, compute=compute)
        params, stats = net.init(jax.random.key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}
        found[compute] = jax.jit(net.by_batch)(params, x)
        assert found[compute].logits.dtype == jnp.float32
    apart = jnp.linalg.norm(found["bfloat16"].logits - found["float32"].logits)
    # Eight bits of mantissa, and a dozen layers in which roundings add up.
    assert 0 < apart < 0.1 * jnp.linalg.norm(found["float32"].logits)


def test_batch_norm_is_the_formula():
    x = images(2, 7)
    variables = BatchNorm().init(jax.random.key(0), x)
    y, state = BatchNorm().apply(variables, x, mutable=["batch_stats"])
    mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["batch_stats"]["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state["batch_stats"]["var"], var, rtol=1e-4)


# Dropout and DropBlock


def test_drop_blocks_drops_its_rate_in_squares_and_keeps_the_mean():
    x = jnp.ones((200, 10, 10, 8))
    y = drop_blocks(jax.random.key(0), x, 0.1, 5)
    # Overlapping squares drop a little less than the rate (Ghiasi et al. 2018, section 3.1).
    assert 0.07 < float((y == 0).mean()) < 0.1
    # The scale is a float32 sum of 160,000 values, which older XLA (jax 0.8 at least) has to 8e-5.
    assert float(y.mean()) == pytest.approx(1.0, abs=2e-4)
    dropped = np.asarray(y[:, :, :, 0] == 0)
    for image in dropped:
        for row, column in zip(*np.nonzero(image), strict=True):
            tops, lefts = range(max(row - 4, 0), min(row, 5) + 1), range(max(column - 4, 0), min(column, 5) + 1)
            assert any(image[r : r + 5, c : c + 5].all() for r in tops for c in lefts)


def test_drop_blocks_at_rate_zero_changes_nothing():
    x = images(0, 3, 10)
    np.testing.assert_array_equal(drop_blocks(jax.random.key(0), x, 0.0, 5), x)


def test_dropout_acts_with_a_key_alone_and_drop_block_with_the_ramp():
    net = make_network("resnet12", WAYS, 16, width=4, dropout=0.5)
    params, _ = net.init(jax.random.key(0))
    run = jax.jit(net.by_batch)
    x, key = images(0, 4, 16), jax.random.key(1)
    plain, dropping = run(params, x).logits, run(params, x, key).logits
    assert not np.allclose(plain, dropping)
    np.testing.assert_array_equal(dropping, run(params, x, key, 0.0).logits)
    assert not np.allclose(dropping, run(params, x, key, 1.0).logits)
    without = make_network("resnet12", WAYS, 16, width=4, dropout=0.0)
    np.testing.assert_allclose(jax.jit(without.by_batch)(params, x, key, 1.0).logits, plain, rtol=1e-5, atol=1e-6)


def test_pre_training_counts_its_steps_for_the_ramp():
    ramps = []

    def by_batch(params, x, key=None, ramp=0.0):
        jax.debug.callback(lambda r: ramps.append(float(r)), ramp)
        return NET.by_batch(params, x, key)

    learner = pretrain.learner(NET._replace(by_batch=by_batch), WAYS)
    params, carried = learner.init(jax.random.key(0))
    for steps in (0, 20_000, 80_000):
        learner.gradient(params, {"steps": jnp.asarray(steps)}, (images(0, 4), jnp.arange(4) % WAYS), jax.random.key(1))
    jax.effects_barrier()
    assert sorted(set(ramps)) == [0.0, 0.5, 1.0] and carried == {"steps": 0}


# Policies


def make_learner(method, batch_norm):
    if method == "pt":
        return pretrain.learner(NET, WAYS, batch_norm)
    return maml.learner(NET, 2, 0.1, first_order=False, batch_norm=batch_norm)


@pytest.mark.parametrize("method", ["pt", "maml"])
@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_a_query_image_tells_of_the_others_only_where_batch_norm_is_transductive(method, batch_norm):
    learner = make_learner(method, batch_norm)
    params, carried = learner.init(jax.random.key(0))
    support, queries = images(0, 6), images(1, 9)
    predict = learner.adapt(params, carried, support, jnp.arange(6) % WAYS, jax.random.key(2))
    together, alone = predict(queries)[:1], predict(queries[:1])
    assert np.allclose(together, alone, rtol=1e-4, atol=1e-5) == (batch_norm != "transductive")


def test_support_statistics_are_those_of_the_support_set_under_the_adapted_parameters():
    learner = make_learner("maml", "support_statistics")
    params, _ = learner.init(jax.random.key(0))
    support, labels, queries = images(0, 6), jnp.arange(6) % WAYS, images(1, 9)
    found = learner.adapt(params, {}, support, labels, jax.random.key(2))(queries)
    by_batch = lambda p, x: NET.by_batch(p, x).logits
    adapted = maml.adapt(by_batch, params, support, labels, 2, 0.1)
    # Support and query in one batch, the query weightless in the statistics: by hand from the convolution's output.
    conv = partial(nn.Conv(4, (3, 3), use_bias=False).apply, {"params": adapted["Conv_0"]})
    x, y = conv(support), conv(queries)
    norm = adapted["BatchNorm_0"]
    normal = (y - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) * norm["scale"] + norm["bias"]
    features = jnp.tanh(normal).reshape(len(y), -1)
    wanted = features @ adapted["head"]["kernel"] + adapted["head"]["bias"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["pt", "maml"])
def test_running_statistics_follow_training_and_serve_the_test(method):
    learner = make_learner(method, "running")
    params, carried = learner.init(jax.random.key(0))
    batch = tasks() if method == "maml" else (3 + images(0, 8), jnp.arange(8) % WAYS)
    gradient = jax.jit(learner.gradient)
    _, after, _ = gradient(params, carried, batch, jax.random.key(1))
    if method == "pt":
        one = NET.by_batch(params, batch[0]).stats
        wanted = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, carried["stats"], one)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), after["stats"], wanted)
    for _ in range(60):
        _, after, _ = gradient(params, after, batch, jax.random.key(1))
    settled = gradient(params, after, batch, jax.random.key(1))[1]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-2), settled["stats"], after["stats"])
    support, labels, queries = images(0, 6), jnp.arange(6) % WAYS, images(1, 9)
    found = [learner.adapt(params, c, support, labels, jax.random.key(2))(queries) for c in (carried, after)]
    assert not np.allclose(*found)


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_the_meta_gradient_is_that_of_the_query_loss_under_each_policy(batch_norm):
    """Central differences in float64: truncation h² = 1e-10, rounding 1e-16 / h = 1e-11."""
    with enable_x64(True):
        learner = maml.learner(NET, 2, 0.1, first_order=False, batch_norm=batch_norm)
        double = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
        params, carried = double(learner.init(jax.random.key(0)))
        batch = jax.tree.map(lambda leaf: leaf if leaf.dtype.kind == "i" else leaf.astype(jnp.float64), tasks())
        run = jax.jit(learner.gradient)
        gradient = run(params, carried, batch, jax.random.key(1))[0]
        along = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
        loss = lambda h: run(jax.tree.map(lambda p, d: p + h * d, params, along), carried, batch, jax.random.key(1))[2]
        slope = (loss(1e-5)["loss"] - loss(-1e-5)["loss"]) / 2e-5
        found = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True))
        assert float(found) == pytest.approx(float(slope), rel=1e-6)


# ANIL and Meta-SGD


def test_anil_adapts_the_head_alone_and_its_gradient_reaches_all():
    task = jax.tree.map(lambda leaf: leaf[0], tasks())
    by_batch = lambda p, x: NET.by_batch(p, x).logits
    params, _ = NET.init(jax.random.key(0))
    adapted = maml.adapt(by_batch, params, task.support_images, task.support_labels, 3, 0.1, adapts=("head",))
    assert not np.allclose(adapted["head"]["kernel"], params["head"]["kernel"])
    for name in ("Conv_0", "BatchNorm_0"):
        jax.tree.map(np.testing.assert_array_equal, adapted[name], params[name])
    _, gradient = maml.meta_gradient(by_batch, params, tasks(), 3, 0.1, adapts=("head",))
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("first_order", [True, False], ids=["first order", "higher order"])
def test_meta_sgd_begins_as_maml_and_learns_its_rates_by_the_true_slope(first_order):
    with enable_x64(True):
        double = lambda tree: jax.tree.map(
            lambda leaf: leaf if leaf.dtype.kind == "i" else leaf.astype(jnp.float64), tree
        )
        batch, key = double(tasks()), jax.random.key(1)
        plain = maml.learner(NET, 1, 0.125, first_order)
        learner = maml.learner(NET, 1, 0.125, first_order, learned_rates=True)
        params, carried = double(learner.init(jax.random.key(0)))
        gradient, _, metrics = jax.jit(learner.gradient)(params, carried, batch, key)
        wanted, _, same = jax.jit(plain.gradient)(params["net"], carried, batch, key)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), gradient["net"], wanted)
        assert float(metrics["loss"]) == pytest.approx(float(same["loss"]), rel=1e-12)
        # With one inner step the inner gradient does not depend on the rates: both orders have their exact slope.
        along = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), params["rates"])

        def loss(h):
            rates = jax.tree.map(lambda r, d: r + h * d, params["rates"], along)
            return jax.jit(learner.gradient)({**params, "rates": rates}, carried, batch, key)[2]["loss"]

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        pairs = zip(jax.tree.leaves(gradient["rates"]), jax.tree.leaves(along), strict=True)
        assert float(sum(jnp.vdot(g, d) for g, d in pairs)) == pytest.approx(float(slope), rel=1e-6)
        predict = learner.adapt(params, carried, batch.support_images[0], batch.support_labels[0], key)
        same = plain.adapt(params["net"], carried, batch.support_images[0], batch.support_labels[0], key)
        np.testing.assert_allclose(predict(batch.query_images[0]), same(batch.query_images[0]), rtol=1e-9)


def test_tests_may_have_another_number_of_inner_steps_than_training():
    support, labels, queries = images(0, 6), jnp.arange(6) % WAYS, images(1, 9)
    params, _ = NET.init(jax.random.key(0))
    predictions = {
        (train, test): maml.learner(NET, train, 0.1, True, test_steps=test).adapt(
            params, {}, support, labels, jax.random.key(2)
        )(queries)
        for train, test in ((1, None), (1, 4), (4, None))
    }
    np.testing.assert_array_equal(predictions[1, 4], predictions[4, None])
    assert not np.allclose(predictions[1, None], predictions[1, 4])


def test_summed_gradients_are_the_mean_times_the_tasks():
    params, _ = NET.init(jax.random.key(0))
    mean, total = (
        maml.learner(NET, 1, 0.1, True, summed=summed).gradient(params, {}, tasks(), jax.random.key(1))[0]
        for summed in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-6), mean, total)


def test_dropout_in_a_test_is_off_unless_asked():
    net = Network(*make_network("resnet12", WAYS, 16, width=2, dropout=0.5))
    params, _ = net.init(jax.random.key(0))
    support, labels, queries = images(0, 6, 16), jnp.arange(6) % WAYS, images(1, 9, 16)
    for asked in (False, True):
        learner = maml.learner(net, 1, 0.1, True, test_dropout=asked)
        run = jax.jit(lambda key, learner=learner: learner.adapt(params, {}, support, labels, key)(queries))
        assert np.allclose(run(jax.random.key(2)), run(jax.random.key(3))) == (not asked)


def test_the_narrow_resnet12_differs_from_the_wide_one_only_in_its_channels():
    net = make_network("resnet12", WAYS, 16, width=2)
    params, _ = net.init(jax.random.key(0))
    assert params["block2"]["conv1"]["kernel"].shape == (3, 3, 2, 5)
    assert ResNet12(ways=5).channels == (64, 160, 320, 640)
