"""Distances, the diversity coefficient and its intervals, against closed forms and formulas written out."""

import math

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.spatial import distance as scipy_distance

from jaxdiv.errors import InputError
from jaxdiv.task2vec.coefficient import (
    DISTANCES,
    INTERVALS,
    bootstrap,
    complexity,
    cosine,
    cross_diversity,
    diversity,
    iid_pairs,
    jackknife,
    layer_diversity,
    noise_floor,
    pairwise_distances,
    task2vec_scale_free,
    vendi,
)


def embeddings(tasks, filters, seed=0):
    return np.random.default_rng(seed).gamma(0.5, size=(tasks, filters))


def shared_task_noise(tasks, rng):
    """Distances 10 + uᵢ + uⱼ: all their spread comes from the tasks that pairs share -> distances, u."""
    u = rng.normal(size=tasks)
    distances = 10 + u[:, None] + u[None, :]
    np.fill_diagonal(distances, 0)
    return distances, u


@pytest.mark.parametrize("distance", DISTANCES)
def test_identical_embeddings_are_at_distance_0(distance):
    same = np.tile(embeddings(1, 50), (4, 1))
    np.testing.assert_allclose(pairwise_distances(same, distance), 0, atol=1e-11)  # 6e-12: entropy's 1e-8
    assert diversity(same, distance).value == pytest.approx(0, abs=1e-11)


def kl_of_normals(fisher_a, fisher_b):
    """KL(N(0, 1/fisher_a) from N(0, 1/fisher_b)) by numerical integration."""
    p, q = (stats.norm(scale=f**-0.5) for f in (fisher_a, fisher_b))
    end = 12 * fisher_a**-0.5
    return integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -end, end)[0]


def test_the_references_divergences_are_those_of_normals():
    a, b = np.array([0.5, 2.0, 3.0]), np.array([1.5, 0.7, 3.1])
    there = [kl_of_normals(*pair) for pair in zip(a, b, strict=True)]
    back = [kl_of_normals(*pair) for pair in zip(b, a, strict=True)]
    middle = 1 / (0.5 / a + 0.5 / b)  # the Fisher whose variance is the mean of the two
    half = [0.5 * (kl_of_normals(x, m) + kl_of_normals(y, m)) for x, y, m in zip(a, b, middle, strict=True)]
    assert pairwise_distances([a, b], "asymmetric_kl")[0, 1] == pytest.approx(sum(there), rel=1e-6)
    assert pairwise_distances([b, a], "asymmetric_kl")[0, 1] == pytest.approx(sum(back), rel=1e-6)
    assert pairwise_distances([a, b], "kl")[0, 1] == pytest.approx(np.maximum(there, back).sum(), rel=1e-6)
    assert pairwise_distances([a, b], "jsd")[0, 1] == pytest.approx(np.mean(half), rel=1e-6)


def test_the_references_other_distances_equal_scipys():
    a, b = embeddings(2, 40) + 0.01
    share = a / (a + b + 1e-8)
    expected = {
        "normalized_cosine": scipy_distance.cosine(1 / a, 1 / b),
        "correlation": scipy_distance.correlation(1 / a, 1 / b),
        "entropy": np.log(2) - stats.entropy(np.stack([share, 1 - share])).mean(),
    }
    for name, value in expected.items():
        assert pairwise_distances([a, b], name)[0, 1] == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize("distance", ["cosine", "task2vec", "task2vec_scale_free"])
def test_disjoint_supports_are_at_distance_1(distance):
    apart = np.kron(np.eye(4), np.ones(5)) * embeddings(4, 20)
    np.testing.assert_allclose(pairwise_distances(apart, distance), 1 - np.eye(4), atol=1e-12)
    assert diversity(apart, distance) == pytest.approx((1, 1, 1), abs=1e-12)


def test_cosine_of_a_right_triangle():
    assert cosine(np.array([1.0, 0]), np.array([3.0, 4.0])) == pytest.approx(1 - 3 / 5)


