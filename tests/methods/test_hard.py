"""Hard tasks on line: the gradient is that of the tasks whose losses a plain loop finds largest."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_network import NET, WAYS, images, tasks

from jaxdiv import table_from
from jaxdiv.methods.hard import HardTasks
from jaxdiv.methods.maml import MAML
from jaxdiv.methods.parallel import make_mesh
from jaxdiv.methods.pretrain import PreTraining
from jaxdiv.methods.protonet import ProtoNet
from jaxdiv.methods.step import TrainSettings, abstract_state, fit

KEY = jax.random.key(5)


def alone(batch, number):
    return jax.tree.map(lambda leaf: leaf[number : number + 1], batch)


@pytest.mark.parametrize("method", [MAML(NET, 2, 0.1, first_order=False), ProtoNet(NET.with_ways(0), WAYS)], ids=str)
def test_a_step_is_that_of_the_half_with_the_largest_losses_each_found_alone(method):
    batch = tasks(6)
    params, model_state = method.init(jax.random.key(0))
    each = [float(method.gradient(params, model_state, alone(batch, n), KEY)[2]["loss"]) for n in range(6)]
    np.testing.assert_allclose(method.losses(params, model_state, batch, KEY), each, rtol=1e-5)
    rows = np.sort(np.argsort(each)[-3:])
    found = HardTasks(method, 2).gradient(params, model_state, batch, KEY)
    expected = method.gradient(params, model_state, jax.tree.map(lambda leaf: leaf[rows], batch), KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found[0], expected[0])
    assert float(found[2]["loss"]) == pytest.approx(np.mean(np.array(each)[rows]), rel=1e-5)


def test_pre_training_takes_the_images_that_it_gets_most_wrong():
    method = PreTraining(NET.with_ways(4), WAYS)
    params, model_state = method.init(jax.random.key(0))
    batch = images(1, 9), jnp.arange(9) % 4
    logits = np.asarray(method.net.apply_batch_stats(params, batch[0]).logits, float)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses = -np.log(shares[np.arange(9), batch[1]])
    np.testing.assert_allclose(method.losses(params, model_state, batch, KEY), losses, rtol=1e-5)
    rows = np.sort(np.argsort(losses)[-3:])
    found = HardTasks(method, 3).gradient(params, model_state, batch, KEY)
    expected = method.gradient(params, model_state, (batch[0][rows], batch[1][rows]), KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found[0], expected[0])


def test_in_all_else_it_is_the_method_and_it_draws_more():
    rng = np.random.default_rng(0)
    table = table_from(rng.integers(0, 255, (40, 6, 6, 3), np.uint8), np.repeat(np.arange(4), 10))
    method = MAML(NET, 1, 0.1)
    hard = HardTasks(method, 3)
    drawn = [each.sample(KEY, table, size, WAYS, 1, 2, False) for each, size in ((hard, 2), (method, 6))]
    jax.tree.map(np.testing.assert_array_equal, *drawn)
    jax.tree.map(np.testing.assert_array_equal, hard.init(KEY), method.init(KEY))
    assert hard.tested == method.tested and (hard.name, hard.label) == (method.name, method.label)
    assert hard == HardTasks(MAML(NET, 1, 0.1), 3) and hash(hard) == hash(HardTasks(MAML(NET, 1, 0.1), 3))


def test_as_many_tasks_as_fit_are_found_and_a_batch_over_devices_gives_the_same_step():
    """What an accelerator needs: the memory of one task alone, and a batch that devices share."""
    method, settings = HardTasks(MAML(NET, 1, 0.1), 2), TrainSettings(steps=1)
    state = abstract_state(method, settings)
    found = fit(method, settings, None, state, tasks(4), KEY, limit_bytes=1e12)
    assert found.tasks_at_once >= 1 and method.at(found).tasks_at_once == found.tasks_at_once
    params, model_state = method.init(KEY)
    alone = method.gradient(params, model_state, tasks(4), KEY)[0]
    shared = jax.jit(replace(method, mesh=make_mesh(2)).gradient)(params, model_state, tasks(4), KEY)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), alone, shared)
