"""3x3 convolutions of stride 1 by minimal filtering, F(m x m, 3 x 3): for the CPU, where multiplications cost.

An output tile of m x m pixels depends on an input tile of (m + 2) x (m + 2). Tile and kernel are polynomials in two
variables; from their values at m + 2 points a variable, the output takes (m + 2)² multiplications a tile and pair of
channels instead of 9m²: 2.25 times fewer for m = 2, 3.24 times for m = 3. Over tiles and channels these are (m + 2)²
matrix products. Winograd 1980; Lavin and Gray 2016, https://arxiv.org/abs/1509.09308.

In float32, m = 2 is as accurate as the direct sum; m = 3 has about three times its error.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# Evaluated at these and at infinity: m + 1 of them for tiles of m.
_POINTS = (0.0, 1.0, -1.0, 2.0)
# Transformed tiles of this many bytes, and as many as the transformed kernel has, in a turn of the loop: they stay in
# the caches, and the kernel passes through them.
_TURN_BYTES = 2**21

Grid = Sequence[Sequence[Any]]


def conv(x: Float[Array, "n h w i"], w: Float[Array, "3 3 i o"], pads: Grid, m: int) -> Float[Array, "n ho wo o"]:
    """The convolution of stride 1 with zeros around the image (`pads`, none negative), by tiles of m x m."""
    return _conv(x, w, pads, m, "tpi,tio->tpo")


def input_grad(
    dy: Float[Array, "n ho wo o"], w: Float[Array, "3 3 i o"], pads: Grid, m: int
) -> Float[Array, "n h w i"]:
    """The transpose of `conv` in its image, by tiles of m x m; none of `pads` above 2."""
    edges = [[2 - side for side in p] for p in pads]
    return _conv(dy, w[::-1, ::-1], edges, m, "tpo,tio->tpi")


def _conv(x: Array, w: Array, pads: Grid, m: int, contraction: str) -> Array:
    back, of_kernel, of_image = _matrices(m)
    ho, wo, down, across = _tiling(x.shape, pads, m)
    # As a matrix product: it reads the kernel once, not for each of its combinations.
    kernel = jnp.tensordot(np.kron(of_kernel, of_kernel).astype(w.dtype), w.reshape(9, *w.shape[2:]), 1)

    def of_some(x: Array) -> Array:
        n = x.shape[0]
        tiles = _tiles(of_image, _padded(x, pads, down, across, m), down, across, m)
        products = jnp.einsum(contraction, tiles, kernel).reshape(m + 2, m + 2, n, down, across, -1)
        rows = _combine(back, [products[:, j] for j in range(m + 2)], 4)  # [m + 2, n, down, across, m, o]
        rows = lax.optimization_barrier(rows).reshape(m + 2, n, down, across * m, -1)
        return _combine(back, list(rows), 2).reshape(n, down * m, across * m, -1)[:, :ho, :wo]

    turn = _images_a_turn(x, w.size // (9 * x.shape[3]), down * across, m)
    if turn >= x.shape[0]:
        return of_some(x)
    out = lax.map(of_some, _turns(x, turn))
    return out.reshape(-1, *out.shape[2:])[: x.shape[0]]


def cheapest(images: int, inputs: int, filters: int, pixels: Sequence[int], sizes: Sequence[int]) -> int:
    """The m of `sizes` that is fastest on a CPU for outputs of so many pixels; 0: the direct sum is."""
    # Measured on one core, in multiply-adds of a matrix product: to transform a tile takes some 8 per product and
    # channel, and to transform and lay out the kernel takes as long as the products of 64 tiles.
    costs = {0: images * pixels[0] * pixels[1] * 9 * inputs * filters}
    for m in sizes:
        tiles = images * -(-pixels[0] // m) * -(-pixels[1] // m)
        costs[m] = (m + 2) ** 2 * ((tiles + 64) * inputs * filters + 8 * tiles * (inputs + filters))
    return min(costs, key=costs.__getitem__)


def kernel_grad(
    x: Float[Array, "n h w i"], dy: Float[Array, "n ho wo o"], pads: Grid, m: int
) -> Float[Array, "3 3 i o"]:
    """The transpose of `conv` in its kernel."""
    back, of_kernel, of_image = _matrices(m)
    ho, wo, down, across = _tiling(x.shape, pads, m)
    count = (m + 2) ** 2

    def of_some(x: Array, dy: Array) -> Array:
        tiles = _tiles(of_image, _padded(x, pads, down, across, m), down, across, m)
        dy = jnp.pad(dy, ((0, 0), (0, down * m - ho), (0, across * m - wo), (0, 0)))
        cotangents = _tiles(back.T, dy, down, across, m)
        return jnp.einsum("tpi,tpo->tio", tiles, cotangents)

    turn = _images_a_turn(x, dy.shape[3], down * across, m)
    if turn >= x.shape[0]:
        total = of_some(x, dy)
    else:
        zero = jnp.zeros((count, x.shape[3], dy.shape[3]), x.dtype)
        add = lambda total, images: (total + of_some(*images), None)
        total = lax.scan(add, zero, (_turns(x, turn), _turns(dy, turn)))[0]
    return jnp.tensordot(np.kron(of_kernel, of_kernel).T.astype(x.dtype), total, 1).reshape(3, 3, *total.shape[1:])


@cache
def _matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products to outputs `[m, m + 2]`, kernel to products `[m + 2, 3]`, image to products `[m + 2, m + 2]`.

    A product of polynomials from their values at m + 2 points is (V⁻¹)((V₃ g) · (V_m y)), V the Vandermonde matrix
    with a row for infinity. Its transpose in y is the correlation wanted.
    """
    points = np.array(_POINTS[: m + 1])
    values = lambda terms: np.vstack([points[:, None] ** np.arange(terms), np.eye(terms)[-1]])
    of_image = np.linalg.inv(values(m + 2)).T
    # A factor of a row may stand in either matrix: this one makes the image's a matrix of small integers.
    apart = points[:, None] - points + np.eye(m + 1)
    factor = np.append(np.abs(apart.prod(1)), 1.0)[:, None]
    return values(m).T, values(3) / factor, np.round(of_image * factor)