def test_embedding_of_zeros_is_at_distance_1_from_others_and_0_from_its_like():
    rows = np.array([[0.0, 0], [0, 0], [1, 2]])
    np.testing.assert_allclose(pairwise_distances(rows, "cosine"), [[0, 0, 1], [0, 0, 1], [1, 1, 0]], atol=1e-15)


def test_task2vec_equals_the_formula_written_as_a_double_loop():
    # Embeddings about as small as the 1e-8, so that it counts; 276 pairs of 17,024 filters fill more than one block.
    rows = 1e-8 * embeddings(24, 17_024)
    expected = np.zeros((24, 24))
    for i in range(24):
        for j in range(i):
            a, b = rows[i] / (rows[i] + rows[j] + 1e-8), rows[j] / (rows[i] + rows[j] + 1e-8)
            expected[i, j] = expected[j, i] = 1 - (a @ b) / math.sqrt((a @ a) * (b @ b))
    np.testing.assert_allclose(pairwise_distances(rows, "task2vec"), expected, rtol=1e-12)


def test_scale_free_distance_ignores_a_common_scale_and_task2vec_does_not():
    rows = embeddings(5, 300)
    found = {name: [pairwise_distances(s * rows, name) for s in (1.0, 1e-9)] for name in DISTANCES}
    np.testing.assert_allclose(*found["task2vec_scale_free"], rtol=1e-12)
    assert np.abs(np.subtract(*found["task2vec"])).max() > 0.01
    # Far above the 1e-8 the two are the same.
    np.testing.assert_allclose(found["task2vec"][0], found["task2vec_scale_free"][0], rtol=1e-4)


def test_entries_zero_in_both_embeddings_are_left_out():
    a, b = embeddings(2, 40)
    padded = task2vec_scale_free(np.append(a, np.zeros(9)), np.append(b, np.zeros(9)))
    assert padded == pytest.approx(task2vec_scale_free(a, b), rel=1e-12)


def test_jackknife_of_three_tasks_by_hand():
    # Leaving one task out leaves one pair: 0.6, 0.4 and 0.2. Mean 0.4, variance 2/3 · (0.04 + 0 + 0.04).
    distances = np.array([[0, 0.2, 0.4], [0.2, 0, 0.6], [0.4, 0.6, 0]])
    half = 4.302652729911275 * math.sqrt(2 / 3 * 0.08)  # t(.975, 2)
    assert jackknife(distances) == pytest.approx((0.4, 0.4 - half, 0.4 + half), rel=1e-9)


def test_jackknife_of_four_tasks_by_hand():
    # Pairs 01..23: 1 2 3 4 5 6, mean 3.5. Without task 0: (4+5+6)/3 = 5, then 11/3, 3 and 7/3; their mean is 3.5.
    distances = np.array([[0, 1, 2, 3], [1, 0, 4, 5], [2, 4, 0, 6], [3, 5, 6, 0]], float)
    squares = 1.5**2 + (1 / 6) ** 2 + 0.5**2 + (7 / 6) ** 2
    half = 3.182446305284263 * math.sqrt(3 / 4 * squares)  # t(.975, 3)
    assert jackknife(distances) == pytest.approx((3.5, 3.5 - half, 3.5 + half), rel=1e-9)


def test_iid_pairs_by_hand():
    distances = np.array([[0, 1, 2, 3], [1, 0, 4, 5], [2, 4, 0, 6], [3, 5, 6, 0]], float)
    half = 2.570581835636314 * math.sqrt(3.5 / 6)  # t(.975, 5); the variance of 1..6 is 3.5
    assert iid_pairs(distances) == pytest.approx((3.5, 3.5 - half, 3.5 + half), rel=1e-9)


