"""Task2Vec: a probe and one task's images -> the diagonal of the Fisher information, per filter.

The Fisher diagonal of the probe's weights w under the model's own labels, F = E_x E_{y~p(y|x)} (∂ log p(y|x)/∂w)²
(Achille et al. 2019, https://arxiv.org/abs/1902.03545), for every convolution and every batch-norm scale, averaged over
all axes but the output channel.

Labels cost nothing to enumerate. The expectation over y is that of vᵀJ over the score vectors v = e_y − p at the
logits, and E vvᵀ = diag(p) − ppᵀ = LLᵀ with ways − 1 columns: one backward pass a column is exact. And no gradient of
a single image is ever formed for its own sake: one backward pass of the whole batch gives the cotangent d at each
batch norm's output, and with the layer's input patches X ([pixels, kernel·kernel·inputs]) an image's kernel gradient is
Xᵀd, of which only each filter's squared norm is wanted.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jaxdiv.errors import InputError, at_least, unknown
from jaxdiv.nets import logistic
from jaxdiv.nets.conv import kernel_grad
from jaxdiv.nets.logistic import Head
from jaxdiv.probes.resnet import PERTURBATIONS, TAPS, Layer, Probe, at, feature_count, layers
from jaxdiv.task2vec import aws

# probabilities [images, ways], key -> score vectors [images, columns, ways]
Columns = Callable[[Array, PRNGKeyArray | None], Array]
# Bytes of activations and cotangents that one chunk of images may take, by default.
_CHUNK_BYTES = 2**28  # larger chunks were slower on a CPU: they leave its caches


HEADS = ("converged", "adam")

# Normalised images lie within a few units of 0: `(pixel / 255 - mean) / std` with any data set's own numbers.
_HIGHEST = 20.0
# At least this share of pixels exactly 0: drawings. Omniglot's tasks have .44 and more at 8 px, .86 at 84 px.
_DRAWN = 1 / 3
_IMAGENET = "for ImageNet weights mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225)"
_UNNORMALISED = {
    "bytes": f"images look like pixels of 0..255: give (images / 255 - mean) / std, {_IMAGENET}",
    "shares": "images look unnormalised, all in 0..1 and none negative: give (images - mean) / std, of images / 255 "
    f"where those are bytes, {_IMAGENET}",
}


def fit_head(
    features: Float[Array, "images d"],
    labels: Int[Array, " images"],
    ways: int,
    head: str = "converged",
    key: PRNGKeyArray | None = None,
) -> Head:
    """A linear classifier on pooled features.

    Args:
        head: `converged`, the L2 logistic regression (C = 1): no random draw, no step size to choose. Or `adam`, the
            reference's: PyTorch's initial weights, 10 epochs of 156 class-balanced batches of 64 drawn with
            replacement, Adam at 4e-4 with 1e-4 · weights added to the gradient; far from converged.
        key: for `adam`.

    Raises InputError where features are not finite, labels are outside 0..ways-1, the head is unknown or a key lacks.
    """
    check_names(None, head, key)
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    if features.ndim != 2:
        raise InputError(f"features must be [images, d], not {features.shape}")
    check_finite(features, "features")
    check_labels(labels, features.shape[0], ways)
    if head == "adam":
        return aws.adam_head(features, labels, key, ways)
    return logistic.fit(features, labels, ways=ways)


def exact(probe: Probe, images: Array, head: Head, key: PRNGKeyArray | None = None, chunk: int | None = None) -> Array:
    """The Fisher diagonal itself, by ways − 1 backward passes. Uses no key. Arguments as `fisher`'s."""
    return _fisher(probe, images, head, key, stick_breaking, chunk)


def rademacher(probe: Probe, images: Array, head: Head, key: PRNGKeyArray, chunk: int | None = None) -> Array:
    """Unbiased, by one backward pass: a random ±1 mixture of the exact columns. Arguments as `fisher`'s."""
    return _fisher(probe, images, head, key, _random_signs, chunk)


def mc(probe: Probe, images: Array, head: Head, key: PRNGKeyArray, chunk: int | None = None) -> Array:
    """Unbiased and very noisy: one label an image, drawn from the model. Arguments as `fisher`'s."""
    return _fisher(probe, images, head, key, _one_label, chunk)


def reference(probe: Probe, images: Array, head: Head, key: PRNGKeyArray, chunk: int | None = None) -> Array:
    """The study's own procedure, noise and all (`reference.fisher`). Arguments as `fisher`'s; `chunk` is not used."""
    return aws.fisher(probe, images, head, key)


