"""Classes as tasks of their own: embedded each, chosen by diversity, and what a choice is worth."""

import itertools

import jax
import numpy as np
import pytest

from jaxdiv import choice_gain, choose_classes, load_probe, pairwise_distances
from jaxdiv.data.episodes import read_images
from jaxdiv.data.table import make_table, union
from jaxdiv.errors import InputError
from jaxdiv.task2vec import classes
from jaxdiv.task2vec.classes import embed_classes


def test_classes_that_look_alike_are_embedded_close_together():
    """Six classes of noise about two patterns: three of each lie nearer to one another than to the others."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(60, 190, (2, 16, 16, 3))
    by_class = [(patterns[c // 3] + rng.normal(0, 12, (8, 16, 16, 3))).clip(0, 255).astype(np.uint8) for c in range(6)]
    pool = make_table(by_class, [f"class {c}" for c in range(6)], [0.5] * 3, [0.25] * 3)
    done: list[int] = []
    found = embed_classes(
        load_probe("resnet10_narrow"), jax.device_put(pool), np.arange(6), 8, jax.random.key(0), 0, done.append
    )
    assert done == [1, 2, 3, 4, 5, 6]
    gaps = pairwise_distances(found)
    same = np.arange(6)[:, None] // 3 == np.arange(6)[None] // 3
    assert gaps[same & ~np.eye(6, dtype=bool)].max() < gaps[~same].min()


def test_classes_with_too_few_images_are_not_embedded_with_other_classes_images():
    pool = union([flat(6, 3), flat(4, 3)])
    with pytest.raises(InputError, match="class '4 images, class 1' has 4 images, `images` is 6"):
        embed_classes(load_probe("resnet10_narrow"), pool, np.array([0, 4]), 6, jax.random.key(0), 0)
    with pytest.raises(InputError, match="`rows` has 6: the table has 6 classes"):
        embed_classes(load_probe("resnet10_narrow"), pool, np.array([0, 6]), 4, jax.random.key(0), 0)
    with pytest.raises(InputError, match="`images` is 0"):
        embed_classes(load_probe("resnet10_narrow"), pool, np.array([0]), 0, jax.random.key(0), 0)


def test_a_class_stands_against_images_of_other_classes_in_one_order():
    pool = union([numbered(12, 3, 0), numbered(4, 6, 100)])
    rows = np.array([0, 2, 5, 8])
    shown, which = classes._backgrounds(jax.random.key(0), pool, rows, 16)
    values = np.round((np.asarray(shown)[:, 0, 0, 0] * 0.25 + 0.5) * 255)[which]  # each image's own number
    assert which.shape == (4, 16) and all(len(set(line)) == 16 for line in values)
    own = [set(np.asarray(pool.images)[pool.first[row] :][: pool.count[row], 0, 0, 0]) for row in rows]
    assert not any(set(line) & mine for line, mine in zip(values, own, strict=True))
    # What differs is what a class may not have: of 60 images a class has 12 or 4.
    assert len(set(values[2]) & set(values[3])) >= 16 - 8
    assert (values != np.asarray(classes._backgrounds(jax.random.key(1), pool, rows, 16)[0])[:1, 0, 0, 0]).any()
    with pytest.raises(InputError, match="all but 24 images of the pool, `images` is 25"):
        classes._backgrounds(jax.random.key(0), union([numbered(12, 3, 0)]), rows[:2], 25)


def test_images_of_the_class_itself_in_its_background_would_make_its_embedding_long(monkeypatch):
    """Why there are none."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(60, 190, (6, 1, 1, 3))
    by_class = [(colour + rng.normal(0, 12, (8, 16, 16, 3))).clip(0, 255).astype(np.uint8) for colour in colours]
    pool = make_table(by_class, list("abcdef"), [0.5] * 3, [0.25] * 3)
    lengths = lambda: np.linalg.norm(
        embed_classes(load_probe("resnet10_narrow"), pool, np.arange(6), 8, jax.random.key(0), 0), axis=1
    )
    first = np.asarray(jax.random.permutation(jax.random.key(0), 48))[:8]
    with_own = read_images(jax.device_put(pool), first), np.tile(np.arange(8), (6, 1))
    without = lengths()
    monkeypatch.setattr(classes, "_backgrounds", lambda *given: with_own)
    ratio, own = lengths() / without, np.bincount(first // 8, minlength=6)
    assert own.tolist() == [2, 0, 1, 1, 3, 1]
    assert ratio[own > 1].min() > 2 and ratio[1] == pytest.approx(1)


def numbered(count, classes, start):
    """A data set each of whose images is of a grey of its own."""
    values = start + np.arange(count * classes, dtype=np.uint8).reshape(classes, count, 1, 1, 1)
    by_class = list(np.broadcast_to(values, (classes, count, 8, 8, 3)))
    return make_table(by_class, [f"{start} {c}" for c in range(classes)], [0.5] * 3, [0.25] * 3)


def flat(images, classes):
    """A data set whose images are all one colour."""
    by_class = [np.full((images, 8, 8, 3), 10 * c, np.uint8) for c in range(classes)]
    return make_table(by_class, [f"{images} images, class {c}" for c in range(classes)], [0.5] * 3, [0.25] * 3)


def mean_distance(distances, rows):
    return np.mean([distances[i, j] for i, j in itertools.combinations(rows, 2)])


def points(seed, classes, axes=3):
    """Distances of points in a space, which obey the triangle inequality."""
    at = np.random.default_rng(seed).normal(size=(classes, axes))
    return np.linalg.norm(at[:, None] - at[None], axis=-1)


def test_a_hand_made_pool_is_chosen_from_the_outside_in_or_from_the_nearest_on():
    at = np.array([0.0, 1.0, 5.0, 9.0, 10.2])  # on a line
    distances = abs(at[:, None] - at[None])
    assert choose_classes(distances, 5).tolist() == [0, 4, 1, 3, 2]
    assert choose_classes(distances, 5, "least").tolist() == [0, 1, 2, 3, 4]
    assert choose_classes(distances, 1, have=[3, 4]).tolist() == [0]
    assert choose_classes(distances, 2, "least", have=[4]).tolist() == [3, 2]


def test_every_first_k_has_half_of_what_the_best_k_have_and_the_first_pair_is_the_best():
    for seed in range(12):
        distances = points(seed, 9)
        order = {goal: choose_classes(distances, 6, goal) for goal in ("most", "least")}
        for k in range(2, 7):
            values = [mean_distance(distances, rows) for rows in itertools.combinations(range(9), k)]
            found = {goal: mean_distance(distances, rows[:k]) for goal, rows in order.items()}
            assert 0.5 * max(values) <= found["most"] <= max(values) + 1e-12
            assert found["least"] >= min(values) - 1e-12
            # Measured: greedy is never worse than .91 of the best here, and least never more than 1.6 of the least.
            assert found["most"] > 0.85 * max(values) and found["least"] < 1.8 * min(values)
            if k == 2:
                assert found["most"] == max(values) and found["least"] == min(values)


def test_what_one_has_is_not_chosen_and_each_class_added_is_the_one_that_adds_most():
    distances, have = points(3, 10), [2, 7, 5]
    order = choose_classes(distances, 7, have=have).tolist()
    assert sorted([*order, *have]) == list(range(10))
    for k in range(7):
        before = have + order[:k]
        means = {row: mean_distance(distances, [*before, row]) for row in set(range(10)) - {*before}}
        assert order[k] == max(means, key=means.get)


def test_the_gain_is_what_two_halves_say_and_random_sets_are_as_drawn():
    one, other = points(0, 8), points(1, 8)
    (at_2, *_, at_5), both = choice_gain(one, other, 5, draws=4000), (one + other) / 2
    ways = (one, other), (other, one)
    for point, k in ((at_2, 2), (at_5, 5)):
        crossed = np.mean([mean_distance(by, choose_classes(on, 5)[:k]) for on, by in ways])
        every = [mean_distance(both, rows) for rows in itertools.combinations(range(8), k)]
        assert point.classes == k and point.diversity == pytest.approx(crossed)
        # The mean of 4,000 draws: its standard error is below sd/63.
        assert point.random == pytest.approx(np.mean(every), abs=4 * np.std(every) / 63)
        ends = np.quantile(every, [0.025, 0.975], method="inverted_cdf")  # drawn again and again, every set is tied
        assert [point.random_low, point.random_high] == pytest.approx(ends)
    with_two = choice_gain(one, other, 3, have=[1, 4], draws=9)
    assert [point.classes for point in with_two] == [0, 1, 2, 3]
    assert with_two[0].diversity == with_two[0].random == pytest.approx(both[1, 4])
    assert [point.classes for point in choice_gain(one, other, 3, have=[1], draws=9)] == [1, 2, 3]


@pytest.mark.parametrize("goal", ["most", "least"])
def test_on_pure_noise_a_choice_seems_to_gain_where_it_is_measured_on_what_it_saw_and_not_across_halves(goal):
    rng, outside = np.random.default_rng(0), []
    for _ in range(40):
        one, other = (pairwise_distances(rng.gamma(2, size=(30, 12))) for _ in range(2))
        seen, unseen = choice_gain(one, one, 8, goal, draws=100)[-1], choice_gain(one, other, 8, goal, draws=100)[-1]
        assert seen.diversity > seen.random_high if goal == "most" else seen.diversity < seen.random_low
        outside.append((unseen.diversity > unseen.random_high, unseen.diversity < unseen.random_low))
    # 2.5% on each side by chance: 1 of 40; 5 or more have a probability of .3%.
    assert np.max(np.sum(outside, 0)) <= 4


def test_classes_that_are_really_far_apart_are_found_again_on_other_images():
    rng, true = np.random.default_rng(0), np.random.default_rng(1).gamma(0.5, size=(30, 12))
    one, other = (pairwise_distances(true * rng.gamma(20, 1 / 20, size=true.shape)) for _ in range(2))
    found = choice_gain(one, other, 8)[-1]
    assert found.diversity > found.random_high


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 1}, "`count` is 1: it must be a whole number, at least 2"),
        ({"count": 6}, "`count` is 6: there are 5 classes"),
        ({"count": 4, "have": [0, 1]}, "`count` is 4: there are 3 classes"),
        ({"count": 2, "have": [5]}, "`rows` has 5: the table has 5 classes"),
        ({"count": 2, "have": [1, 1]}, "each class once"),
        ({"count": 2, "goal": "mots"}, "unknown goal 'mots'.*'most'"),
        ({"count": 2, "distances": np.full((5, 5), np.nan)}, "finite square"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(given, words):
    with pytest.raises(InputError, match=words):
        choose_classes(**{"distances": points(0, 5), **given})
