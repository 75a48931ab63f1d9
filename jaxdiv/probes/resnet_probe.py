"""ResNets as probes: their Fisher, fast; their parameters, from torchvision's tensors or at random.

No gradient of a single image is formed for its own sake. One backward pass of the whole batch gives the cotangent d at
each batch norm's output; d and the layer's input give each filter's squared gradient (`gradients.kernel_squares`).
"""

import re
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from jaxdiv.errors import InputError, some
from jaxdiv.nets.logistic import Head
from jaxdiv.nets.precision import full_precision
from jaxdiv.probes.base import ScoreVectors, Tensors, description, feature_cotangents
from jaxdiv.probes.gradients import kernel_squares
from jaxdiv.probes.images import Seen, check_images, check_numbers, inspect
from jaxdiv.probes.resnet import NETS, PERTURBATIONS, TAPS, ResNet, Weights, at, feature_count, layers
from jaxdiv.probes.weights import check_tensors, fit, resembles

# torchvision's leaf name -> our collection and leaf name.
_CONV = {"weight": ("params", "kernel")}
_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


@flax.struct.dataclass
class ResNetProbe:
    """A ResNet with its parameters. It has an entry for each convolution filter and for each batch-norm scale.

    Attributes:
      name: the architecture's name, for records.
      net: the static architecture.
      params: `{"params": ..., "batch_stats": ...}` of the network, and `{"fc": {"kernel", "bias"}}` where the weights
        came with a classifier.
    """

    name: str = flax.struct.field(pytree_node=False)
    net: ResNet = flax.struct.field(pytree_node=False)
    params: dict[str, Any]

    def __repr__(self) -> str:
        convolutions = sum(layer.kernel**2 * layer.inputs * layer.filters for layer in layers(self.net))
        entries = len(self.layer_names)  # a scale and a bias for each filter: as many as there are entries
        return description(self.name, entries, convolutions + entries)

    @property
    def variables(self) -> dict[str, Any]:
        return {name: self.params[name] for name in ("params", "batch_stats")}

    @property
    def layer_names(self) -> tuple[str, ...]:
        """torchvision's module name of each entry, in its module order."""
        pairs = [(n, layer.filters) for layer in layers(self.net) for n in (layer.conv, layer.norm)]
        return tuple(name for name, count in pairs for _ in range(count))

    @property
    def weights(self) -> dict[str, Any]:
        return self.params["params"]

    def check(self, images: Array) -> None:
        check_images(images)

    def inspect(self, images: Float[Array, "images h w c"]) -> Seen:
        return inspect(images)

    def check_numbers(self, seen: Seen) -> None:
        check_numbers(seen)

    @full_precision
    def features(self, images: Float[ArrayLike, "images h w c"]) -> Float[Array, "images d"]:
        """Pooled features of normalised images."""
        return _features(self, images)

    @full_precision
    def logits(self, images: Float[ArrayLike, "images h w c"]) -> Float[Array, "images classes"]:
        """The class scores of the weights' own classifier.

        Raises:
          InputError: the probe has none.
        """
        if "fc" not in self.params:
            raise InputError(f"probe {self.name!r} has no classifier: it was not loaded from weights with fc.weight")
        return self.features(images) @ self.params["fc"]["kernel"] + self.params["fc"]["bias"]

    def fisher(
        self, images: Float[Array, "images h w c"], head: Head, score_vectors: ScoreVectors
    ) -> Float[Array, " entries"]:
        """As `Probe.fisher`, by one backward pass for each column."""
        net, variables = self.net, self.variables
        shapes = jax.eval_shape(lambda: net.apply(variables, images, mutable=[PERTURBATIONS])[1][PERTURBATIONS])
        zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)

        def forward(perturbations: dict) -> tuple[Array, dict]:
            features, state = net.apply({**variables, PERTURBATIONS: perturbations}, images, mutable=[TAPS])
            return features, state[TAPS]

        features, backward, taps = jax.vjp(forward, zeros, has_aux=True)
        (cotangents,) = jax.vmap(backward)(feature_cotangents(features, head, score_vectors))
        found = []
        for layer in layers(net):
            d = at(cotangents, layer.norm)["output"]
            norm = at(variables["params"], layer.norm)
            var = at(variables["batch_stats"], layer.norm)["var"]
            squares = kernel_squares(at(taps, layer.conv)["input"], d, layer.kernel, layer.stride)
            # d is taken behind the batch norm: its slope leads to the convolution's output.
            found.append(squares * norm["scale"] ** 2 / (var + 1e-5) / (layer.kernel**2 * layer.inputs))
            # Not an einsum, which XLA makes a small dot product per image and filter: 3 to 8 times slower on a CPU.
            slopes = jnp.sum(d * at(taps, layer.norm)["normalised"], (2, 3))
            found.append(jnp.sum(slopes**2, (0, 1)))
        return jnp.concatenate(found)

    def bytes_per_example(self, image: jax.ShapeDtypeStruct, columns: int) -> int:
        """Of the activations and each column's cotangents."""
        collections = [TAPS, PERTURBATIONS]
        state = jax.eval_shape(lambda x: self.net.apply(self.variables, x, mutable=collections)[1], image)
        sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(state[name])) for name in collections}
        return (sizes[TAPS] + columns * sizes[PERTURBATIONS]) * image.dtype.itemsize

    def training_features(
        self, weights: dict[str, Any], images: Float[Array, "images h w c"], counts: Weights = None
    ) -> Float[Array, "images d"]:
        variables = {"params": weights, "batch_stats": self.params["batch_stats"]}
        # A mutable `batch_stats` makes every norm use the statistics of this batch.
        return self.net.apply(variables, images, counts, mutable=["batch_stats"])[0]

    def mean_squares(self, gradient: dict[str, Any]) -> Float[Array, " entries"]:
        found = []
        for layer in layers(self.net):
            found.append((at(gradient, layer.conv)["kernel"] ** 2).mean((0, 1, 2)))
            found.append(at(gradient, layer.norm)["scale"] ** 2)
        return jnp.concatenate(found)


