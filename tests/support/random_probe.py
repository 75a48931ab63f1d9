"""A random ResNet probe of a few filters, images for it, and a head: what tests of Task2Vec begin with."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.nets.logistic import Head
from jaxdiv.probes.resnet import ResNet
from jaxdiv.probes.resnet_probe import ResNetProbe

# Small maps with many filters take the Gram matrix of patches, large maps with few take each image's gradient.
TINY = ResNet((1, 1), (4, 24), small_stem=True)
CASES = {  # the net, an image's size, how many
    "basic blocks": (TINY, (7, 5), 5),
    "bottlenecks, max-pool": (ResNet((0, 1), (3, 8), bottleneck=True), (21, 15), 2),
}
WAYS = 3


@functools.cache
def setting(net, size, images):
    """A random probe whose batch norms differ from filter to filter, images, and a head of middling confidence."""
    rng = np.random.default_rng(1)
    draw = {
        "kernel": lambda shape: rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape),
        "scale": lambda shape: rng.uniform(0.5, 1.5, shape),
        "bias": lambda shape: rng.normal(0, 0.2, shape),
        "mean": lambda shape: rng.normal(0, 0.2, shape),
        "var": lambda shape: rng.uniform(0.5, 1.5, shape),
    }
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.float32(draw[path[-1].key](leaf.shape)),
        {collection: shapes[collection] for collection in ("params", "batch_stats")},
    )
    probe = ResNetProbe("probe", net, params)
    pixels = rng.normal(size=(images, *size, 3)).astype(np.float32)
    features = probe.features(pixels)
    kernel = rng.normal(size=(features.shape[1], WAYS)) / np.sqrt((features**2).sum(1).mean())
    return probe, pixels, Head(np.float32(kernel), np.float32(rng.normal(0, 0.3, WAYS)))


def warned(call):
    """The messages of the warnings that `call` gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught if warning.category is UserWarning]
