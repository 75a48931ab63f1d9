"""MAML (Finn et al. 2017, https://arxiv.org/abs/1703.03400): SGD on a task's support set, and the gradient of the query
loss through it.

`meta_gradient` is pure and jits. Higher order differentiates through the inner loop; first order stops the gradient
at each inner gradient, so that the query loss's gradient at the adapted parameters is the result. ANIL (Raghu et al.
2020) adapts the head alone; Meta-SGD (Li et al. 2017) learns an inner learning rate for each parameter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiv.data.episodes import Task
from jaxdiv.device_memory import Fit
from jaxdiv.errors import MOST_RATE, InputError, at_least, check_known, within
from jaxdiv.methods.base import Method, Metrics, Predict, accuracy, cross_entropy
from jaxdiv.methods.parallel import mean_over_tasks
from jaxdiv.nets.network import BATCH_NORM, Network, update_running
from jaxdiv.nets.precision import full_precision

Apply = Callable[..., Array]  # params, batch -> logits; where keys are given, params, batch, key -> logits
InnerLr = float | Array | Mapping[str, Any]  # one learning rate, or one for each parameter that adapts
# What the inner loop changes: the top-level names in the parameters; None: all of them.
INNER_PARAMS: dict[str, tuple[str, ...] | None] = {"all": None, "head": ("head",)}
GRAD_REDUCTIONS = ("mean", "sum")


@full_precision
def adapt(
    apply: Apply,
    params: PyTree,
    support: Array,
    labels: Array,
    inner_steps: int,
    inner_lr: InnerLr,
    first_order: bool = False,
    remat: bool = False,
    inner_params: Sequence[str] | None = None,
    key: PRNGKeyArray | None = None,
) -> PyTree:
    """`params` after `inner_steps` of SGD on the support cross-entropy.

    Args:
      inner_lr: one number, or a mapping like `inner_params` with a learning rate for each parameter (Meta-SGD).
      first_order: the inner gradients count as constants.
      remat: recompute each step's activations in the backward pass: 5-20% slower; memory hardly grows with the number
        of inner steps.
      inner_params: the top-level names in `params` that change (ANIL: the head's); None: all parameters.
      key: `apply` takes a key, another in each step.
    """
    free = params if inner_params is None else {name: params[name] for name in inner_params}
    whole = lambda free: free if inner_params is None else {**params, **free}
    rates = inner_lr if isinstance(inner_lr, Mapping) else jax.tree.map(lambda _: inner_lr, free)

    def step(free: PyTree, key: PRNGKeyArray | None) -> tuple[PyTree, None]:
        drawing = () if key is None else (key,)
        gradient = jax.grad(lambda p: cross_entropy(apply(whole(p), support, *drawing), labels))(free)
        if first_order:
            gradient = lax.stop_gradient(gradient)
        return jax.tree.map(lambda p, g, rate: p - rate * g, free, gradient, rates), None

    keys = None if key is None else jax.random.split(key, inner_steps)
    return whole(lax.scan(jax.checkpoint(step) if remat else step, free, keys, length=inner_steps)[0])


@full_precision
def meta_loss(
    apply: Apply,
    params: PyTree,
    task: Task,
    inner_steps: int,
    inner_lr: InnerLr,
    first_order: bool,
    remat: bool = False,
    inner_params: Sequence[str] | None = None,
) -> tuple[Array, Array]:
    """One task's query cross-entropy and accuracy after adapting to its support set."""
    support = (task.support_images, task.support_labels)
    adapted = adapt(apply, params, *support, inner_steps, inner_lr, first_order, remat, inner_params)
    logits = apply(adapted, task.query_images)
    return cross_entropy(logits, task.query_labels), accuracy(logits, task.query_labels)


@full_precision
def meta_gradient(
    apply: Apply,
    params: PyTree,
    tasks: Task,
    inner_steps: int = 5,
    inner_lr: InnerLr = 0.1,
    first_order: bool = False,
    remat: bool = False,
    inner_params: Sequence[str] | None = None,
    mesh: Mesh | None = None,
    tasks_at_once: int = 0,
) -> tuple[Float[Array, ""], PyTree]:
    """Mean query loss over a batch of tasks, and its gradient with respect to the initial parameters.

    Args:
      apply: `(params, batch) -> logits`, pure.
      tasks: leading axis `tasks` on every leaf.
      first_order: drop the terms with second derivatives (FO-MAML) instead of keeping them (HO-MAML).
      inner_lr, remat, inner_params: as in `adapt`.
      mesh, tasks_at_once: as in `parallel.mean_over_tasks`.

    Returns:
      The loss (nats per query example) and a pytree like `params`.

    Raises:
      InputError: a negative number of steps, or tasks without the leading axis.
    """
    at_least(0, inner_steps=inner_steps)
    if tasks.query_labels.ndim != 2:
        raise InputError(f"`tasks` must have a leading axis of tasks: its labels are {tasks.query_labels.shape}")

    def one(params: PyTree, task: Task, _: None) -> tuple[Array, Array]:
        return meta_loss(apply, params, task, inner_steps, inner_lr, first_order, remat, inner_params)

    (loss, _), gradient = mean_over_tasks(one, params, tasks, None, mesh, tasks_at_once)
    return loss, gradient


@dataclass(frozen=True)
class MAML(Method):
    """MAML as a method, trained on batches of tasks.

    Attributes:
      net: a network of as many logits as a task has classes.
      inner_steps, inner_lr, first_order: as in `meta_gradient`.
      remat: as in `adapt`; None: `train` decides by the device's memory, on a CPU never.
      inner_params: what the inner loop changes, a name in INNER_PARAMS.
      learn_inner_lr: Meta-SGD: `{"net": parameters, "inner_lr": learning rates}` is what is learned, the rates from
        `inner_lr` on. Their gradient exists in first order too.
      batch_norm: one of `network.BATCH_NORM`.
      test_dropout: dropout stays on in tests, as in the study's code.
      grad_reduction: of the gradients of a meta-batch, one of GRAD_REDUCTIONS; the study's code has their sum.
      mesh: the devices that share a meta-batch.
      tasks_at_once: of a device; 0: as many as fit, on a CPU one.
    """

    net: Network
    inner_steps: int = 5
    inner_lr: float = 0.1
    first_order: bool = True
    remat: bool | None = None
    inner_params: str = "all"
    learn_inner_lr: bool = False
    batch_norm: str = "transductive"
    test_dropout: bool = False
    grad_reduction: str = "mean"
    mesh: Mesh | None = None
    tasks_at_once: int = 0

    def __post_init__(self) -> None:
        at_least(0, inner_steps=self.inner_steps, tasks_at_once=self.tasks_at_once)
        within(0, MOST_RATE, inner_lr=self.inner_lr)
        check_known("choice of inner_params", self.inner_params, INNER_PARAMS)
        check_known("batch-norm policy", self.batch_norm, BATCH_NORM)
        check_known("grad_reduction", self.grad_reduction, GRAD_REDUCTIONS)

    @property
    def name(self) -> str:
        return f"{'fo' if self.first_order else 'ho'}_maml_{self.inner_steps}"

    @property
    def tested(self) -> "MAML":
        # No gradient goes through a test, so that both orders share one adaptation.
        seen = replace(self, first_order=True, remat=None, grad_reduction="mean", mesh=None, tasks_at_once=0)
        return replace(seen, inner_lr=MAML.inner_lr) if self.learn_inner_lr else seen

    @property
    def remats(self) -> tuple[bool, ...]:
        if self.remat is not None:
            return (self.remat,)
        # First order keeps no activation of an inner step, so that there is nothing to recompute.
        return (False,) if self.first_order else (False, True)

    def at(self, fit: Fit) -> "MAML":
        return replace(self, tasks_at_once=fit.tasks_at_once, remat=fit.remat)

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        params, stats = self.net.init(key)
        model_state = {"stats": stats} if self.batch_norm == "running" else {}
        if not self.learn_inner_lr:
            return params, model_state
        names = INNER_PARAMS[self.inner_params]
        free = params if names is None else {name: params[name] for name in names}
        return {"net": params, "inner_lr": jax.tree.map(lambda p: jnp.full_like(p, self.inner_lr), free)}, model_state

    def gradient(
        self, params: PyTree, model_state: PyTree, batch: Task, key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree, Metrics]:
        count = len(batch.query_labels)
        keys = jax.random.split(key, count)
        (loss, (share, stats)), grads = mean_over_tasks(
            self._task_loss, params, batch, keys, self.mesh, self.tasks_at_once
        )
        if self.batch_norm == "running":
            model_state = {"stats": update_running(model_state["stats"], stats)}
        if self.grad_reduction == "sum":
            grads = jax.tree.map(lambda leaf: count * leaf, grads)
        return grads, model_state, {"loss": loss, "accuracy": share}

    def adapt(self, params: PyTree, model_state: PyTree, support: Array, labels: Array, key: PRNGKeyArray) -> Predict:
        initial, rates = self._initial(params)
        for_support, for_query = jax.random.split(key) if self.test_dropout else (None, None)

        def apply(params: PyTree, batch: Array, key: PRNGKeyArray | None = None) -> Array:
            if self.batch_norm == "running":
                return self.net.apply_given_stats(params, model_state["stats"], batch).logits
            return self.net.apply_batch_stats(params, batch, key).logits

        names, steps = INNER_PARAMS[self.inner_params], self.inner_steps
        adapted = adapt(apply, initial, support, labels, steps, rates, True, inner_params=names, key=for_support)
        if self.batch_norm != "support_statistics":
            return lambda queries: apply(adapted, queries, for_query)
        stats = self.net.apply_batch_stats(adapted, support, for_query).stats
        return lambda queries: self.net.apply_given_stats(adapted, stats, queries).logits

    def _initial(self, params: PyTree) -> tuple[PyTree, InnerLr]:
        """The parameters where the inner loop begins, and its learning rates."""
        return (params["net"], params["inner_lr"]) if self.learn_inner_lr else (params, self.inner_lr)

    def _task_loss(self, params: PyTree, task: Task, key: PRNGKeyArray) -> tuple[Array, Any]:
        initial, rates = self._initial(params)
        for_support, for_query = jax.random.split(key)
        apply = lambda p, batch, key: self.net.apply_batch_stats(p, batch, key).logits
        adapted = adapt(
            apply,
            initial,
            task.support_images,
            task.support_labels,
            self.inner_steps,
            rates,
            self.first_order,
            bool(self.remat),
            INNER_PARAMS[self.inner_params],
            for_support,
        )
        if self.batch_norm == "support_statistics":
            stats = self.net.apply_batch_stats(adapted, task.support_images, for_query).stats
            found = self.net.apply_given_stats(adapted, stats, task.query_images)
        else:
            found = self.net.apply_batch_stats(adapted, task.query_images, for_query)
        loss, share = cross_entropy(found.logits, task.query_labels), accuracy(found.logits, task.query_labels)
        return loss, (share, found.stats if self.batch_norm == "running" else None)
