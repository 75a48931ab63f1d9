"""The convolution against `jax.lax`'s, an independent implementation with its own derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from precision import enable_x64

from jaxdiv.nets.conv import conv_general_dilated, max_pool_2x2
from jaxdiv.nets.norm import BatchNorm

CASES = {  # image, kernel, stride, padding
    "3x3 same": ((9, 7), 3, 1, "SAME"),
    "3x3 tiny output": ((2, 2), 3, 1, "SAME"),
    "3x3 one pixel": ((1, 1), 3, 1, "SAME"),
    "3x3 stride 2 odd": ((9, 7), 3, 2, ((1, 1), (1, 1))),
    "3x3 stride 2 even, a row unused": ((8, 8), 3, 2, ((1, 1), (1, 1))),
    "3x3 stride 2 tiny output": ((4, 3), 3, 2, ((1, 1), (1, 1))),
    "7x7 stride 2": ((13, 16), 7, 2, ((3, 3), (3, 3))),
    "1x1": ((5, 6), 1, 1, "SAME"),
    "1x1 stride 2": ((5, 6), 1, 2, "VALID"),
    "3x3 valid": ((6, 6), 3, 1, "VALID"),
}


def operands(case, dtype):
    (h, w), k, stride, padding = CASES[case]
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (3, h, w, 5), dtype)
    kernel = jax.random.normal(keys[1], (k, k, 5, 4), dtype)
    ours = lambda x, w: conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=LAYOUT)
    theirs = lambda x, w: lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=LAYOUT)
    return x, kernel, ours, theirs


LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("case", CASES)
def test_value_and_derivatives_to_third_order_equal_laxs_in_float64(case):
    with enable_x64(True):
        x, w, ours, theirs = operands(case, jnp.float64)

        def derivatives(conv, x, w):
            loss = lambda x, w: jnp.sum(jnp.sin(conv(x, w)))
            first = jax.grad(loss, (0, 1))
            along = lambda f: lambda x, w: sum(jnp.sum(jnp.cos(g)) for g in jax.tree.leaves(f(x, w)))
            second = jax.grad(along(first), (0, 1))
            third = jax.grad(along(second), (0, 1))
            forward = jax.jvp(first, (x, w), (jnp.cos(x), jnp.cos(w)))[1]
            return conv(x, w), first(x, w), second(x, w), third(x, w), forward

        # x and w as arguments: XLA before jax 0.8.1 folds convolutions of constants wrongly.
        got, wanted = (jax.jit(partial(derivatives, conv))(x, w) for conv in (ours, theirs))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_over_images_kernels_or_both_equals_a_loop(axes):
    x, w, ours, theirs = operands("3x3 stride 2 odd", jnp.float32)
    xs = jnp.stack([x, 2 * x - 1]) if axes[0] == 0 else x
    ws = jnp.stack([w, w**2]) if axes[1] == 0 else w
    grads = lambda conv: lambda x, w: jax.grad(lambda x, w: jnp.sum(conv(x, w) ** 2), (0, 1))(x, w)
    got = jax.vmap(grads(ours), axes)(xs, ws)
    pick = lambda a, axis, i: a[i] if axis == 0 else a
    for i in (0, 1):
        wanted = grads(theirs)(pick(xs, axes[0], i), pick(ws, axes[1], i))
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_other_layouts_and_groups_are_refused():
    x, w = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 2))
    with pytest.raises(ValueError, match="no groups"):
        conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=LAYOUT, feature_group_count=2)
    with pytest.raises(ValueError, match="only"):
        conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))


def test_max_pool_and_its_gradient_equal_reduce_windows():
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    theirs = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    np.testing.assert_array_equal(max_pool_2x2(x), theirs(x))
    weigh = lambda pool: lambda x: jnp.sum(jnp.sin(pool(x)))
    np.testing.assert_allclose(jax.grad(weigh(max_pool_2x2))(x), jax.grad(weigh(theirs))(x), rtol=1e-6)


def test_max_pool_holds_where_xla_computes_its_input_twice():
    # Without optimisation XLA rounds the input differently in each fusion that recomputes it.
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 6))
    w = jax.random.normal(jax.random.key(1), (6, 6))
    theirs = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def gradient(pool):
        loss = lambda w: jnp.sum(jnp.sin(pool(jax.nn.relu((x @ w - 0.1) * jnp.exp(w[0] / 3) / 7))))
        return jax.jit(jax.grad(loss)).lower(w).compile({"xla_backend_optimization_level": 0})(w)

    np.testing.assert_allclose(gradient(max_pool_2x2), gradient(theirs), rtol=1e-3, atol=1e-4)


def test_max_pool_gives_a_tie_to_the_first_and_hands_nan_on():
    tie = jnp.zeros((1, 2, 2, 1))
    gradient = jax.grad(lambda x: max_pool_2x2(x).sum())(tie)
    np.testing.assert_array_equal(gradient.ravel(), [1, 0, 0, 0])
    assert jnp.isnan(max_pool_2x2(tie.at[0, 1, 1, 0].set(jnp.nan))).all()


def test_batch_norm_that_pools_is_batch_norm_and_then_the_pool_to_second_order():
    with enable_x64(True):
        keys = jax.random.split(jax.random.key(5), 4)
        x, moved = (jax.random.normal(key, (3, 5, 6, 4), jnp.float64) for key in keys[:2])
        # A negative scale turns the order round.
        params = {"scale": jnp.array([1.5, -0.7, 0.2, -2.0]), "bias": jnp.array([0.1, -0.2, 0.3, 0.0])}
        direction = jax.tree.map(lambda leaf: jax.random.normal(keys[2], leaf.shape), params)
        weight = jax.random.normal(keys[3], (3, 2, 3, 4), jnp.float64)
        apply = lambda p, x, pool: BatchNorm().apply({"params": p}, x, pool, mutable=["batch_stats"])[0]
        ours = lambda p, x: jnp.sum(weight * jnp.tanh(apply(p, x, True)))
        theirs = lambda p, x: jnp.sum(weight * jnp.tanh(max_pool_2x2(apply(p, x, False))))
        for f in (0, 1):  # the gradient, and its derivative along a direction
            found, expected = (
                jax.jvp(jax.grad(side, (0, 1)), (params, x), (direction, moved))[f] for side in (ours, theirs)
            )
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
