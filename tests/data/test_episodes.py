"""Tasks and batches from images that carry their own row number in their pixels."""

import os
import re
import subprocess
import sys
import time
from functools import partial

import jax
import numpy as np
import pytest
from precision import enable_x64
from scipy import stats

from jaxdiv.data.augment import Augmentation
from jaxdiv.data.episodes import check_tasks, prefetch, read_images, sample_batch, sample_tasks
from jaxdiv.data.table import DeviceImages, draw_classes, make_table, place, take, union
from jaxdiv.errors import InputError

WAYS, SHOTS, QUERIES = 4, 2, 3
SIZE = {"ways": WAYS, "shots": SHOTS, "queries": QUERIES}
RAGGED = [7, 5, 11, 6, 5, 9, 20, 5]  # images per class; SHOTS + QUERIES is the least
UNLIKELY = 1e-3  # p-values below it fail; keys are fixed, so a test that passes always passes


def numbered(counts, start=0, rotates=False, mean=(0.0,) * 3, std=(1.0,) * 3):
    """A table of 2x2 images: red holds the four corners 10, 20, 30, 40, green and blue the row, `start` added."""
    total = sum(counts)
    images = np.empty((total, 2, 2, 3), np.uint8)
    images[..., 0] = [[10, 20], [30, 40]]
    rows = np.arange(start, start + total)
    images[..., 1] = (rows // 250)[:, None, None]
    images[..., 2] = (rows % 250)[:, None, None]
    by_class = np.split(images, np.cumsum(counts)[:-1])
    return make_table(by_class, [f"class {start} {i}" for i in range(len(counts))], mean, std, rotates)


def rows_of(images):
    pixels = np.rint(np.asarray(images) * 255).astype(int)
    return pixels[..., 0, 0, 1] * 250 + pixels[..., 0, 0, 2]


def class_of(rows, counts):
    return np.searchsorted(np.cumsum(counts), rows, side="right")


def by_label(tasks):
    """Rows [tasks, ways, shots + queries], in label order."""
    s, q = rows_of(tasks.support_images), rows_of(tasks.query_images)
    return np.concatenate([s.reshape(len(s), WAYS, SHOTS), q.reshape(len(q), WAYS, QUERIES)], 2)


@pytest.fixture(scope="module")
def drawn():
    """10,000 tasks of a ragged table."""
    return sample_tasks(jax.random.key(0), numbered(RAGGED), **SIZE, tasks=10_000)


def assert_uniform(values, kinds):
    observed = np.bincount(np.ravel(values), minlength=kinds)
    assert len(observed) == kinds
    assert stats.chisquare(observed).pvalue > UNLIKELY


def test_support_and_query_share_no_image(drawn):
    for rows in by_label(drawn):
        assert len(np.unique(rows)) == WAYS * (SHOTS + QUERIES)


def test_labels_are_balanced_from_0_to_ways_minus_1(drawn):
    np.testing.assert_array_equal(drawn.support_labels, np.tile(np.repeat(range(WAYS), SHOTS), (10_000, 1)))
    np.testing.assert_array_equal(drawn.query_labels, np.tile(np.repeat(range(WAYS), QUERIES), (10_000, 1)))


def test_a_label_is_one_class_and_the_classes_of_a_task_are_distinct_even_when_ragged(drawn):
    classes = class_of(by_label(drawn), RAGGED)
    assert (classes == classes[..., :1]).all()
    assert all(len(set(task)) == WAYS for task in classes[..., 0])


def test_every_label_meets_every_class_equally_often(drawn):
    classes = class_of(by_label(drawn)[..., 0], RAGGED)
    for label in range(WAYS):
        assert_uniform(classes[:, label], len(RAGGED))
    pairs = classes[:, 0] * (len(RAGGED) - 1) + classes[:, 1] - (classes[:, 1] > classes[:, 0])
    assert_uniform(pairs, len(RAGGED) * (len(RAGGED) - 1))


def test_every_image_of_a_class_is_drawn_equally_often_for_support_and_for_query(drawn):
    rows = by_label(drawn)
    for images in (rows[..., 0], rows[..., SHOTS]):
        mine = images[class_of(images, RAGGED) == 6] - sum(RAGGED[:6])
        assert_uniform(mine, RAGGED[6])


def test_same_key_same_tasks_and_another_key_others(drawn):
    draw = lambda seed: by_label(sample_tasks(jax.random.key(seed), numbered(RAGGED), **SIZE, tasks=10_000))
    np.testing.assert_array_equal(draw(0), by_label(drawn))
    assert (draw(1) != by_label(drawn)).mean() > 0.5


def test_a_task_of_a_union_stays_in_one_data_set_and_the_sets_are_drawn_equally_often():
    parts = [[5] * 4, RAGGED, [6] * 30]  # of very different sizes
    starts = np.cumsum([0, *map(sum, parts)])
    table = union([numbered(counts, start) for counts, start in zip(parts, starts, strict=False)])
    tasks = sample_tasks(jax.random.key(0), table, **SIZE, tasks=1500)
    sets = class_of(by_label(tasks).reshape(1500, -1), list(map(sum, parts)))
    assert (sets == sets[:, :1]).all()
    assert_uniform(sets[:, 0], 3)
    classes = class_of(by_label(tasks), [count for counts in parts for count in counts])
    assert (classes == classes[..., :1]).all()
    assert_uniform(classes[sets[:, 0] == 2, 0, 0] - 12, 30)


def test_a_union_keeps_names_counts_and_rows():
    one, two = numbered([5, 6]), numbered([7, 5], 11)
    both = union([one, two])
    assert both.classes == one.classes + two.classes
    np.testing.assert_array_equal(both.first, [0, 5, 11, 18])
    np.testing.assert_array_equal(both.dataset, [0, 0, 1, 1])
    np.testing.assert_array_equal(both.images, np.concatenate([one.images, two.images]))
    assert both.largest == 7
    # A union of unions is the union of all their parts.
    three = numbered([5], 23)
    nested, flat = union([both, three]), union([one, two, three])
    np.testing.assert_array_equal(nested.dataset, flat.dataset)
    np.testing.assert_array_equal(nested.first, flat.first)


def turns_of(tasks):
    """The quarter by which each image was turned [tasks, images], asserting that it is one of the four."""
    corners = [np.rot90([[10, 20], [30, 40]], quarter) for quarter in range(4)]
    images = np.concatenate([tasks.support_images, tasks.query_images], 1)[..., 0]
    same = np.stack([(np.rint(images * 255) == c).all((-2, -1)) for c in corners], -1)
    assert (same.sum(-1) == 1).all()
    return same.argmax(-1)


@pytest.fixture(scope="module")
def turned():
    """Tasks of a union whose second data set alone rotates: those of the first, those of the second."""
    table = union([numbered([5] * 4), numbered([5] * 4, 20, rotates=True)])
    tasks = sample_tasks(jax.random.key(0), table, **SIZE, tasks=1500)
    second = rows_of(tasks.support_images).min(1) >= 20
    pick = lambda chosen: jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], tasks)
    return pick(~second), pick(second)


