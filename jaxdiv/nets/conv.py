"""The convolution and the max-pool of every network here: as fast inside a loop as outside, to any order.

XLA's CPU back end does not bring a *backward* convolution inside `scan`, `map` or `fori_loop` into the layout
that its fast kernels need, and then runs it 27 to 65 times slower (kernel gradient) or 2 to 6 times slower (input
gradient). MAML's inner loop is such a loop. So the three bilinear maps of a convolution

    y  = conv(x, w)          dx = input_grad(dy, w)          dw = kernel_grad(x, dy)

are three primitives here. Each is linear in both arguments, and each one's transposes are the two others: the set
is closed under differentiation, forward and reverse, to any order. On the CPU each lowers to the
fastest of several forms: minimal filtering (`winograd`), matrix products of patches, or an ordinary NHWC x HWIO
convolution with explicit transposes; on GPU and TPU to what JAX itself would emit.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxdiv.nets import winograd

_NHWC = ("NHWC", "HWIO", "NHWC")
# On a CPU, measured: at outputs up to this many pixels a sum of one matmul per kernel tap that meets the image beats
# XLA's convolution; up to `_SMALL`, with few channels, one matmul of the patches does.
_TINY = 4
_SMALL = 16
_FEW_CHANNELS = 64
# The kernel gradient of a larger output, image by image: its patches stay in the caches, and it is 1.2 to 7 times
# faster than XLA's convolution, where an image has enough multiply-adds to be worth a turn of a loop.
# With some, but few images of few channels XLA's stays ahead, by up to 1.8.
_MANY = 100
_FEW_IMAGES = 32
_WORTH_A_LOOP = 2**18


def conv_general_dilated(
    lhs: Float[Array, "n h w i"],
    rhs: Float[Array, "kh kw i o"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision=None,
    preferred_element_type=None,
) -> Float[Array, "n ho wo o"]:
    """`jax.lax.conv_general_dilated` for NHWC images and HWIO kernels: pass it to `flax.linen.Conv`.

    Raises ValueError for what no network here uses: other layouts, dilation, groups.
    """
    spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    if spec != lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC):
        raise ValueError(f"this convolution takes {_NHWC} only, not {dimension_numbers}")
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if dilated or feature_group_count != 1 or batch_group_count != 1:
        raise ValueError("this convolution has no dilation and no groups")
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return _conv.bind(lhs, rhs, strides=strides, pads=pads, image=lhs.shape[1:3], kernel=rhs.shape[:2])


def kernel_grad(
    x: Float[Array, "n h w i"], dy: Float[Array, "n ho wo o"], kernel: int, stride: int, padding: int
) -> Float[Array, "kernel kernel i o"]:
    """The gradient of Σ conv(x, w) · dy in w, summed over the images."""
    where = dict(strides=(stride, stride), pads=((padding, padding),) * 2, kernel=(kernel, kernel))
    return _kernel_grad.bind(x, dy, image=x.shape[1:3], **where)


def max_pool_2x2(x: Float[Array, "n h w c"], sign: Float[Array, " c"] | None = None) -> Float[Array, "n h2 w2 c"]:
    """2x2 max-pool with stride 2; an odd last row or column is dropped, as in PyTorch.

    A tournament whose outcomes count as constants, so the pool is linear in `x` and its derivatives of every order
    are a few selections: several times faster than the scatter of `reduce_window`. The first of equal values wins
    and a NaN always does, as in PyTorch. In channels whose `sign` is -1 the smallest value wins.
    """
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    larger = partial(_larger, 1 if sign is None else lax.stop_gradient(sign))
    # Split, not indexed: the derivative is then a concatenation instead of a sum of four arrays filled up with zeros.
    (a, b), (c_, d) = (lax.split(row, (1, 1), axis=4) for row in lax.split(x, (1, 1), axis=2))
    return larger(larger(a, b), larger(c_, d)).reshape(n, h // 2, w // 2, c)


def _larger(sign, a, b):
    # Compared by order, never by equality with a maximum: XLA may compute an operand again in another fusion, rounded
    # differently, and then nothing would be equal.
    first, second = (sign * lax.stop_gradient(side) for side in (a, b))
    return jnp.where((first >= second) | jnp.isnan(first), a, b)


def _conv_plain(x, w, *, strides, pads, image, kernel):
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=_NHWC)


def _input_grad_plain(dy, w, *, strides, pads, image, kernel):
    like = jax.ShapeDtypeStruct((dy.shape[0], *image, w.shape[2]), dy.dtype)
    forward = partial(_conv_plain, w=w, strides=strides, pads=pads, image=image, kernel=kernel)
    return jax.linear_transpose(forward, like)(dy)[0]


def _kernel_grad_plain(x, dy, *, strides, pads, image, kernel):
    like = jax.ShapeDtypeStruct((*kernel, x.shape[3], dy.shape[3]), dy.dtype)
    forward = partial(_conv_plain, x, strides=strides, pads=pads, image=image, kernel=kernel)
    return jax.linear_transpose(forward, like)(dy)[0]


def _taps(strides, pads, image, kernel):
    """Every (kernel row, column, output pixel, image pixel) that meet: the non-zero terms of a tiny convolution."""
    out = _out_shape(strides, pads, image, kernel)
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            for i in range(out[0]):
                for j in range(out[1]):
                    r, s = i * strides[0] + a - pads[0][0], j * strides[1] + b - pads[1][0]
                    if 0 <= r < image[0] and 0 <= s < image[1]:
                        yield (a, b), (i, j), (r, s)


def _patches(x, strides, pads, image, kernel):
    """The patch under each output pixel `[n, ho, wo, kh * kw * c]`."""
    ho, wo = _out_shape(strides, pads, image, kernel)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows = [slice(a, a + (ho - 1) * strides[0] + 1, strides[0]) for a in range(kernel[0])]
    columns = [slice(b, b + (wo - 1) * strides[1] + 1, strides[1]) for b in range(kernel[1])]
    return jnp.concatenate([x[:, row, column] for row in rows for column in columns], -1)


def _size(channels, strides, pads, image, kernel):
    """Which form is fastest on a CPU: "tiny" (taps), "small" (patches) or "" (XLA's convolution)."""
    out = _out_shape(strides, pads, image, kernel)
    if kernel == (1, 1) and strides == (1, 1) and pads == ((0, 0), (0, 0)):
        return "small"  # the image is its own patches: 1.2 to 2.5 times faster at any size
    if kernel == (1, 1) or out[0] * out[1] > _SMALL:
        return ""
    if channels <= _FEW_CHANNELS:
        return "small"
    return "tiny" if out[0] * out[1] <= _TINY else ""


def _tile(images, inputs, filters, dtype, sizes, strides, pads, image, kernel):
    """The tile size of `winograd` where that is fastest on a CPU, else 0."""
    fits = kernel == (3, 3) and strides == (1, 1) and all(0 <= side <= 2 for p in pads for side in p)
    if not fits or dtype not in (jnp.float32, jnp.float64):
        return 0
    return winograd.cheapest(images, inputs, filters, _out_shape(strides, pads, image, kernel), sizes)


def _conv_cpu(x, w, *, strides, pads, image, kernel):
    where = dict(strides=strides, pads=pads, image=image, kernel=kernel)
    size = _size(x.shape[3], **where)
    if size == "small":
        return _patches(x, **where) @ w.reshape(-1, w.shape[3])
    # A forward pass as accurate as the direct sum: what rounding turns a ReLU on or off moves gradients by far more.
    if tile := not size and _tile(len(x), x.shape[3], w.shape[3], x.dtype, (2,), **where):
        return winograd.conv(x, w, pads, tile)
    if size != "tiny":
        return _conv_plain(x, w, **where)
    ho, wo = _out_shape(**where)
    out = [[jnp.zeros((x.shape[0], w.shape[3]), x.dtype) for _ in range(wo)] for _ in range(ho)]
    for (a, b), (i, j), (r, s) in _taps(**where):
        out[i][j] = out[i][j] + x[:, r, s] @ w[a, b]
    return jnp.stack([jnp.stack(row, 1) for row in out], 1)


def _input_grad_cpu(dy, w, *, strides, pads, image, kernel):
    where = dict(strides=strides, pads=pads, image=image, kernel=kernel)
    size = _size(w.shape[2], **where)
    if size == "tiny":
        out = [[jnp.zeros((dy.shape[0], w.shape[2]), dy.dtype) for _ in range(image[1])] for _ in range(image[0])]
        for (a, b), (i, j), (r, s) in _taps(**where):
            out[r][s] = out[r][s] + dy[:, i, j] @ w[a, b].T
        return jnp.stack([jnp.stack(row, 1) for row in out], 1)
    if tile := not size and _tile(len(dy), w.shape[2], w.shape[3], dy.dtype, (2, 3), **where):
        return winograd.input_grad(dy, w, pads, tile)
    flipped = w[::-1, ::-1].transpose(0, 1, 3, 2)
    low = [k - 1 - p[0] for k, p in zip(kernel, pads, strict=True)]
    spread = [(d - 1) * s + 1 for d, s in zip(dy.shape[1:3], strides, strict=True)]
    high = [i - (d + lo - k + 1) for i, d, lo, k in zip(image, spread, low, kernel, strict=True)]
    edges = tuple(zip(low, high, strict=True))
    if size == "small" and strides == (1, 1) and min(*low, *high) >= 0:
        taken = _patches(dy, strides=strides, pads=edges, image=dy.shape[1:3], kernel=kernel)
        return taken @ flipped.reshape(-1, flipped.shape[3])
    return lax.conv_general_dilated(dy, flipped, (1, 1), edges, lhs_dilation=strides, dimension_numbers=_NHWC)


def _kernel_grad_cpu(x, dy, *, strides, pads, image, kernel):
    where = dict(strides=strides, pads=pads, image=image, kernel=kernel)
    size = _size(x.shape[3], **where)
    if size == "small":
        taken = _patches(x, **where)
        flat = taken.reshape(-1, taken.shape[3])
        return (flat.T @ dy.reshape(-1, dy.shape[3])).reshape(*kernel, x.shape[3], dy.shape[3])
    if size == "tiny":
        out = [[jnp.zeros((x.shape[3], dy.shape[3]), x.dtype) for _ in range(kernel[1])] for _ in range(kernel[0])]
        for (a, b), (i, j), (r, s) in _taps(**where):
            out[a][b] = out[a][b] + x[:, r, s].T @ dy[:, i, j]
        return jnp.stack([jnp.stack(row, 0) for row in out], 0)
    if tile := not size and _tile(len(x), x.shape[3], dy.shape[3], x.dtype, (2, 3), **where):
        return winograd.kernel_grad(x, dy, pads, tile)
    pixels, taken = dy.shape[1] * dy.shape[2], kernel[0] * kernel[1] * x.shape[3]
    few = 1 < x.shape[0] <= _FEW_IMAGES and x.shape[3] <= _FEW_CHANNELS
    if pixels >= _MANY and pixels * taken * dy.shape[3] >= _WORTH_A_LOOP and not few:

        def add(total, image):
            rows = _patches(image[0][None], **where).reshape(pixels, taken)
            return total + rows.T @ image[1].reshape(pixels, -1), None

        total = lax.scan(add, jnp.zeros((taken, dy.shape[3]), x.dtype), (x, dy))[0]
        return total.reshape(*kernel, x.shape[3], dy.shape[3])
    # Channels play the batch and images the features. A stride leaves rows at the far edge that no tap reached.
    reach = [(d - 1) * s + k for d, s, k in zip(dy.shape[1:3], strides, kernel, strict=True)]
    high = [r - i - p[0] for r, i, p in zip(reach, image, pads, strict=True)]
    padding = [(p[0], hi) for p, hi in zip(pads, high, strict=True)]
    dw = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=strides,
        dimension_numbers=_NHWC,
    )
    return dw.transpose(1, 2, 0, 3)


