"""Conv-4: the four-block few-shot network of Vinyals et al. 2016, as in Finn et al. 2017 (MAML)."""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxdiv.nets.conv import conv_general_dilated, max_pool_2x2


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm, ReLU, 2x2 max-pool; then a linear head on the flat features.

    Batch norm always uses the batch's own statistics (the study's `transductive` policy), so there is no running
    state: `forward` below is a pure function of the parameters.
    """

    ways: int
    width: int = 64

    @nn.compact
    def __call__(self, images: Float[Array, "images h w c"]) -> tuple[Array, Array]:
        x = images
        for _ in range(4):
            x = nn.Conv(self.width, (3, 3), use_bias=False, conv_general_dilated=conv_general_dilated)(x)
            # Var by E[x²]-E[x]² (Flax's fast path) loses digits that the higher-order gradient needs.
            x = nn.BatchNorm(use_running_average=False, epsilon=1e-5, use_fast_variance=False)(x)
            x = max_pool_2x2(nn.relu(x))
        features = x.reshape(x.shape[0], -1)
        return nn.Dense(self.ways)(features), features


def forward(net: nn.Module, params, images: Float[Array, "images h w c"]) -> tuple[Array, Array]:
    """`net` on a batch with the batch's own statistics -> logits `[images, ways]`, features `[images, d]`."""
    return net.apply({"params": params}, images, mutable=["batch_stats"])[0]
