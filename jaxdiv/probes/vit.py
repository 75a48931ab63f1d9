"""Vision transformers as probes: timm's `VisionTransformer` in pure JAX, with weights under timm's names.

`vit_small` is ViT-S/16. timm's `deit_small_patch16_224` (DeiT), `vit_small_patch16_224` and its `.dino` (DINO) are all
of this architecture, as is DINO's own checkpoint. DeiT and DINO want
images normalised by ImageNet's mean and standard deviation, timm's `augreg` weights by .5 and .5.

An embedding has an entry for each output unit of the patch embedding and of every block's `attn.qkv`, `attn.proj`,
`mlp.fc1` and `mlp.fc2`: the mean of the Fisher diagonal over the unit's incoming weights. Biases, layer norms, the
class token and the position embeddings have none.

References:
  Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929. Touvron et al. 2021 (DeiT),
  https://arxiv.org/abs/2012.12877. Caron et al. 2021 (DINO), https://arxiv.org/abs/2104.14294.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from jaxdiv.errors import InputError, some
from jaxdiv.nets.logistic import Head
from jaxdiv.nets.precision import full_precision
from jaxdiv.probes.base import ScoreVectors, Tensors, description, feature_cotangents
from jaxdiv.probes.gradients import kernel_squares
from jaxdiv.probes.images import Seen, check_images, check_numbers, inspect
from jaxdiv.probes.weights import check_tensors, fit

_EPSILON = 1e-6  # of the layer norms, as in timm
_UNUSED = ("head.", "head_dist.")  # classifiers
Params = dict[str, Any]  # timm's module name -> {"kernel", "bias"} or {"scale", "bias"}; and two embeddings


@dataclass(frozen=True)
class ViT:
    """The architecture. `grid` x `grid` patches have position embeddings; other grids get them resampled."""

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 16
    grid: int = 14

    @property
    def dense(self) -> dict[str, tuple[int, int]]:
        """(inputs, units) of every dense layer, in timm's order."""
        w = self.width
        sizes = {"attn.qkv": (w, 3 * w), "attn.proj": (w, w), "mlp.fc1": (w, 4 * w), "mlp.fc2": (4 * w, w)}
        blocks = {f"blocks.{i}.{name}": size for i in range(self.depth) for name, size in sizes.items()}
        return {"patch_embed.proj": (3 * self.patch**2, w), **blocks}

    @property
    def norms(self) -> list[str]:
        return [*(f"blocks.{i}.norm{n}" for i in range(self.depth) for n in (1, 2)), "norm"]

    def tokens(self, layer: str, h: int, w: int) -> int:
        """Tokens that a dense layer sees of an image of h x w pixels: the patches, and but for the first the class."""
        return (h // self.patch) * (w // self.patch) + (layer != "patch_embed.proj")


@flax.struct.dataclass
class ViTProbe:
    """A vision transformer with its parameters.

    Attributes:
      name: the architecture's name, for records.
      net: the static architecture.
      params: by timm's module names; kernels are [inputs, units].
    """

    name: str = flax.struct.field(pytree_node=False)
    net: ViT = flax.struct.field(pytree_node=False)
    params: Params

    def __repr__(self) -> str:
        parameters = sum(int(np.prod(shape)) for shape in _shapes(self.net).values())
        return description(self.name, len(self.layer_names), parameters)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """timm's module name of each entry."""
        return tuple(name for name, (_, units) in self.net.dense.items() for _ in range(units))

    @property
    def weights(self) -> PyTree:
        return {name: self.params[name]["kernel"] for name in self.net.dense}

    def check(self, images: Array) -> None:
        check_images(images, self.net.patch)

    def inspect(self, images: Float[Array, "images h w c"]) -> Seen:
        return inspect(images)

    def check_numbers(self, seen: Seen) -> None:
        check_numbers(seen)

    @full_precision
    def features(self, images: Float[ArrayLike, "images h w c"]) -> Float[Array, "images d"]:
        """The class token after the last norm, of normalised images whose sides are multiples of the patch's."""
        return _features(self, images)

    def fisher(
        self, images: Float[Array, "images h w c"], head: Head, score_vectors: ScoreVectors
    ) -> Float[Array, " entries"]:
        """As `Probe.fisher`, by one backward pass for each column and `kernel_squares` of each dense layer."""
        (n, h, w, _), net = images.shape, self.net
        zeros = {k: jnp.zeros((n, net.tokens(k, h, w), units), images.dtype) for k, (_, units) in net.dense.items()}
        features, backward, inputs = jax.vjp(partial(forward, net, self.params, images), zeros, has_aux=True)
        (cotangents,) = jax.vmap(backward)(feature_cotangents(features, head, score_vectors))
        # A dense layer is a 1x1 convolution over the tokens in one row.
        squares = {k: kernel_squares(inputs[k][:, None], cotangents[k][:, :, None]) for k in net.dense}
        return jnp.concatenate([squares[name] / fan_in for name, (fan_in, _) in net.dense.items()])

    def bytes_per_example(self, image: jax.ShapeDtypeStruct, columns: int) -> int:
        """Of the activations and the attention, and each column's cotangents of them."""
        _, h, w, _ = image.shape
        net = self.net
        sizes = [net.tokens(name, h, w) * (inputs + columns * units) for name, (inputs, units) in net.dense.items()]
        attention = net.depth * net.heads * net.tokens("attn", h, w) ** 2
        return (sum(sizes) + (1 + columns) * attention) * image.dtype.itemsize

    def training_features(
        self, weights: dict[str, Array], images: Float[Array, "images h w c"], counts: Array | None = None
    ) -> Float[Array, "images d"]:
        """`features` under other weights: there is no batch norm, and the study's models drop nothing out."""
        params = self.params | {name: {**self.params[name], "kernel": weights[name]} for name in weights}
        return self.replace(params=params).features(images)  # type: ignore[attr-defined]  # flax adds it

    def mean_squares(self, gradient: dict[str, Array]) -> Float[Array, " entries"]:
        return jnp.concatenate([(gradient[name] ** 2).mean(0) for name in self.net.dense])


@jax.jit
def _features(probe: ViTProbe, images: Array) -> Array:
    return forward(probe.net, probe.params, images)[0]


def forward(
    net: ViT,
    params: Params,
    images: Float[Array, "images h w c"],
    added: Mapping[str, Float[Array, "images _ _"]] | None = None,
) -> tuple[Float[Array, "images d"], dict[str, Float[Array, "images _ _"]]]:
    """Images -> the class token's features, and each dense layer's input [images, tokens, inputs].

    Args:
      net: the architecture.
      params: its parameters.
      images: normalised.
      added: what is added to each dense layer's output [images, tokens, units]: zeros, to differentiate by.
    """
    inputs: dict[str, Array] = {}

    def dense(name: str, x: Array) -> Array:
        inputs[name] = x
        out = x @ params[name]["kernel"] + params[name]["bias"]
        return out if added is None else out + added[name]

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + _EPSILON)
        return scaled * params[name]["scale"] + params[name]["bias"]

    def attention(block: str, x: Array) -> Array:
        n, tokens, width = x.shape
        parts = dense(f"{block}.attn.qkv", x).reshape(n, tokens, 3, net.heads, width // net.heads)
        q, k, v = (parts[:, :, i] for i in range(3))
        scores = jnp.einsum("nqhd,nkhd->nhqk", q * (width // net.heads) ** -0.5, k)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v)
        return dense(f"{block}.attn.proj", mixed.reshape(n, tokens, width))

    n, h, w, _ = images.shape
    rows, columns, p = h // net.patch, w // net.patch, net.patch
    patches = images.reshape(n, rows, p, columns, p, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * columns, -1)
    x = dense("patch_embed.proj", patches)
    first = jnp.broadcast_to(params["cls_token"], (n, 1, net.width))
    x = jnp.concatenate([first, x], 1) + _positions(params["pos_embed"], rows, columns)
    for number in range(net.depth):
        block = f"blocks.{number}"
        x = x + attention(block, norm(f"{block}.norm1", x))
        hidden = jax.nn.gelu(dense(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)), approximate=False)
        x = x + dense(f"{block}.mlp.fc2", hidden)
    return norm("norm", x[:, 0]), inputs


def _positions(stored: Float[Array, "1 tokens d"], rows: int, columns: int) -> Float[Array, "1 tokens2 d"]:
    """Position embeddings of another grid, resampled as in timm: bicubic with antialiasing; the class keeps its own."""
    side = round((stored.shape[1] - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return stored
    grid = stored[:, 1:].reshape(1, side, side, -1)
    grid = jax.image.resize(grid, (1, rows, columns, grid.shape[-1]), "bicubic", antialias=True)
    return jnp.concatenate([stored[:, :1], grid.reshape(1, rows * columns, -1)], 1)


def _shapes(net: ViT) -> dict[str, tuple[int, ...]]:
    """timm's name and shape of every parameter; those of `pos_embed` are of the architecture's own grid."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, net.width),
        "pos_embed": (1, 1 + net.grid**2, net.width),
    }
    for name, (inputs, units) in net.dense.items():
        kernel = (units, 3, net.patch, net.patch) if name == "patch_embed.proj" else (units, inputs)
        shapes |= {f"{name}.weight": kernel, f"{name}.bias": (units,)}
    return shapes | {f"{name}.{leaf}": (net.width,) for name in net.norms for leaf in ("weight", "bias")}


def from_timm(net: ViT, tensors: Tensors, source: str = "weights") -> Params:
    """timm's tensors -> `ViTProbe.params`. A classifier is left out. They may all have one prefix (`weights.fit`).

    Raises:
      InputError: names what is missing, of another shape, not finite, or of no part of this architecture.
    """
    shapes = _shapes(net)
    fitted = fit(tensors, {**shapes, "pos_embed": (1, None, net.width)}, source)
    stored = fitted.get("pos_embed", np.zeros(0)).shape
    if len(stored) == 3 and stored[1] > 1 and round((stored[1] - 1) ** 0.5) ** 2 == stored[1] - 1:
        shapes["pos_embed"] = (1, stored[1], net.width)  # of images of another size
    check_tensors(fitted, shapes, source, tensors)
    tensors = fitted
    if more := [name for name in tensors if name not in shapes and not name.startswith(_UNUSED)]:
        raise InputError(f"{source}: another architecture? {len(more)} parameters are not its own: {some(more)}")
    params: Params = {name: tensors[name] for name in ("cls_token", "pos_embed")}
    for name, (inputs, units) in net.dense.items():
        kernel = tensors[f"{name}.weight"]
        kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
        params[name] = {"kernel": kernel.reshape(inputs, units), "bias": tensors[f"{name}.bias"]}
    for name in net.norms:
        params[name] = {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}
    return jax.tree.map(jnp.asarray, params)


def random_params(key: PRNGKeyArray, net: ViT) -> Params:
    """Random parameters, as training starts from them: normal with standard deviation .02, truncated at two of them."""
    shapes: Params = {"cls_token": (1, 1, net.width), "pos_embed": (1, 1 + net.grid**2, net.width)}
    shapes |= net.dense
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    draw = lambda name: 0.02 * jax.random.truncated_normal(keys[name], -2, 2, shapes[name], jnp.float32)
    params: Params = {name: draw(name) for name in ("cls_token", "pos_embed")}
    params |= {
        name: {"kernel": draw(name), "bias": jnp.zeros(units, jnp.float32)} for name, (_, units) in net.dense.items()
    }
    scale, bias = jnp.ones(net.width, jnp.float32), jnp.zeros(net.width, jnp.float32)
    return params | {name: {"scale": scale, "bias": bias} for name in net.norms}


NETS: Mapping[str, ViT] = {"vit_small": ViT()}


def load(name: str, tensors: Tensors | None, key: PRNGKeyArray, source: str) -> ViTProbe:
    """The probe `name` from tensors by their names, or random by `key` if they are None; errors name `source`."""
    net = NETS[name]
    params = random_params(key, net) if tensors is None else from_timm(net, tensors, source)
    return ViTProbe(name, net, params)