ESTIMATORS: Mapping[str, Callable[..., Array]] = {
    "exact": exact,
    "rademacher": rademacher,
    "mc": mc,
    "reference": reference,
}
_NEED_KEY = {"rademacher", "mc", "reference"}


def draws(estimator: str, head: str) -> bool:
    """Whether embeddings by these depend on a key, so that they have a noise floor."""
    return estimator in _NEED_KEY or head == "adam"


def fisher(
    probe: Probe,
    images: Float[Array, "images h w c"],
    head: Head,
    estimator: str = "exact",
    key: PRNGKeyArray | None = None,
    chunk: int | None = None,
) -> Float[Array, " filters"]:
    """The Fisher diagonal per filter, in torchvision's module order (`probe.layer_names` names each entry).

    Args:
        probe: from `load_probe`.
        images: normalised as the probe's training images were.
        head: kernel and bias on the pooled features.
        estimator: `exact`, `rademacher`, `mc` or `reference`.
        key: for the three that draw.
        chunk: images in memory at a time; None: as many as 256 MB of activations and cotangents hold.

    Each entry is in (nats per unit of weight)². Raises InputError for an unknown estimator, a missing key, images that
    are no finite batch, a head of another probe's features, or a result that is not finite. Images that look
    unnormalised get a warning (`check_images`).
    """
    check_names(estimator, None, key)
    images = check_images(images, chunk)
    head = Head(*map(jnp.asarray, head))
    check_head(head, feature_count(probe.net))
    return _finite_fisher(probe, images, head, estimator, key, chunk)


def _finite_fisher(
    probe: Probe, images: Array, head: Head, estimator: str, key: PRNGKeyArray | None, chunk: int | None
) -> Float[Array, " filters"]:
    found = ESTIMATORS[estimator](probe, images, head, key, chunk=chunk)
    check_finite(found, "the Fisher")
    return found


def embed(
    probe: Probe,
    images: Float[Array, "images h w c"],
    labels: Int[Array, " images"],
    ways: int,
    estimator: str = "exact",
    key: PRNGKeyArray | None = None,
    chunk: int | None = None,
    head: str = "converged",
) -> Float[Array, " filters"]:
    """The Task2Vec embedding of one task: features, head, Fisher. Arguments and errors as those parts'.

    For the study's own numbers: `estimator="reference", head="adam"` and the distance `task2vec`.
    """
    check_names(estimator, head, key)
    images, labels = check_images(images, chunk), jnp.asarray(labels)
    check_labels(labels, images.shape[0], ways)
    head_key, fisher_key = (None, None) if key is None else jax.random.split(key)
    features = aws.features(probe, images) if estimator == "reference" else _pooled_features(probe, images, chunk)
    fitted = fit_head(features, labels, ways, head, head_key)
    return _finite_fisher(probe, images, fitted, estimator, fisher_key, chunk)


def pooled_features(
    probe: Probe, images: Float[Array, "images h w c"], chunk: int | None = None
) -> Float[Array, "images d"]:
    """`probe.features` with no more than `chunk` images in memory at a time. Images are checked as `fisher`'s."""
    return _pooled_features(probe, check_images(images, chunk), chunk)


@partial(jax.jit, static_argnames=("chunk",))
def _pooled_features(probe: Probe, images: Array, chunk: int | None) -> Float[Array, "images d"]:
    parts, _ = _chunks(images, chunk or _default_chunk(probe, images, columns=1))
    return lax.map(probe.features, parts).reshape(-1, feature_count(probe.net))[: images.shape[0]]


def stick_breaking(probabilities: Float[Array, "images ways"], key: PRNGKeyArray | None = None) -> Array:
    """Columns of L with LLᵀ = diag(p) − ppᵀ -> `[images, ways - 1, ways]`. Uses no key.

    Column k: √(p_k s_{k+1} / s_k) at k and −p_j √(p_k / (s_k s_{k+1})) at j > k, with s_k = Σ_{j≥k} p_j.
    """
    # Smallest first: then every s holds the largest p, nothing is divided by a vanishing rest, and a sum of small
    # probabilities stands where 1 − p would cancel.
    order = jnp.argsort(probabilities, axis=1)
    p = jnp.take_along_axis(probabilities, order, 1)
    tail = jnp.cumsum(p[:, ::-1], 1)[:, ::-1]
    first, rest = p[:, :-1], tail[:, 1:]
    ways = p.shape[1]
    diagonal = jnp.sqrt(first * rest / tail[:, :-1])
    below = -jnp.sqrt(first / (tail[:, :-1] * rest))[:, :, None] * p[:, None, :]
    place = jnp.arange(ways)[None, :] - jnp.arange(ways - 1)[:, None]
    columns = jnp.where(place == 0, diagonal[:, :, None], jnp.where(place > 0, below, 0))
    back = jnp.broadcast_to(jnp.argsort(order, axis=1)[:, None, :], columns.shape)
    return jnp.take_along_axis(columns, back, 2)


