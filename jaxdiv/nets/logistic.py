"""L2 multinomial logistic regression to convergence: the Task2Vec head and pre-training's last-layer fit."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int

from jaxdiv.nets.precision import always_full_precision

_MAX_STEPS = 200


class Head(NamedTuple):
    """A linear classifier: logits = features @ kernel + bias."""

    kernel: Float[Array, "d ways"]
    bias: Float[Array, " ways"]


class _State(NamedTuple):
    dual: Array  # [ways, n]: the kernel is centredᵀ @ dualᵀ
    bias: Array  # [ways]
    logits: Array  # [ways, n]
    change: Array  # largest change of a logit difference in the last step, relative
    before: Array  # the same, one step earlier
    step: Array


@always_full_precision  # Newton's steps solve systems at float32's resolution
@partial(jax.jit, static_argnames=("ways",))
def fit(features: Float[Array, "n d"], labels: Int[Array, " n"], ways: int, C: Float[ArrayLike, ""] = 1.0) -> Head:
    """Minimise ½‖W‖² + C · Σᵢ crossentropy(W, b; xᵢ, yᵢ), the bias unpenalised: scikit-learn's `LogisticRegression`.

    The optimum lies in the span of the centred features (centring moves only the bias), W = Xᵀα, so Newton's method
    runs on the n x n Gram matrix K = XXᵀ and costs (ways + 1) Cholesky factorisations a step whatever d is: with
    E_c = (D_c⁻¹ + K)⁻¹, D_c = C·diag(p_c), the step of class c is E_c (D_c⁻¹ residual_c + m), where m, shared by the
    classes, makes the steps sum to zero (Rasmussen & Williams 2006, algorithm 3.3, here with an exact bias).
    Steps are damped by log(1 + M)/M, M the largest change of a logit difference, which guarantees descent because
    the loss is generalised self-concordant (Bach 2010, https://arxiv.org/abs/0910.4627); no line search, so
    nothing is compared at float32's resolution.

    Returns kernel and bias (summing to 0 over the classes). Jits, vmaps, and costs milliseconds for n of 100.
    """
    n = features.shape[0]
    dtype = jnp.result_type(features, jnp.float32)
    mean = features.mean(0)
    centred = (features - mean).astype(dtype)
    gram = jnp.matmul(centred, centred.T)
    # Centring gave K the null vector 1. The duals sum to 0, so a multiple of 11ᵀ changes no logit; it keeps what
    # is factorised below from losing that direction to rounding at large feature scales.
    gram = gram + jnp.trace(gram) / n**2
    truth = jax.nn.one_hot(labels, ways, dtype=dtype).T
    eps = jnp.finfo(dtype).eps

    def forward(dual: Array, bias: Array) -> Array:
        return jnp.matmul(dual, gram) + bias[:, None]

    def advance(state: _State) -> _State:
        p = jax.nn.softmax(state.logits, axis=0)
        others = jnp.sum(p * (1 - truth), axis=0)  # 1 − p of the true class, without cancellation
        residual = C * jnp.where(truth > 0, others, -p) - state.dual
        root = jnp.sqrt(C * jnp.maximum(p, eps**1.5))  # D^½; the floor only slows the last digits
        system = root[:, :, None] * gram * root[:, None, :]
        # A ridge in proportion to each diagonal entry keeps Cholesky alive at float32's resolution without touching
        # the entries of small p; Newton's residual corrects for it.
        ridge = 1 + 0.25 * n * eps * jnp.diagonal(system, axis1=1, axis2=2)
        lower = jnp.linalg.cholesky(system + _diagonals(ridge))
        # T = L⁻¹D^½, so that E = TᵀT; t = L⁻¹D^-½ residual, so that E D⁻¹ residual = Tᵀt.
        right = jnp.concatenate([_diagonals(root), (residual / root)[:, :, None]], axis=2)
        solved = lax.linalg.triangular_solve(lower, right, left_side=True, lower=True)
        t, u = solved[:, :, :n], solved[:, :, n]
        # Each class's dual must keep summing to 0 (the bias's optimality): E₁ = E − E11ᵀE / 1ᵀE1, as a projection of T.
        ones = t.sum(2)
        ones = ones / jnp.linalg.norm(ones, axis=1, keepdims=True)
        t = t - ones[:, :, None] * jnp.einsum("ci,cij->cj", ones, t)[:, None, :]
        own = jnp.einsum("cij,ci->cj", t, u)
        coupling = jnp.einsum("cij,cik->jk", t, t)
        # Its null vector is 1: all logits moved alike.
        ridge = 10 * eps * jnp.diagonal(coupling)
        coupling = coupling + jnp.trace(coupling) / n**2 + jnp.diag(ridge)
        shared = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(coupling), True), own.sum(0))
        delta = own - jnp.einsum("cij,cik,k->cj", t, t, shared)
        # D⁻¹(residual − delta) + m − K delta = bias's step, the same for every sample.
        moved = jnp.matmul(delta, gram)
        weight = root**2
        gap = (residual - delta) / weight - shared - moved
        step_bias = jnp.sum(weight * gap, 1) / jnp.sum(weight, 1)
        moved = moved + step_bias[:, None]
        reach = jnp.max(jnp.max(moved, 0) - jnp.min(moved, 0))
        rate = jnp.where(reach > 1e-3, jnp.log1p(reach) / jnp.maximum(reach, 1e-30), 1.0)
        dual, bias = state.dual + rate * delta, state.bias + rate * step_bias
        bias = bias - bias.mean()
        logits = forward(dual, bias)
        change = reach / (1 + jnp.max(jnp.abs(logits)))
        return _State(dual, bias, logits, change, state.change, state.step + 1)

    start = jnp.zeros((ways, n), dtype), jnp.zeros(ways, dtype)
    far = jnp.asarray(jnp.inf, dtype)
    init = _State(*start, forward(*start), far, far, jnp.asarray(0))

    def unfinished(state: _State) -> Array:
        # Newton converges quadratically at the end: a small step that no longer shrinks is rounding.
        rounding = (state.change < 1e-4) & (state.change > 0.9 * state.before)
        return (state.change > 30 * eps) & ~rounding & (state.step < _MAX_STEPS)

    end = lax.while_loop(unfinished, advance, init)
    kernel = jnp.matmul(centred.T, end.dual.T)
    return Head(kernel, end.bias - mean @ kernel)


def _diagonals(rows: Float[Array, "c n"]) -> Float[Array, "c n n"]:
    return rows[:, :, None] * jnp.eye(rows.shape[1], dtype=rows.dtype)
