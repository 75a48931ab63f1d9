"""A method's name -> its learner."""

from functools import cache

from jax.sharding import Mesh

from jaxdiv.methods import maml, pretrain
from jaxdiv.methods.learner import Learner
from jaxdiv.methods.registry import METHODS
from jaxdiv.nets.network import Network, make_network

ADAPTS: dict[str, tuple[str, ...] | None] = {"all": None, "head": ("head",)}  # what the inner loop changes


def inner_loop(method: str) -> tuple[int, bool] | None:
    """A method's inner steps and whether it is first order: `METHODS`, and MAML of any other number of steps."""
    if method in METHODS:
        entry = METHODS[method]
        return (entry.inner_steps, entry.first_order) if entry.family == "maml" else None
    order, _, steps = method.split("_")
    return int(steps), order == "fo"


def with_steps(method: str, steps: int) -> str:
    """The MAML method of the same order with so many inner steps."""
    return f"{method.rpartition('_')[0]}_{steps}"


# Cached, so that a method compiles once for all benchmarks: jit knows a function by its identity.
@cache
def make_learner(
    method: str,
    net: tuple,
    ways: int,
    classes: int,
    batch_norm: str,
    inner: tuple,
    dropout: bool,
    mesh: Mesh | None,
) -> Learner:
    """The learner of a method.

    Args:
      net: name, pixels, width, dropout and compute type, as `make_network` takes them.
      classes: of the train split, which pre-training tells apart.
      inner: inner rate, remat, what adapts (a name in ADAPTS), whether rates are learned, whether task gradients are
        summed.
      dropout: whether MAML drops in a test too.
    """
    kind, (rate, remat, adapts, learned_rates, summed) = inner_loop(method), inner
    if kind is None:
        return pretrain.learner(_network(*net, classes), ways, batch_norm)
    return maml.learner(
        _network(*net, ways),
        *(kind[0], rate, kind[1]),
        remat=remat,
        adapts=ADAPTS[adapts],
        learned_rates=learned_rates,
        batch_norm=batch_norm,
        test_dropout=dropout,
        summed=summed,
        mesh=mesh,
    )


@cache
def _network(name: str, pixels: int, width: int, dropout: float, compute: str, ways: int) -> Network:
    return make_network(name, ways, pixels, width, dropout, compute)