def test_jackknife_is_the_t_interval_over_tasks_where_distances_are_sums_over_tasks():
    distances, u = shared_task_noise(12, np.random.default_rng(0))
    value, low, high = jackknife(distances)
    assert value == pytest.approx(10 + 2 * u.mean())
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 11) * 2 * u.std(ddof=1) / math.sqrt(12))


def test_with_shared_task_noise_jackknife_covers_and_the_narrower_iid_pairs_does_not():
    rng = np.random.default_rng(1)
    cover = {jackknife: 0, iid_pairs: 0}
    for _ in range(400):
        distances, _ = shared_task_noise(10, rng)
        found = {interval: interval(distances) for interval in cover}
        assert found[iid_pairs].high - found[iid_pairs].low < found[jackknife].high - found[jackknife].low
        for interval, (_, low, high) in found.items():
            cover[interval] += low <= 10 <= high
    # The standard error of 400 draws at 95% is 1.1%. Pairs taken as independent are too narrow by about √(n−1) = 3.
    assert 0.915 < cover[jackknife] / 400 < 0.985
    assert cover[iid_pairs] / 400 < 0.65


def test_bootstrap_draws_no_pair_of_a_task_with_itself():
    # All pairs at one distance: so is every replicate. Counting self-pairs would spread them below it.
    assert bootstrap(0.3 * (1 - np.eye(6))) == pytest.approx((0.3, 0.3, 0.3))


def test_bootstrap_spreads_about_as_the_jackknife():
    distances, _ = shared_task_noise(40, np.random.default_rng(2))
    wide, known = bootstrap(distances), jackknife(distances)
    assert wide.value == pytest.approx(known.value)
    assert wide.high - wide.low == pytest.approx(known.high - known.low, rel=0.15)


def test_every_interval_serves_the_coefficient():
    rows = embeddings(12, 30)
    for name in INTERVALS:
        value, low, high = diversity(rows, interval=name)
        assert value == pytest.approx(diversity(rows).value) and low < value < high


def test_cross_diversity_is_the_mean_over_all_pairs_with_a_welch_like_error():
    one, other = embeddings(5, 30), embeddings(4, 30, seed=1)
    found = np.array([[task2vec_scale_free(a, b) for b in other] for a in one])
    error = math.sqrt(found.mean(1).var(ddof=1) / 5 + found.mean(0).var(ddof=1) / 4)
    value, low, high = cross_diversity(one, other)
    assert value == pytest.approx(found.mean())
    assert (high - low) / 2 == pytest.approx(3.182446305284263 * error)  # t(.975, 3)


def test_cross_diversity_covers_the_true_mean():
    # Distances of points on a circle from one quarter to another: E[1 − cos(a − b)] in closed form.
    rng = np.random.default_rng(3)
    inside = lambda n: np.stack([np.cos(u := rng.uniform(0, np.pi / 4, n)), np.sin(u)], 1)
    quarter = lambda n: np.stack([np.cos(u := rng.uniform(np.pi / 4, np.pi / 2, n)), np.sin(u)], 1)
    sines = [np.sin(np.pi / 4), 1 - np.sin(np.pi / 4)]
    cosines = [1 - np.cos(np.pi / 4), np.cos(np.pi / 4)]
    truth = 1 - (sines[0] * sines[1] + cosines[0] * cosines[1]) / (np.pi / 4) ** 2
    covered = 0
    for _ in range(400):
        _, low, high = cross_diversity(inside(12), quarter(12), "cosine")
        covered += low <= truth <= high
    assert 0.92 < covered / 400 < 0.985


def test_noise_floor_is_the_mean_distance_of_like_from_like():
    once, again = embeddings(3, 30), embeddings(3, 30, seed=1)
    expected = np.mean([task2vec_scale_free(a, b) for a, b in zip(once, again, strict=True)])
    assert noise_floor(once, again) == pytest.approx(expected)
    assert noise_floor(once, once) == pytest.approx(0, abs=1e-15)