@jax.jit
def _features(probe: ResNetProbe, images: Array) -> Array:
    features = probe.net.apply(probe.variables, images)
    assert isinstance(features, jax.Array)  # not a tuple: no collection is mutable
    return features


def random_params(key: PRNGKeyArray, net: ResNet) -> dict[str, Any]:
    """Random parameters: He-normal (fan-out) convolutions, batch-norm scale 1 and bias 0, calibrated statistics.

    With mean 0 and variance 1 in every batch norm nothing would be normalised: each residual block would add its
    variance to its input's, so activations would grow by a factor of 2^(blocks/2) through the network (256 in a
    ResNet-50), logits would saturate and the Fisher would be that of the last blocks alone. Training's running
    statistics prevent that, so a random probe gets its own from one batch of 16 noise images, which has nothing
    of any benchmark in it. The noise has equal power at every octave, roughly like photographs; white noise has
    nearly all its power where a stem averages it away.
    """
    weights, noise = jax.random.split(key)
    images = _octave_noise(noise, images=16, size=64)
    shapes = jax.eval_shape(net.init, weights, images)
    kernels = [layer.kernel**2 * layer.inputs * layer.filters for layer in layers(net)]
    # One draw for all kernels: on a CPU each draw inside a jitted init costs a second of compile time.
    drawn = jnp.split(jax.random.normal(weights, (sum(kernels),), jnp.float32), np.cumsum(kernels)[:-1])
    params = jax.tree.map(lambda like: jnp.zeros(like.shape, jnp.float32), shapes["params"])
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.ones_like(leaf) if path[-1].key == "scale" else leaf, params
    )
    for layer, values in zip(layers(net), drawn, strict=True):
        shape = (layer.kernel, layer.kernel, layer.inputs, layer.filters)
        std = (2.0 / (layer.kernel**2 * layer.filters)) ** 0.5
        at(params, layer.conv)["kernel"] = std * values.reshape(shape)
    return {"params": params, "batch_stats": _calibrate(net, params, shapes["batch_stats"], images)}


