"""ImageTable -> few-shot tasks and training batches: pure, jitted, keyed.

A table that stays on the host gives the same task under the same key as one on the device: its rows are drawn on the
device, read on the host, and finished on the device again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, ArrayLike, Float, Int

from jaxdiv.data.augment import Augmentation, augment_images
from jaxdiv.data.table import ImageTable, checked_rows, counted
from jaxdiv.errors import InputError, at_least


@no_type_check  # a pytree: transformations put in it what they like
@struct.dataclass
class Task:
    """One few-shot task, or a batch of them with a leading axis `tasks`. Images are normalised, labels 0..ways-1."""

    support_images: Float[Array, "*tasks support h w c"]
    support_labels: Int[Array, "*tasks support"]
    query_images: Float[Array, "*tasks query h w c"]
    query_labels: Int[Array, "*tasks query"]

    def __repr__(self) -> str:
        shape: tuple[int, ...] = getattr(self.support_images, "shape", ())
        tasks = f"{'x'.join(map(str, shape[:-4]))} tasks, each " if shape[:-4] else ""
        support, query = counted(self.support_images, "support images"), counted(self.query_images, "query images")
        return f"Task({tasks}{support}, {query})"


def check_tasks(name: str, table: ImageTable, ways: int, shots: int, queries: int, tasks: int = 1) -> None:
    """Raise InputError where `table` cannot give tasks of this size: too few classes, a class too small, or a choice of
    another number of classes.

    It looks at static facts alone, so that it costs a step of training nothing and the table may be traced, of which
    the message then names no class.
    """
    at_least(1, ways=ways, shots=shots, queries=queries, tasks=tasks)
    if table.fewest < ways:
        raise InputError(f"{name} has {table.fewest} classes, fewer than ways={ways}: lower `ways`")
    if table.choice is not None and table.choice.ways != ways:
        raise InputError(f"the class choice of {name} is of {table.choice.ways} classes, not of ways={ways}")
    if table.smallest < shots + queries:
        which = "a class"
        if not isinstance(table.count, jax.core.Tracer):
            which = f"class {table.classes[int(np.argmin(table.count))]!r}"
        raise InputError(
            f"{which} of {name} has {table.smallest} images, fewer than shots + queries = {shots + queries}: lower "
            f"`shots` or `queries`"
        )


def sample_tasks(
    key: Array,
    table: ImageTable,
    ways: int = 5,
    shots: int = 5,
    queries: int = 15,
    tasks: int = 1,
    augment: bool = False,
) -> Task:
    """A batch of tasks: a data set uniformly, `ways` of its classes (or as `table.choice` draws them) and
    `shots + queries` images of each, all without replacement; labels follow the random order of the classes. With
    `augment`, each image as its data set's train augmentation has it.

    Args:
      key: of the batch, or a key for each task: those of a batch's key are `jax.random.split(key, tasks)`.

    Raises:
      InputError: the table has too few classes or images (`check_tasks`).
    """
    check_tasks("the table", table, ways, shots, queries, tasks)
    size = (ways, shots, queries, tasks)
    if not table.on_host:
        return _sample_tasks(key, table, *size, augment)
    index = replace(table, images=None)
    rows = np.asarray(_draw_tasks(key, index, *size))
    parts = [table.images[part] for part in _support_and_query(rows, shots)]
    return _finish_tasks(key, index, parts, *size, augment)


def sample_batch(key: Array, table: ImageTable, size: int, augment: bool = False) -> tuple[Array, Array]:
    """`size` images drawn uniformly with replacement over all classes, and each one's class: supervised training. With
    a `table.choice`, one image of each class of as many of its draws as that takes."""
    at_least(1, size=size)
    if not table.on_host:
        return _sample_batch(key, table, size, augment)
    index = replace(table, images=None)
    rows = _draw_batch(key, index, len(table.images), size)
    return _finish_batch(key, index, table.images[np.asarray(rows)], rows, augment)


def prefetch(sample: Callable[[Array], Any], keys: Iterable[Any], depth: int = 2) -> Iterator[Any]:
    """`sample(key)` for each of `keys` in turn, up to `depth` of them made ahead by a thread: a table that stays on the
    host is then read while the device computes."""
    with ThreadPoolExecutor(1) as worker:
        waiting: deque[Future] = deque()
        for key in keys:
            waiting.append(worker.submit(sample, key))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_images(table: ImageTable, rows: Int[ArrayLike, " images"]) -> Float[Array, "images h w c"]:
    """Images by their rows, normalised as in tasks.

    Raises:
      InputError: a row that is not in the table; traced rows are not checked.
    """
    if not isinstance(rows, jax.core.Tracer):
        checked_rows(rows, len(table.images), "images")
    return _read_images(table, rows)


@jax.jit
def _read_images(table, rows):
    labels = jnp.searchsorted(table.first, rows, side="right") - 1
    datasets = table.dataset[labels]
    return _normalise(table, _scaled(table.images[rows]), datasets)


_SIZE = ("ways", "shots", "queries", "tasks")


@partial(jax.jit, static_argnames=(*_SIZE, "augment"))
def _sample_tasks(key, table, ways, shots, queries, tasks, augment):
    rows = _draw_tasks(key, table, ways, shots, queries, tasks)
    # Parted as rows, before they are read: so XLA reads and normalises in one go.
    parts = [table.images[part] for part in _support_and_query(rows, shots)]
    return _finish_tasks(key, table, parts, ways, shots, queries, tasks, augment)


@partial(jax.jit, static_argnames=_SIZE)
def _draw_tasks(key, table, ways, shots, queries, tasks):
    """Rows of images [tasks, ways, shots + queries]."""
    return jax.vmap(lambda key: _draw_task(key, table, ways, shots + queries)[0])(_task_keys(key, tasks))


@partial(jax.jit, static_argnames=(*_SIZE, "augment"))
def _finish_tasks(key, table, parts, ways, shots, queries, tasks, augment):
    """Tasks from the pixels that the same key drew: support and query, [tasks, ways, shots or queries, h, w, c]."""

    def finish(key, parts):
        _, dataset, turns = _draw_task(key, table, ways, shots + queries)
        done = []
        for pixels, for_part in zip(parts, jax.random.split(jax.random.fold_in(key, 1)), strict=True):
            if any(table.rotates):
                turned = jnp.stack([jnp.rot90(pixels, quarter, (2, 3)) for quarter in range(4)])
                pixels = turned[turns, jnp.arange(ways)]
            flat = pixels.reshape(-1, *pixels.shape[2:])
            done.append(_seen(for_part, table, flat, jnp.full(len(flat), dataset), augment))
        return done

    support, query = jax.vmap(finish)(_task_keys(key, tasks), parts)
    labels = [jnp.tile(jnp.repeat(jnp.arange(ways), each), (tasks, 1)) for each in (shots, queries)]
    return Task(support, labels[0], query, labels[1])


def _task_keys(key, tasks):
    """A key for each task: as given, or from the one that is given."""
    of_each = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim
    return key if of_each else jax.random.split(key, tasks)


def _support_and_query(rows, shots):
    return rows[..., :shots], rows[..., shots:]


def _draw_task(key, table, ways, each):
    """Rows [ways, each], the data set, and the quarter by which each class is turned."""
    for_set, for_classes, for_images, for_turns = jax.random.split(key, 4)
    dataset = jax.random.randint(for_set, (), 0, len(table.rotates), jnp.int32)
    # The largest of independent uniform scores are a uniform draw without replacement, in random order. Types are
    # given, so that the same key draws the same tasks under JAX_ENABLE_X64.
    if table.choice is None:
        scores = jax.random.uniform(for_classes, table.dataset.shape, jnp.float32)
        classes = jax.lax.top_k(jnp.where(table.dataset == dataset, scores, -1), ways)[1]
    else:
        classes = table.choice(for_classes)
    scores = jax.random.uniform(for_images, (ways, table.largest), jnp.float32)
    in_class = jnp.arange(table.largest) < table.count[classes][:, None]
    rows = table.first[classes][:, None] + jax.lax.top_k(jnp.where(in_class, scores, -1), each)[1]
    turns = jax.random.randint(for_turns, (ways,), 0, 4, jnp.int32) * jnp.asarray(table.rotates)[dataset]
    return rows, dataset, turns


@partial(jax.jit, static_argnames=("size", "augment"))
def _sample_batch(key, table, size, augment):
    rows = _draw_batch(key, replace(table, images=None), len(table.images), size)
    return _finish_batch(key, table, table.images[rows], rows, augment)


@partial(jax.jit, static_argnames=("images", "size"))
def _draw_batch(key, table, images, size):
    if table.choice is None:
        return jax.random.randint(key, (size,), 0, images, jnp.int32)
    for_classes, for_images = jax.random.split(key)
    draws = jax.random.split(for_classes, -(-size // table.choice.ways))
    classes = jax.vmap(table.choice)(draws).ravel()[:size]
    return table.first[classes] + jax.random.randint(for_images, (size,), 0, table.count[classes], jnp.int32)


@partial(jax.jit, static_argnames="augment")
def _finish_batch(key, table, pixels, rows, augment):
    labels = jnp.searchsorted(table.first, rows, side="right") - 1
    datasets = table.dataset[labels]
    return _seen(jax.random.fold_in(key, 1), table, pixels, datasets, augment), labels


def _seen(key, table, pixels, datasets, augment):
    """Images [images, h, w, c] as a network sees them: normalised, if asked for augmented as their data sets are."""
    if not augment or set(table.augmentation) == {Augmentation()}:
        return _normalise(table, _scaled(pixels), datasets)
    kinds = [jnp.asarray(values)[datasets] for values in zip(*table.augmentation, strict=True)]
    return _normalise(table, augment_images(key, pixels, Augmentation(*kinds)), datasets)  # type: ignore[arg-type]


def _scaled(pixels):
    """Bytes as floats in 0..1."""
    return pixels.astype(jnp.float32) / 255


def _normalise(table, scaled, datasets):
    of_image = lambda values: values[datasets][:, None, None]
    return (scaled - of_image(table.mean)) / of_image(table.std)
