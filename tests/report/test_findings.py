"""The sentences of a report follow from its numbers, and from nothing else."""

import pytest

from jaxdiv.report import findings, published
from jaxdiv.stats import correlate, regression


def row(method="pt", metric="accuracy", test_set="own", **more):
    """A row of `correlations`: not significant unless told."""
    found = {"method": method, "metric": metric, "test_set": test_set, "n": 12, "note": "", "slope": 1.0}
    return found | {"r2": 0.149, "ci_low": 0.0, "ci_high": 0.62, "p_value": 0.2153, "p_holm": 0.43} | more


STRONG = {"r2": 0.72, "ci_low": 0.26, "ci_high": 0.92, "p_value": 0.0005, "p_holm": 0.001}


def words(**analysis):
    return dict(findings.summary(analysis, ([], [])))


def test_significance_is_what_is_left_after_holm():
    weak = row("ho_maml_10", r2=0.416, ci_low=0.012, ci_high=0.79, p_value=0.023, p_holm=0.23)
    said = words(correlations=[row(), weak, row("fo_maml_5", **STRONG)])["Accuracy, own test split"]
    assert said == [
        "R² differs from zero; change of accuracy per .01 of diversity: FO-MAML 5 steps .72 [.26, .92], +.01 "
        "(Holm's p = .001).",
        "No significant difference from zero: PT .15 [.00, .62]; HO-MAML 10 steps .42 [.01, .79] (p = .023 "
        "uncorrected).",
    ]


def test_a_falling_relation_is_said_to_fall():
    said = words(correlations=[row(metric="loss", **STRONG | {"slope": -2.0})])["Cross-entropy, own test split"]
    assert said == [
        "R² differs from zero; change of cross-entropy per .01 of diversity: PT .72 [.26, .92], -.02 (Holm's p = .001)."
    ]


@pytest.mark.parametrize(
    ("found", "without", "said"),
    [(STRONG, 0.1, "would not differ"), ({}, 0.7, "would differ"), (STRONG, 0.7, None), ({}, 0.1, None)],
)
def test_one_benchmark_is_named_where_leaving_it_out_changes_the_verdict(found, without, said):
    # Over the 11 benchmarks that are left, .36 is the smallest R² that differs from zero.
    assert 0.1 < regression.smallest_significant_r2(11) < 0.7
    text = " ".join(
        words(correlations=[row(**found, influential="omniglot", influential_r2=without)])["Accuracy, own test split"]
    )
    assert ("One benchmark decides: without omniglot" in text) == (said is not None)
    assert said is None or said in text


def difference(method, other, gap, decided):
    found = {"method": method, "other": other, "metric": "accuracy", "test_set": "own", "n": 12, "note": ""}
    return found | {
        "difference": gap,
        "low": gap - 0.3,
        "high": gap + 0.3,
        "p_value": 0.4,
        "p_holm": 0.8,
        "decided": decided,
    }


def test_methods_are_ranked_only_where_that_is_decided():
    rows = [difference("ho_maml_10", "pt", 0.27, False), difference("fo_maml_5", "pt", -0.5, False)]
    found = {"correlations": [row(), row("ho_maml_10")], "differences": rows}
    (line,) = words(**found)["Accuracy, own test split"][1:]
    assert "none of 2 differences of R² is significant (HO-MAML 10 steps minus PT .27 [-.03, .57], p = .40" in line
    assert "No method's R² is significantly above another's (2 comparisons" in findings.headline(found, [], None)[2]
    rows[1] |= {"decided": True}
    (line,) = words(**found)["Accuracy, own test split"][1:]
    assert line == "R² differs: PT above FO-MAML 5 steps .50 [.20, .80]; 1 other pair undecided."
    assert "above the other's in 1 of 2 comparisons" in findings.headline(found, [], None)[2]


