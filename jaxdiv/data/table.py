"""The images of a split as arrays, grouped by class: made, joined, cut, and placed on the device.

A table is on the device whole, or, where it is too large for that, on the host as a memory map (`place` chooses).
"""

import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int, UInt8

from jaxdiv.data.augment import Augmentation
from jaxdiv.device_memory import usable_bytes
from jaxdiv.errors import InputError, at_least

# A TPU stores bytes in tiles of 8 rows by 128. What it gathers in whole tiles, it reads in place; of anything else it
# first makes a copy in another order, of all images each time.
_TILE = (8, 128)
_BLOCK_BYTES = 2**26  # what the host makes ready for the device at once


@no_type_check  # a pytree: transformations put in it what they like
@struct.dataclass
class DeviceImages:
    """Images on the device, which reads them by their rows without a copy of the others.

    It is used like an array [n, h, w, c]: it has its `shape`, `dtype` and length, `images[rows]` gives images, under
    jit too, and `numpy.asarray` brings them all to the host.

    Attributes:
      tiles: each image's bytes, one channel after the other, with zeros up to whole tiles; `nbytes` counts these too.
      of_image: h, w and c.
    """

    tiles: UInt8[Any, "n rows 128"]
    of_image: tuple[int, int, int] = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        tiles: tuple[int, ...] = getattr(self.tiles, "shape", ())
        return (*tiles[:-2], *self.of_image) if len(tiles) > 2 else ()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.tiles.nbytes

    def __len__(self) -> int:
        return len(self.tiles)

    def __iter__(self) -> Any:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, rows: Any) -> UInt8[Any, "*rows h w c"]:
        if isinstance(rows, tuple):
            raise InputError("`images` on the device are indexed by rows alone: cut what `images[rows]` gives")
        return self._cropped(self.tiles[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._cropped(np.asarray(self.tiles)), dtype)

    def _cropped(self, tiles: Any) -> Any:
        *outer, rows, lanes = tiles.shape
        h, w, channels = self.of_image
        flat = tiles.reshape(*outer, rows * lanes)[..., : h * w * channels]
        # From here on a TPU works with the channels in this order. An axis of 3 behind, it would fill up to 128.
        return flat.reshape(*outer, channels, h, w).swapaxes(-3, -2).swapaxes(-2, -1)


@no_type_check  # a pytree: transformations put in it what they like
@struct.dataclass
class ImageTable:
    """The images of one split, grouped by class.

    Attributes:
      images: the pixels as stored, class after class; one channel where every data set is gray, which tasks see as RGB.
        An array on the host; on the device `DeviceImages`, which is indexed like one.
      first, count: each class's first row and its number of images.
      dataset: the component data set of each class; a task never mixes data sets (zeros outside unions).
      mean, std: per data set, of pixels scaled to 0..1: what the networks see is `(pixel / 255 - mean) / std`.
      rotates: per data set, whether a task turns each of its classes by a random quarter (Omniglot).
      augmentation: per data set, what its images go through where `augment` is asked for.
      classes: the names of the classes.
      largest, smallest: images in the largest and in the smallest class.
      fewest: classes of the data set that has the fewest. Static like the two before: under jit, too, a task is checked
        against them, and without a look at the device.
      on_host: `images` is a memory map that stays on the host.
      choice: how a task gets its classes (`class_choice.ClassChoice`); None: uniformly. Of one data set alone.
    """

    images: UInt8[Any, "n h w c"]
    first: Int[Any, "classes"]
    count: Int[Any, "classes"]
    dataset: Int[Any, "classes"]
    mean: Float[Any, "datasets 3"]
    std: Float[Any, "datasets 3"]
    rotates: tuple[bool, ...] = struct.field(pytree_node=False)
    augmentation: tuple[Augmentation, ...] = struct.field(pytree_node=False)
    classes: tuple[str, ...] = struct.field(pytree_node=False)
    largest: int = struct.field(pytree_node=False)
    smallest: int = struct.field(pytree_node=False)
    fewest: int = struct.field(pytree_node=False)
    on_host: bool = struct.field(pytree_node=False, default=False)
    choice: Any = None

    def __repr__(self) -> str:
        sets = "one data set" if len(self.rotates) == 1 else f"{len(self.rotates)} data sets"
        images = counted(self.images, "images")
        return f"ImageTable({len(self.classes):,} classes, {images}, {sets}{_whereabouts(self.images)})"


def counted(images: Any, what: str) -> str:
    """How many `images` [..., n, h, w, c] there are and of what size, where they are arrays or stand for some."""
    shape: tuple[int, ...] = getattr(images, "shape", ())
    if len(shape) < 4:  # a pytree's structure, axes for vmap, an index without pixels
        return f"no {what}"
    return f"{shape[-4]:,} {what} of {'x'.join(map(str, shape[-3:]))}"


def _whereabouts(images: Any) -> str:
    if isinstance(images, np.ndarray):
        return ", on the host"
    held = images.tiles if isinstance(images, DeviceImages) else images
    return ", on the device" if isinstance(held, jax.Array) and not isinstance(held, jax.core.Tracer) else ""


def make_table(
    by_class: list[np.ndarray],
    classes: list[str],
    mean: Sequence[float],
    std: Sequence[float],
    rotates: bool = False,
    augmentation: Augmentation | None = None,
) -> ImageTable:
    """One data set's table from each class's images `[count, h, w, c]` uint8.

    Raises:
      InputError: as `table_of`.
    """
    if not by_class:
        raise InputError("`by_class` is empty: a table needs at least one class")
    count = [len(images) for images in by_class]
    return table_of(np.concatenate(by_class), count, classes, mean, std, rotates, augmentation)


def table_of(
    images: UInt8[np.ndarray, "n h w c"],
    count: Sequence[int],
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    rotates: bool = False,
    augmentation: Augmentation | None = None,
) -> ImageTable:
    """One data set's table from all its images, `count` of each class in turn; a memory map stays one.

    Raises:
      InputError: images that are not uint8 `[n, h, w, 1 or 3]`, or that `count` and `classes` do not match.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(f"`images` must be uint8 [n, h, w, 1 or 3], not {images.dtype} {images.shape}")
    if len(count) != len(classes) or sum(count) != len(images) or not len(count) or min(count) < 1:
        raise InputError(
            f"`count` has {len(count)} classes with {sum(count)} images, `classes` {len(classes)} names, `images` "
            f"{len(images)} images: they must agree, and no class be empty"
        )
    counts = np.asarray(count, np.int32)
    return ImageTable(
        images=images,
        first=np.cumsum(counts, dtype=np.int32) - counts,
        count=counts,
        dataset=np.zeros(len(counts), np.int32),
        mean=np.asarray([mean], np.float32),
        std=np.asarray([std], np.float32),
        rotates=(rotates,),
        augmentation=(augmentation or Augmentation(),),
        classes=tuple(classes),
        largest=int(counts.max()),
        smallest=int(counts.min()),
        fewest=len(counts),
    )


def union(tables: list[ImageTable]) -> ImageTable:
    """Several data sets as one benchmark: a task picks a data set uniformly, then its classes inside it.

    The images are joined in memory, gray ones as RGB where others have colours.

    Raises:
      InputError: no table, or images of different sides.
    """
    sides = {t.images.shape[1:3] for t in tables}
    if len(sides) != 1:
        raise InputError(f"`tables` must be at least one table, all with images of one size, not {sorted(sides)}")
    rows = np.cumsum([0, *(len(t.images) for t in tables)])
    sets = np.cumsum([0, *(len(t.mean) for t in tables)])
    join = lambda name: np.concatenate([np.asarray(getattr(t, name)) for t in tables])
    channels = max(t.images.shape[-1] for t in tables)
    images = np.empty((rows[-1], *tables[0].images.shape[1:3], channels), np.uint8)
    for t, row in zip(tables, rows[:-1], strict=True):
        images[row : row + len(t.images)] = t.images
    return ImageTable(
        images=images,
        first=np.concatenate([t.first + row for t, row in zip(tables, rows[:-1], strict=True)]).astype(np.int32),
        count=join("count"),
        dataset=np.concatenate([t.dataset + s for t, s in zip(tables, sets[:-1], strict=True)]).astype(np.int32),
        mean=join("mean"),
        std=join("std"),
        rotates=sum((t.rotates for t in tables), ()),
        augmentation=sum((t.augmentation for t in tables), ()),
        classes=sum((t.classes for t in tables), ()),
        largest=max(t.largest for t in tables),
        smallest=min(t.smallest for t in tables),
        fewest=min(t.fewest for t in tables),
    )


def place(table: ImageTable, limit: int | None = None) -> ImageTable:
    """The table on this host's first device if it needs at most `limit` bytes there; otherwise its images stay on the
    host.

    Args:
      limit: by default .8 of the device's memory, or half of the machine's where the device is the CPU.
    """
    if isinstance(table.images, DeviceImages):
        return table
    device = jax.local_devices()[0]
    if limit is None:
        limit = _usable_bytes(device)
    n, *of_image = table.images.shape
    if n * math.prod(tile_shape(of_image)) > limit:
        return replace(table, on_host=True)
    with jax.default_device(device):
        index = jax.device_put(replace(table, images=None))
        return replace(index, images=_on_device(table.images), on_host=False)


def _usable_bytes(device: Any) -> int:
    if device.platform != "cpu":
        return int(usable_bytes(device))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 2**32


def tile_shape(of_image: Sequence[int]) -> tuple[int, int]:
    """An image's shape on the device: its h x w x c bytes in whole tiles, [rows, 128]."""
    rows, lanes = _TILE
    return -(-math.prod(of_image) // (rows * lanes)) * rows, lanes


def _on_device(images: UInt8[np.ndarray, "n h w c"]) -> DeviceImages:
    """Images moved some at a time: neither the host nor the device holds them twice, and a file is read once."""
    n, *of_image = images.shape
    shape = tile_shape(of_image)
    block = min(n, max(1, _BLOCK_BYTES // math.prod(shape)))
    tiles = None if block == n else jnp.zeros((n, *shape), jnp.uint8)
    for start in range(0, n, block):
        start = min(start, n - block)  # the last block is as long as the others, so that all share one program
        padded = np.zeros((block, math.prod(shape)), np.uint8)
        by_channel = np.moveaxis(np.asarray(images[start : start + block]), -1, 1)
        padded[:, : math.prod(of_image)] = by_channel.reshape(block, -1)
        part = padded.reshape(block, *shape)
        tiles = jax.device_put(part) if tiles is None else _written(tiles, part, start)
    return DeviceImages(tiles, tuple(of_image))


@partial(jax.jit, donate_argnums=0)
def _written(tiles, block, start):
    return jax.lax.dynamic_update_slice(tiles, block, (start, 0, 0))


def draw_classes(
    name: str, table: ImageTable, quotas: Sequence[int], images: int, seed: int
) -> Int[np.ndarray, " classes"]:
    """Rows of classes drawn from a table, `quotas` of each of its data sets, of those with at least `images` images.

    A class's lot depends on its name and the seed alone: a smaller draw is part of a larger one.

    Raises:
      InputError: a data set has too few such classes, or `quotas` is not one number for each data set.
    """
    if len(quotas) != len(table.rotates):
        raise InputError(f"`quotas` has {len(quotas)} numbers: {name} has {len(table.rotates)} data sets")
    at_least(0, images=images, seed=seed, quotas=min(quotas))
    lots = np.array([_draws(of_class, seed).random() for of_class in table.classes])
    rows: list[int] = []
    for number, wanted in enumerate(quotas):
        able = np.flatnonzero((np.asarray(table.dataset) == number) & (np.asarray(table.count) >= images))
        if len(able) < wanted:
            raise InputError(
                f"{name}: {wanted} classes with {images} images were asked for of a data set that has {len(able)}: "
                f"lower `quotas` or `images`"
            )
        rows += able[np.argsort(lots[able], kind="stable")[:wanted]].tolist()
    return np.sort(np.array(rows, int))


def take(table: ImageTable, rows: Sequence[int] | np.ndarray, images: int, seed: int, part: int = 0) -> ImageTable:
    """The classes in `rows` alone, and of each only `images` images (0: all), drawn by its name and the seed.

    part: which `images` images of each; different parts share none.

    Raises:
      InputError: a row that is no class of the table or is given twice, or a class with fewer images.
    """
    at_least(0, images=images, seed=seed, part=part)
    rows = checked_rows(rows, len(table.classes), "classes")
    if not len(rows) or len(np.unique(rows)) < len(rows):
        raise InputError(f"`rows` must be at least one class, and each once, not {rows.tolist()}")
    count = np.asarray(table.count)
    small = rows[np.argmin(count[rows])]
    if count[small] < (part + 1) * images:
        times = f" and `part` {part}" if part else ""
        raise InputError(
            f"class {table.classes[small]!r} has {count[small]} images, `images` is {images}{times}: lower it"
        )
    kept: list[np.ndarray] = []
    for row in rows:
        first, whole = int(table.first[row]), int(count[row])
        drawn = _draws(table.classes[row], seed).permutation(whole)[part * images :][: images or whole]
        kept.append(first + np.sort(drawn))
    counts = np.array([len(of_class) for of_class in kept], np.int32)
    dataset = np.asarray(table.dataset)[rows]
    return replace(
        table,
        images=np.asarray(table.images[np.concatenate(kept)]),
        first=np.cumsum(counts, dtype=np.int32) - counts,
        count=counts,
        dataset=dataset,
        classes=tuple(table.classes[row] for row in rows),
        largest=int(counts.max()),
        smallest=int(counts.min()),
        fewest=int(np.bincount(dataset, minlength=len(table.rotates)).min()),
        on_host=False,
    )


def checked_rows(rows: Any, end: int, what: str) -> np.ndarray:
    """`rows` as an array, which must be whole numbers in 0..end-1: JAX would clamp others, NumPy count from the end."""
    found = np.asarray(rows)
    if found.ndim != 1 or (found.size and not np.issubdtype(found.dtype, np.integer)):
        raise InputError(f"`rows` must be whole numbers [{what}], not {found.dtype} {found.shape}")
    if found.size and (found.min() < 0 or found.max() >= end):
        wrong = int(found[(found < 0) | (found >= end)][0])
        raise InputError(f"`rows` has {wrong}: the table has {end} {what}, 0..{end - 1}")
    return found.astype(int)


def _draws(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
