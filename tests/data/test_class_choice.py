"""Draws of classes against the probability of every set, enumerated."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiv.data.class_choice import Greedy, Nearest, OneOf, draw_greedy, draw_k_dpp, draw_nearest, k_dpp, similarity
from jaxdiv.data.episodes import sample_batch, sample_tasks
from jaxdiv.data.table import make_table, place
from jaxdiv.errors import InputError

CLASSES, WAYS, DRAWS = 7, 3, 6000
# Two families of classes, alike within: what a determinantal draw avoids together.
EMBEDDINGS = np.random.default_rng(0).normal(size=(CLASSES, 5)) * 0.5 + np.repeat(
    [[2, 0, 0, 0, 0], [0, 2, 0, 0, 0]], [4, 3], 0
)
KERNEL = similarity(jnp.asarray(EMBEDDINGS, jnp.float32))


def counted(draws):
    """How often each set was drawn, in the order of `combinations`."""
    sets, counts = np.unique(np.sort(draws, 1), axis=0, return_counts=True)
    found = dict(zip(map(tuple, sets.tolist()), counts, strict=True))
    assert all(len(set(of_one)) == draws.shape[1] for of_one in found)
    return np.array([found.pop(of_one, 0) for of_one in combinations(range(CLASSES), draws.shape[1])])


def test_a_k_dpp_of_as_many_classes_as_omniglot_has_stays_finite():
    """The elementary symmetric polynomials of 1,100 eigenvalues of mean 1 pass float32's range at the 20th."""
    embeddings = jnp.asarray(np.random.default_rng(0).lognormal(sigma=2.0, size=(1100, 512)), jnp.float32)
    keep = np.asarray(k_dpp(similarity(embeddings), 20).keep)
    assert np.isfinite(keep).all() and keep.min() >= 0 and keep.max() <= 1 + 1e-5


@pytest.mark.parametrize("ways", [1, WAYS, CLASSES - 2])
def test_a_k_dpp_draws_every_set_in_proportion_to_its_determinant(ways):
    process = k_dpp(KERNEL, ways)
    draws = np.asarray(jax.vmap(lambda key: draw_k_dpp(key, process))(jax.random.split(jax.random.key(1), DRAWS)))
    exact = np.asarray(KERNEL, np.float64)
    volume = np.array([np.linalg.det(exact[np.ix_(of_one, of_one)]) for of_one in combinations(range(CLASSES), ways)])
    expected = DRAWS * volume / volume.sum()
    often = expected >= 5  # a χ² needs so many in each cell; the others count as one
    observed = counted(draws)
    both = [np.append(of_one[often], of_one[~often].sum()) for of_one in (observed, expected)]
    observed, expected = (of_one[both[1] > 0] for of_one in both)
    assert stats.chisquare(observed, expected).pvalue > 0.01


def test_every_order_of_a_set_is_as_likely():
    process = k_dpp(KERNEL, WAYS)
    draws = np.asarray(jax.vmap(lambda key: draw_k_dpp(key, process))(jax.random.split(jax.random.key(2), DRAWS)))
    orders = np.unique(np.argsort(draws, 1), axis=0, return_counts=True)[1]
    assert len(orders) == 6 and stats.chisquare(orders).pvalue > 0.01


def test_a_greedy_draw_makes_the_determinant_largest_step_by_step():
    exact = np.asarray(KERNEL, np.float64)
    by_first = {}
    for first in range(CLASSES):
        chosen = [first]
        while len(chosen) < WAYS:
            volume = [np.linalg.det(exact[np.ix_([*chosen, n], [*chosen, n])]) for n in range(CLASSES)]
            chosen.append(int(np.argmax(volume)))
        by_first[first] = tuple(sorted(chosen))
    keys = jax.random.split(jax.random.key(3), 700)
    draws = np.asarray(jax.vmap(lambda key: draw_greedy(key, KERNEL, WAYS))(keys))
    assert {tuple(sorted(of_one)) for of_one in draws.tolist()} == set(by_first.values())
    expected = np.zeros(len(counted(draws)))
    for of_one in by_first.values():
        expected[list(combinations(range(CLASSES), WAYS)).index(of_one)] += 100
    seen = expected > 0
    assert stats.chisquare(counted(draws)[seen], expected[seen]).pvalue > 0.01