def test_the_conclusion_says_yes_no_or_that_it_cannot_be_said():
    answer = lambda *rows: findings.conclusion({"correlations": rows}, "mio")
    many = [
        row(m, test_set="fixed", **STRONG | {"r2": r2}) for m, r2 in (("pt", 0.72), ("fo_maml_5", 0.8), ("x", 0.75))
    ]
    assert answer(*many) == (
        "Accuracy rises significantly with diversity on the fixed test set (mio) for each of 3 methods, with R² from "
        ".72 [.26, .92] (PT) to .80 [.26, .92] (FO-MAML 5 steps)."
    )
    assert answer(row(**STRONG | {"slope": -1.0}), row("fo_maml_5")) == (
        "Accuracy falls significantly with diversity on the own test split for PT, with R² .72 [.26, .92]; for FO-MAML "
        "5 steps this is undecided."
    )
    assert answer(row()) == (
        "Whether accuracy goes with diversity on the own test split is undecided, since no R² differs significantly "
        "from zero (.15 [.00, .62], PT)."
    )
    assert "(that of PT does before Holm's correction)" in answer(row(p_value=0.03))
    undefined = row(r2=None, p_value=None, p_holm=None, note="undefined: 2 points")
    assert answer(undefined) == "Whether accuracy goes with diversity cannot be said: no R² is defined." == answer()


@pytest.mark.parametrize("change", [{}, STRONG])
def test_test_sets_of_one_answer_share_it_and_of_two_have_one_each(change):
    own, fixed = row(), row(test_set="fixed", **change)
    said = findings.conclusion({"correlations": [fixed, own]})
    assert said.count("own test split") == said.count("fixed test set") == 1
    assert ("on the own test split and the fixed test set" in said) == (change == {})
    if change:
        assert said.endswith(
            "; accuracy rises significantly with diversity on the fixed test set for PT, with R² .72 [.26, .92]."
        )


def test_the_lead_answers_once_for_every_test_set_and_repeats_no_sentence_of_the_summary():
    tests = ("own", "fixed")
    found = {
        "correlations": [row(m, test_set=t) for m in ("pt", "ho_maml_10") for t in tests],
        "differences": [difference("ho_maml_10", "pt", 0.27, False) | {"test_set": t} for t in tests],
        "verdicts": [
            {"method": m, "metric": "accuracy", "test_set": t, "verdict": v}
            for t in tests
            for m, v in (("pt", "both"), ("ho_maml_10", "size"))
        ],
    }
    lead = findings.headline(found, [], None)
    assert len(lead) == 4 == len(set(lead))
    assert lead[1] == findings.conclusion(found)
    assert "diversity still explains accuracy in 2 of 4 cases" in lead[3] and "size, given diversity, in 4" in lead[3]
    said = [sentence for lines in words(**found).values() for line in lines for sentence in line.split(". ")]
    assert not [line for line in lead if any(sentence.strip(".") in line for sentence in said)]


def diversity(*pairs):
    return [{"benchmark": f"b{i}", "diversity": d, "true_diversity": t} for i, (d, t) in enumerate(pairs)]


def test_true_and_measured_diversity_are_said_to_agree_in_order_only_where_they_do():
    said = findings.true_beside_measured(diversity((0.1, 0.3), (0.2, 0.9), (0.3, 1.0)))
    assert "scales differ" in said and said.endswith("and it does (Spearman correlation 1.00, 3 benchmarks).")
    said = findings.true_beside_measured(diversity((0.1, 0.3), (0.3, 0.9), (0.2, 1.0)))
    assert said.endswith("and it does not throughout (Spearman correlation .50, 3 benchmarks).")  # 1 - 6·2 / (3·8)
    assert findings.true_beside_measured(diversity((0.1, 0.3), (0.2, 0.9))).endswith("only the order must agree.")
    assert findings.true_beside_measured(diversity((0.1, None), (0.2, None), (0.3, None))) == ""


def test_where_accuracy_nears_one_the_report_says_what_that_does_to_r2():
    point = {"benchmark": "a", "method": "pt", "seed": 0, "test_set": "own", "diversity": 0.1, "loss": 0.1}
    points = [
        point | {"benchmark": b, "method": m, "accuracy": value}
        for m, values in (("pt", (0.5, 0.97, 0.971)), ("ho_maml_5", (0.98, 0.99, 1.0)))
        for b, value in zip("abc", values, strict=True)
    ]
    said = words(correlations=[row()], points=points)["What these points can support"][-1]
    assert said.startswith("4 of 6 points lie above an accuracy of .97 (own: PT 1 of 3, HO-MAML 5 steps 3 of 3).")
    assert "straight line's R² says too little" in said
    low = words(correlations=[row()], points=[p | {"accuracy": 0.5} for p in points])
    assert "above an accuracy" not in " ".join(low["What these points can support"])


