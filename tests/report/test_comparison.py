"""Benchmarks side by side: the difference of two coefficients, cross distances, and what the sentences say of them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from jaxdiv.report import comparison
from jaxdiv.task2vec.coefficient import cross_diversity, difference, diversity, jackknife, pairwise_distances

HOW = {"probe": "resnet18", "weights": "imagenet", "pixels": 84, "ways": 5, "shots": 5, "queries": 15, "tasks": 12}
JAXDIV = {"estimator": "exact", "head": "converged", "distance": "task2vec_scale_free", "interval": "jackknife"}
PAPER = {"estimator": "reference", "head": "adam", "distance": "task2vec", "interval": "iid_pairs", "augment": True}


def tasks(seed, spread, count=12):
    return np.exp(spread * np.random.default_rng(seed).normal(size=(count, 40)))


def row(name, embeddings, **how):
    value, low, high = diversity(embeddings)
    facts = {"benchmark": name, "diversity": value, "ci_low": low, "ci_high": high, "noise_floor": None}
    return HOW | JAXDIV | {"augment": False} | facts | how


def compared(embeddings):
    return comparison.diversity_differences({name: pairwise_distances(rows) for name, rows in embeddings.items()})


def test_the_difference_is_welchs_test_of_the_two_jackknives():
    one, other = pairwise_distances(tasks(0, 0.9, 9)), pairwise_distances(tasks(1, 0.7, 15))
    found, p = difference(one, other)
    a, b = jackknife(one), jackknife(other)
    errors = [(e.high - e.value) / stats.t.ppf(0.975, n - 1) for e, n in ((a, 9), (b, 15))]
    # A sample of n with this mean and this sd has that standard error.
    sds = [error * np.sqrt(n) for error, n in zip(errors, (9, 15), strict=True)]
    witness = stats.ttest_ind_from_stats(a.value, sds[0], 9, b.value, sds[1], 15, equal_var=False)
    assert p == pytest.approx(witness.pvalue, rel=1e-9)
    assert found.value == pytest.approx(a.value - b.value)
    half = stats.t.ppf(0.975, witness.df if hasattr(witness, "df") else _welch(errors)) * np.hypot(*errors)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


def _welch(errors):
    return np.hypot(*errors) ** 4 / (errors[0] ** 4 / 8 + errors[1] ** 4 / 14)


def test_two_draws_of_one_kind_differ_about_as_often_as_a_test_at_five_percent_may():
    draws = [
        difference(pairwise_distances(tasks(2 * i, 0.5)), pairwise_distances(tasks(2 * i + 1, 0.5)))[1]
        for i in range(400)
    ]
    assert 0.02 < np.mean(np.array(draws) < 0.05) < 0.085  # .05 with a standard error of .011


def test_tasks_that_do_not_differ_have_no_difference():
    assert difference(np.zeros((4, 4)), np.zeros((4, 4))) == ((0, 0, 0), 1.0)


def test_the_cross_table_has_every_two_in_both_orders_and_the_coefficients_on_its_diagonal():
    embeddings = {"a": tasks(0, 0.5), "b": tasks(1, 1.0, 7)}
    rows = [row(name, of_tasks) for name, of_tasks in embeddings.items()]
    found = {(r.benchmark, r.other): r for r in comparison.cross_distances(rows, embeddings)}
    assert set(found) == {("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")}
    assert found["b", "b"].distance == rows[1]["diversity"] and found["b", "b"].ci_low == rows[1]["ci_low"]
    expected = cross_diversity(embeddings["a"], embeddings["b"])
    for pair in (("a", "b"), ("b", "a")):
        ours = (found[pair].distance, found[pair].ci_low, found[pair].ci_high)
        assert ours == pytest.approx(expected)
    (text,) = comparison.between(list(found.values()))
    assert (
        text.startswith(f"Mean distance of two tasks: {expected.value:.3f} ".replace("0.", "."))
        and "between a and b" in text
    )
    assert comparison.between(comparison.cross_distances(rows[:1], embeddings)) == []


def test_a_pair_that_differs_is_decided_and_named_in_either_order():
    embeddings = {"narrow": tasks(0, 0.3), "wide": tasks(1, 1.2)}
    (found,) = compared(embeddings)
    assert found.more_diverse == "wide" and found.ci_high < 0
    (text,) = comparison.verdicts([found])
    assert text.startswith("wide is more diverse than narrow: the difference is .") and "p < .001" in text
    (turned,) = compared(dict(reversed(embeddings.items())))
    assert comparison.verdicts([turned]) == [text]


def test_a_pair_that_may_not_differ_is_undecided():
    (found,) = compared({"a": tasks(2, 0.5), "b": tasks(3, 0.5)})
    assert found.more_diverse is None and found.ci_low < 0 < found.ci_high
    (text,) = comparison.verdicts([found])
    assert text.startswith("Undecided whether a or b is more diverse: the difference is ")


def test_several_pairs_are_decided_by_holms_p():
    embeddings = {
        name: tasks(seed, spread) for seed, (name, spread) in enumerate({"a": 0.5, "b": 0.55, "c": 1.2}.items())
    }
    found = compared(embeddings)
    by_p = sorted(found, key=lambda r: r.p_value)
    adjusted = np.maximum.accumulate([min(1, p * n) for p, n in zip((r.p_value for r in by_p), (3, 2, 1), strict=True)])
    np.testing.assert_allclose([r.p_holm for r in by_p], adjusted)
    assert {(r.benchmark, r.other): r.more_diverse for r in found} == {
        ("a", "b"): None,
        ("a", "c"): "c",
        ("b", "c"): "c",
    }
    told = comparison.verdicts(found)
    assert len(told) == 3 and all("after Holm's correction for 3 pairs" in text for text in told)
    # An interval of one pair may leave zero out where Holm's p does not decide: the sentence goes by the latter.
    near = replace(found[0], difference=0.02, ci_low=0.001, ci_high=0.039, p_value=0.04, p_holm=0.08)
    assert "Undecided" in comparison.verdicts([near, *found[1:]])[0]
    (many,) = comparison.verdicts([*found, found[0]])
    assert many.startswith("Of 4 pairs, 2 differ") and "2 are undecided" in many


def test_the_papers_values_may_stand_beside_values_measured_alike_alone():
    ours = row("a", tasks(0, 0.5))
    text = comparison.paper_sentence([ours])
    assert text.startswith("Not with the paper's Table 1, which had estimator reference (here exact)")
    assert "--config.preset=paper" in text and "px" not in text
    assert "measured alike" in comparison.paper_sentence([ours | PAPER])
    other_size = comparison.paper_sentence([ours | PAPER | {"pixels": 48}])
    assert "84 px (here 48)" in other_size and "preset" not in other_size


def test_what_may_be_compared_tells_of_noise_and_of_intervals_that_are_too_narrow():
    plain = " ".join(comparison.comparable([row("a", tasks(0, 0.5))]))
    assert "With each other" not in plain and "too narrow" not in plain and "random" not in plain
    rows = [
        row(
            name,
            tasks(0, 0.5),
            **PAPER,
        )
        | {"noise_floor": 0.058}
        for name in "ab"
    ]
    text = " ".join(comparison.comparable(rows))
    assert "With each other" in text and "too narrow" in text and ".058 (a) and .058 (b)" in text


def test_tasks_of_few_classes_share_as_many_as_the_sentence_says():
    rng = np.random.default_rng(0)
    shared = [len({*rng.permutation(10)[:5]} & {*rng.permutation(10)[:5]}) for _ in range(4000)]
    assert np.mean(shared) == pytest.approx(2.5, abs=0.05)
    rows = [row("a", tasks(0, 0.5)), row("b", tasks(1, 0.5))]
    (text,) = comparison.shared_classes(rows, {"a": (89,), "b": (10,)})
    assert "b has 10, of which two tasks share 2.5 of 5" in text and "--config.data.cut.classes=10" in text
    assert comparison.shared_classes(rows, {"a": (89,), "b": (64,)}) == []
    assert "cut" not in comparison.shared_classes(rows, {"a": (10,), "b": (10,)})[0]
    # Of two data sets, tasks share classes only where both drew the same: half of the time.
    assert "1.2 of 5" in comparison.shared_classes(rows[:1], {"a": (10, 10)})[0]