def _out_shape(strides, pads, image, kernel):
    return tuple((i + sum(p) - k) // s + 1 for i, p, k, s in zip(image, pads, kernel, strides, strict=True))


def _primitive(name, plain, cpu, out_shape):
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("strides", "pads", "image", "kernel")))
    primitive.def_abstract_eval(lambda a, b, **where: a.update(shape=out_shape(a, b, **where), weak_type=False))
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
    return primitive


_conv = _primitive("jaxdiv_conv", _conv_plain, _conv_cpu, lambda x, w, **k: (x.shape[0], *_out_shape(**k), w.shape[3]))
_input_grad = _primitive(
    "jaxdiv_conv_input_grad",
    _input_grad_plain,
    _input_grad_cpu,
    lambda dy, w, **k: (dy.shape[0], *k["image"], w.shape[2]),
)
_kernel_grad = _primitive(
    "jaxdiv_conv_kernel_grad",
    _kernel_grad_plain,
    _kernel_grad_cpu,
    lambda x, dy, **k: (*k["kernel"], x.shape[3], dy.shape[3]),
)

ad.defbilinear(
    _conv,
    lambda ct, _, w, **k: _input_grad.bind(ct, w, **k),
    lambda ct, x, _, **k: _kernel_grad.bind(x, ct, **k),
)
ad.defbilinear(
    _input_grad,
    lambda ct, _, w, **k: _conv.bind(ct, w, **k),
    lambda ct, dy, _, **k: _kernel_grad.bind(ct, dy, **k),
)
ad.defbilinear(
    _kernel_grad,
    lambda ct, _, dy, **k: _input_grad.bind(dy, ct, **k),
    lambda ct, x, _, **k: _conv.bind(x, ct, **k),
)


def _batch(primitive, plain, merges):
    """vmap: where only the images carry the new axis it joins theirs; otherwise JAX's own grouped convolution."""

    def rule(arguments, axes, **where):
        (a, b), (a_axis, b_axis) = arguments, axes
        if merges and b_axis is None:
            a = jnp.moveaxis(a, a_axis, 0)
            out = primitive.bind(a.reshape(-1, *a.shape[2:]), b, **where)
            return out.reshape(*a.shape[:2], *out.shape[1:]), 0
        return jax.vmap(partial(plain, **where), in_axes=axes)(a, b), 0

    batching.primitive_batchers[primitive] = rule


_batch(_conv, _conv_plain, merges=True)
_batch(_input_grad, _input_grad_plain, merges=True)
_batch(_kernel_grad, _kernel_grad_plain, merges=False)
