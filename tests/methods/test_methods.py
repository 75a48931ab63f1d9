"""What the methods share: batch-norm policies, values that hash equal; and the variants of MAML."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from small_network import NET, WAYS, OneBlock, check_gradient, double, images, tasks

from jaxdiv.data.table import make_table
from jaxdiv.errors import InputError
from jaxdiv.methods import maml, registry
from jaxdiv.methods.base import make_method
from jaxdiv.methods.evaluate import evaluate
from jaxdiv.methods.maml import MAML
from jaxdiv.methods.pretrain import PreTraining
from jaxdiv.methods.train import TrainSettings, train
from jaxdiv.nets.network import BATCH_NORM, Network, make_network


class Scales(OneBlock):
    """Tells `seen` of DropBlock's scale."""

    seen: Callable[[float], None] = float

    def __call__(self, images, dropblock_scale=0.0):
        jax.debug.callback(lambda scale: self.seen(float(scale)), dropblock_scale)
        return super().__call__(images)


def test_pre_training_raises_drop_blocks_scale_with_its_steps():
    scales = []
    method = PreTraining(Network(Scales(seen=scales.append), NET.shape), WAYS)
    params, model_state = method.init(jax.random.key(0))
    gradient = jax.jit(method.gradient)
    for steps in (0, 20_000, 80_000):
        gradient(params, {"steps": jnp.asarray(steps)}, (images(0, 4), jnp.arange(4) % WAYS), jax.random.key(1))
    jax.effects_barrier()
    assert {0.5, 1.0} < set(scales) <= {0.0, 0.5, 1.0} and model_state == {"steps": 0}


# Policies


def value(method, batch_norm):
    """Two inner steps where the method is MAML."""
    return make_method(method, NET, WAYS, WAYS, {"batch_norm": batch_norm})


@pytest.mark.parametrize("method", ["pt", "ho_maml_2", "protonet"])
@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_a_query_image_tells_of_the_others_only_where_batch_norm_is_transductive(method, batch_norm):
    method = value(method, batch_norm)
    params, model_state = method.init(jax.random.key(0))
    support, queries = images(0, 6), images(1, 9)
    predict = method.adapt(params, model_state, support, jnp.arange(6) % WAYS, jax.random.key(2))
    together, alone = predict(queries)[:1], predict(queries[:1])
    assert np.allclose(together, alone, rtol=1e-4, atol=1e-5) == (batch_norm != "transductive")


def test_support_statistics_are_those_of_the_support_set_under_the_adapted_parameters():
    method = value("ho_maml_2", "support_statistics")
    params, _ = method.init(jax.random.key(0))
    support, labels, queries = images(0, 6), jnp.arange(6) % WAYS, images(1, 9)
    found = method.adapt(params, {}, support, labels, jax.random.key(2))(queries)
    apply = lambda p, x: NET.apply_batch_stats(p, x).logits
    adapted = maml.adapt(apply, params, support, labels, 2, 0.1)
    # Support and query in one batch, the query weightless in the statistics: by hand from the convolution's output.
    conv = partial(nn.Conv(4, (3, 3), use_bias=False).apply, {"params": adapted["Conv_0"]})
    x, y = conv(support), conv(queries)
    norm = adapted["BatchNorm_0"]
    normal = (y - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) * norm["scale"] + norm["bias"]
    features = jnp.tanh(normal).reshape(len(y), -1)
    wanted = features @ adapted["head"]["kernel"] + adapted["head"]["bias"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["pt", "ho_maml_2", "protonet"])