def test_layer_diversity_is_the_coefficient_of_the_layers_entries():
    rows = embeddings(4, 9)
    names = ["conv1"] * 4 + ["bn1"] * 3 + ["conv1"] * 2
    found = layer_diversity(rows, names)
    assert list(found) == ["conv1", "bn1"]
    assert found["bn1"] == pytest.approx(diversity(rows[:, 4:7]).value)
    assert found["conv1"] == pytest.approx(diversity(rows[:, [0, 1, 2, 3, 7, 8]]).value)


def test_vendi_score_counts_the_different_tasks():
    assert vendi(np.eye(5)) == pytest.approx(5)
    assert vendi(np.ones((5, 3))) == pytest.approx(1)
    assert vendi(np.kron(np.eye(3), np.ones((4, 1)))) == pytest.approx(3)  # three kinds, four of each
    # Two tasks at an angle: eigenvalues (1 ± cos) / 2.
    c = 0.6
    entropy = stats.entropy([(1 + c) / 2, (1 - c) / 2])
    assert vendi([[1, 0], [c, 0.8]]) == pytest.approx(math.exp(entropy))


def test_without_interval_two_tasks_suffice():
    rows = embeddings(2, 30)
    value, low, high = diversity(rows, interval=None)
    assert value == pytest.approx(pairwise_distances(rows)[0, 1])
    assert np.isnan([low, high]).all()


def test_complexity_is_the_mean_length_with_a_t_interval():
    rows = np.array([[3.0, 4], [5, 12], [8, 15]])  # lengths 5, 13, 17
    half = 4.302652729911275 * math.sqrt(112 / 3 / 3)  # squares about 35/3 sum to 224/3
    assert complexity(rows) == pytest.approx((35 / 3, 35 / 3 - half, 35 / 3 + half), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "says"),
    {
        "one task": (lambda: pairwise_distances(embeddings(1, 5)), "at least 2"),
        "two tasks, an interval": (lambda: diversity(embeddings(2, 5)), "at least 3 tasks"),
        "two tasks, complexity": (lambda: complexity(embeddings(2, 5)), "at least 3"),
        "NaN": (lambda: diversity([[1, 2], [1, np.nan], [2, 1]]), "in 1 of 3 tasks, first in task 1"),
        "infinity": (lambda: diversity([[1, 2], [1, 3], [np.inf, 1]]), "first in task 2"),
        "negative": (lambda: diversity([[1, 2], [1, -3], [2, 1]]), "negative"),
        "one row": (lambda: diversity([1.0, 2, 3]), "[tasks, filters]"),
        "no filters": (lambda: diversity(np.zeros((4, 0))), "[tasks, filters]"),
        "distance": (lambda: diversity(embeddings(3, 5), "task2vek"), "did you mean 'task2vec'"),
        "interval": (lambda: diversity(embeddings(3, 5), interval="jacknife"), "did you mean 'jackknife'"),
        "1/F of 0": (lambda: diversity([[1, 2], [1, 0], [2, 1]], "kl"), "1 entries are 0"),
        "other probe": (lambda: cross_diversity(embeddings(3, 5), embeddings(3, 6)), "the same probe"),
        "other tasks": (lambda: noise_floor(embeddings(3, 5), embeddings(4, 5)), "one shape"),
        "layers": (lambda: layer_diversity(embeddings(3, 5), ["conv1"]), "1 layer names for 5"),
        "no direction": (lambda: vendi([[1, 2], [0, 0]]), "task 1 is all zeros"),
    }.values(),
)
@pytest.mark.usefixtures("unchecked")
def test_unusable_input_is_named_in_one_line(call, says):
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_stays_within_the_range_that_axes_and_tables_say(name):
    rows = np.exp(4 * np.random.default_rng(0).normal(size=(40, 3)))
    found, high = pairwise_distances(rows, name), DISTANCES[name].high
    assert DISTANCES[name].label and found.min() >= 0 and found.max() <= high + 1e-12
    if math.isfinite(high):  # and no narrower one would do
        assert found.max() > 0.75 * high
