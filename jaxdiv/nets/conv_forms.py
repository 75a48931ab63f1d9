"""The three bilinear maps of a convolution as XLA and a GPU compute them; `conv` says what they are.

XLA has no fast form for many tasks that each have a kernel of their own. Its vmapped kernel gradient becomes one
grouped *forward* convolution whose window is as large as the image, for which cuDNN has no fast kernel. So on a GPU
(`conv_gpu`, `input_grad_gpu`, `kernel_grad_gpu`) small tasks are one batched matrix product of their patches, and
large ones take turns, each by an ordinary convolution, which XLA hands to cuDNN's forward, data or filter call.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NHWC = ("NHWC", "HWIO", "NHWC")
Pairs = tuple[tuple[int, int], tuple[int, int]]
Form = Callable[[Array, Array, "Window"], Array]
# On a GPU, a task of this many multiply-adds keeps the device busy alone; its patches would be read and written for
# nothing. Smaller ones go together, as many as have patches of this many bytes.
_BUSY = 2**30
_TURN_BYTES = 2**28


@dataclass(frozen=True)
class Window:
    """Where a convolution looks: strides, padding before and after, and the sizes of image and kernel (rows, columns).

    An image-side padding may be negative, as `lax.conv_general_dilated`'s.
    """

    strides: tuple[int, int]
    pads: Pairs
    image: tuple[int, int]
    kernel: tuple[int, int]

    @property
    def out(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        rows, columns = (
            (i + sum(p) - k) // s + 1
            for i, p, k, s in zip(self.image, self.pads, self.kernel, self.strides, strict=True)
        )
        return rows, columns

    @property
    def of_input_grad(self) -> "Window | None":
        """The window of a convolution with the flipped kernel that is the input gradient; None where there is none."""
        if self.strides != (1, 1):
            return None
        low = [k - 1 - p[0] for k, p in zip(self.kernel, self.pads, strict=True)]
        high = [i - (d + lo - k + 1) for i, d, lo, k in zip(self.image, self.out, low, self.kernel, strict=True)]
        pads = (low[0], high[0]), (low[1], high[1])
        return Window((1, 1), pads, self.out, self.kernel) if min(*low, *high) >= 0 else None


def conv(x: Float[Array, "n h w i"], w: Float[Array, "kh kw i o"], window: Window) -> Float[Array, "n ho wo o"]:
    """XLA's convolution."""
    return lax.conv_general_dilated(x, w, window.strides, window.pads, dimension_numbers=NHWC)


def input_grad(dy: Float[Array, "n ho wo o"], w: Float[Array, "kh kw i o"], window: Window) -> Float[Array, "n h w i"]:
    """Its transpose in the image."""
    like = jax.ShapeDtypeStruct((dy.shape[0], *window.image, w.shape[2]), dy.dtype)
    return jax.linear_transpose(lambda x: conv(x, w, window), like)(dy)[0]


def kernel_grad(x: Float[Array, "n h w i"], dy: Float[Array, "n ho wo o"], window: Window) -> Float[Array, "kh kw i o"]:
    """Its transpose in the kernel."""
    like = jax.ShapeDtypeStruct((*window.kernel, x.shape[3], dy.shape[3]), dy.dtype)
    return jax.linear_transpose(lambda w: conv(x, w, window), like)(dy)[0]


def conv_gpu(
    x: Float[Array, "tasks n h w i"], w: Float[Array, "tasks kh kw i o"], window: Window
) -> Float[Array, "tasks n ho wo o"]:
    """`conv` of every task."""
    return _in_turns(conv, _conv_products, x, w, window, x.shape[1], w.shape[3], w.shape[4])


def input_grad_gpu(
    dy: Float[Array, "tasks n ho wo o"], w: Float[Array, "tasks kh kw i o"], window: Window
) -> Float[Array, "tasks n h w i"]:
    """`input_grad` of every task."""
    products = _input_grad_products if window.of_input_grad else None
    return _in_turns(input_grad, products, dy, w, window, dy.shape[1], w.shape[4], w.shape[3])


def kernel_grad_gpu(
    x: Float[Array, "tasks n h w i"], dy: Float[Array, "tasks n ho wo o"], window: Window
) -> Float[Array, "tasks kh kw i o"]:
    """`kernel_grad` of every task."""
    return _in_turns(kernel_grad, _kernel_grad_products, x, dy, window, x.shape[1], x.shape[4], dy.shape[4])


def patches(x: Float[Array, "*tasks n h w c"], window: Window) -> Float[Array, "*tasks n ho wo patch"]:
    """What each output pixel sees: kernel rows x columns x channels."""
    lead = ((0, 0),) * (x.ndim - 3)
    x = jnp.pad(x, (*lead, *window.pads, (0, 0))) if any(map(any, window.pads)) else x
    spans = [
        [slice(start, start + (length - 1) * stride + 1, stride) for start in range(size)]
        for length, stride, size in zip(window.out, window.strides, window.kernel, strict=True)
    ]
    seen = [x[..., rows, columns, :] for rows in spans[0] for columns in spans[1]]
    return seen[0] if len(seen) == 1 else jnp.concatenate(seen, -1)


def _in_turns(
    alone: Form, together: Form | None, a: Array, b: Array, window: Window, images: int, inputs: int, outputs: int
) -> Array:
    """All tasks: each `alone`, or several `together`; `inputs` and `outputs` are the channels of the products."""
    numbers = images * window.out[0] * window.out[1] * window.kernel[0] * window.kernel[1] * inputs
    if together is None or numbers * outputs >= _BUSY:
        return lax.map(lambda task: alone(task[0], task[1], window), (a, b))
    most = max(1, _TURN_BYTES // (numbers * a.dtype.itemsize))
    turn = max(count for count in range(1, len(a) + 1) if len(a) % count == 0 and count <= most)
    if turn == len(a):
        return together(a, b, window)
    cut = lambda operand: operand.reshape(-1, turn, *operand.shape[1:])
    out = lax.map(lambda some: together(some[0], some[1], window), (cut(a), cut(b)))
    return out.reshape(-1, *out.shape[2:])


def _conv_products(x: Array, w: Array, window: Window) -> Array:
    rows = _rows(patches(x, window))
    out = jnp.einsum("tpk,tko->tpo", rows, w.reshape(len(w), -1, w.shape[4]))
    return out.reshape(*x.shape[:2], *window.out, -1)


def _input_grad_products(dy: Array, w: Array, window: Window) -> Array:
    assert window.of_input_grad is not None
    return _conv_products(dy, w[:, ::-1, ::-1].swapaxes(3, 4), window.of_input_grad)


def _kernel_grad_products(x: Array, dy: Array, window: Window) -> Array:
    out = jnp.einsum("tpk,tpo->tko", _rows(patches(x, window)), _rows(dy))
    return out.reshape(len(x), *window.kernel, x.shape[4], dy.shape[4])


def _rows(x: Float[Array, "tasks n ho wo c"]) -> Float[Array, "tasks pixels c"]:
    return x.reshape(len(x), -1, x.shape[-1])
