"""ImageTable on the device -> few-shot tasks and training batches: pure, jitted, keyed."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, UInt8

from jaxdiv.errors import InputError


@struct.dataclass
class ImageTable:
    """The images of one split, grouped by class, whole on the device.

    Attributes:
      images: the pixels as stored, class after class.
      first, count: each class's first row and its number of images.
      dataset: the component data set of each class; a task never mixes data sets (zeros outside unions).
      mean, std: per data set, of pixels scaled to 0..1: what the networks see is `(pixel / 255 - mean) / std`.
      rotates: per data set, whether a task turns each of its classes by a random quarter (Omniglot).
      classes: the names of the classes.
    """

    images: UInt8[Any, "n h w c"]  # NumPy on the host, JAX once on the device
    first: Int[Any, "classes"]
    count: Int[Any, "classes"]
    dataset: Int[Any, "classes"]
    mean: Float[Any, "datasets c"]
    std: Float[Any, "datasets c"]
    rotates: tuple[bool, ...] = struct.field(pytree_node=False)
    classes: tuple[str, ...] = struct.field(pytree_node=False)
    largest: int = struct.field(pytree_node=False)  # images in the largest class


@struct.dataclass
class Task:
    """One few-shot task, or a batch of them with a leading axis `tasks`. Images are normalised, labels 0..ways-1."""

    support_images: Float[Array, "*tasks support h w c"]
    support_labels: Int[Array, "*tasks support"]
    query_images: Float[Array, "*tasks query h w c"]
    query_labels: Int[Array, "*tasks query"]


def make_table(
    by_class: list[np.ndarray],
    classes: list[str],
    mean: Sequence[float],
    std: Sequence[float],
    rotates: bool = False,
) -> ImageTable:
    """One data set's table from each class's images `[count, h, w, c]` uint8."""
    count = np.array([len(images) for images in by_class], np.int32)
    return ImageTable(
        images=np.concatenate(by_class),
        first=np.cumsum(count, dtype=np.int32) - count,
        count=count,
        dataset=np.zeros(len(count), np.int32),
        mean=np.asarray([mean], np.float32),
        std=np.asarray([std], np.float32),
        rotates=(rotates,),
        classes=tuple(classes),
        largest=int(count.max()),
    )


def union(tables: list[ImageTable]) -> ImageTable:
    """Several data sets as one benchmark: a task picks a data set uniformly, then its classes inside it."""
    rows = np.cumsum([0, *(len(t.images) for t in tables)])
    sets = np.cumsum([0, *(len(t.mean) for t in tables)])
    join = lambda name: np.concatenate([np.asarray(getattr(t, name)) for t in tables])
    return ImageTable(
        images=join("images"),
        first=np.concatenate([t.first + row for t, row in zip(tables, rows[:-1], strict=True)]).astype(np.int32),
        count=join("count"),
        dataset=np.concatenate([t.dataset + s for t, s in zip(tables, sets[:-1], strict=True)]).astype(np.int32),
        mean=join("mean"),
        std=join("std"),
        rotates=sum((t.rotates for t in tables), ()),
        classes=sum((t.classes for t in tables), ()),
        largest=max(t.largest for t in tables),
    )


def check_tasks(name: str, table: ImageTable, ways: int, shots: int, queries: int) -> None:
    """Raise InputError where `table` cannot give tasks of this size: too few classes, or a class too small."""
    classes = np.bincount(table.dataset, minlength=len(table.rotates))
    if classes.min() < ways:
        raise InputError(
            f"benchmark {name!r} has {classes.min()} classes, fewer than ways={ways}: lower --config.task.ways"
        )
    smallest = int(np.argmin(table.count))
    if table.count[smallest] < shots + queries:
        raise InputError(
            f"class {table.classes[smallest]!r} of benchmark {name!r} has {table.count[smallest]} images, fewer than "
            f"shots + queries = {shots + queries}: lower --config.task.shots or --config.task.queries"
        )


@partial(jax.jit, static_argnames=("ways", "shots", "queries", "tasks"))
def sample_tasks(
    key: Array, table: ImageTable, ways: int = 5, shots: int = 5, queries: int = 15, tasks: int = 1
) -> Task:
    """A batch of tasks: a data set uniformly, `ways` of its classes and `shots + queries` images of each, all without
    replacement; labels follow the random order of the classes."""
    return jax.vmap(lambda key: _sample_task(key, table, ways, shots, queries))(jax.random.split(key, tasks))


def _sample_task(key, table, ways, shots, queries):
    for_set, for_classes, for_images, for_turns = jax.random.split(key, 4)
    dataset = jax.random.randint(for_set, (), 0, len(table.rotates))
    # The largest of independent uniform scores are a uniform draw without replacement, in random order.
    scores = jax.random.uniform(for_classes, table.dataset.shape)
    classes = jax.lax.top_k(jnp.where(table.dataset == dataset, scores, -1), ways)[1]
    scores = jax.random.uniform(for_images, (ways, table.largest))
    in_class = jnp.arange(table.largest) < table.count[classes][:, None]
    rows = table.first[classes][:, None] + jax.lax.top_k(jnp.where(in_class, scores, -1), shots + queries)[1]
    images = _normalise(table, table.images[rows], dataset)
    if any(table.rotates):
        turns = jax.random.randint(for_turns, (ways,), 0, 4) * jnp.asarray(table.rotates)[dataset]
        turned = jnp.stack([jnp.rot90(images, quarter, (2, 3)) for quarter in range(4)])
        images = turned[turns, jnp.arange(ways)]
    labels = jnp.broadcast_to(jnp.arange(ways)[:, None], rows.shape)
    flat = lambda a, part: a[:, part].reshape(-1, *a.shape[2:])
    support, query = slice(0, shots), slice(shots, None)
    return Task(flat(images, support), flat(labels, support), flat(images, query), flat(labels, query))


@partial(jax.jit, static_argnames="size")
def sample_batch(key: Array, table: ImageTable, size: int) -> tuple[Array, Array]:
    """`size` images drawn uniformly with replacement over all classes, and each one's class: supervised training."""
    rows = jax.random.randint(key, (size,), 0, len(table.images))
    labels = jnp.searchsorted(table.first, rows, side="right") - 1
    return jax.vmap(partial(_normalise, table))(table.images[rows], table.dataset[labels]), labels


def _normalise(table, pixels, dataset):
    return (pixels.astype(jnp.float32) / 255 - table.mean[dataset]) / table.std[dataset]