def test_omniglot_turns_whole_classes_by_independent_quarters(turned):
    tasks = turned[1]
    turns = turns_of(tasks)
    labels = np.concatenate([tasks.support_labels, tasks.query_labels], 1)
    per_label = np.stack([turns[labels == i].reshape(len(turns), -1) for i in range(WAYS)], 1)
    assert (per_label == per_label[..., :1]).all()  # a class's support and query turn together
    assert_uniform(per_label[:, 0, 0] * 4 + per_label[:, 1, 0], 16)


def test_a_data_set_that_does_not_rotate_stays_upright_beside_one_that_does(turned):
    assert (turns_of(turned[0]) == 0).all()


def test_pixels_are_normalised_by_their_own_data_sets_mean_and_std():
    stat = [((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), ((1.0,) * 3, (-1.0,) * 3)]
    tables = [numbered([5] * 4, 20 * i, mean=mean, std=std) for i, (mean, std) in enumerate(stat)]
    table = union(tables)
    tasks = sample_tasks(jax.random.key(0), table, **SIZE, tasks=40)
    seen = np.asarray(tasks.query_images)
    found = set()
    for task in seen:
        # Which set it was: in the right one, undoing the normalisation gives back the corners 10 and 40 in red.
        back = [np.rint((task * np.array(std) + mean) * 255).astype(int) for mean, std in stat]
        which = [i for i, pixels in enumerate(back) if (pixels[:, 0, 0, 0] == 10).all()]
        assert len(which) == 1
        rows = back[which[0]][:, 0, 0, 1] * 250 + back[which[0]][:, 0, 0, 2]
        assert (rows // 20 == which[0]).all()
        found.add(which[0])
        mean, std = map(np.array, stat[which[0]])
        np.testing.assert_allclose(task, (table.images[rows] / 255 - mean) / std, atol=1e-5)
    assert found == {0, 1}


def test_a_batch_is_uniform_over_images_and_labelled_by_class():
    table = numbered(RAGGED)
    images, labels = sample_batch(jax.random.key(0), table, 20_000)
    rows = rows_of(images)
    np.testing.assert_array_equal(labels, class_of(rows, RAGGED))
    assert_uniform(rows, sum(RAGGED))


def test_a_batch_of_a_union_concatenates_the_labels_and_normalises_by_data_set():
    table = union([numbered([5] * 4), numbered([6] * 3, 20, mean=(1.0,) * 3, std=(-1.0,) * 3)])
    images, labels = map(np.asarray, sample_batch(jax.random.key(0), table, 500))
    images = np.where((labels >= 4)[:, None, None, None], 1 - images, images)
    np.testing.assert_array_equal(labels, class_of(rows_of(images), [5] * 4 + [6] * 3))


def test_fewer_classes_than_ways_is_an_input_error_that_names_the_benchmark():
    with pytest.raises(InputError, match=r"^small has 3 classes, fewer than ways=5: lower `ways`$") as error:
        check_tasks("small", numbered([20] * 3), 5, 5, 15)
    assert "\n" not in str(error.value)


def test_in_a_union_each_data_set_needs_enough_classes():
    table = union([numbered([20] * 9), numbered([20] * 4, 180)])
    check_tasks("both", table, 4, 5, 15)
    with pytest.raises(InputError, match="4 classes, fewer than ways=5"):
        check_tasks("both", table, 5, 5, 15)


def test_a_class_too_small_for_a_task_is_an_error_and_no_images_of_another_class_under_its_label():
    """What it once gave: `label 4 true classes {0: 12, 1: 8}`."""
    table = numbered([12, 30, 30, 30, 30])
    with pytest.raises(InputError, match=r"class 'class 0 0' of the table has 12 images, .* = 20: lower `shots` or"):
        sample_tasks(jax.random.key(0), table, ways=5, shots=5, queries=15)
    task = sample_tasks(jax.random.key(0), table, ways=5, shots=5, queries=7, tasks=200)
    images = np.concatenate([task.support_images, task.query_images], 1)
    labels = np.concatenate([task.support_labels, task.query_labels], 1)
    classes = class_of(rows_of(images), [12, 30, 30, 30, 30])
    for of_task, of_label in zip(classes, labels, strict=True):
        assert all(len(set(of_task[of_label == label])) == 1 for label in range(5))


def test_a_task_of_more_classes_than_a_data_set_has_is_an_error_whichever_set_is_drawn():
    both = union([numbered([20] * 9), numbered([20] * 4, 180)])
    with pytest.raises(InputError, match="the table has 4 classes, fewer than ways=5"):
        sample_tasks(jax.random.key(0), both)


def test_a_table_that_is_traced_is_checked_too():
    draw = jax.jit(lambda table, key: sample_tasks(key, table, ways=5, shots=5, queries=15).support_labels)
    with pytest.raises(InputError, match=r"a class of the table has 12 images"):
        draw(numbered([12, 30, 30, 30, 30]), jax.random.key(0))
    assert draw(numbered([20, 30, 30, 30, 30]), jax.random.key(0)).shape == (1, 25)


def test_what_a_table_is_made_into_keeps_its_smallest_class_and_its_fewest_classes():
    both = union([numbered([20] * 9), numbered([18, 20, 20, 30], 180)])
    assert (both.largest, both.smallest, both.fewest) == (30, 18, 4)
    part = take(both, [0, 1, 2, 10, 12], 0, seed=0)
    assert (part.largest, part.smallest, part.fewest) == (30, 20, 2)
    assert take(both, [0, 1], 5, seed=0).fewest == 0  # of the second data set


def test_a_check_of_a_table_on_the_device_does_not_look_at_it():
    table = jax.device_put(numbered([20] * 5))
    with jax.transfer_guard_device_to_host("disallow_explicit"):
        check_tasks("the table", table, 5, 5, 15)


@pytest.mark.parametrize("name", ["ways", "shots", "queries", "tasks"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "5"])
@pytest.mark.usefixtures("unchecked")
def test_sizes_of_a_task_that_are_no_positive_whole_numbers_are_named(name, value):
    with pytest.raises(InputError, match=rf"^`{name}` is {value!r}: it must be a whole number, at least 1$"):
        sample_tasks(jax.random.key(0), numbered([20] * 5), **{name: value})


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_of_no_image_is_an_error(size):
    with pytest.raises(InputError, match="`size` is"):
        sample_batch(jax.random.key(0), numbered([5, 5]), size)


@pytest.mark.parametrize(
    ("rows", "says"),
    [([3, 10], "`rows` has 10: the table has 10 images, 0..9"), ([-1], "`rows` has -1"), ([0.5], "whole numbers")],
)
@pytest.mark.usefixtures("unchecked")
def test_rows_that_the_table_has_not_are_an_error_and_not_the_last_image(rows, says):
    table = jax.device_put(numbered([5, 5]))
    for given in (rows, np.array(rows), jax.numpy.asarray(rows)):
        with pytest.raises(InputError, match=re.escape(says)):
            read_images(table, given)


@pytest.mark.parametrize(
    ("rows", "images", "says"),
    [
        ([0, 2], 0, "`rows` has 2: the table has 2 classes, 0..1"),
        ([-1], 0, "`rows` has -1"),
        ([0, 0], 0, "each once"),
        ([], 0, "at least one class"),
        ([0], -1, "`images` is -1"),
        ([1, 0], 6, "class 'class 0 0' has 5 images, `images` is 6: lower it"),
    ],
)
def test_classes_or_images_that_a_table_has_not_cannot_be_taken(rows, images, says):
    with pytest.raises(InputError, match=re.escape(says)):
        take(numbered([5, 9]), rows, images, seed=0)


@pytest.mark.parametrize(("quotas", "says"), [([1], "has 1 numbers: x has 2"), ([2, -1], "`quotas` is -1")])
def test_quotas_are_one_number_for_each_data_set(quotas, says):
    both = union([numbered([20] * 9), numbered([20] * 4, 180)])
    with pytest.raises(InputError, match=re.escape(says)):
        draw_classes("x", both, quotas, 0, seed=0)


@pytest.mark.parametrize(
    ("by_class", "classes", "says"),
    [
        ([], [], "`by_class` is empty"),
        ([np.zeros((2, 4, 4, 3), np.float32)], ["a"], "uint8 [n, h, w, 1 or 3], not float32"),
        ([np.zeros((2, 4, 4), np.uint8)], ["a"], "(2, 4, 4)"),
        ([np.zeros((2, 4, 4, 3), np.uint8)], ["a", "b"], "`classes` 2 names"),
        ([np.zeros((2, 4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)], ["a", "b"], "no class be empty"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_table_is_made_of_bytes_that_its_classes_account_for(by_class, classes, says):
    with pytest.raises(InputError, match=re.escape(says)):
        make_table(by_class, classes, [0.5] * 3, [0.25] * 3)


def test_a_union_is_of_images_of_one_size():
    large = make_table([np.zeros((20, 4, 4, 3), np.uint8)], ["a"], [0.5] * 3, [0.25] * 3)
    with pytest.raises(InputError, match=r"images of one size, not \[\(2, 2\), \(4, 4\)\]"):
        union([numbered([20]), large])


def test_a_class_with_too_few_images_is_an_input_error_that_names_it():
    table = numbered([20, 20, 19, 20, 20])
    check_tasks("ragged", table, 5, 4, 15)
    with pytest.raises(InputError, match=r"'class 0 2' of ragged has 19 images") as error:
        check_tasks("ragged", table, 5, 5, 15)
    assert "= 20" in str(error.value) and "\n" not in str(error.value)


def test_under_vmap_the_tasks_are_the_same_and_as_uniform():
    table = jax.device_put(numbered(RAGGED))
    one = lambda key: jax.tree.map(lambda leaf: leaf[0], sample_tasks(key, table, **SIZE))
    keys = jax.random.split(jax.random.key(4), 2000)
    tasks = jax.jit(jax.vmap(one))(keys)
    for i in (0, 7, 1999):
        found = jax.tree.map(lambda leaf, i=i: leaf[i], tasks)
        jax.tree.map(np.testing.assert_array_equal, found, one(keys[i]))
    classes = class_of(by_label(tasks)[..., 0], RAGGED)
    for label in range(WAYS):
        assert_uniform(classes[:, label], len(RAGGED))


ON_DEVICES = """
import jax, numpy as np, sys
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from test_episodes import AUGMENTED, SIZE
from jaxdiv.data.episodes import sample_tasks
assert jax.device_count() == 8
over = NamedSharding(jax.make_mesh((8,), ("tasks",)), PartitionSpec("tasks"))
draw = jax.jit(lambda key: sample_tasks(key, AUGMENTED, **SIZE, tasks=16, augment=True), out_shardings=over)
tasks = draw(jax.random.key(9))
assert len(tasks.support_images.addressable_shards) == 8
np.savez(sys.argv[1], *map(np.asarray, jax.tree.leaves(tasks)))
"""
AUGMENTED = numbered(RAGGED).replace(augmentation=(Augmentation(0.18, 0.5, 0.4, True),))


def test_one_key_gives_the_same_tasks_on_1_and_on_8_devices(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", ON_DEVICES, str(tmp_path / "eight.npz")]
    subprocess.run(command, check=True, env=environment)
    mine = jax.tree.leaves(sample_tasks(jax.random.key(9), AUGMENTED, **SIZE, tasks=16, augment=True))
    with np.load(tmp_path / "eight.npz") as eight:
        for ours, theirs in zip(mine, eight.values(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_in_double_precision_one_key_gives_the_same_tasks_and_batches_in_float32():
    exact, nearly = np.testing.assert_array_equal, partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    for draw, compare in (
        (lambda key: sample_tasks(key, AUGMENTED, **SIZE, tasks=3), exact),
        (lambda key: sample_batch(key, AUGMENTED, 5), exact),
        (lambda key: sample_tasks(key, AUGMENTED, **SIZE, tasks=3, augment=True), nearly),
    ):
        expected = jax.tree.leaves(draw(jax.random.key(9)))
        with enable_x64(True):
            found = jax.tree.leaves(draw(jax.random.key(9)))
        for ours, theirs in zip(expected, found, strict=True):
            compare(ours, theirs)
            assert theirs.dtype != np.float64


@pytest.fixture
def on_host(tmp_path):
    """A union as a memory map that stays on the host, and the same on the device."""
    table = union([numbered(RAGGED), numbered([5] * 4, 68, rotates=True)])
    table = table.replace(augmentation=(Augmentation(0.5, 0.5, 0.4, True), Augmentation()))
    np.save(tmp_path / "images.npy", table.images)
    mapped = table.replace(images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    on_device = place(mapped)
    return place(mapped, limit=on_device.images.nbytes - 1), place(mapped, limit=on_device.images.nbytes)


@pytest.mark.parametrize("augment", [False, True])
def test_a_table_on_the_host_gives_the_tasks_and_batches_of_the_same_on_the_device(on_host, augment):
    host, device = on_host
    assert host.on_host and isinstance(host.images, np.memmap)
    assert not device.on_host and isinstance(device.images, DeviceImages)
    for sample in (
        lambda table: sample_tasks(jax.random.key(3), table, **SIZE, tasks=20, augment=augment),
        lambda table: sample_batch(jax.random.key(3), table, 50, augment),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), sample(host), sample(device))


def test_by_default_a_small_table_lies_on_the_device():
    assert not place(numbered(RAGGED)).on_host


def test_prefetch_keeps_order_works_ahead_and_passes_errors_on():
    made = []
    loader = prefetch(lambda key: made.append(key) or -key, range(10), depth=3)
    assert next(loader) == 0
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2, 3]  # the one given and three ahead, no more
    assert list(loader) == [-i for i in range(1, 10)] and made == list(range(10))

    def failing(key):
        raise InputError("the disk is gone")

    with pytest.raises(InputError, match="the disk is gone"):
        list(prefetch(failing, range(3)))


def test_a_table_is_one_line_of_whatever_its_leaves_are():
    table = numbered(RAGGED)
    what = "ImageTable(8 classes, 68 images of 2x2x3, one data set"
    assert repr(table) == str(table) == f"{what}, on the host)"
    assert repr(place(table)) == f"{what}, on the device)"
    assert repr(place(table, limit=0)) == f"{what}, on the host)"
    both = union([table, numbered([1200] * 4)])
    assert repr(both) == "ImageTable(12 classes, 4,868 images of 2x2x3, 2 data sets, on the host)"
    assert repr(both.replace(images=None)) == "ImageTable(12 classes, no images, 2 data sets)"
    assert repr(jax.tree.map(lambda leaf: 0, table)) == "ImageTable(8 classes, no images, one data set)"
    said = []
    jax.jit(lambda traced: said.append(repr(traced)))(table)
    jax.eval_shape(lambda traced: said.append(repr(traced)), table)
    assert said == [f"{what})"] * 2


def test_a_task_is_one_line():
    task = sample_tasks(jax.random.key(0), numbered(RAGGED), **SIZE, tasks=6)
    one = "8 support images of 2x2x3, 12 query images of 2x2x3"
    assert repr(task) == str(task) == f"Task(6 tasks, each {one})"
    assert repr(jax.tree.map(lambda leaf: leaf[0], task)) == f"Task({one})"
    said = []
    jax.vmap(lambda traced: said.append(repr(traced)) or 0)(task)
    jax.jit(lambda traced: said.append(repr(traced)))(task)
    assert said == [f"Task({one})", f"Task(6 tasks, each {one})"]
    assert repr(jax.tree.map(lambda leaf: None, task)) == "Task(no support images, no query images)"
