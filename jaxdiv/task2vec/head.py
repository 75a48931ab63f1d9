"""The classifier that Task2Vec fits on a probe's features."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key, PRNGKeyArray, UInt32

from jaxdiv.errors import InputError, at_least, unknown
from jaxdiv.nets import logistic
from jaxdiv.nets.logistic import Head
from jaxdiv.nets.precision import full_precision
from jaxdiv.probes.base import check_finite
from jaxdiv.task2vec import aws

HEADS = ("converged", "adam")
# One key, or one for each task; of the older kind a key is some words.
Keys = PRNGKeyArray | Key[Array, " tasks"] | UInt32[Array, "tasks words"]
Labels = Int[ArrayLike, " examples"] | Sequence[int]


@full_precision
def fit_head(
    features: Float[ArrayLike, "examples d"],
    labels: Labels,
    ways: int,
    head: str = "converged",
    key: PRNGKeyArray | None = None,
) -> Head:
    """A linear classifier on pooled features.

    Args:
      features: from `probe.features` or `pooled_features`.
      labels: 0..ways-1.
      ways: how many classes.
      head: `converged`, the L2 logistic regression (C = 1): no random draw, no step size to choose. Or `adam`, the
        reference's: PyTorch's initial weights, 10 epochs of 156 class-balanced batches of 64 drawn with
        replacement, Adam at 4e-4 with 1e-4 · weights added to the gradient; far from converged.
      key: for `adam`.

    Raises:
      InputError: features that are not finite, labels outside 0..ways-1, an unknown head or a missing key.
    """
    check_head_name(head, key)
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    if features.ndim != 2:
        raise InputError(f"features must be [examples, d], not {features.shape}")
    check_finite(features, "features")
    check_labels(labels, features.shape[0], ways)
    if head == "adam":
        return aws.adam_head(features, labels, key, ways)
    return logistic.fit(features, labels, ways=ways)


def check_head_name(head: str, key: Keys | None) -> None:
    """Check that there is such a head, and a key if it is stochastic."""
    if head not in HEADS:
        raise unknown("head", head, HEADS)
    if key is None and head == "adam":
        raise InputError(f"head {head!r} draws at random: give it a jax.random key")


def check_head(head: Head, features: int) -> None:
    """Check that a head fits a probe of so many features."""
    kernel, bias = head.kernel.shape, head.bias.shape
    if len(kernel) != 2 or kernel[0] != features or kernel[1] < 2 or bias != kernel[1:]:
        raise InputError(
            f"the head must be a kernel [{features}, ways] and a bias [ways] of 2 ways or more, not {kernel} and {bias}"
        )
    check_finite(head.kernel, "the head")
    check_finite(head.bias, "the head")


def check_labels(labels: Array | np.ndarray, examples: int, ways: int) -> None:
    at_least(2, ways=ways)  # one class has no score to take a gradient of
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"labels must be whole numbers, not {labels.dtype}")
    if labels.shape != (examples,):
        raise InputError(f"labels must be [{examples}], one for each example, not {labels.shape}")
    if isinstance(labels, jax.core.Tracer):
        return
    if labels.size and not (int(labels.min()) >= 0 and int(labels.max()) < ways):
        raise InputError(f"labels must lie in 0..{ways - 1}, not {int(labels.min())}..{int(labels.max())}")
