"""ResNets: torchvision's architecture with batch norm frozen at stored statistics, in Flax Linen.

Parameters have torchvision's module names (`layer1.0.conv1.weight` is `params["layer1"]["0"]["conv1"]["kernel"]`),
so that one table, `layers`, serves the weights' loader, the Fisher and the names of an embedding's entries.
He et al. 2016, https://arxiv.org/abs/1512.03385.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, no_type_check

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdiv.nets.conv import conv_general_dilated

TAPS = "taps"  # collection: what the Fisher needs of a layer's forward pass
PERTURBATIONS = "perturbations"  # collection: zeros added to batch norm's outputs, to differentiate by
_EPSILON = 1e-5
Weights = Float[Array, " images"] | None  # how often a batch has each image; None: once


class Layer(NamedTuple):
    """One convolution and the batch norm that follows it, under torchvision's names."""

    conv: str
    norm: str
    inputs: int
    filters: int
    kernel: int
    stride: int

    @property
    def padding(self) -> int:
        return self.kernel // 2


@no_type_check  # its field `promote_dtype` is of a protocol that no check at run time can look into
class Conv(nn.Conv):
    """Linen's convolution, which also leaves its input in the collection `taps`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        self.sow(TAPS, "input", x, init_fn=lambda: None, reduce_fn=lambda _, new: new)
        return super().__call__(x)


class FrozenNorm(nn.Module):
    """Batch norm at stored statistics: scale · x̂ + bias with x̂ = (x − mean) / √(var + 1e-5).

    Leaves x̂ in `taps` and adds the perturbation `output`. Where `batch_stats` is mutable, the batch's statistics
    are stored first: that is how a random probe is calibrated. With `weights`, those of a batch that has each image so
    many times.
    """

    @nn.compact
    def __call__(self, x: Array, weights: Weights = None) -> Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            if weights is None:
                mean.value, var.value = x.mean((0, 1, 2)), x.var((0, 1, 2))
            else:
                share = (weights / (weights.sum() * x.shape[1] * x.shape[2]))[:, None, None, None]
                mean.value = (share * x).sum((0, 1, 2))
                var.value = (share * (x - mean.value) ** 2).sum((0, 1, 2))
        normalised = (x - mean.value) * lax.rsqrt(var.value + _EPSILON)
        self.sow(TAPS, "normalised", normalised, init_fn=lambda: None, reduce_fn=lambda _, new: new)
        return self.perturb("output", scale * normalised + bias, PERTURBATIONS)


class Downsample(nn.Module):
    layer: Layer

    @nn.compact
    def __call__(self, x: Array, weights: Weights = None) -> Array:
        return FrozenNorm(name="1")(_conv(self.layer, name="0")(x), weights)


class Block(nn.Module):
    """A residual block: `main` layers with ReLU between, plus the input or its projection, then ReLU."""

    main: tuple[Layer, ...]
    shortcut: Layer | None

    @nn.compact
    def __call__(self, x: Array, weights: Weights = None) -> Array:
        out = x
        for number, layer in enumerate(self.main, 1):
            out = FrozenNorm(name=f"bn{number}")(_conv(layer, name=f"conv{number}")(out), weights)
            out = nn.relu(out) if number < len(self.main) else out
        if self.shortcut is not None:
            x = Downsample(self.shortcut, name="downsample")(x, weights)
        return nn.relu(out + x)


class Stage(nn.Module):
    blocks: tuple[tuple[tuple[Layer, ...], Layer | None], ...]

    @nn.compact
    def __call__(self, x: Array, weights: Weights = None) -> Array:
        for number, (main, shortcut) in enumerate(self.blocks):
            x = Block(main, shortcut, name=str(number))(x, weights)
        return x


class ResNet(nn.Module):
    """A ResNet without its classifier: images [images, h, w, 3] -> pooled features [images, d].

    Attributes:
      depths: blocks of each stage.
      widths: channels of each stage; a bottleneck block puts out four times as many.
      bottleneck: three convolutions a block (1x1, 3x3, 1x1) instead of two 3x3.
      stride_first: a bottleneck's stride is in the first 1x1 (the paper's, "v1"), not in the 3x3 (torchvision's).
      small_stem: one 3x3 convolution and no max-pool, for small images; otherwise 7x7/2 and 3x3/2 max-pool.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    stride_first: bool = False
    small_stem: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "images h w c"], weights: Weights = None) -> Float[Array, "images d"]:
        x = nn.relu(FrozenNorm(name="bn1")(_conv(_stem(self), name="conv1")(images), weights))
        if not self.small_stem:
            x = _max_pool_3x3(x)
        for number, blocks in enumerate(_stages(self), 1):
            x = Stage(blocks, name=f"layer{number}")(x, weights)
        return x.mean((1, 2))


