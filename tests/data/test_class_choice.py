"""Draws of classes against the probability of every set, enumerated."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiv.data.class_choice import draw_greedy, draw_k_dpp, draw_nearest, k_dpp, similarity
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
