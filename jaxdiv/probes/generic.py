"""Any network as a probe: an exact per-example Fisher by automatic differentiation alone, in bounded memory."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxdiv.errors import InputError
from jaxdiv.nets.logistic import Head
from jaxdiv.nets.precision import full_precision
from jaxdiv.probes.base import Batch, Probe, ScoreVectors, check_count, count_unusable, description, feature_cotangents

# A parameter's dotted path and shape -> the axes that number its output units; none for one without entries.
OutputAxes = Callable[[str, tuple[int, ...]], tuple[int, ...]]
_WEIGHTS = ("kernel", "scale", "embedding", "weight")


def flax_output_axes(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The last axis of every parameter of two axes or more, as in Flax's kernels, and of every norm's `scale`.

    Biases, and all else of one axis, have no entries: Task2Vec leaves them out.
    """
    return (-1,) if len(shape) >= 2 or name.rpartition(".")[2] == "scale" else ()


def probe_from(
    apply: Callable[[PyTree, Batch], Any],
    params: PyTree,
    features: Callable[[Any], Float[Array, "examples d"]] | None = None,
    output_axes: OutputAxes = flax_output_axes,
    name: str = "network",
) -> Probe:
    """Make a probe of a pure network.

    An embedding has an entry for each output unit of each parameter that `output_axes` picks: the mean of the Fisher
    diagonal over the parameter's other axes, its fan-in. Entries are in the order of `jax.tree.leaves(params)`;
    `probe.layer_names` has each one's path, without a last `kernel`, `scale`, `embedding` or `weight`.

    Every estimator and head works. The estimator `reference` sees the network as it is, for it has no training mode.

    Args:
      apply: `params, batch -> output`, free of side effects. Each example must be treated on its own: batch norm at
        stored statistics, no dropout. Pass the same function each time: a new lambda compiles again.
      params: any pytree of arrays, such as Flax's variables.
      features: the output -> its pooled features `[examples, d]`; None: the output is just that.
      output_axes: `path, shape -> axes` that number a parameter's output units. PyTorch's layout is
        `lambda path, shape: (0,) if len(shape) >= 2 else ()`; Flax's attention has (-2, -1) for its queries.
      name: for records.

    Returns:
      A probe for `embed`, `fisher` and `embed_benchmark`. Its batches are whatever `apply` takes: an array, or a
      pytree of arrays, with one row for each example.

    Raises:
      InputError: no parameter has entries.

    Example:
      ``probe_from(net.apply, variables)`` of a Linen module; ``probe_from(net.apply, variables, lambda out:
      out.mean((1, 2)))`` where it puts out a map.
    """
    probe = NetworkProbe(name, apply, features, output_axes, jax.tree.map(jnp.asarray, params))
    if not probe.weights:
        raise InputError(f"probe {name!r}: no parameter has entries: `output_axes` picks none of them")
    return probe