def _random_signs(probabilities: Array, key: PRNGKeyArray | None) -> Array:
    assert key is not None  # `fisher` sees to it
    columns = stick_breaking(probabilities)
    signs = jax.random.rademacher(key, columns.shape[:2], columns.dtype)
    return jnp.einsum("nk,nkc->nc", signs, columns)[:, None, :]


def _one_label(probabilities: Array, key: PRNGKeyArray | None) -> Array:
    assert key is not None  # `fisher` sees to it
    drawn = jax.random.categorical(key, jnp.log(probabilities))
    return (jax.nn.one_hot(drawn, probabilities.shape[1], dtype=probabilities.dtype) - probabilities)[:, None, :]


@partial(jax.jit, static_argnames=("columns", "chunk"))
def _fisher(
    probe: Probe, images: Array, head: Head, key: PRNGKeyArray | None, columns: Columns, chunk: int | None
) -> Float[Array, " filters"]:
    ways = head.bias.shape[0]
    parts, real = _chunks(images, chunk or _default_chunk(probe, images, columns=ways - 1))
    keys = None if key is None else jax.random.split(key, len(parts))

    def one(part: tuple[Array, Array, PRNGKeyArray | None]) -> Array:
        return _fisher_of_chunk(probe, part[0], part[1], head, part[2], columns)

    if len(parts) == 1:
        total = one((parts[0], real[0], None if keys is None else keys[0]))
    else:
        total = lax.map(one, (parts, real, keys)).sum(0)
    return total / images.shape[0]


def _fisher_of_chunk(
    probe: Probe, images: Array, real: Array, head: Head, key: PRNGKeyArray | None, columns: Columns
) -> Float[Array, " filters"]:
    """Sum over the images of a chunk; `real` is 0 for those that only fill it up."""
    net, variables = probe.net, probe.variables
    shapes = jax.eval_shape(lambda: net.apply(variables, images, mutable=[PERTURBATIONS])[1][PERTURBATIONS])
    zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)

    def forward(perturbations: dict) -> tuple[Array, dict]:
        features, state = net.apply({**variables, PERTURBATIONS: perturbations}, images, mutable=[TAPS])
        return features, state[TAPS]

    features, backward, taps = jax.vjp(forward, zeros, has_aux=True)
    logits = jnp.matmul(features, head.kernel, precision=lax.Precision.HIGHEST) + head.bias
    scores = columns(jax.nn.softmax(logits), key) * real[:, None, None]
    (cotangents,) = jax.vmap(backward)(jnp.einsum("nkc,dc->knd", scores, head.kernel))
    found = []
    for layer in layers(net):
        d = at(cotangents, layer.norm)["output"]
        norm = at(variables["params"], layer.norm)
        var = at(variables["batch_stats"], layer.norm)["var"]
        squares = _kernel_squares(at(taps, layer.conv)["input"], d, layer)
        # d is taken behind the batch norm: its slope leads to the convolution's output.
        found.append(squares * norm["scale"] ** 2 / (var + 1e-5) / (layer.kernel**2 * layer.inputs))
        # Not an einsum, which XLA makes a small dot product per image and filter: 3 to 8 times slower on a CPU.
        slopes = jnp.sum(d * at(taps, layer.norm)["normalised"], (2, 3))
        found.append(jnp.sum(slopes**2, (0, 1)))
    return jnp.concatenate(found)