def test_the_nearest_classes_are_those_of_the_largest_cosines():
    exact = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    wanted = {tuple(sorted(np.argsort(-exact @ exact[first])[:WAYS].tolist())) for first in range(CLASSES)}
    keys = jax.random.split(jax.random.key(4), 300)
    draws = np.asarray(jax.vmap(lambda key: draw_nearest(key, KERNEL, WAYS))(keys))
    assert {tuple(sorted(of_one)) for of_one in draws.tolist()} == wanted


def test_more_classes_than_the_embeddings_span_are_refused():
    with pytest.raises(InputError, match="span 5 dimensions, fewer than ways=6"):
        k_dpp(KERNEL, 6)


# In tasks and batches


def a_table(choice):
    """Seven classes of four images; every pixel of a class is its number."""
    images = [np.full((4, 2, 2, 3), number, np.uint8) for number in range(CLASSES)]
    return make_table(images, list("abcdefg"), (0.0,) * 3, (1 / 255,) * 3).replace(choice=choice)


def classes_of(images):
    return np.rint(np.asarray(images)[..., 0, 0, 0]).astype(int)


SETS = jnp.array([[0, 1, 2], [4, 5, 6]])
NAMED = {
    "one of": OneOf(SETS),
    "nearest": Nearest(KERNEL, WAYS),
    "greedy": Greedy(KERNEL, WAYS),
    "k-DPP": k_dpp(KERNEL, WAYS),
}


@pytest.mark.parametrize("name", ["nearest", "greedy", "k-DPP"])
def test_tasks_have_the_classes_that_the_choice_draws(name):
    choice = NAMED[name]
    task = sample_tasks(jax.random.key(5), a_table(choice), WAYS, 1, 2, tasks=DRAWS)
    drawn = classes_of(task.support_images)
    np.testing.assert_array_equal(np.repeat(drawn, 2, 1), classes_of(task.query_images))
    direct = np.asarray(jax.vmap(choice)(jax.random.split(jax.random.key(6), DRAWS)))
    one, other = counted(drawn), counted(direct)
    seen = one + other > 0
    assert stats.chi2_contingency([one[seen], other[seen]]).pvalue > 0.01


def test_of_fixed_sets_each_is_as_likely_and_labels_follow_a_random_order():
    drawn = classes_of(sample_tasks(jax.random.key(5), a_table(OneOf(SETS)), WAYS, 1, 1, tasks=1200).support_images)
    orders, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(orders) == 2 * 6 and stats.chisquare(counts).pvalue > 0.01


def test_a_batch_has_one_image_of_each_class_of_a_draw():
    choice = NAMED["k-DPP"]
    images, labels = sample_batch(jax.random.key(7), a_table(choice), 3001)  # and a part of the last draw
    np.testing.assert_array_equal(classes_of(images), labels)
    sets = np.asarray(labels)[:3000].reshape(-1, WAYS)
    direct = np.asarray(jax.vmap(choice)(jax.random.split(jax.random.key(8), 3000)))
    one, other = counted(sets), counted(direct)
    seen = one + other > 0
    assert stats.chi2_contingency([one[seen], other[seen]]).pvalue > 0.01


def test_the_host_and_the_device_draw_alike():
    table = a_table(NAMED["one of"])
    for draw in (
        lambda table: sample_tasks(jax.random.key(3), table, WAYS, 1, 2, tasks=9),
        lambda table: sample_batch(jax.random.key(3), table, 11),
    ):
        jax.tree.map(np.testing.assert_array_equal, draw(place(table)), draw(place(table, limit=0)))


def test_a_choice_of_another_number_of_classes_is_refused():
    with pytest.raises(InputError, match="is of 3 classes, not of ways=5"):
        sample_tasks(jax.random.key(0), a_table(OneOf(SETS)), 5, 1, 1)
