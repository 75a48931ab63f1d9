"""The logistic regression against scikit-learn's, and against the condition that defines its optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from sklearn.linear_model import LogisticRegression

from jaxdiv.nets import logistic

WAYS = 4
SHAPES = {"d > n": (30, 80), "d < n": (60, 7)}
SCALES = [1e-3, 1e-1, 1.0, 1e1, 1e2]


def problem(shape, scale, seed=0):
    """Overlapping classes away from the origin, as pooled features are -> float32 features, labels of every class."""
    n, d = SHAPES[shape]
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % WAYS)
    features = scale * (2 + 0.5 * rng.normal(size=(WAYS, d))[labels] + rng.normal(size=(n, d)))
    return features.astype(np.float32), labels


def sklearns(features, labels, C=1.0):
    """scikit-learn's optimum, in float64; its default, L-BFGS, stops up to 10% short of it at scale 1e2."""
    features = features.astype(np.float64)
    model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000, solver="newton-cholesky").fit(features, labels)
    centre = lambda values: values - values.mean(-1, keepdims=True)  # logits moved alike change no probability
    return centre(model.coef_.T), centre(model.intercept_), model.predict_proba(features)


def assert_agrees(head, features, labels, C=1.0, tolerance=1e-3):
    """By default to what float32 keeps through the Newton steps; a coefficient is judged beside the largest."""
    kernel, bias, probabilities = sklearns(features, labels, C)
    np.testing.assert_allclose(head.kernel, kernel, rtol=tolerance, atol=tolerance * np.abs(kernel).max())
    np.testing.assert_allclose(head.bias, bias, rtol=tolerance, atol=tolerance * max(1, np.abs(bias).max()))
    logits = features.astype(np.float64) @ np.asarray(head.kernel, np.float64) + np.asarray(head.bias)
    ours = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), probabilities, atol=tolerance)


# Without (d < n, 1e2): probabilities in doubt at logits that are differences of 1e5 are beyond float32.
@pytest.mark.parametrize(("shape", "scale"), [(s, x) for s in SHAPES for x in SCALES if (s, x) != ("d < n", 1e2)])
def test_agrees_with_scikit_learn_at_every_scale(shape, scale):
    features, labels = problem(shape, scale)
    assert_agrees(logistic.fit(features, labels, ways=WAYS, C=1.0), features, labels)


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_scikit_learn_to_five_digits_in_float64(shape):
    with enable_x64(True):
        for scale in SCALES:
            features, labels = problem(shape, scale)
            head = logistic.fit(jnp.asarray(features, jnp.float64), labels, ways=WAYS, C=1.0)
            assert_agrees(head, features, labels, tolerance=1e-5)


@pytest.mark.parametrize("C", [0.01, 100.0])
def test_C_weighs_the_likelihood_as_scikit_learns_does(C):
    features, labels = problem("d > n", 1.0)
    assert_agrees(logistic.fit(features, labels, ways=WAYS, C=C), features, labels, C)


def test_vmap_fits_problems_of_different_scales_side_by_side():
    problems = [problem("d > n", scale, seed) for seed, scale in enumerate(SCALES)]
    features, labels = (jnp.stack(part) for part in zip(*problems, strict=True))
    heads = jax.vmap(lambda x, y: logistic.fit(x, y, ways=WAYS, C=1.0))(features, labels)
    for index, (x, y) in enumerate(problems):
        assert_agrees(logistic.Head(heads.kernel[index], heads.bias[index]), x, y)


def test_gradient_vanishes_at_the_optimum_in_float64():
    with enable_x64(True):
        features, labels = problem("d > n", 1.0)
        features = jnp.asarray(features, jnp.float64)

        def loss(head):
            scores = jax.nn.log_softmax(features @ head.kernel + head.bias)
            return 0.5 * jnp.sum(head.kernel**2) - scores[jnp.arange(len(labels)), labels].sum()

        gradient = jax.grad(loss)(logistic.fit(features, labels, ways=WAYS, C=1.0))
        # A sample's part of the gradient is of order 1 to 10.
        assert max(float(jnp.abs(leaf).max()) for leaf in gradient) < 1e-9


def test_separable_classes_still_give_the_finite_regularised_optimum():
    rng = np.random.default_rng(3)
    labels = np.arange(30) % WAYS
    features = (100 * np.eye(WAYS, 80)[labels] + rng.normal(size=(30, 80))).astype(np.float32)
    assert_agrees(logistic.fit(features, labels, ways=WAYS, C=1.0), features, labels)


def test_a_class_without_samples_gets_no_probability():
    features, _ = problem("d < n", 1.0)
    labels = np.arange(len(features)) % (WAYS - 1)
    head = logistic.fit(features, labels, ways=WAYS, C=1.0)
    probabilities = jax.nn.softmax(features @ head.kernel + head.bias)
    assert np.isfinite(probabilities).all()
    assert float(probabilities[:, -1].max()) < 1e-3