@flax.struct.dataclass
class NetworkProbe:
    """What `probe_from` makes; the fields are its arguments."""

    name: str = flax.struct.field(pytree_node=False)
    apply: Callable[[PyTree, Batch], Any] = flax.struct.field(pytree_node=False)
    pool: Callable[[Any], Array] | None = flax.struct.field(pytree_node=False)
    output_axes: OutputAxes = flax.struct.field(pytree_node=False)
    params: PyTree

    def __repr__(self) -> str:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return description(self.name, len(self.layer_names), parameters)

    @property
    def layer_names(self) -> tuple[str, ...]:
        found: list[str] = []
        for name, weight in self.weights.items():
            module, _, leaf = name.rpartition(".")
            units = weight.size // _fan_in(weight.shape, self.output_axes(name, weight.shape))
            found += [module if leaf in _WEIGHTS and module else name] * units
        return tuple(found)

    @property
    def weights(self) -> dict[str, Array]:
        """The parameters with entries, by their dotted paths."""
        return {name: leaf for name, leaf in self._leaves() if self._has_entries(name, leaf)}

    def _leaves(self) -> list[tuple[str, Array]]:
        found = jax.tree_util.tree_flatten_with_path(self.params)[0]
        return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in found]

    def _has_entries(self, name: str, leaf: Array) -> bool:
        return jnp.issubdtype(leaf.dtype, jnp.floating) and bool(self.output_axes(name, leaf.shape))

    def check(self, batch: Batch) -> None:
        leaves = jax.tree.leaves(batch)
        sizes = {leaf.shape[:1] for leaf in leaves}
        if len(sizes) != 1 or sizes in ({()}, {(0,)}):
            shapes = ", ".join(str(leaf.shape) for leaf in leaves)
            raise InputError(f"a batch has one row for each example, at least one, in every array, not {shapes}")
        found = jax.eval_shape(_features, self, batch)
        if getattr(found, "ndim", 0) != 2 or found.shape[:1] not in sizes:
            shape = jax.tree.map(lambda leaf: leaf.shape, found)
            raise InputError(f"features must be [examples, d], not {shape}: give `probe_from` a function `features`")

    def inspect(self, batch: Batch) -> list[Int[Array, "2"]]:
        floats = [leaf for leaf in jax.tree.leaves(batch) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return [count_unusable(leaf) for leaf in floats]

    def check_numbers(self, seen: list[Int[ArrayLike, "*batches 2"]]) -> None:
        for counted in seen:
            check_count(counted, "the batch")

    @full_precision
    def features(self, batch: Batch) -> Float[Array, "examples d"]:
        return _features(self, batch)

    def fisher(self, batch: Batch, head: Head, score_vectors: ScoreVectors) -> Float[Array, " entries"]:
        """As `Probe.fisher`, by the gradient of every weight for every example and column."""

        def of_example(example: Batch, columns: Float[Array, "columns d"]) -> Float[Array, " entries"]:
            alone = jax.tree.map(lambda leaf: leaf[None], example)
            backward = jax.vjp(lambda weights: self.training_features(weights, alone)[0], self.weights)[1]
            return jax.vmap(lambda column: self.mean_squares(backward(column)[0]))(columns).sum(0)

        cotangents = feature_cotangents(self.features(batch), head, score_vectors)
        return jax.vmap(of_example, in_axes=(0, 1))(batch, cotangents).sum(0)

    def bytes_per_example(self, example: Batch, columns: int) -> int:
        """Of what the backward pass keeps, and each column's gradient."""
        backward = lambda weights, example: jax.vjp(lambda w: self.training_features(w, example), weights)
        kept = jax.eval_shape(backward, self.weights, example)
        sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)]
        return sum(sizes) + columns * sum(w.size * w.dtype.itemsize for w in self.weights.values())

    def training_features(
        self, weights: dict[str, Array], batch: Batch, counts: Float[Array, " examples"] | None = None
    ) -> Float[Array, "examples d"]:
        """`features` under other weights."""
        leaves = [weights.get(name, leaf) for name, leaf in self._leaves()]
        params = jax.tree.unflatten(jax.tree.structure(self.params), leaves)
        return self.replace(params=params).features(batch)  # type: ignore[attr-defined]  # flax adds it

    def mean_squares(self, gradient: dict[str, Array]) -> Float[Array, " entries"]:
        found = []
        for name in self.weights:  # in this order: a gradient's dict may have been sorted on its way
            values = gradient[name]
            axes = {axis % values.ndim for axis in self.output_axes(name, values.shape)}
            others = tuple(axis for axis in range(values.ndim) if axis not in axes)
            found.append((values**2).mean(others).ravel())
        return jnp.concatenate(found)


@jax.jit
def _features(probe: NetworkProbe, batch: Batch) -> Any:
    output = probe.apply(probe.params, batch)
    return output if probe.pool is None else probe.pool(output)


def _fan_in(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """How many weights make one output unit."""
    outputs = {axis % len(shape) for axis in axes}
    fan_in = 1
    for axis, length in enumerate(shape):
        fan_in *= 1 if axis in outputs else length
    return fan_in