def layers(net: ResNet) -> tuple[Layer, ...]:
    """Every convolution with its batch norm, in the order of torchvision's `named_modules`."""
    found = [_stem(net)]
    for blocks in _stages(net):
        for main, shortcut in blocks:
            found += [*main, *([shortcut] if shortcut else [])]
    return tuple(found)


def feature_count(net: ResNet) -> int:
    return net.widths[-1] * (4 if net.bottleneck else 1)


NETS: Mapping[str, ResNet] = {
    "resnet10_narrow": ResNet((1, 1, 1, 1), (16, 32, 64, 128), small_stem=True),
    "resnet18": ResNet((2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet34": ResNet((3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet50": ResNet((3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True),
    "resnet50_v1": ResNet((3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True, stride_first=True),
}


def at(tree: Mapping[str, Any], module: str) -> Any:
    """The part of a collection that belongs to a module, by torchvision's name for it."""
    for step in module.split("."):
        tree = tree[step]
    return tree


def _conv(layer: Layer, name: str) -> Conv:
    return Conv(
        layer.filters,
        (layer.kernel, layer.kernel),
        (layer.stride, layer.stride),
        [(layer.padding, layer.padding)] * 2,
        use_bias=False,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def _stem(net: ResNet) -> Layer:
    kernel, stride = (3, 1) if net.small_stem else (7, 2)
    return Layer("conv1", "bn1", 3, net.widths[0], kernel, stride)


def _stages(net: ResNet) -> list[tuple[tuple[tuple[Layer, ...], Layer | None], ...]]:
    """Of every stage, of every block: the main layers, and the shortcut's projection where there is one."""
    stages = []
    inputs = net.widths[0]
    for number, (depth, width) in enumerate(zip(net.depths, net.widths, strict=True), 1):
        out = 4 * width if net.bottleneck else width
        blocks: list[tuple[tuple[Layer, ...], Layer | None]] = []
        for block in range(depth):
            stride = 2 if number > 1 and block == 0 else 1
            path = f"layer{number}.{block}"
            if net.bottleneck:
                strides: tuple[int, ...] = (stride, 1, 1) if net.stride_first else (1, stride, 1)
                shapes = [(inputs, width, 1), (width, width, 3), (width, out, 1)]
            else:
                strides = (stride, 1)
                shapes = [(inputs, width, 3), (width, width, 3)]
            main = tuple(
                Layer(f"{path}.conv{i}", f"{path}.bn{i}", *shape, s)
                for i, (shape, s) in enumerate(zip(shapes, strides, strict=True), 1)
            )
            projected = stride != 1 or inputs != out
            shortcut = Layer(f"{path}.downsample.0", f"{path}.downsample.1", inputs, out, 1, stride)
            blocks.append((main, shortcut if projected else None))
            inputs = out
        stages.append(tuple(blocks))
    return stages


def _max_pool_3x3(x: Float[Array, "images h w c"]) -> Float[Array, "images h2 w2 c"]:
    """3x3 max-pool, stride 2, padding 1 of −∞: the stem's. The first of equal values wins, as in PyTorch.

    The winners count as constant, as in `conv.max_pool_2x2`: on a CPU the derivative is then several times faster than
    `reduce_window`'s scatter.
    """
    _, h, w, _ = x.shape
    out_h, out_w = (h + 1) // 2, (w + 1) // 2
    padded = jnp.pad(x, ((0, 0), (1, 1 + h % 2), (1, 1 + w % 2), (0, 0)), constant_values=-jnp.inf)
    windows = [padded[:, i : i + 2 * out_h : 2, j : j + 2 * out_w : 2] for i in range(3) for j in range(3)]
    top = lax.stop_gradient(windows[0])
    for window in windows[1:]:
        top = jnp.maximum(top, lax.stop_gradient(window))
    out, free = jnp.zeros_like(top), jnp.ones(top.shape, bool)
    for window in windows:
        wins = free & (lax.stop_gradient(window) == top)
        out = out + jnp.where(wins, window, 0)
        free = free & ~wins
    return jnp.where(jnp.isnan(top), top, out)
