"""A learner's network as three pure functions, and the batch-norm policies built from them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiv.errors import check_known, within
from jaxdiv.nets.conv4 import Conv4
from jaxdiv.nets.norm import STATISTICS
from jaxdiv.nets.precision import full_precision
from jaxdiv.nets.resnet12 import ResNet12

NETS = ("conv4", "resnet12")
COMPUTE = {"float32": None, "bfloat16": jnp.bfloat16}
# Whose statistics normalise what. In training a batch always has its own; the policies differ in
# `transductive`: support and query images each by their own, in training and in every test (the study's);
# `support_statistics`: query images by those of the support set under the adapted parameters, so that predictions do
#   not depend on other query images;
# `running`: in a test, all images by an average that training kept.
BATCH_NORM = ("transductive", "support_statistics", "running")
_MOMENTUM = 0.9  # of the running average, PyTorch's 0.1


class Output(NamedTuple):
    """What a network makes of a batch; `stats` are the batch-norm statistics that it used."""

    logits: Float[Array, "n ways"]
    features: Float[Array, "n d"]
    stats: PyTree


@dataclass(frozen=True)
class Network:
    """A network as pure functions. Equal values hash equal, so that jit compiles once for all of them.

    Attributes:
      module: a Linen module of `ways` logits. It takes a batch and DropBlock's scale, and returns logits and features.
      shape: of one example, without the batch's axis: height, width, channels of an image.
    """

    module: nn.Module
    shape: tuple[int, ...]

    @full_precision
    @partial(jax.jit, static_argnames="self")  # only the draws: the forward pass that tells the shapes is not computed
    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Parameters, and batch-norm statistics of mean 0 and variance 1."""
        variables = self.module.init(key, jnp.zeros((2, *self.shape)))
        return variables["params"], variables.get(STATISTICS, {})

    @full_precision
    def apply_batch_stats(
        self, params: PyTree, batch: Array, key: PRNGKeyArray | None = None, dropblock_scale: Array | float = 0.0
    ) -> Output:
        """Batch norm by the batch's own statistics.

        Args:
          key: turns dropout on; None: no dropout.
          dropblock_scale: DropBlock's rate, as a share of dropout's.
        """
        streams: dict[str, Any] = {} if key is None else {"rngs": {"dropout": key}}
        (logits, features), state = self.module.apply(
            {"params": params}, batch, dropblock_scale, mutable=[STATISTICS], **streams
        )
        return Output(logits, features, state.get(STATISTICS, {}))

    @full_precision
    def apply_given_stats(self, params: PyTree, stats: PyTree, batch: Array) -> Output:
        """Batch norm by the given statistics, without dropout."""
        logits, features = self.module.apply({"params": params, STATISTICS: stats}, batch, mutable=[])[0]
        return Output(logits, features, stats)

    def with_ways(self, ways: int) -> "Network":
        """The same network with a head of `ways` logits; 0: without a head."""
        return replace(self, module=self.module.clone(ways=ways))


def make_network(
    name: str,
    ways: int,
    pixels: int,
    width: int = 64,
    dropout: float = 0.1,
    compute: str = "float32",
    channels: int = 3,
) -> Network:
    """One of `NETS` for images of `pixels` x `pixels` x `channels`.

    Args:
      ways: logits; 0: no head, the logits are the features.
      width: conv-4's channels; ResNet-12's are `width` times 1, 2.5, 5 and 10.
      dropout: ResNet-12's.
      compute: `float32` or `bfloat16`, of the convolutions; parameters, statistics and head stay float32.

    Raises:
      InputError: an unknown network or compute type, or a dropout outside [0, 1).
    """
    check_known("network", name, NETS)
    check_known("compute type", compute, COMPUTE)
    within(0, 1, dropout=dropout)
    dtype = COMPUTE[compute]
    module: nn.Module = (
        Conv4(ways, width, dtype)
        if name == "conv4"
        else ResNet12(ways, tuple(round(width * times) for times in (1, 2.5, 5, 10)), dropout, dtype)
    )
    return Network(module, (pixels, pixels, channels))


def task_features(
    net: Network, batch_norm: str, params: PyTree, running: PyTree, support: Array
) -> tuple[Float[Array, "support d"], Callable[[Array], Float[Array, "query d"]]]:
    """Features of a test task under parameters that do not adapt.

    Args:
      batch_norm: one of BATCH_NORM.
      running: the statistics that training kept, where `batch_norm` is `running`.
      support: the support batch.

    Returns:
      Features of the support batch, and the function that gives those of a query batch.
    """
    if batch_norm == "running":
        found = net.apply_given_stats(params, running, support)
    else:
        found = net.apply_batch_stats(params, support)
    if batch_norm == "transductive":
        return found.features, lambda queries: net.apply_batch_stats(params, queries).features
    return found.features, lambda queries: net.apply_given_stats(params, found.stats, queries).features


def update_running(running: PyTree, stats: PyTree) -> PyTree:
    """The running average of batch-norm statistics after one more batch, whose own are `stats`."""
    return jax.tree.map(lambda old, new: _MOMENTUM * old + (1 - _MOMENTUM) * new, running, stats)