@partial(jax.jit, static_argnames=("net",))
def _apply_calibrating(net: ResNet, params: Any, stats: Any, images: Array) -> Any:
    return net.apply({"params": params, "batch_stats": stats}, images, mutable=["batch_stats"])[1]["batch_stats"]


def _calibrate(net: ResNet, params: Any, shapes: Any, images: Array) -> Any:
    stats = jax.tree.map(lambda like: jnp.zeros(like.shape, jnp.float32), shapes)
    return _apply_calibrating(net, params, stats, images)


def _octave_noise(key: PRNGKeyArray, images: int, size: int) -> Float[Array, "images size size 3"]:
    """Noise of mean 0 and variance 1 with equal power at every octave: coarse grids, repeated to full size."""
    grids = [2**n for n in range(1, size.bit_length())]
    drawn = jax.random.normal(key, (images, sum(n * n for n in grids), 3), jnp.float32)
    noise = jnp.zeros((images, size, size, 3), jnp.float32)
    start = 0
    for n in grids:
        grid = drawn[:, start : start + n * n].reshape(images, n, n, 3)
        noise = noise + grid.repeat(size // n, 1).repeat(size // n, 2)
        start += n * n
    return noise / len(grids) ** 0.5


def from_torchvision(net: ResNet, tensors: Tensors, source: str = "weights") -> dict[str, Any]:
    """torchvision's tensors (OIHW kernels) -> `ResNetProbe.params`, with the classifier `fc` where it is there.

    They may all have one prefix, as in a training checkpoint (`weights.fit`).

    Raises:
      InputError: names what is missing, of another shape, not finite, or of no part of this architecture.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    paths: dict[str, tuple[str, ...]] = {}
    for layer in layers(net):
        kernel = (layer.filters, layer.inputs, layer.kernel, layer.kernel)
        for module, table, shape in ((layer.conv, _CONV, kernel), (layer.norm, _NORM, (layer.filters,))):
            for leaf, (collection, ours) in table.items():
                shapes[f"{module}.{leaf}"] = shape
                paths[f"{module}.{leaf}"] = (collection, *module.split("."), ours)
    fitted = fit(tensors, shapes, source)
    check_tensors(fitted, shapes, source, tensors)
    # A ResNet-34 has all that a ResNet-18 has.
    parts = [name for name in fitted if re.match(r"(conv1|bn1|layer\d+)\.", name) and name not in shapes]
    if more := [name for name in parts if not name.endswith(".num_batches_tracked")]:
        like = resembles({name: value.shape for name, value in fitted.items()})
        raise InputError(f"{source}: {like}? {len(more)} parameters are not of this architecture: {some(more)}")
    tensors = fitted
    params: dict[str, Any] = {}
    for name, path in paths.items():
        value = tensors[name]
        _put(params, path, value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    if "fc.weight" in tensors:
        params["fc"] = _classifier(net, tensors, source)
    return jax.tree.map(jnp.asarray, params)


def _classifier(net: ResNet, tensors: Tensors, source: str) -> dict[str, np.ndarray]:
    kernel = tensors["fc.weight"]
    bias = tensors.get("fc.bias", np.zeros(kernel.shape[0], np.float32))
    if kernel.shape != (len(bias), feature_count(net)):
        shapes = f"fc.weight is {kernel.shape} and fc.bias {bias.shape}"
        raise InputError(f"{source}: {shapes}, not (classes, {feature_count(net)}) and (classes,)")
    return {"kernel": kernel.T, "bias": bias}


def _put(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for step in path[:-1]:
        tree = tree.setdefault(step, {})
    tree[path[-1]] = value


def load(name: str, tensors: Tensors | None, key: PRNGKeyArray, source: str) -> ResNetProbe:
    """The probe `name` from tensors by their names, or random by `key` if they are None; errors name `source`."""
    net = NETS[name]
    params = random_params(key, net) if tensors is None else from_torchvision(net, tensors, source)
    return ResNetProbe(name, net, params)