def _tiles(matrix: np.ndarray, x: Array, down: int, across: int, m: int) -> Float[Array, "products tiles channels"]:
    """Every tile of x transformed, M T Mᵀ; tiles start m pixels apart.

    The barrier keeps XLA from computing the first step again for every term of the second, which takes as long to run
    and much longer to compile.
    """
    products, size = matrix.shape
    rows = _combine(matrix, [x[:, i : i + (down - 1) * m + 1 : m] for i in range(size)], 0)
    rows = lax.optimization_barrier(rows)
    both = _combine(matrix, [rows[:, :, :, j : j + (across - 1) * m + 1 : m] for j in range(size)], 1)
    return both.reshape(products**2, -1, x.shape[3])


def _combine(matrix: np.ndarray, parts: Sequence[Array], axis: int) -> Array:
    """The matrix times a column of arrays, stacked along a new axis; in sums of what is not zero."""
    rows = [[part if c == 1 else float(c) * part for c, part in zip(row, parts, strict=True) if c] for row in matrix]
    return jnp.stack([sum(terms[1:], terms[0]) for terms in rows], axis)


def _tiling(shape: Sequence[int], pads: Grid, m: int) -> tuple[int, int, int, int]:
    """Output height and width, and how many tiles cover each."""
    ho, wo = (size + sum(p) - 2 for size, p in zip(shape[1:3], pads, strict=True))
    return ho, wo, -(-ho // m), -(-wo // m)


def _padded(x: Array, pads: Grid, down: int, across: int, m: int) -> Array:
    """What the input tiles cover, zeros around the image."""
    (top, _), (left, _) = pads
    high, wide = down * m + 2, across * m + 2
    return jnp.pad(x, ((0, 0), (top, high - top - x.shape[1]), (left, wide - left - x.shape[2]), (0, 0)))


def _images_a_turn(x: Array, filters: int, tiles: int, m: int) -> int:
    """A divisor of the number of images where there is one of about the right size: nothing then is filled up."""
    bytes_ = (m + 2) ** 2 * x.dtype.itemsize
    turn = (_TURN_BYTES + bytes_ * x.shape[3] * filters) // (bytes_ * tiles * (x.shape[3] + filters))
    turn = min(max(1, turn), x.shape[0])
    divisors = [d for d in range(max(1, turn // 2), 2 * turn + 1) if x.shape[0] % d == 0]
    return min(divisors, key=lambda d: abs(d - turn), default=turn)


def _turns(x: Array, turn: int) -> Array:
    """Images in groups of `turn`, zeros filling the last."""
    count = -(-x.shape[0] // turn)
    x = jnp.pad(x, ((0, count * turn - x.shape[0]), (0, 0), (0, 0), (0, 0)))
    return x.reshape(count, turn, *x.shape[1:])
