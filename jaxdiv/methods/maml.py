"""MAML (Finn et al. 2017, https://arxiv.org/abs/1703.03400): SGD on a task's support set, and the gradient of the query
loss through it.

`meta_gradient` is pure and jits. Higher order differentiates through the inner loop; first order stops the gradient
at each inner gradient, so that the query loss's gradient at the adapted parameters is the result. ANIL (Raghu et al.
2020) adapts the head alone; Meta-SGD (Li et al. 2017) learns an inner rate for each parameter.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiv.data.episodes import Task
from jaxdiv.errors import InputError, at_least
from jaxdiv.methods.learner import Learner, Predict, accuracy, cross_entropy
from jaxdiv.nets.network import MOMENTUM, Network

Apply = Callable[..., Array]  # params, images -> logits; where keys are given, params, images, key -> logits
Rates = float | Mapping[str, Any]  # one inner rate, or one for each parameter that adapts


def adapt(
    apply: Apply,
    params: PyTree,
    images: Float[Array, "support h w c"],
    labels: Array,
    inner_steps: int,
    inner_rate: Rates,
    first_order: bool = False,
    remat: bool = False,
    adapts: Sequence[str] | None = None,
    key: PRNGKeyArray | None = None,
) -> PyTree:
    """`params` after `inner_steps` of SGD on the support cross-entropy.

    Args:
      inner_rate: one number, or a mapping like what adapts with a rate for each parameter (Meta-SGD).
      first_order: the inner gradients count as constants.
      remat: recompute each step's activations in the backward pass: 5-20% more time for memory that hardly grows with
        `inner_steps`.
      adapts: the top-level names in `params` that change (ANIL: the head's); None: all parameters.
      key: `apply` takes a key, another in each step.
    """
    free = params if adapts is None else {name: params[name] for name in adapts}
    whole = lambda free: free if adapts is None else {**params, **free}
    rates = inner_rate if isinstance(inner_rate, Mapping) else jax.tree.map(lambda _: inner_rate, free)

    def step(free: PyTree, key: PRNGKeyArray | None) -> tuple[PyTree, None]:
        drawing = () if key is None else (key,)
        gradient = jax.grad(lambda p: cross_entropy(apply(whole(p), images, *drawing), labels))(free)
        if first_order:
            gradient = lax.stop_gradient(gradient)
        return jax.tree.map(lambda p, g, rate: p - rate * g, free, gradient, rates), None

    keys = None if key is None else jax.random.split(key, inner_steps)
    return whole(lax.scan(jax.checkpoint(step) if remat else step, free, keys, length=inner_steps)[0])


def meta_loss(
    apply: Apply,
    params: PyTree,
    task: Task,
    inner_steps: int,
    inner_rate: Rates,
    first_order: bool,
    remat: bool = False,
    adapts: Sequence[str] | None = None,
) -> tuple[Array, Array]:
    """One task's query cross-entropy and accuracy after adapting to its support set."""
    support = (task.support_images, task.support_labels)
    adapted = adapt(apply, params, *support, inner_steps, inner_rate, first_order, remat, adapts)
    logits = apply(adapted, task.query_images)
    return cross_entropy(logits, task.query_labels), accuracy(logits, task.query_labels)


def meta_gradient(
    apply: Apply,
    params: PyTree,
    tasks: Task,
    inner_steps: int = 5,
    inner_rate: Rates = 0.1,
    first_order: bool = False,
    remat: bool = False,
    adapts: Sequence[str] | None = None,
    mesh: Mesh | None = None,
    vmap: bool | None = None,
) -> tuple[Float[Array, ""], PyTree]:
    """Mean query loss over a batch of tasks, and its gradient with respect to the initial parameters.

    Args:
      apply: `(params, images) -> logits`, pure.
      tasks: leading axis `tasks` on every leaf.
      first_order: drop the terms with second derivatives (FO-MAML) instead of keeping them (HO-MAML).
      inner_rate, remat, adapts: as in `adapt`.
      mesh: devices in one axis, over which the tasks are spread; their number must divide the tasks'.
      vmap: all tasks of a device at once, or one after the other; None: what suits the platform.
    Returns:
      The loss (nats per query image) and a pytree like `params`.
    Raises InputError for a negative number of steps and a task without the leading axis.
    """

    at_least(0, inner_steps=inner_steps)
    if tasks.query_labels.ndim != 2:
        raise InputError(f"`tasks` must have a leading axis of tasks: its labels are {tasks.query_labels.shape}")

    def one(params: PyTree, task: Task, _: None) -> tuple[Array, Array]:
        return meta_loss(apply, params, task, inner_steps, inner_rate, first_order, remat, adapts)

    (loss, _), gradient = _mean_over_tasks(one, params, tasks, None, mesh, vmap)
    return loss, gradient


def _mean_over_tasks(
    one: Callable[..., tuple[Array, Any]],
    params: PyTree,
    tasks: Task,
    keys: PRNGKeyArray | None,
    mesh: Mesh | None,
    vmap: bool | None,
) -> Any:
    """`jax.value_and_grad` of `one(params, task, key) -> loss, more` as a mean over the tasks, spread over the mesh."""
    # On a CPU vmap would turn the tasks' adapted kernels into grouped convolutions, at half the speed of a loop.
    at_once = jax.default_backend() != "cpu" if vmap is None else vmap

    def mean(params: PyTree, tasks: Task, keys: PRNGKeyArray | None) -> Any:
        each = lambda item: jax.value_and_grad(one, has_aux=True)(params, *item)
        results = jax.vmap(each)((tasks, keys)) if at_once else lax.map(each, (tasks, keys))
        return jax.tree.map(lambda leaf: leaf.mean(0), results)

    if mesh is None:
        return mean(params, tasks, keys)
    axis = mesh.axis_names[0]
    over, whole = PartitionSpec(axis), PartitionSpec()

    def of_device(*arguments: Any) -> Any:
        return lax.pmean(mean(*arguments), axis)

    # The replication check does not know our convolution; `pmean` makes the results alike.
    return jax.shard_map(of_device, mesh=mesh, in_specs=(whole, over, over), out_specs=whole, check_vma=False)(
        params, tasks, keys
    )


def learner(
    net: Network,
    inner_steps: int,
    inner_rate: float,
    first_order: bool,
    test_steps: int | None = None,
    remat: bool = False,
    adapts: Sequence[str] | None = None,
    learned_rates: bool = False,
    batch_norm: str = "transductive",
    test_dropout: bool = False,
    summed: bool = False,
    mesh: Mesh | None = None,
    vmap: bool | None = None,
) -> Learner:
    """The MAML `Learner`: trained on batches of tasks, tested by `test_steps` inner steps (None: as many).

    Args:
      learned_rates: Meta-SGD: `{"net": parameters, "rates": inner rates}` is what is learned, the rates from
        `inner_rate` on. Their gradient exists in first order too.
      batch_norm: one of `network.BATCH_NORM`.
      test_dropout: dropout stays on in tests, as in the study's code.
      summed: the gradients of a meta-batch are added up instead of averaged, as in the study's code.
      remat, adapts, mesh, vmap: as in `meta_gradient`.
    """

    def init(key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        params, stats = net.init(key)
        carried = {"stats": stats} if batch_norm == "running" else {}
        if not learned_rates:
            return params, carried
        free = params if adapts is None else {name: params[name] for name in adapts}
        return {"net": params, "rates": jax.tree.map(lambda p: jnp.full_like(p, inner_rate), free)}, carried

    def task_loss(params: PyTree, task: Task, key: PRNGKeyArray) -> tuple[Array, Any]:
        initial, rates = (params["net"], params["rates"]) if learned_rates else (params, inner_rate)
        for_support, for_query = jax.random.split(key)
        by_batch = lambda p, images, key: net.by_batch(p, images, key).logits
        support = (task.support_images, task.support_labels)
        adapted = adapt(by_batch, initial, *support, inner_steps, rates, first_order, remat, adapts, for_support)
        if batch_norm == "support_statistics":
            stats = net.by_batch(adapted, task.support_images, for_query).stats
            found = net.by_stats(adapted, stats, task.query_images)
        else:
            found = net.by_batch(adapted, task.query_images, for_query)
        loss, share = cross_entropy(found.logits, task.query_labels), accuracy(found.logits, task.query_labels)
        return loss, (share, found.stats if batch_norm == "running" else None)

    def gradient(params: PyTree, carried: PyTree, tasks: Task, key: PRNGKeyArray) -> Any:
        count = len(tasks.query_labels)
        keys = jax.random.split(key, count)
        (loss, (share, stats)), grads = _mean_over_tasks(task_loss, params, tasks, keys, mesh, vmap)
        if batch_norm == "running":
            average = lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new
            carried = {"stats": jax.tree.map(average, carried["stats"], stats)}
        if summed:
            grads = jax.tree.map(lambda leaf: count * leaf, grads)
        return grads, carried, {"loss": loss, "accuracy": share}

    steps = inner_steps if test_steps is None else test_steps
    free = None if adapts is None else tuple(adapts)
    tested = _adapter(net, steps, None if learned_rates else inner_rate, free, batch_norm, test_dropout)
    return Learner(init, gradient, tested)


@cache
def _adapter(
    net: Network,
    steps: int,
    rate: float | None,
    adapts: tuple[str, ...] | None,
    batch_norm: str,
    dropout: bool,
) -> Callable[..., Predict]:
    """Adapting to a test task: one function for first and higher order, so that evaluation compiles it once."""

    def adapted(params: PyTree, carried: PyTree, images: Array, labels: Array, key: PRNGKeyArray) -> Predict:
        initial, rates = (params["net"], params["rates"]) if rate is None else (params, rate)
        for_support, for_query = jax.random.split(key) if dropout else (None, None)

        def apply(params: PyTree, images: Array, key: PRNGKeyArray | None = None) -> Array:
            if batch_norm == "running":
                return net.by_stats(params, carried["stats"], images).logits
            return net.by_batch(params, images, key).logits

        final = adapt(apply, initial, images, labels, steps, rates, True, adapts=adapts, key=for_support)
        if batch_norm != "support_statistics":
            return lambda queries: apply(final, queries, for_query)
        stats = net.by_batch(final, images, for_query).stats
        return lambda queries: net.by_stats(final, stats, queries).logits

    return adapted
