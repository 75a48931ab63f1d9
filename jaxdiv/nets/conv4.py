"""Conv-4: the four-block few-shot network of Vinyals et al. 2016, as in Finn et al. 2017 (MAML)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiv.nets.conv import conv_general_dilated
from jaxdiv.nets.norm import BatchNorm


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm, ReLU, 2x2 max-pool; then a linear head on the flat features.

    Attributes:
      ways: logits; 0: no head, the logits are the features.
      width: channels of every block.
      dtype: of the convolutions (None: of images and parameters); the head is float32 at least.
    """

    ways: int
    width: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "images h w c"], dropblock_scale: Array | float = 0.0
    ) -> tuple[Array, Array]:
        """Logits `[images, ways]` and features `[images, d]`. It has no DropBlock that could be scaled."""
        x = images
        for _ in range(4):
            x = nn.Conv(
                self.width, (3, 3), use_bias=False, dtype=self.dtype, conv_general_dilated=conv_general_dilated
            )(x)
            x = nn.relu(BatchNorm()(x, pool=True))
        features = x.reshape(x.shape[0], -1).astype(jnp.promote_types(x.dtype, jnp.float32))
        return (nn.Dense(self.ways, name="head")(features) if self.ways else features), features
