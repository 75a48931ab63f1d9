"""The learners' batch norm: by the batch's own statistics, which it hands back, or by given ones."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

STATISTICS = "batch_stats"
_EPSILON = 1e-5


class BatchNorm(nn.Module):
    """scale · (x − mean) / √(var + 1e-5) + bias, a mean and a (biased) variance for each channel.

    Where the collection `batch_stats` is mutable, they are the batch's own and are left there; otherwise they are what
    the collection holds. No running average is kept here: which statistics a method uses where is its policy
    (`network.BATCH_NORM`). Statistics are float32 at least, whatever x is.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable(STATISTICS, "mean", jnp.zeros, shape)
        var = self.variable(STATISTICS, "var", jnp.ones, shape)
        exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.is_mutable_collection(STATISTICS) and not self.is_initializing():
            # Not E[x²] − E[x]²: it loses digits that the higher-order gradient needs.
            mean.value, var.value = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
        return (scale * (exact - mean.value) * lax.rsqrt(var.value + _EPSILON) + bias).astype(x.dtype)
