"""The three bilinear maps of a convolution as a CPU computes them fastest; `conv` says what they are.

XLA's CPU back end does not bring a *backward* convolution inside `scan`, `map` or `fori_loop` into the layout that
its fast kernels need, and then runs it 27 to 65 times slower (kernel gradient) or 2 to 6 times slower (input
gradient). So each map is the fastest of several forms by its size: minimal filtering (`winograd`), matrix products of
patches, or an ordinary NHWC x HWIO convolution with explicit transposes.
"""

from collections.abc import Iterator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdiv.nets import conv_forms, winograd
from jaxdiv.nets.conv_forms import NHWC, Window, patches

# Measured: at outputs up to this many pixels a sum of one matmul per kernel tap that meets the image beats XLA's
# convolution; up to `_SMALL`, with few channels, one matmul of the patches does.
_TINY = 4
_SMALL = 16
_FEW_CHANNELS = 64
# The kernel gradient of a larger output, image by image: its patches stay in the caches, and it is 1.2 to 7 times
# faster than XLA's convolution, where an image has enough multiply-adds to be worth a turn of a loop.
# With some, but few images of few channels XLA's stays ahead, by up to 1.8.
_MANY = 100
_FEW_IMAGES = 32
_WORTH_A_LOOP = 2**18


def conv(x: Float[Array, "n h w i"], w: Float[Array, "kh kw i o"], window: Window) -> Float[Array, "n ho wo o"]:
    """The convolution."""
    size = _size(x.shape[3], window)
    if size == "small":
        return patches(x, window) @ w.reshape(-1, w.shape[3])
    # A forward pass as accurate as the direct sum: what rounding turns a ReLU on or off moves gradients by far more.
    if tile := not size and _tile(len(x), x.shape[3], w.shape[3], x.dtype, (2,), window):
        return winograd.conv(x, w, window.pads, tile)
    if size != "tiny":
        return conv_forms.conv(x, w, window)
    ho, wo = window.out
    out = [[jnp.zeros((x.shape[0], w.shape[3]), x.dtype) for _ in range(wo)] for _ in range(ho)]
    for (a, b), (i, j), (r, s) in _taps(window):
        out[i][j] = out[i][j] + x[:, r, s] @ w[a, b]
    return jnp.stack([jnp.stack(row, 1) for row in out], 1)


def input_grad(dy: Float[Array, "n ho wo o"], w: Float[Array, "kh kw i o"], window: Window) -> Float[Array, "n h w i"]:
    """Its transpose in the image."""
    size = _size(w.shape[2], window)
    if size == "tiny":
        rows, columns = window.image
        out = [[jnp.zeros((dy.shape[0], w.shape[2]), dy.dtype) for _ in range(columns)] for _ in range(rows)]
        for (a, b), (i, j), (r, s) in _taps(window):
            out[r][s] = out[r][s] + dy[:, i, j] @ w[a, b].T
        return jnp.stack([jnp.stack(row, 1) for row in out], 1)
    if tile := not size and _tile(len(dy), w.shape[2], w.shape[3], dy.dtype, (2, 3), window):
        return winograd.input_grad(dy, w, window.pads, tile)
    flipped = w[::-1, ::-1].transpose(0, 1, 3, 2)
    if size == "small" and (back := window.of_input_grad):
        return patches(dy, back) @ flipped.reshape(-1, flipped.shape[3])
    low = [k - 1 - p[0] for k, p in zip(window.kernel, window.pads, strict=True)]
    spread = [(d - 1) * s + 1 for d, s in zip(dy.shape[1:3], window.strides, strict=True)]
    high = [i - (d + lo - k + 1) for i, d, lo, k in zip(window.image, spread, low, window.kernel, strict=True)]
    edges = tuple(zip(low, high, strict=True))
    return lax.conv_general_dilated(dy, flipped, (1, 1), edges, lhs_dilation=window.strides, dimension_numbers=NHWC)