def _kernel_squares(
    x: Float[Array, "images h w inputs"], d: Float[Array, "columns images ho wo filters"], layer: Layer
) -> Float[Array, " filters"]:
    """Per filter, the squared norm of the kernel's gradient Xᵀd, summed over images and columns.

    Either the gradient of each image is formed, or ‖Xᵀd‖² = dᵀ(XXᵀ)d with a Gram matrix that all columns share,
    whichever takes fewer operations: the latter where maps are small. On a CPU the former goes image by image,
    up to four times faster than a batched product, whose patches leave the caches.
    """
    columns, images, ho, wo, filters = d.shape
    pixels, taps = ho * wo, layer.kernel**2
    shared = layer.stride == 1 and layer.kernel > 1  # then the patches' Gram matrix is a sum of shifted pixels' ones
    by_gradient = pixels * taps * layer.inputs * filters * columns
    # Measured: adding up a shifted matrix costs about eight multiply-adds of a matrix product per element.
    by_gram = pixels**2 * (layer.inputs + 8 * taps if shared else layer.inputs * taps)
    by_gram += pixels**2 * filters * columns
    if by_gradient <= by_gram:
        return lax.platform_dependent(x, d, cpu=partial(_by_loop, layer), default=partial(_by_patches, layer))
    rows = _as_rows(d)
    if shared:
        matrix = _shifted_gram(x, layer)
    else:
        patches = _windows(x, layer, ho, wo).reshape(images, pixels, taps * layer.inputs)
        matrix = jnp.einsum("npi,nqi->npq", patches, patches)
    return (jnp.einsum("npq,nqo->npo", matrix, rows) * rows).sum((0, 1)).reshape(columns, filters).sum(0)


def _by_patches(layer: Layer, x: Array, d: Array) -> Array:
    patches = _windows(x, layer, *d.shape[2:4]).reshape(x.shape[0], -1, layer.kernel**2 * layer.inputs)
    squares = jnp.einsum("npi,npo->nio", patches, _as_rows(d)) ** 2
    return squares.sum((0, 1)).reshape(d.shape[0], -1).sum(0)


def _by_loop(layer: Layer, x: Array, d: Array) -> Array:
    """Image by image, all columns' filters side by side."""
    columns, _, ho, wo, filters = d.shape

    def add(total: Array, image: Array) -> tuple[Array, None]:
        own = lax.dynamic_index_in_dim(d, image, 1, keepdims=False)
        own = own.transpose(1, 2, 0, 3).reshape(1, ho, wo, columns * filters)
        gradient = kernel_grad(x[image][None], own, layer.kernel, layer.stride, layer.padding)
        return total + (gradient**2).sum((0, 1, 2)), None

    total = lax.scan(add, jnp.zeros(columns * filters, d.dtype), jnp.arange(x.shape[0]))[0]
    return total.reshape(columns, filters).sum(0)


def _as_rows(d: Float[Array, "columns images ho wo filters"]) -> Float[Array, "images pixels columns*filters"]:
    columns, images, ho, wo, filters = d.shape
    return d.transpose(1, 2, 3, 0, 4).reshape(images, ho * wo, columns * filters)


def _shifted_gram(x: Float[Array, "images h w inputs"], layer: Layer) -> Float[Array, "images h*w h*w"]:
    """The Gram matrix of all patches of a stride-1 convolution: two patches' product is the sum, over the kernel's
    taps, of the products of the pixels under each."""
    images, h, w, inputs = x.shape
    p = layer.padding
    flat = x.reshape(images, h * w, inputs)
    products = jnp.einsum("npi,nqi->npq", flat, flat).reshape(images, h, w, h, w)
    products = jnp.pad(products, ((0, 0), (p, p), (p, p), (p, p), (p, p)))
    shifted = [
        products[:, i : i + h, j : j + w, i : i + h, j : j + w]
        for i in range(layer.kernel)
        for j in range(layer.kernel)
    ]
    return sum(shifted[1:], shifted[0]).reshape(images, h * w, h * w)


def _windows(x: Array, layer: Layer, ho: int, wo: int) -> Float[Array, "images ho wo taps*inputs"]:
    """The input patches under each output pixel, zero beyond the border."""
    k, s, p = layer.kernel, layer.stride, layer.padding
    if k == 1:
        return x[:, ::s, ::s]
    x = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    return jnp.concatenate(
        [x[:, i : i + s * (ho - 1) + 1 : s, j : j + s * (wo - 1) + 1 : s] for i in range(k) for j in range(k)],
        -1,
    )


