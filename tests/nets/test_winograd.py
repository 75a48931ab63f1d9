"""Minimal filtering against `jax.lax`'s convolution, an independent implementation with its own derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from precision import enable_x64

from jaxdiv.nets import winograd
from jaxdiv.nets.conv import conv_general_dilated

LAYOUT = ("NHWC", "HWIO", "NHWC")


def by_lax(pads):
    return lambda x, w: lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=LAYOUT)


def operands(images, size, inputs, filters, dtype):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    return draw(images, *size, inputs), draw(3, 3, inputs, filters)


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize(
    ("images", "size", "pads"),
    {
        "tiles over the edge, several turns": (11, (7, 5), ((1, 1), (1, 1))),
        "uneven padding": (1, (6, 8), ((0, 2), (2, 1))),
    }.values(),
    ids=str,
)
def test_the_three_maps_equal_laxs_in_float64(m, images, size, pads, monkeypatch):
    monkeypatch.setattr(winograd, "_TURN_BYTES", 2**13)  # so that a few small images are more than a turn
    with enable_x64(True):
        x, w = operands(images, size, 3, 4, jnp.float64)
        wanted, transpose = jax.vjp(by_lax(pads), x, w)
        dy = jnp.cos(wanted)
        maps = lambda x, w, dy: (
            winograd.conv(x, w, pads, m),
            winograd.input_grad(dy, w, pads, m),
            winograd.kernel_grad(x, dy, pads, m),
        )
        for got, expected in zip(jax.jit(maps)(x, w, dy), (wanted, *transpose(dy)), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11 * float(jnp.abs(expected).max()))


def test_networks_convolution_takes_it_and_its_second_derivatives_are_laxs():
    pads = ((1, 1), (1, 1))
    assert [winograd.cheapest(16, 48, 48, (7, 8), sizes) for sizes in ((2,), (2, 3))] == [2, 3]
    with enable_x64(True):
        x, w = operands(16, (7, 8), 48, 48, jnp.float64)
        ours = lambda x, w: conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=LAYOUT)

        def derivatives(conv, x, w):
            loss = lambda x, w: jnp.sum(jnp.sin(conv(x, w / 20)))
            first = jax.grad(loss, (0, 1))
            return first(x, w), jax.jvp(first, (x, w), (jnp.cos(x), jnp.cos(w)))[1]

        program, theirs = (jax.jit(partial(derivatives, conv)) for conv in (ours, by_lax(pads)))
        assert "convolution" not in program.lower(x, w).as_text()  # every one of them is a matrix product
        for got, expected in zip(jax.tree.leaves(program(x, w)), jax.tree.leaves(theirs(x, w)), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10 * float(jnp.abs(expected).max()))


def test_rounding_is_the_direct_sums_with_tiles_of_two_and_some_times_it_with_three():
    pads = ((1, 1), (1, 1))
    x, w = operands(4, (12, 12), 96, 64, jnp.float32)
    with enable_x64(True):
        truth = np.asarray(by_lax(pads)(x.astype(jnp.float64), w.astype(jnp.float64)))
    error = lambda y: float(np.sqrt(np.mean((np.asarray(y) - truth) ** 2)) / truth.std())
    direct = error(by_lax(pads)(x, w))
    assert error(winograd.conv(x, w, pads, 2)) < 1.5 * direct
    assert error(winograd.conv(x, w, pads, 3)) < 6 * direct


def test_direct_sum_stays_where_the_kernel_outweighs_the_images():
    assert winograd.cheapest(1, 512, 512, (3, 3), (2, 3)) == 0
    assert winograd.cheapest(64, 3, 8, (32, 32), (2, 3)) == 0
