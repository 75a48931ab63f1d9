"""MAML's meta-gradients against finite differences, a NumPy derivation and a plain Python loop."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

from jaxdiv.data.episodes import Task
from jaxdiv.methods import maml
from jaxdiv.methods.base import cross_entropy
from jaxdiv.nets.conv4 import Conv4
from jaxdiv.nets.network import Network

WAYS = 3
# Compiled once for each net, number of steps and order; the rate is traced.
compiled = partial(jax.jit, static_argnames=("apply", "inner_steps", "first_order", "remat"))
meta_gradient = compiled(maml.meta_gradient)
adapt = compiled(maml.adapt)
meta_loss = compiled(maml.meta_loss)


@pytest.fixture(autouse=True)
def float64():
    with enable_x64(True):
        yield


def random_tasks(tasks, shape, support=6, query=9, seed=0):
    """Images whose mean depends on their label, so that there is something to adapt to."""
    draw = np.random.default_rng(seed)
    means = draw.normal(size=(tasks, WAYS, *shape))

    def part(n):
        labels = np.tile(np.arange(n) % WAYS, (tasks, 1))
        return jnp.asarray(means[:, labels[0]] + draw.normal(size=(tasks, n, *shape))), jnp.asarray(labels)

    return Task(*part(support), *part(query))


def mlp(params, images):
    return jnp.tanh(images @ params["in"] + params["bias"]) @ params["out"]


def mlp_params(seed=1):
    draw = np.random.default_rng(seed)
    shapes = {"in": (4, 5), "bias": (5,), "out": (5, WAYS)}
    return {name: jnp.asarray(draw.normal(size=shape) / 2) for name, shape in shapes.items()}


class Mlp(nn.Module):
    """`mlp` as a Linen network."""

    @nn.compact
    def __call__(self, images, dropblock_scale=0.0):
        params = {name: self.param(name, lambda key, leaf=leaf: leaf) for name, leaf in mlp_params().items()}
        return mlp(params, images), images


def linear(params, images):
    return images @ params["w"] + params["b"]


def small_conv4():
    net = Network(Conv4(ways=WAYS, width=3), (16, 16, 3))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), net.init(jax.random.key(0))[0])
    return (lambda p, images: net.apply_batch_stats(p, images).logits), params, random_tasks(1, (16, 16, 3))


def directional(apply, params, tasks, h, directions=3, **how):
    """Pairs (meta-gradient along a random direction, central difference of the meta-loss along it)."""

    each = [jax.tree.map(lambda a, i=i: a[i], tasks) for i in range(len(tasks.support_labels))]
    loss = lambda params: np.mean([meta_loss(apply, params, task, **how, first_order=False)[0] for task in each])
    value, gradient = meta_gradient(apply, params, tasks, **how)
    assert float(value) == pytest.approx(float(loss(params)), rel=1e-12)
    draw = np.random.default_rng(5)
    pairs = []
    for _ in range(directions):
        direction = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape)), params)
        moved = lambda sign, d=direction: jax.tree.map(lambda p, v: p + sign * h * v, params, d)
        difference = (loss(moved(1)) - loss(moved(-1))) / (2 * h)
        products = jax.tree.map(lambda g, v: jnp.sum(g * v), gradient, direction)
        pairs.append((float(sum(jax.tree.leaves(products))), float(difference)))
    return np.array(pairs).T


def check_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def distance(a, b):
    """Relative to the length of b."""
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    return np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))


def test_higher_order_gradient_equals_finite_differences_on_a_smooth_net():
    # Truncation O(h²) = 1e-10 and rounding 1e-16 / h = 1e-11, each times a modest constant.
    found, expected = directional(mlp, mlp_params(), random_tasks(2, (4,)), 1e-5, inner_steps=4, inner_lr=0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_higher_order_gradient_equals_finite_differences_on_conv4():
    # Kinks of ReLU and max-pool lie densely: the step must be tiny, so rounding 1e-16 / 1e-9 limits the agreement.
    apply, params, tasks = small_conv4()
    found, expected = directional(apply, params, tasks, 1e-9, inner_steps=2, inner_lr=0.05)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def numpy_linear_maml(w, b, x, y, queries, targets, steps, rate):
    """Adapted weights, query loss, FO and HO gradient of softmax regression, derived by hand.

    With the bias as a row of ones, G(W) = Xᵀ(P − Y)/n, and the Hessian applied to V with U = XV is
    Xᵀ(P∘U − P rowsum(P∘U))/n. HO pulls the query gradient back through each step: v ← v − rate · H(W_k) v.
    """
    ones = lambda a: np.concatenate([a, np.ones((len(a), 1))], 1)
    x, queries = ones(np.asarray(x)), ones(np.asarray(queries))
    weights = np.concatenate([w, b[None]])

    def softmax(logits):
        e = np.exp(logits - logits.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    slope = lambda x, y, weights: x.T @ (softmax(x @ weights) - np.eye(WAYS)[y]) / len(x)
    passed = []
    for _ in range(steps):
        passed.append(weights)
        weights = weights - rate * slope(x, y, weights)
    loss = -np.log(softmax(queries @ weights)[np.arange(len(targets)), targets]).mean()
    first = v = slope(queries, targets, weights)
    for earlier in reversed(passed):
        p, u = softmax(x @ earlier), x @ v
        v = v - rate * x.T @ (p * u - p * (p * u).sum(1, keepdims=True)) / len(x)
    return weights, loss, first, v


def linear_case(steps):
    draw = np.random.default_rng(3)
    w, b = draw.normal(size=(4, WAYS)), draw.normal(size=WAYS)
    tasks = random_tasks(1, (4,), seed=4)
    task = jax.tree.map(lambda a: a[0], tasks)
    witness = numpy_linear_maml(w, b, *map(np.asarray, jax.tree.leaves(task)), steps, 0.4)
    return {"w": jnp.asarray(w), "b": jnp.asarray(b)}, tasks, task, witness


def split(weights):
    return {"w": weights[:-1], "b": weights[-1]}


@pytest.mark.parametrize("steps", [1, 5])
def test_adapting_softmax_regression_equals_numpy_gradient_descent(steps):
    params, _, task, (adapted, _, _, _) = linear_case(steps)
    found = adapt(linear, params, task.support_images, task.support_labels, steps, 0.4)
    check_close(found, split(adapted), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("first_order", [True, False], ids=["first order", "higher order"])
def test_meta_gradient_of_softmax_regression_equals_the_hand_derived_one(steps, first_order):
    params, tasks, _, (_, loss, first, higher) = linear_case(steps)
    value, gradient = meta_gradient(linear, params, tasks, steps, 0.4, first_order)
    assert float(value) == pytest.approx(loss, rel=1e-12)
    check_close(gradient, split(first if first_order else higher), rtol=1e-11, atol=1e-13)


def test_first_order_is_the_query_gradient_at_the_adapted_parameters():
    params, tasks = mlp_params(), random_tasks(2, (4,))
    slope = jax.jit(jax.value_and_grad(lambda p, x, y: cross_entropy(mlp(p, x), y)))
    losses, gradients = [], []
    for i in range(2):
        task = jax.tree.map(lambda a, i=i: a[i], tasks)
        adapted = params
        for _ in range(4):
            gradient = slope(adapted, task.support_images, task.support_labels)[1]
            adapted = {name: adapted[name] - 0.3 * gradient[name] for name in adapted}
        loss, gradient = slope(adapted, task.query_images, task.query_labels)
        losses.append(loss)
        gradients.append(gradient)
    value, found = meta_gradient(mlp, params, tasks, 4, 0.3, first_order=True)
    assert float(value) == pytest.approx(float(np.mean(losses)), rel=1e-12)
    check_close(found, jax.tree.map(lambda a, b: (a + b) / 2, *gradients), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("first_order", [True, False], ids=["first order", "higher order"])
def test_a_quadratic_loss_has_its_closed_form_meta_gradient(first_order):
    """For ½(p − a)ᵀA(p − a): p_k − a = (I − rA)ᵏ(p − a), and (I − rA)ᵏ pulls the query loss's slope A(p_k − b) back.

    The cross-entropy of logits (0, log(e^q − 1)) and label 0 is q: so a network may have any positive loss.
    """
    draw = np.random.default_rng(5)
    root, start, rate, steps = draw.normal(size=(4, 4)) / 2, draw.normal(size=4), 0.2, 6
    curvature = root @ root.T + np.eye(4) / 2

    def apply(params, images):
        away = params["p"] - images.reshape(len(images), 4)
        q = 1 + jnp.einsum("ni,ij,nj->n", away, curvature, away) / 2
        return jnp.stack([jnp.zeros_like(q), jnp.log(jnp.expm1(q))], 1)

    support, queries = draw.normal(size=(1, 3, 1, 1, 4)), draw.normal(size=(1, 5, 1, 1, 4))
    task = Task(jnp.asarray(support), jnp.zeros((1, 3), int), jnp.asarray(queries), jnp.zeros((1, 5), int))
    _, found = meta_gradient(apply, {"p": jnp.asarray(start)}, task, steps, rate, first_order)
    shrink = np.linalg.matrix_power(np.eye(4) - rate * curvature, steps)
    middle = support.mean((0, 1, 2, 3))
    adapted = middle + shrink @ (start - middle)
    slope = curvature @ (adapted - queries.mean((0, 1, 2, 3)))
    np.testing.assert_allclose(found["p"], slope if first_order else shrink.T @ slope, rtol=1e-11)


def test_first_order_drops_the_hessian_term():
    how = (mlp, mlp_params(), random_tasks(2, (4,)), 4, 0.3)
    loss, first = meta_gradient(*how, first_order=True)
    same, higher = meta_gradient(*how, first_order=False)
    assert float(loss) == float(same)
    assert distance(first, higher) > 0.05


@pytest.mark.parametrize("first_order", [True, False], ids=["first order", "higher order"])
def test_without_inner_steps_the_meta_gradient_is_the_plain_query_gradient(first_order):
    params, tasks = mlp_params(), random_tasks(2, (4,))
    plain = lambda p: cross_entropy(mlp(p, tasks.query_images.reshape(-1, 4)), tasks.query_labels.reshape(-1))
    loss, gradient = jax.jit(jax.value_and_grad(plain))(params)
    value, found = meta_gradient(mlp, params, tasks, 0, 0.3, first_order)
    assert float(value) == pytest.approx(float(loss), rel=1e-12)
    check_close(found, gradient, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("first_order", [True, False], ids=["first order", "higher order"])
def test_remat_changes_nothing(first_order):
    how = (mlp, mlp_params(), random_tasks(2, (4,)), 4, 0.3, first_order)
    loss, gradient = meta_gradient(*how)
    same, again = meta_gradient(*how, remat=True)
    assert float(same) == pytest.approx(float(loss), rel=1e-12)
    assert distance(again, gradient) < 1e-12


def test_with_remat_memory_grows_by_the_adapted_parameters_alone():
    apply, params, tasks = small_conv4()
    held = []
    for steps in (5, 20):
        program = meta_gradient.lower(apply, params, tasks, steps, 0.1, first_order=False, remat=True).compile()
        held.append(program.memory_analysis().temp_size_in_bytes)
    leaves = jax.tree.leaves(params)
    size = sum(leaf.nbytes for leaf in leaves)
    # Without remat it is 80 times that. Each leaf's stack may be rounded up to a cache line of 64 bytes.
    assert 0 < held[1] - held[0] <= 15 * size + 64 * len(leaves), (held, size)


def test_two_steps_are_one_step_twice_and_each_lowers_the_support_loss():
    params, task = mlp_params(), jax.tree.map(lambda a: a[0], random_tasks(1, (4,)))
    on_support = (task.support_images, task.support_labels)
    after = [adapt(mlp, params, *on_support, steps, 0.1) for steps in range(4)]
    check_close(after[2], adapt(mlp, after[1], *on_support, 1, 0.1), rtol=1e-13)
    losses = [float(cross_entropy(mlp(p, task.support_images), task.support_labels)) for p in after]
    assert (np.diff(losses) < 0).all()
    check_close(after[0], params, rtol=0)


def test_the_number_of_inner_steps_changes_the_meta_gradient():
    gradients = [meta_gradient(mlp, mlp_params(), random_tasks(2, (4,)), steps, 0.3)[1] for steps in (4, 8)]
    assert distance(*gradients) > 0.05


def test_a_batch_is_the_mean_over_its_tasks():
    params, tasks = mlp_params(), random_tasks(2, (4,))
    each = [meta_gradient(mlp, params, jax.tree.map(lambda a, i=i: a[i : i + 1], tasks), 4, 0.3) for i in range(2)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *each)
    check_close(meta_gradient(mlp, params, tasks, 4, 0.3), mean, rtol=1e-11, atol=1e-14)


def test_the_method_trains_by_the_meta_gradient_and_predicts_with_adapted_parameters():
    params, tasks = mlp_params(), random_tasks(2, (4,))
    method = maml.MAML(Network(Mlp(), (4,)), 4, 0.3, first_order=False)
    gradient, model_state, metrics = jax.jit(method.gradient)(params, {}, tasks, jax.random.key(0))
    assert model_state == {}
    loss, expected = meta_gradient(mlp, params, tasks, 4, 0.3)
    check_close(gradient, expected, rtol=1e-12)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-12)
    correct = []
    for i in range(2):
        support = (tasks.support_images[i], tasks.support_labels[i])
        logits = method.adapt(params, {}, *support, jax.random.key(0))(tasks.query_images[i])
        adapted = adapt(mlp, params, *support, 4, 0.3)
        np.testing.assert_allclose(logits, mlp(adapted, tasks.query_images[i]), rtol=1e-12)
        correct.append(np.argmax(logits, 1) == tasks.query_labels[i])
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(correct), abs=1e-6)
