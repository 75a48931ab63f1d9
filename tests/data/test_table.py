"""Images on the device, in whole tiles: the same images, however they are asked for, moved there once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.data import table as tables
from jaxdiv.data.episodes import sample_batch, sample_tasks
from jaxdiv.data.table import DeviceImages, place, table_of, take, tile_shape, union
from jaxdiv.errors import InputError

KEY = jax.random.key(5)


def made(n=24, h=5, w=7, channels=3, seed=0):
    """A table of four classes whose every byte is drawn."""
    images = np.random.default_rng(seed).integers(0, 256, (n, h, w, channels)).astype(np.uint8)
    return table_of(images, [n // 4] * 4, [f"{seed} {row}" for row in range(4)], (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("of_image", [(28, 28, 1), (5, 7, 3), (19, 18, 3), (1, 1, 1)])
def test_images_on_the_device_are_those_of_the_host_however_they_are_asked_for(of_image):
    host = made(8, *of_image).images
    device = place(made(8, *of_image)).images
    assert isinstance(device, DeviceImages) and device.tiles.shape[1] % 8 == 0 and device.tiles.shape[2] == 128
    assert device.shape == host.shape and device.dtype == host.dtype and len(device) == 8 and device.ndim == 4
    for rows in (np.array([[6, 0], [0, 3]]), slice(2, 5), 7, jnp.array([1])):
        np.testing.assert_array_equal(device[rows], host[rows])
        if not isinstance(rows, slice):
            np.testing.assert_array_equal(jax.jit(lambda images, rows: images[rows])(device, rows), host[rows])
    np.testing.assert_array_equal(np.asarray(device), host)
    np.testing.assert_array_equal(np.stack(list(device)), host)


def test_parts_of_images_are_refused_since_a_tile_is_no_image():
    with pytest.raises(InputError, match=r"`images` on the device are indexed by rows alone"):
        place(made()).images[:, 2:4]


def test_a_placed_table_gives_the_tasks_and_batches_of_the_unplaced_one_to_the_bit():
    for host, draw in (
        (union([made(), made(seed=1)]), lambda table: sample_tasks(KEY, table, 2, 1, 3, 4)),
        (made(channels=1), lambda table: sample_batch(KEY, table, 9)),
    ):
        jax.tree.map(np.testing.assert_array_equal, draw(place(host)), draw(host))


class Watched(np.ndarray):
    """Images of a file, which notes how many are read at a time."""

    read: list

    def __getitem__(self, rows):
        found = self.view(np.ndarray)[rows]
        self.read.append(len(found))
        return found


def test_a_large_table_is_moved_in_blocks_of_which_each_is_read_once(monkeypatch):
    host = made(40)
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 12 * 1024)  # 12 images
    watched = host.images.view(Watched)
    watched.read = []
    placed = place(host.replace(images=watched))
    # The last block is filled up from before: 8 images are read again, and no block is longer.
    assert watched.read == [12, 12, 12, 12]
    np.testing.assert_array_equal(np.asarray(placed.images), host.images)


def test_writing_a_block_takes_no_second_table():
    table, block = (jax.ShapeDtypeStruct((n, 8, 128), np.uint8) for n in (10_000, 10))
    needed = tables._written.lower(table, block, 0).compile().memory_analysis()
    assert needed.alias_size_in_bytes == needed.output_size_in_bytes == 10_000 * 1024
    assert needed.temp_size_in_bytes < 20 * 1024


def test_a_table_lies_on_the_device_where_all_its_tiles_fit_the_limit():
    table = made()  # 24 images of 105 bytes, each in a tile of 1024
    assert not place(table, limit=24 * 1024).on_host
    assert place(table, limit=24 * 1024 - 1).on_host


def test_of_an_accelerators_memory_four_fifths_may_be_the_table(monkeypatch):
    class Device:
        platform, device_kind = "gpu", "a GPU"

        def memory_stats(self):
            return {"bytes_limit": 10_000}

    assert tables._usable_bytes(Device()) == 8_000


def test_a_placed_table_is_joined_and_cut_like_the_unplaced_one():
    one, two = made(), made(seed=1)
    for found, expected in (
        (union([place(one), place(two)]), union([one, two])),
        (take(place(one), [2, 0], 3, 0), take(one, [2, 0], 3, 0)),
    ):
        assert isinstance(found.images, np.ndarray)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert place(place(one)).images.shape == one.images.shape


@pytest.mark.parametrize("of_image", [(28, 28, 1), (84, 84, 3)])
def test_for_a_tpu_a_task_is_read_from_the_table_in_whole_tiles(of_image):
    """What the program asks for; `tests/test_ahead_of_time.py` compiles it."""
    n, tile = 640, tile_shape(of_image)
    images = DeviceImages(jax.ShapeDtypeStruct((n, *tile), np.uint8), of_image)
    table = made(n, 1, 1, 1).replace(images=images)
    draw = jax.jit(lambda key, table: sample_tasks(key, table, tasks=2, ways=4))
    text = draw.trace(KEY, table).lower(lowering_platforms=("tpu",)).as_text()
    # Support and query: two gathers, each of one row of the table and all that belongs to it.
    gathers = [line for line in text.splitlines() if "gather" in line and f"tensor<{n}x" in line and "xui8>" in line]
    assert len(gathers) == 2
    for line in gathers:
        assert f"tensor<{n}x{tile[0]}x{tile[1]}xui8>" in line and tile[0] % 8 == 0 and tile[1] == 128
        assert re.search(rf"slice_sizes = array<i64: 1, {tile[0]}, {tile[1]}>", line)
