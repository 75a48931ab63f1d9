"""A network of one block, and tasks for it: small enough for float64 and finite differences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxdiv.data.episodes import Task
from jaxdiv.nets.network import Network
from jaxdiv.nets.norm import BatchNorm

WAYS, SIZE = 3, 6


class OneBlock(nn.Module):
    ways: int = WAYS

    @nn.compact
    def __call__(self, images, dropblock_scale=0.0):
        x = nn.Conv(4, (3, 3), use_bias=False)(images)
        features = jnp.tanh(BatchNorm()(x)).reshape(len(x), -1)
        return (nn.Dense(self.ways, name="head")(features) if self.ways else features), features


NET = Network(OneBlock(), (SIZE, SIZE, 3))


def images(seed, count, size=SIZE):
    return jax.random.normal(jax.random.key(seed), (count, size, size, 3))


def tasks(count=2):
    labels = lambda n: jnp.tile(jnp.arange(n) % WAYS, (count, 1))
    part = lambda seed, n: (images(seed, count * n).reshape(count, n, SIZE, SIZE, 3), labels(n))
    return Task(*part(0, 6), *part(1, 9))


def double(tree):
    """In float64."""
    return jax.tree.map(lambda leaf: leaf if leaf.dtype.kind == "i" else leaf.astype(jnp.float64), tree)


def check_gradient(method, batch):
    """A method's gradient in float64 against a central difference along a random direction.

    Its truncation is h² = 1e-10, its rounding 1e-16 / h = 1e-11.
    """
    params, model_state = double(method.init(jax.random.key(0)))
    batch, key, run = double(batch), jax.random.key(1), jax.jit(method.gradient)
    along = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    loss = lambda h: run(jax.tree.map(lambda p, d: p + h * d, params, along), model_state, batch, key)[2]["loss"]
    products = jax.tree.map(jnp.vdot, run(params, model_state, batch, key)[0], along)
    slope = float(loss(1e-5) - loss(-1e-5)) / 2e-5
    assert float(sum(jax.tree.leaves(products))) == pytest.approx(slope, rel=1e-6)