def test_running_statistics_follow_training_and_serve_the_test(method):
    method = value(method, "running")
    params, model_state = method.init(jax.random.key(0))
    batch = tasks() if method.name != "pt" else (3 + images(0, 8), jnp.arange(8) % WAYS)
    gradient = jax.jit(method.gradient)
    _, after, _ = gradient(params, model_state, batch, jax.random.key(1))
    if method.name == "pt":
        one = NET.apply_batch_stats(params, batch[0]).stats
        wanted = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, model_state["stats"], one)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), after["stats"], wanted)
    for _ in range(60):
        _, after, _ = gradient(params, after, batch, jax.random.key(1))
    settled = gradient(params, after, batch, jax.random.key(1))[1]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-2), settled["stats"], after["stats"])
    support, labels, queries = images(0, 6), jnp.arange(6) % WAYS, images(1, 9)
    found = [method.adapt(params, c, support, labels, jax.random.key(2))(queries) for c in (model_state, after)]
    assert not np.allclose(*found)


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_the_meta_gradient_is_that_of_the_query_loss_under_each_policy(batch_norm):
    with enable_x64(True):
        check_gradient(MAML(NET, 2, 0.1, first_order=False, batch_norm=batch_norm), tasks())


# ANIL and Meta-SGD


def test_anil_adapts_the_head_alone_and_its_gradient_reaches_all():
    task = jax.tree.map(lambda leaf: leaf[0], tasks())
    apply = lambda p, x: NET.apply_batch_stats(p, x).logits
    params, _ = NET.init(jax.random.key(0))
    support = task.support_images, task.support_labels
    adapted = maml.adapt(apply, params, *support, 3, 0.1, inner_params=("head",))
    assert not np.allclose(adapted["head"]["kernel"], params["head"]["kernel"])
    for name in ("Conv_0", "BatchNorm_0"):
        jax.tree.map(np.testing.assert_array_equal, adapted[name], params[name])
    _, gradient = maml.meta_gradient(apply, params, tasks(), 3, 0.1, inner_params=("head",))
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("first_order", [True, False], ids=["first order", "higher order"])
def test_meta_sgd_begins_as_maml_and_learns_its_rates_by_the_true_slope(first_order):
    with enable_x64(True):
        batch, key = double(tasks()), jax.random.key(1)
        plain = MAML(NET, 1, 0.125, first_order)
        method = MAML(NET, 1, 0.125, first_order, learn_inner_lr=True)
        params, model_state = double(method.init(jax.random.key(0)))
        gradient, _, metrics = jax.jit(method.gradient)(params, model_state, batch, key)
        wanted, _, same = jax.jit(plain.gradient)(params["net"], model_state, batch, key)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), gradient["net"], wanted)
        assert float(metrics["loss"]) == pytest.approx(float(same["loss"]), rel=1e-12)
        # With one inner step the inner gradient does not depend on the rates: both orders have their exact slope.
        along = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), params["inner_lr"])

        def loss(h):
            rates = jax.tree.map(lambda r, d: r + h * d, params["inner_lr"], along)
            return jax.jit(method.gradient)({**params, "inner_lr": rates}, model_state, batch, key)[2]["loss"]

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        pairs = zip(jax.tree.leaves(gradient["inner_lr"]), jax.tree.leaves(along), strict=True)
        assert float(sum(jnp.vdot(g, d) for g, d in pairs)) == pytest.approx(float(slope), rel=1e-6)
        predict = method.adapt(params, model_state, batch.support_images[0], batch.support_labels[0], key)
        same = plain.adapt(params["net"], model_state, batch.support_images[0], batch.support_labels[0], key)
        np.testing.assert_allclose(predict(batch.query_images[0]), same(batch.query_images[0]), rtol=1e-9)


def test_summed_gradients_are_the_mean_times_the_tasks():
    params, _ = NET.init(jax.random.key(0))
    mean, total = (
        MAML(NET, 1, 0.1, grad_reduction=how).gradient(params, {}, tasks(), jax.random.key(1))[0]
        for how in ("mean", "sum")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-6), mean, total)


def test_dropout_in_a_test_is_off_unless_asked():
    net = make_network("resnet12", WAYS, 16, width=2, dropout=0.5)
    params, _ = net.init(jax.random.key(0))
    support, labels, queries = images(0, 6, 16), jnp.arange(6) % WAYS, images(1, 9, 16)
    for asked in (False, True):
        method = MAML(net, 1, 0.1, True, test_dropout=asked)
        run = jax.jit(lambda key, method=method: method.adapt(params, {}, support, labels, key)(queries))
        assert np.allclose(run(jax.random.key(2)), run(jax.random.key(3))) == (not asked)


