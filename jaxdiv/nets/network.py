"""A learner's network as pure functions, and the batch-norm policies built from them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiv.nets.conv4 import Conv4
from jaxdiv.nets.norm import STATISTICS
from jaxdiv.nets.resnet12 import ResNet12

NETS = ("conv4", "resnet12")
COMPUTE = {"float32": None, "bfloat16": jnp.bfloat16}
# Whose statistics normalise what. In training a batch always has its own; the policies differ in
# `transductive`: support and query images each by their own, in training and in every test (the study's);
# `support_statistics`: query images by those of the support set under the adapted parameters, so that no query image
#   tells of another;
# `running`: in a test, all images by an average that training kept.
BATCH_NORM = ("transductive", "support_statistics", "running")
MOMENTUM = 0.9  # of the running average, PyTorch's 0.1


class Output(NamedTuple):
    """What a network makes of a batch; `stats` are the batch-norm statistics that it used."""

    logits: Float[Array, "n ways"]
    features: Float[Array, "n d"]
    stats: PyTree


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      init: `key -> params, stats`; the statistics are mean 0 and variance 1.
      by_batch: `params, images, key=None, ramp=0.0 -> Output`, batch norm by the batch's own statistics. A key turns
        dropout on.
      by_stats: `params, stats, images -> Output`, batch norm by the given ones.
    """

    init: Callable[[PRNGKeyArray], tuple[PyTree, PyTree]]
    by_batch: Callable[..., Output]
    by_stats: Callable[[PyTree, PyTree, Array], Output]


def make_network(
    name: str,
    ways: int,
    pixels: int,
    width: int = 64,
    dropout: float = 0.1,
    compute: str = "float32",
    channels: int = 3,
) -> Network:
    """One of `NETS` with `ways` logits for images of `pixels` x `pixels` x `channels`.

    Args:
      width: conv-4's channels; ResNet-12's are `width` times 1, 2.5, 5 and 10.
      dropout: ResNet-12's.
      compute: `float32` or `bfloat16`, of the convolutions; parameters, statistics and head stay float32.
    """
    dtype = COMPUTE[compute]
    module: nn.Module = (
        Conv4(ways, width, dtype)
        if name == "conv4"
        else ResNet12(ways, tuple(round(width * times) for times in (1, 2.5, 5, 10)), dropout, dtype)
    )

    def init(key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        variables = module.init(key, jnp.zeros((2, pixels, pixels, channels)))
        return variables["params"], variables[STATISTICS]

    return Network(init, *functions(module))


def functions(module: nn.Module) -> tuple[Callable[..., Output], Callable[[PyTree, PyTree, Array], Output]]:
    """`Network.by_batch` and `Network.by_stats` of a Linen network that returns logits and features."""

    def by_batch(params: PyTree, images: Array, key: PRNGKeyArray | None = None, ramp: Array | float = 0.0) -> Output:
        streams: dict[str, Any] = {} if key is None else {"rngs": {"dropout": key}}
        (logits, features), state = module.apply({"params": params}, images, ramp, mutable=[STATISTICS], **streams)
        return Output(logits, features, state[STATISTICS])

    def by_stats(params: PyTree, stats: PyTree, images: Array) -> Output:
        logits, features = module.apply({"params": params, STATISTICS: stats}, images, mutable=[])[0]
        return Output(logits, features, stats)

    return by_batch, by_stats