def _chunks(images: Array, chunk: int) -> tuple[Array, Array]:
    """Images in equal chunks of at most `chunk`, zeros filling the last -> parts, and 1 for what is real."""
    n = images.shape[0]
    count = -(-n // chunk)
    size = -(-n // count)
    fill = count * size - n
    parts = jnp.pad(images, ((0, fill), (0, 0), (0, 0), (0, 0))).reshape(count, size, *images.shape[1:])
    real = (jnp.arange(count * size) < n).astype(images.dtype).reshape(count, size)
    return parts, real


def _default_chunk(probe: Probe, images: Array, columns: int) -> int:
    """As many images as `_CHUNK_BYTES` hold of activations and of each column's cotangents."""
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    state = jax.eval_shape(lambda x: probe.net.apply(probe.variables, x, mutable=[TAPS, PERTURBATIONS])[1], one)
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(state[name])) for name in (TAPS, PERTURBATIONS)}
    needed = (sizes[TAPS] + columns * sizes[PERTURBATIONS]) * images.dtype.itemsize
    return max(1, min(images.shape[0], _CHUNK_BYTES // needed))


def check_names(estimator: str | None, head: str | None, key: PRNGKeyArray | None) -> None:
    """That the names exist (None: not asked), and that there is a key where one of them draws."""
    if estimator is not None and estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)
    if head is not None and head not in HEADS:
        raise unknown("head", head, HEADS)
    if key is None and (estimator in _NEED_KEY or head == "adam"):
        drawing = f"estimator {estimator!r}" if estimator in _NEED_KEY else f"head {head!r}"
        raise InputError(f"{drawing} draws at random: give it a jax.random key")


def check_images(images: ArrayLike, chunk: int | None) -> Array:
    """Images [..., h, w, 3] on the device, which must be a finite batch of floats; InputError otherwise.

    A UserWarning, once a process and kind, where they look unnormalised: beyond what normalised pixels reach, or all in
    0..1. Drawings, strokes of 1 on a background of 0 as the study has Omniglot, are as they should be.
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.size == 0:
        raise InputError(f"images must be [images, h, w, 3] with at least one image, not {images.shape}")
    check_pixels(images)
    if chunk is not None:
        at_least(1, chunk=chunk)
    return images


def check_pixels(images: Float[Array, "*batch h w 3"]) -> None:
    """The part of `check_images` that looks at the pixels, of any number of images."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images must be normalised floats, not {images.dtype}")
    # Inside somebody's jit or vmap nothing can be looked at; the outer call is theirs to check.
    if isinstance(images, jax.core.Tracer):
        return
    low, high, zeros = map(float, jax.device_get(_extremes(images)))
    if not np.isfinite([low, high]).all():  # NaN passes through both
        check_finite(images, "images")
    if high > _HIGHEST:
        _warn_once("bytes")
    elif low >= 0 and high <= 1 and zeros < _DRAWN:
        _warn_once("shares")


@jax.jit
def _extremes(images: Array) -> tuple[Array, Array, Array]:
    """The least and the largest number, and the share of zeros, in one pass."""
    return images.min(), images.max(), (images == 0).mean()


@cache  # Python's own memory of what it warned of is lost whenever somebody catches warnings, as NumPy and JAX do
def _warn_once(kind: str) -> None:
    warnings.warn(_UNNORMALISED[kind], UserWarning, stacklevel=5)


def check_head(head: Head, features: int) -> None:
    kernel, bias = head.kernel.shape, head.bias.shape
    if len(kernel) != 2 or kernel[0] != features or kernel[1] < 2 or bias != kernel[1:]:
        raise InputError(
            f"the head must be a kernel [{features}, ways] and a bias [ways] of 2 ways or more, not {kernel} and {bias}"
        )
    check_finite(head.kernel, "the head")
    check_finite(head.bias, "the head")


def check_finite(values: Array, what: str) -> None:
    # Inside somebody's jit or vmap nothing can be looked at; the outer call is theirs to check.
    if not isinstance(values, jax.core.Tracer) and not bool(jnp.isfinite(values).all()):
        raise InputError(f"{what}: NaN or infinity in {int((~np.isfinite(values)).sum())} of {values.size} numbers")


def check_labels(labels: Array, images: int, ways: int) -> None:
    at_least(2, ways=ways)  # one class has no score to take a gradient of
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"labels must be whole numbers, not {labels.dtype}")
    if labels.shape != (images,):
        raise InputError(f"labels must be [{images}], one an image, not {labels.shape}")
    if isinstance(labels, jax.core.Tracer):
        return
    if labels.size and not (int(labels.min()) >= 0 and int(labels.max()) < ways):
        raise InputError(f"labels must lie in 0..{ways - 1}, not {int(labels.min())}..{int(labels.max())}")