def kernel_grad(x: Float[Array, "n h w i"], dy: Float[Array, "n ho wo o"], window: Window) -> Float[Array, "kh kw i o"]:
    """Its transpose in the kernel."""
    size, kernel = _size(x.shape[3], window), window.kernel
    if size == "small":
        taken = patches(x, window)
        flat = taken.reshape(-1, taken.shape[3])
        return (flat.T @ dy.reshape(-1, dy.shape[3])).reshape(*kernel, x.shape[3], dy.shape[3])
    if size == "tiny":
        out = [[jnp.zeros((x.shape[3], dy.shape[3]), x.dtype) for _ in range(kernel[1])] for _ in range(kernel[0])]
        for (a, b), (i, j), (r, s) in _taps(window):
            out[a][b] = out[a][b] + x[:, r, s].T @ dy[:, i, j]
        return jnp.stack([jnp.stack(row, 0) for row in out], 0)
    if tile := not size and _tile(len(x), x.shape[3], dy.shape[3], x.dtype, (2, 3), window):
        return winograd.kernel_grad(x, dy, window.pads, tile)
    pixels, seen = dy.shape[1] * dy.shape[2], kernel[0] * kernel[1] * x.shape[3]
    few = 1 < x.shape[0] <= _FEW_IMAGES and x.shape[3] <= _FEW_CHANNELS
    if pixels >= _MANY and pixels * seen * dy.shape[3] >= _WORTH_A_LOOP and not few:

        def add(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
            rows = patches(image[0][None], window).reshape(pixels, seen)
            return total + rows.T @ image[1].reshape(pixels, -1), None

        total = lax.scan(add, jnp.zeros((seen, dy.shape[3]), x.dtype), (x, dy))[0]
        return total.reshape(*kernel, x.shape[3], dy.shape[3])
    # Channels play the batch and images the features. A stride leaves rows at the far edge that no tap reached.
    reach = [(d - 1) * s + k for d, s, k in zip(dy.shape[1:3], window.strides, kernel, strict=True)]
    high = [r - i - p[0] for r, i, p in zip(reach, window.image, window.pads, strict=True)]
    padding = [(p[0], hi) for p, hi in zip(window.pads, high, strict=True)]
    dw = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=window.strides,
        dimension_numbers=NHWC,
    )
    return dw.transpose(1, 2, 0, 3)


def _size(channels: int, window: Window) -> str:
    """Which form is fastest: "tiny" (taps), "small" (patches) or "" (a larger one)."""
    rows, columns = window.out
    if window.kernel == (1, 1) and window.strides == (1, 1) and window.pads == ((0, 0), (0, 0)):
        return "small"  # the image is its own patches: 1.2 to 2.5 times faster at any size
    if window.kernel == (1, 1) or rows * columns > _SMALL:
        return ""
    if channels <= _FEW_CHANNELS:
        return "small"
    return "tiny" if rows * columns <= _TINY else ""


def _tile(images: int, inputs: int, filters: int, dtype: jnp.dtype, sizes: tuple[int, ...], window: Window) -> int:
    """The tile size of `winograd` where that is fastest, else 0."""
    fits = (
        window.kernel == (3, 3) and window.strides == (1, 1) and all(0 <= side <= 2 for p in window.pads for side in p)
    )
    if not fits or dtype not in (jnp.float32, jnp.float64):
        return 0
    return winograd.cheapest(images, inputs, filters, window.out, sizes)


def _taps(window: Window) -> Iterator[tuple[tuple[int, int], tuple[int, int], tuple[int, int]]]:
    """Every (kernel row, column), (output pixel), (image pixel) that meet: the terms of a tiny convolution."""
    out = window.out
    for a in range(window.kernel[0]):
        for b in range(window.kernel[1]):
            for i in range(out[0]):
                for j in range(out[1]):
                    r = i * window.strides[0] + a - window.pads[0][0]
                    s = j * window.strides[1] + b - window.pads[1][0]
                    if 0 <= r < window.image[0] and 0 <= s < window.image[1]:
                        yield (a, b), (i, j), (r, s)