# Values


class Traced(OneBlock):
    """Counts how often it is traced."""

    times = 0

    def __call__(self, images, dropblock_scale=0.0):
        Traced.times += 1
        return super().__call__(images)


def traced(run):
    """How often `run` traced the network."""
    before = Traced.times
    run()
    return Traced.times - before


def of_network(name, **settings):
    """A newly made method whose network counts its traces."""
    return make_method(name, Network(Traced(), NET.shape), WAYS, WAYS, settings)


@pytest.mark.parametrize("name", registry.METHODS)
def test_a_method_knows_its_name_family_and_label_and_equal_ones_hash_equal(name):
    first, second = of_network(name), of_network(name)
    assert first is not second and first == second and hash(first) == hash(second)
    assert first != of_network(name, batch_norm="running")
    entry = registry.METHODS[name]
    assert (first.name, first.family, first.label) == (name, entry.family, entry.label)


def test_each_method_gives_the_network_the_head_that_it_needs():
    heads = [make_method(name, NET, 5, 64, {}).net.module.ways for name in ("pt", "ho_maml_3", "protonet")]
    assert heads == [64, 5, 0]


def test_a_setting_that_a_method_cannot_use_is_refused_and_those_of_training_are_not_its_own():
    assert of_network("fo_maml_3", inner_lr=0.5, steps=10, meta_batch=2).inner_lr == 0.5
    for name, settings, words in (
        ("ho_maml_5", {"inner_params": "heads"}, r"unknown choice of inner_params 'heads': did you mean 'head'"),
        ("ho_maml_5", {"grad_reduction": "summ"}, r"unknown grad_reduction 'summ': did you mean 'sum'"),
        ("pt", {"batch_norm": "runing"}, r"unknown batch-norm policy 'runing': did you mean 'running'"),
        ("protonets", {}, r"unknown method 'protonets': did you mean 'protonet'"),
    ):
        with pytest.raises(InputError, match=words):
            of_network(name, **settings)


def test_first_and_higher_order_share_one_compiled_test():
    def evaluation(name, **settings):
        method = of_network(name, **settings)
        params, model_state = method.init(jax.random.key(0))
        sample = lambda key, number: tasks(number)
        return lambda: evaluate(method, params, model_state, sample, jax.random.key(0), 2, 2)

    first = evaluation("fo_maml_2")
    assert traced(first) > 0
    assert traced(first) == 0
    assert traced(evaluation("ho_maml_2", remat=True, grad_reduction="sum")) == 0
    assert traced(evaluation("ho_maml_3")) > 0


def test_training_compiles_once_for_equal_methods(tmp_path):
    def training(folder, **settings):
        method, how = of_network("fo_maml_1", **settings), TrainSettings(1)
        return lambda: train(method, lambda key: tasks(), jax.random.key(0), how, tmp_path / folder)

    assert traced(training("first")) > 0
    assert traced(training("second")) == 0
    assert traced(training("third", inner_lr=0.2)) > 0


def test_methods_that_train_on_tasks_meet_the_same_ones():
    table = make_table([np.full((8, 6, 6, 3), 9 * n, np.uint8) for n in range(5)], list("abcde"), [0.0] * 3, [1.0] * 3)
    drawn = [
        of_network(name).sample(jax.random.key(3), table, 2, WAYS, 2, 4, False) for name in ("fo_maml_1", "protonet")
    ]
    jax.tree.map(np.testing.assert_array_equal, *drawn)
    batch, labels = of_network("pt").sample(jax.random.key(3), table, 7, WAYS, 2, 4, False)
    np.testing.assert_array_equal(np.round(np.asarray(batch[:, 0, 0, 0]) * 255 / 9), labels)
