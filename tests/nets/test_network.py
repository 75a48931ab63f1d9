"""The methods' networks, their batch norm, and what its policies let a query image know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.nets.network import NETS, make_network
from jaxdiv.nets.norm import BatchNorm
from jaxdiv.nets.resnet12 import ResNet12, drop_blocks

WAYS = 3


def images(seed, count, size):
    return jax.random.normal(jax.random.key(seed), (count, size, size, 3))


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
    own = jax.jit(net.apply_batch_stats)(params, x)
    given = jax.jit(net.apply_given_stats)(params, own.stats, x)
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
        found[compute] = jax.jit(net.apply_batch_stats)(params, x)
        assert found[compute].logits.dtype == jnp.float32
    apart = jnp.linalg.norm(found["bfloat16"].logits - found["float32"].logits)
    # Eight bits of mantissa, and a dozen layers in which roundings add up.
    assert 0 < apart < 0.1 * jnp.linalg.norm(found["float32"].logits)


def test_batch_norm_is_the_formula():
    x = images(2, 7, 6)
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


def test_dropout_acts_with_a_key_alone_and_drop_block_with_its_scale():
    net = make_network("resnet12", WAYS, 16, width=4, dropout=0.5)
    params, _ = net.init(jax.random.key(0))
    run = jax.jit(net.apply_batch_stats)
    x, key = images(0, 4, 16), jax.random.key(1)
    plain, dropping = run(params, x).logits, run(params, x, key).logits
    assert not np.allclose(plain, dropping)
    np.testing.assert_array_equal(dropping, run(params, x, key, 0.0).logits)
    assert not np.allclose(dropping, run(params, x, key, 1.0).logits)
    without = make_network("resnet12", WAYS, 16, width=4, dropout=0.0)
    same = jax.jit(without.apply_batch_stats)(params, x, key, 1.0).logits
    np.testing.assert_allclose(same, plain, rtol=1e-5, atol=1e-6)


def test_the_narrow_resnet12_differs_from_the_wide_one_only_in_its_channels():
    net = make_network("resnet12", WAYS, 16, width=2)
    params, _ = net.init(jax.random.key(0))
    assert params["block2"]["conv1"]["kernel"].shape == (3, 3, 2, 5)
    assert ResNet12(ways=5).channels == (64, 160, 320, 640)
