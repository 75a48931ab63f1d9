"""ResNet-12 of "Rethinking few-shot image classification" (Tian et al. 2020, https://arxiv.org/abs/2003.11539)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiv.nets.conv import conv_general_dilated, max_pool_2x2
from jaxdiv.nets.norm import BatchNorm

_SLOPE = 0.1
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResNet12(nn.Module):
    """Four residual stages of three 3x3 convolutions, 2x2 max-pool and dropout each; average pool; linear head.

    Dropout (stages 1, 2) and DropBlock (stages 3, 4) act where a `dropout` random stream is given: dropout at
    `dropout`, DropBlock at `dropblock_scale` times that. The study's scale rises from 0 to 1 over 40,000 steps of
    pre-training and stays 0 in MAML. 12,424,320 parameters and 641 a way.

    Attributes:
      ways: logits; 0: no head, the logits are the features.
      channels: of the four stages.
      dropout: the share dropped.
      dtype: of the convolutions (None: of images and parameters); the head is float32 at least.
    """

    ways: int
    channels: Sequence[int] = (64, 160, 320, 640)
    dropout: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "images h w c"], dropblock_scale: Array | float = 0.0
    ) -> tuple[Array, Array]:
        """Logits `[images, ways]` and features `[images, channels[-1]]`."""
        x = images
        size = 5 if images.shape[1] >= 84 else 2  # of a dropped block, as in the study
        for stage, width in enumerate(self.channels, 1):
            x = _Block(width, self.dtype, name=f"block{stage}")(x)
            if self.dropout and self.has_rng("dropout"):
                if stage <= 2:
                    x = nn.Dropout(self.dropout, deterministic=False)(x)
                else:
                    x = drop_blocks(self.make_rng("dropout"), x, dropblock_scale * self.dropout, size)
        features = x.mean((1, 2)).astype(jnp.promote_types(x.dtype, jnp.float32))
        return (nn.Dense(self.ways, name="head")(features) if self.ways else features), features


class _Block(nn.Module):
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        out = x
        for number in range(1, 4):
            out = BatchNorm(name=f"norm{number}")(self._conv(3, f"conv{number}")(out))
            out = nn.leaky_relu(out, _SLOPE) if number < 3 else out
        shortcut = BatchNorm(name="shortcut_norm")(self._conv(1, "shortcut_conv")(x))
        # The pool commutes with what is monotone, and leaves a quarter of the numbers to it.
        return nn.leaky_relu(max_pool_2x2(out + shortcut), _SLOPE)

    def _conv(self, kernel: int, name: str) -> nn.Conv:
        return nn.Conv(
            self.width,
            (kernel, kernel),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_INIT,
            conv_general_dilated=conv_general_dilated,
            name=name,
        )


def drop_blocks(
    key: PRNGKeyArray, x: Float[Array, "n h w c"], rate: Array | float, size: int
) -> Float[Array, "n h w c"]:
    """DropBlock (Ghiasi et al. 2018, eq. 1): about `rate` of each channel's pixels, in squares of `size`, become 0.

    What is left is scaled so that the mean over the batch stays. A map smaller than `size` loses whole channels.
    """
    n, h, w, c = x.shape
    size = min(size, h, w)
    rows, columns = h - size + 1, w - size + 1
    chance = rate / size**2 * (h * w) / (rows * columns)
    corners = jax.random.bernoulli(key, chance, (n, rows, columns, c)).astype(x.dtype)
    edge = size - 1
    dropped = lax.reduce_window(
        corners,
        jnp.zeros((), x.dtype),
        lax.max,
        (1, size, size, 1),
        (1, 1, 1, 1),
        [(0, 0), (edge, edge), (edge, edge), (0, 0)],
    )
    kept = 1 - dropped
    return x * kept * (kept.size / jnp.maximum(kept.sum(), 1)).astype(x.dtype)