def test_where_no_size_can_be_given_one_sentence_says_why():
    nothing = {"method": "pt", "metric": "accuracy", "test_set": "own", "given": "nothing", "p_value": None, "r2": None}
    note = "all benchmarks have the same number of images and number of classes"
    said = words(correlations=[row()], partial=[nothing | {"note": note}, nothing | {"metric": "loss", "note": note}])
    assert said["Diversity, or size?"] == [
        f"No correlation is shown given the size or the mixture of the data: {note}, so that these explain no "
        "correlation here."
    ]


def test_the_papers_values_are_judged_as_ours_are():
    rows, pairs = correlate.from_summaries(published.PAPER_TABLE2, published.PAPER_BENCHMARKS)
    said = " ".join(dict(findings.summary({}, (rows, pairs)))["The paper's Table 2 under the same tests"])
    assert "Of 10 published R², 2 differ from zero before Holm's correction: HO-MAML 5 steps, accuracy" in said
    assert "none after it" in said and "none is decided" in said
    assert "Whether HO-MAML 10 steps is above PT in accuracy (.42 and .15) is undecided: z = .76, p = .45." in said


def test_what_n_points_can_see_follows_from_n():
    said = " ".join(words(correlations=[row()])["What these points can support"])
    # t(.975, 10) = 2.228: R² = t² / (10 + t²) = .33; Fisher's z with 80% power: tanh(2.802 / 3)² = .54.
    assert "With 12 benchmarks an R² must exceed .33" in said and "a true R² must be .54" in said
    assert "size of the data is not controlled here" in said
    partial = {
        "method": "pt",
        "metric": "accuracy",
        "test_set": "own",
        "given": "log images",
        "p_value": 0.2,
        "r2": 0.1,
    }
    said = words(correlations=[row()], partial=[partial | {"p_holm": 0.2}])
    assert "not controlled" not in " ".join(said["What these points can support"])
    assert said["Diversity, or size?"] == [
        "Given log images, diversity still explains performance significantly in none of 1 case."
    ]


def test_controls_and_effects_say_what_their_rows_say():
    key = {"method": "pt", "metric": "accuracy", "test_set": "own"}
    said = words(
        correlations=[row()],
        verdicts=[key | {"verdict": "size"}, key | {"method": "ho_maml_5", "verdict": "neither"}],
        complexity={"matched": ["dtd", "mio"], "rows": [key | {"r2": None, "p_value": None}]},
        effect_sizes=[{"test_set": "own", "verdict": "MAML", "rule": "no difference"}],
        controlled=[key | {"effect": 0.02, "low": 0.01, "high": 0.03, "p_value": 0.001, "p_holm": 0.002}],
    )
    assert said["Diversity, or size?"] == [
        "Accuracy, own test split: Size, given diversity, for PT; undecided, neither given the other, for HO-MAML 5 "
        "steps (p < .05, uncorrected).",
        "Among benchmarks of matched complexity (dtd and mio), no R² is defined.",
    ]
    assert said["PT against MAML, on the same tasks"] == [
        "Own test split, 1 comparison of a MAML method with PT on a benchmark, as these networks were trained: "
        "MAML is better by more than 1% "
        "in 1, PT in 0, they are within 1% in 0, undecided 0. By the 1% rule on Cohen's d: MAML 0, PT 0, no difference "
        "1."
    ]
    assert said["The controlled experiment"] == [
        "Accuracy: +.1 of diversity changes it significantly for PT +.020 [.010, .030]."
    ]


def test_an_effect_that_holms_correction_takes_is_named_with_its_p():
    key = {"method": "pt", "metric": "loss", "test_set": "fixed", "effect": 0.076, "low": 0.03, "high": 0.122}
    said = words(correlations=[row()], controlled=[key | {"p_value": 0.008, "p_holm": 0.057}])
    assert said["The controlled experiment"] == [
        "Cross-entropy: No significant effect of +.1 of diversity for PT +.076 [.030, .122] (p = .008 uncorrected)."
    ]
    said = words(correlations=[row()], controlled=[key | {"effect": 0.0004, "p_value": 0.97, "p_holm": 1.0}])
    assert "for PT <.001 [" in said["The controlled experiment"][0]
