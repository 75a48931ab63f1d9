"""The project's convolution against `jax.lax`'s own, as MAML uses it: gradients inside `lax.scan`.

    python bench/conv.py

Both do the same work: five SGD steps of conv-4 on 25 images (5-way 5-shot). They alternate in one process; the best
of several runs counts, and the ratio is what to read.
"""

import time

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiv.nets import conv4
from jaxdiv.nets.conv import conv_general_dilated


def inner_loop(conv, pixels: int, channels: int, width: int):
    """A jitted five-step inner loop of a conv-4 whose convolution is `conv`, and its arguments."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(4):
                x = nn.Conv(width, (3, 3), use_bias=False, conv_general_dilated=conv)(x)
                x = nn.BatchNorm(use_running_average=False, use_fast_variance=False)(x)
                x = conv4.max_pool_2x2(nn.relu(x))
            return nn.Dense(5)(x.reshape(x.shape[0], -1))

    net = Net()
    images = jax.random.normal(jax.random.key(0), (25, pixels, pixels, channels))
    params = net.init(jax.random.key(1), images)["params"]

    def step(params, _):
        loss = lambda p: jnp.mean(net.apply({"params": p}, images, mutable=["batch_stats"])[0] ** 2)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)), None

    return jax.jit(lambda params: jax.lax.scan(step, params, length=5)[0]), params


def main() -> None:
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; milliseconds for 5 inner steps on 25 images")
    for pixels, channels, width in ((28, 1, 64), (28, 3, 16), (16, 3, 8), (84, 3, 32)):
        sides = {"ours": conv_general_dilated, "lax": jax.lax.conv_general_dilated}
        loops = {name: inner_loop(conv, pixels, channels, width) for name, conv in sides.items()}
        for loop, params in loops.values():
            jax.block_until_ready(loop(params))
        best = dict.fromkeys(loops, float("inf"))
        for _ in range(5):
            for name, (loop, params) in loops.items():
                start = time.perf_counter()
                jax.block_until_ready(loop(params))
                best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
        print(
            f"conv-4 width {width}, {pixels} px, {channels} channels: ours {best['ours']:.1f}, lax {best['lax']:.1f}, "
            f"ratio {best['lax'] / best['ours']:.1f}"
        )


if __name__ == "__main__":
    main()
