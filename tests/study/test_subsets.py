"""Subsets of a pool for the controlled experiment: of one size, ordered by diversity, the same images everywhere."""

import itertools

import jax
import numpy as np
import pytest

from jaxdiv.data.episodes import read_images
from jaxdiv.data.table import draw_classes, make_table, take, union
from jaxdiv.errors import InputError
from jaxdiv.stats.controlled import LEVELS
from jaxdiv.study import subsets


def table(classes, images=6, value=0, mean=0.5):
    """A data set whose pixel values tell the class and the image."""
    by_class = [
        np.full((images, 8, 8, 3), value + 10 * c, np.uint8) + np.arange(images)[:, None, None, None].astype(np.uint8)
        for c in range(classes)
    ]
    return make_table(by_class, [f"set{value} class{c}" for c in range(classes)], [mean] * 3, [0.25] * 3)


def test_taken_classes_keep_their_own_images_data_sets_and_names():
    whole = union([table(4), table(5, images=8, value=100, mean=0.1)])
    part = take(whole, [1, 4, 6], 3, seed=0)
    assert part.classes == ("set0 class1", "set100 class0", "set100 class2")
    assert part.count.tolist() == [3, 3, 3] and part.first.tolist() == [0, 3, 6] and part.largest == 3
    assert part.dataset.tolist() == [0, 1, 1]
    for row, base in ((0, 10), (1, 100), (2, 120)):
        values = part.images[part.first[row] : part.first[row] + 3, 0, 0, 0]
        assert len(set(values)) == 3 and (base <= values).all() and (values < base + 8).all()
    everything = take(whole, range(9), 0, seed=0)
    np.testing.assert_array_equal(everything.images, whole.images)


def test_a_class_gives_the_same_images_whatever_it_is_taken_with():
    whole = table(6)
    alone, together = take(whole, [4], 3, seed=2), take(whole, [0, 4, 5], 3, seed=2)
    np.testing.assert_array_equal(alone.images, together.images[3:6])
    assert any((take(whole, [4], 3, seed=s).images != alone.images).any() for s in range(3, 9))


def test_parts_of_a_class_share_no_image():
    whole = table(4, images=7)
    parts = [take(whole, [1, 3], 3, seed=2, part=part) for part in (0, 1)]
    np.testing.assert_array_equal(parts[0].images, take(whole, [1, 3], 3, seed=2).images)
    for name in range(2):
        mine, theirs = (set(part.images[3 * name : 3 * name + 3, 0, 0, 0]) for part in parts)
        assert len(mine | theirs) == 6
    with pytest.raises(InputError, match="has 7 images, `images` is 3 and `part` 2: lower it"):
        take(whole, [0], 3, seed=2, part=2)


def test_drawn_classes_fill_the_quotas_and_grow_by_adding():
    whole = union([table(6), table(9, value=100)])
    few, more = (draw_classes("x", whole, quotas, 0, seed=1) for quotas in ([2, 3], [4, 5]))
    assert np.bincount(whole.dataset[few]).tolist() == [2, 3] and set(few) < set(more)
    with pytest.raises(InputError, match=r"7 classes with 0 images .* has 6.*lower `quotas`"):
        draw_classes("x", whole, [7, 1], 0, seed=1)
    with pytest.raises(InputError, match=r"1 classes with 7 images .* has 0"):
        draw_classes("x", whole, [1, 0], 7, seed=1)


def test_read_images_are_normalised_as_their_data_set_is():
    whole = union([table(2, mean=0.5), table(2, value=100, mean=0.1)])
    found = read_images(jax.device_put(whole), np.array([7, 13]))
    expected = (whole.images[[7, 13]] / 255 - np.array([0.5, 0.1])[:, None, None, None]) / 0.25
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture
def distances():
    points = np.random.default_rng(0).normal(size=(24, 3))
    return np.linalg.norm(points[:, None] - points[None], axis=-1) / 4


def test_the_search_finds_what_trying_every_subset_finds(distances):
    distances, kinds = distances[:12, :12], np.repeat([0, 1], 6)
    every = [
        np.array(a + b) for a in itertools.combinations(range(6), 2) for b in itertools.combinations(range(6, 12), 2)
    ]
    values = np.array([subsets.mean_distance(distances, rows) for rows in every])
    for target in (0.0, 0.5, 2.0):
        found = subsets._search(distances, kinds, 2, target, np.random.default_rng(1))
        assert np.bincount(kinds[found]).tolist() == [2, 2]
        assert abs(subsets.mean_distance(distances, found) - target) == pytest.approx(abs(values - target).min())


def test_levels_are_ordered_within_each_block_and_equal_in_size(distances):
    kinds = np.tile([0, 1], 12)
    found = subsets.choose(distances, kinds, 4, 3, seed=0)
    assert list(found) == [f"{level}-{n}" for level in LEVELS for n in (1, 2, 3)]
    for number in (1, 2, 3):
        low, middle, high = (subsets.mean_distance(distances, found[f"{level}-{number}"]) for level in LEVELS)
        assert low < middle < high
    for level in LEVELS:  # of different parts: independent
        assert len(set(np.concatenate([found[f"{level}-{n}"] for n in (1, 2, 3)]))) == 12
    assert all(np.bincount(kinds[rows]).tolist() == [2, 2] and len(set(rows)) == 4 for rows in found.values())
    again = subsets.choose(distances, kinds, 4, 3, seed=0)
    assert all((found[name] == again[name]).all() for name in found)


def test_a_pool_that_leaves_no_choice_is_refused(distances):
    with pytest.raises(InputError, match=r"12 classes of one data set, too few for 3 subsets of 3.*lower `classes`"):
        subsets.choose(distances, np.tile([0, 1], 12), 6, 3, seed=0)
