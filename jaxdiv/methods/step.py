"""One step of training as a program: what it computes, and how many tasks at once fit a device."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray, PyTree

from jaxdiv.device_memory import Fit, choose, peak_bytes
from jaxdiv.errors import MOST_RATE, InputError, at_least, check_known, within
from jaxdiv.methods.base import Method, Metrics

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
_MOMENTUM = 0.9


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
      steps: outer steps at most.
      learning_rate: its peak, where there is a schedule.
      optimizer: `adam`, `adamw` (with `weight_decay`) or `sgd` (momentum .9).
      schedule: `constant`, or `cosine`: down to 0 at `steps`.
      warmup: steps over which the rate first rises from 0.
      grad_clip_norm: global norm to which gradients are cut; 0: none.
      checkpoint_every: steps.
      validate_every: steps; 0: never. The best checkpoint by validation accuracy is then kept beside the latest.
      patience: validations in a row without a new best accuracy after which training has converged; 0: no such end.
      minutes: of training, earlier runs included, after which it stops; 0: no such end.
    """

    steps: int
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0
    checkpoint_every: int = 500
    validate_every: int = 0
    patience: int = 0
    minutes: float = 0.0

    def __post_init__(self) -> None:
        """Raise InputError for a number out of its range. A rate of NaN would even refuse its own checkpoints."""
        at_least(1, steps=self.steps, checkpoint_every=self.checkpoint_every)
        at_least(0, warmup=self.warmup, validate_every=self.validate_every, patience=self.patience)
        rates = {name: getattr(self, name) for name in ("learning_rate", "weight_decay", "grad_clip_norm", "minutes")}
        within(0, MOST_RATE, **rates)
        check_known("optimizer", self.optimizer, OPTIMIZERS)
        check_known("schedule", self.schedule, SCHEDULES)
        if self.weight_decay and self.optimizer != "adamw":
            raise InputError(
                f"`weight_decay` is {self.weight_decay:g}, which optimizer={self.optimizer!r} does not use: set "
                "optimizer='adamw', or no decay"
            )


def make_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
    """The optimizer that `settings` describes."""
    rate: Any = settings.learning_rate
    if settings.schedule == "cosine":
        rate = optax.cosine_decay_schedule(settings.learning_rate, max(settings.steps - settings.warmup, 1))
    elif settings.warmup:
        rate = optax.constant_schedule(settings.learning_rate)
    if settings.warmup:
        rise = optax.linear_schedule(0.0, settings.learning_rate, settings.warmup)
        rate = optax.join_schedules([rise, rate], [settings.warmup])
    step = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=settings.weight_decay),
        "sgd": lambda: optax.sgd(rate, _MOMENTUM),
    }[settings.optimizer]()
    clip = settings.grad_clip_norm
    return optax.chain(optax.clip_by_global_norm(clip), step) if clip else step


def first_state(method: Method, settings: TrainSettings, key: PRNGKeyArray) -> PyTree:
    """What a run begins from: parameters, model state, the optimizer's moments."""
    return _first_state()(method, settings, key)


# Both programs take the method and its settings by value, so that a method compiles once for all benchmarks.
@cache
def _first_state() -> Callable[[Method, TrainSettings, PRNGKeyArray], PyTree]:
    # It runs once. On a CPU LLVM optimises each shape's random draw for a second: ResNet-12 14 s, and else 2.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(_begin, static_argnames=("method", "settings"), compiler_options=options)


def _begin(method: Method, settings: TrainSettings, key: PRNGKeyArray) -> PyTree:
    params, model_state = method.init(key)
    return {"params": params, "model_state": model_state, "optimizer": make_optimizer(settings).init(params)}


# The state's memory becomes that of the next state.
@partial(jax.jit, static_argnames=("method", "settings", "mesh"), donate_argnames="state")
def update(
    method: Method, settings: TrainSettings, mesh: Mesh | None, state: PyTree, batch: PyTree, key: PRNGKeyArray
) -> tuple[PyTree, Metrics]:
    gradient, model_state, metrics = method.gradient(state["params"], state["model_state"], batch, key)
    updates, optimizer = make_optimizer(settings).update(gradient, state["optimizer"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    after = {"params": params, "model_state": model_state, "optimizer": optimizer}, metrics
    if mesh is None:
        return after
    return jax.lax.with_sharding_constraint(after, NamedSharding(mesh, PartitionSpec()))


def fit(
    method: Method,
    settings: TrainSettings,
    mesh: Mesh | None,
    state: PyTree,
    batch: PyTree,
    key: PRNGKeyArray,
    limit_bytes: float,
    first: Fit | None = None,
) -> Fit:
    """How many tasks a device of so much memory computes at once in a step, and whether activations are recomputed.

    Nothing is computed: the arrays may be abstract (`jax.ShapeDtypeStruct`).

    Args:
      method: one that trains on tasks; its own `tasks_at_once` and `remat` stay where they are set.
      state: as `abstract_state` gives it.
      batch: of tasks.
      first: a choice of before, which stays if it fits.
    """
    share = len(jax.tree.leaves(batch)[0]) // (mesh.size if mesh else 1)
    given = method.tasks_at_once
    program = lambda k, remat: lower(method.at(Fit(given or k, remat)), settings, mesh, state, batch, key).compile()
    if given:  # the activations alone are to be decided
        if len(method.remats) == 1:
            return Fit(given, method.remats[0])
        return Fit(given, choose(program, 1, limit_bytes, remats=method.remats).remat)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), batch)
    alone = dataclasses.replace(method, mesh=None, tasks_at_once=1) if dataclasses.is_dataclass(method) else method
    each = peak_bytes(alone.gradient, state["params"], state["model_state"], one, key)
    return choose(program, share, limit_bytes, each, method.remats, first)


def lower(
    method: Method, settings: TrainSettings, mesh: Mesh | None, state: PyTree, batch: PyTree, key: PRNGKeyArray
) -> Any:
    """The program of one step, lowered and not compiled; the arguments as in `fit`."""
    return update.lower(method, settings, mesh, state, batch, key)


def abstract_state(method: Method, settings: TrainSettings) -> PyTree:
    """What a run trains and carries along, as shapes: parameters, model state, the optimizer's moments."""
    return jax.eval_shape(partial(_begin, method, settings), jax.random.key(0))
