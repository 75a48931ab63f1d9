"""The convolution and the max-pool of every network here: as fast inside a loop as outside, to any order.

MAML differentiates convolutions inside loops, several times, for many tasks that each have kernels of their own.
No one form of XLA's is fast at all of that, so the three bilinear maps of a convolution

    y  = conv(x, w)          dx = input_grad(dy, w)          dw = kernel_grad(x, dy)

are three primitives here. Each is linear in both arguments, and each one's transposes are the two others: the set
is closed under differentiation, forward and reverse, to any order. With a first axis of tasks in both arguments each
does the same for every task, so the set is closed under `jax.vmap` too. The platform is chosen when a
program is lowered: `conv_cpu` has the forms for a CPU, `conv_forms` those for a GPU and XLA's own, which a TPU gets.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxdiv.nets import conv_cpu, conv_forms
from jaxdiv.nets.conv_forms import NHWC, Form, Window
from jaxdiv.nets.precision import default_precision


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

    Its derivatives of every order have its precision.

    Args:
      precision: a `jax.lax.Precision` or its name; None: what `jax.default_matmul_precision` says.

    Raises ValueError for what no network here uses: other layouts, dilation, groups.
    """
    spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    if spec != lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC):
        raise ValueError(f"this convolution takes {NHWC} only, not {dimension_numbers}")
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if dilated or feature_group_count != 1 or batch_group_count != 1:
        raise ValueError("this convolution has no dilation and no groups")
    rows, columns = window_strides
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], (rows, columns), padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    window = Window((rows, columns), (pads[0], pads[1]), _sides(lhs, 1), _sides(rhs, 0))
    return _conv.bind(lhs, rhs, window=window, precision=_named(precision))


def kernel_grad(
    x: Float[Array, "n h w i"], dy: Float[Array, "n ho wo o"], kernel: int, stride: int, padding: int
) -> Float[Array, "kernel kernel i o"]:
    """The gradient of Σ conv(x, w) · dy in w, summed over the images."""
    edges = (padding, padding)
    window = Window((stride, stride), (edges, edges), _sides(x, 1), (kernel, kernel))
    return _kernel_grad.bind(x, dy, window=window, precision=_named(None))


def _sides(array: Array, first: int) -> tuple[int, int]:
    return array.shape[first], array.shape[first + 1]


def _named(precision: Any) -> str | None:
    """A precision by its name, as `jax.default_matmul_precision` takes it: a parameter that compares by value."""
    if precision is None:
        return default_precision()
    return precision if isinstance(precision, str) else lax.Precision(precision).name.lower()


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


def _primitive(name: str, form: Form, cpu: Form, gpu: Form, out_shape: Callable[..., Sequence[int]]) -> Primitive:
    """A primitive by its form for one task on XLA and on a CPU, and for many tasks on a GPU."""
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("window", "precision")))

    def abstract(a: Any, b: Any, window: Window, precision: str | None) -> Any:
        lead, a_shape, b_shape = a.shape[:-4], a.shape[-4:], b.shape[-4:]
        return a.update(shape=(*lead, *out_shape(a_shape, b_shape, window)), weak_type=False)

    primitive.def_abstract_eval(abstract)
    # Many tasks on a CPU are XLA's grouped convolution: a program that cares lets them take turns (`mean_over_tasks`).
    many = _vmapped(form)
    for platform, one, together in ((None, form, many), ("cpu", cpu, many), ("cuda", form, gpu), ("rocm", form, gpu)):
        mlir.register_lowering(primitive, _lowered(one, together), platform=platform)
    return primitive


def _vmapped(form: Form) -> Form:
    return lambda a, b, window: jax.vmap(lambda a, b: form(a, b, window))(a, b)


def _lowered(one: Form, many: Form) -> Callable[..., Any]:
    """A lowering rule by the form for one task and that for many."""

    def rule(a: Array, b: Array, window: Window, precision: str | None) -> Array:
        with jax.default_matmul_precision(precision):  # type: ignore[arg-type]  # None: the platform's own
            return (one if a.ndim == 4 else many)(a, b, window)

    return mlir.lower_fun(rule, multiple_results=False)


_conv = _primitive(
    "jaxdiv_conv",
    conv_forms.conv,
    conv_cpu.conv,
    conv_forms.conv_gpu,
    lambda x, w, window: (x[0], *window.out, w[3]),
)
_input_grad = _primitive(
    "jaxdiv_conv_input_grad",
    conv_forms.input_grad,
    conv_cpu.input_grad,
    conv_forms.input_grad_gpu,
    lambda dy, w, window: (dy[0], *window.image, w[2]),
)
_kernel_grad = _primitive(
    "jaxdiv_conv_kernel_grad",
    conv_forms.kernel_grad,
    conv_cpu.kernel_grad,
    conv_forms.kernel_grad_gpu,
    lambda x, dy, window: (*window.kernel, x[3], dy[3]),
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


def _batch(primitive: Primitive, free: tuple[int, int], out: tuple[int, int]) -> None:
    """vmap: a new axis of both arguments is one of tasks; of one alone, it joins an axis that the other has not.

    Args:
      free: that axis of each argument, counted from the last.
      out: the axis of the result that each becomes.
    """

    def rule(arguments: Sequence[Array], axes: Sequence[int | None], **where: Any) -> tuple[Array, int]:
        a, b = arguments
        a_axis, b_axis = axes
        if a_axis is not None and b_axis is not None:
            a, b = jnp.moveaxis(a, a_axis, 0), jnp.moveaxis(b, b_axis, 0)
            if a.ndim == 5:
                return primitive.bind(a, b, **where), 0
            found = primitive.bind(*(side.reshape(-1, *side.shape[2:]) for side in (a, b)), **where)
            return found.reshape(*a.shape[:2], *found.shape[1:]), 0
        if a_axis is not None:
            a, count = _joined(a, a_axis, free[0])
        else:
            assert b_axis is not None
            b, count = _joined(b, b_axis, free[1])
        found = primitive.bind(a, b, **where)
        at = found.ndim + out[0 if b_axis is None else 1]
        return found.reshape(*found.shape[:at], count, found.shape[at] // count, *found.shape[at + 1 :]), at

    batching.primitive_batchers[primitive] = rule


def _joined(side: Array, axis: int, into: int) -> tuple[Array, int]:
    """An array whose `axis` has become the major part of the axis `into` (counted from the last), and its length."""
    at = side.ndim + into - 1
    side = jnp.moveaxis(side, axis, at)
    count, length = side.shape[at : at + 2]
    return side.reshape(*side.shape[:at], count * length, *side.shape[at + 2 :]), count


_batch(_conv, free=(-4, -1), out=(-4, -1))
_batch(_input_grad, free=(-4, -2), out=(-4, -1))
_batch(_kernel_grad, free=(-1, -1), out=(-2, -1))
