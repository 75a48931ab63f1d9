"""The sentences of a report follow from its numbers, and from nothing else."""

from dataclasses import replace

import pytest

from jaxdiv.report import prose, published, wording
from jaxdiv.stats import regression
from jaxdiv.stats.analysis import Analysis
from jaxdiv.stats.confounders import Covariate, MatchedComplexity, PartialCorrelation, SizeOrDiversity, Verdict
from jaxdiv.stats.controlled import ControlledEffect
from jaxdiv.stats.correlation import Correlation, Fit
from jaxdiv.stats.differences import Difference, from_summaries
from jaxdiv.stats.effect_size import Comparison, EffectSize
from jaxdiv.stats.rows import Note, Point, Reason
from jaxdiv.stats.shared_sets import SharedSetsLine


def row(method="pt", metric="accuracy", test_set="own", **more):
    """A correlation that is not significant unless told."""
    usual = {"r2": 0.149, "ci_low": 0.0, "ci_high": 0.62, "p_value": 0.2153, "p_holm": 0.43, "slope": 1.0}
    return Correlation(method, metric, test_set, 12, **(usual | more))


STRONG = {"r2": 0.72, "ci_low": 0.26, "ci_high": 0.92, "p_value": 0.0005, "p_holm": 0.001}


def analysis_of(**parts):
    """An analysis of parts that may be lists."""
    return Analysis(**{name: tuple(part) if isinstance(part, list) else part for name, part in parts.items()})


def words(**analysis):
    return dict(prose.summary(analysis_of(**analysis)))


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


def difference(method, other, gap, decided, test_set="own"):
    ends = {"difference": gap, "low": gap - 0.3, "high": gap + 0.3}
    return Difference(method, other, "accuracy", test_set, 12, **ends, p_value=0.4, p_holm=0.8, decided=decided)


def test_methods_are_ranked_only_where_that_is_decided():
    rows = [difference("ho_maml_10", "pt", 0.27, False), difference("fo_maml_5", "pt", -0.5, False)]
    found = {"correlations": [row(), row("ho_maml_10")], "differences": rows}
    (line,) = words(**found)["Accuracy, own test split"][1:]
    assert "none of 2 differences of R² is significant (HO-MAML 10 steps minus PT .27 [-.03, .57], p = .40" in line
    assert "No method's R² is significantly above another's (2 comparisons" in prose.headline(analysis_of(**found))[2]
    rows[1] = difference("fo_maml_5", "pt", -0.5, True)
    (line,) = words(**found)["Accuracy, own test split"][1:]
    assert line == "R² differs: PT above FO-MAML 5 steps .50 [.20, .80]; 1 other pair undecided."
    assert "above the other's in 1 of 2 comparisons" in prose.headline(analysis_of(**found))[2]


def test_the_conclusion_says_yes_no_or_that_it_cannot_be_said():
    answer = lambda *rows: prose.conclusion(Analysis(correlations=rows), "mio")
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
    undefined = row(r2=None, p_value=None, p_holm=None, notes=(Note(Reason.TOO_FEW_POINTS),))
    assert answer(undefined) == "Whether accuracy goes with diversity cannot be said: no R² is defined." == answer()


@pytest.mark.parametrize("change", [{}, STRONG])
def test_test_sets_of_one_answer_share_it_and_of_two_have_one_each(change):
    own, fixed = row(), row(test_set="fixed", **change)
    said = prose.conclusion(Analysis(correlations=(fixed, own)))
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
        "differences": [difference("ho_maml_10", "pt", 0.27, False, t) for t in tests],
        "verdicts": [
            SizeOrDiversity(m, "accuracy", t, 12, verdict=v)
            for t in tests
            for m, v in (("pt", Verdict.BOTH), ("ho_maml_10", Verdict.SIZE))
        ],
    }
    lead = prose.headline(analysis_of(**found))
    assert len(lead) == 4 == len(set(lead))
    assert lead[1] == prose.conclusion(analysis_of(**found))
    assert "diversity still explains accuracy in 2 of 4 cases" in lead[3] and "size, given diversity, in 4" in lead[3]
    said = [sentence for lines in words(**found).values() for line in lines for sentence in line.split(". ")]
    assert not [line for line in lead if any(sentence.strip(".") in line for sentence in said)]


def diversity(*pairs):
    return [{"benchmark": f"b{i}", "diversity": d, "true_diversity": t} for i, (d, t) in enumerate(pairs)]


def test_true_and_measured_diversity_are_said_to_agree_in_order_only_where_they_do():
    said = prose.true_beside_measured(diversity((0.1, 0.3), (0.2, 0.9), (0.3, 1.0)))
    assert "scales differ" in said and said.endswith("and it does (Spearman correlation 1.00, 3 benchmarks).")
    said = prose.true_beside_measured(diversity((0.1, 0.3), (0.3, 0.9), (0.2, 1.0)))
    assert said.endswith("and it does not throughout (Spearman correlation .50, 3 benchmarks).")  # 1 - 6·2 / (3·8)
    assert prose.true_beside_measured(diversity((0.1, 0.3), (0.2, 0.9))).endswith("only the order must agree.")
    assert prose.true_beside_measured(diversity((0.1, None), (0.2, None), (0.3, None))) == ""


def test_where_accuracy_nears_one_the_report_says_what_that_does_to_r2():
    points = [
        Point(b, m, "own", 0.1, accuracy=value, loss=0.1)
        for m, values in (("pt", (0.5, 0.97, 0.971)), ("ho_maml_5", (0.98, 0.99, 1.0)))
        for b, value in zip("abc", values, strict=True)
    ]
    said = words(correlations=[row()], points=points)["What these points can support"][-1]
    assert said.startswith("4 of 6 points are above an accuracy of .97 (own: PT 1 of 3, HO-MAML 5 steps 3 of 3).")
    assert "straight line's R² says too little" in said
    low = words(correlations=[row()], points=[replace(p, accuracy=0.5) for p in points])
    assert "above an accuracy" not in " ".join(low["What these points can support"])


def test_where_no_size_can_be_given_one_sentence_says_why():
    note = Note(Reason.COVARIATES_CONSTANT, (Covariate.LOG_IMAGES, Covariate.LOG_CLASSES))
    partial = [PartialCorrelation("pt", metric, "own", 12, notes=(note,)) for metric in ("accuracy", "loss")]
    said = words(correlations=[row()], partial=partial)
    assert said["Diversity, or size?"] == [
        "No correlation is shown given the size or the mixture of the data: all benchmarks have the same number of "
        "images and number of classes, so that these explain no correlation here."
    ]


def test_the_papers_values_are_judged_as_ours_are():
    rows, pairs = from_summaries(published.PAPER_TABLE2, published.PAPER_BENCHMARKS)
    said = " ".join(dict(prose.summary(Analysis(), (rows, pairs)))["The paper's Table 2 under the same tests"])
    assert "Of 10 published R², 2 differ from zero before Holm's correction: HO-MAML 5 steps, accuracy" in said
    assert "none after it" in said and "none is decided" in said
    assert "Whether HO-MAML 10 steps is above PT in accuracy (.42 and .15) is undecided: z = .76, p = .45." in said


def test_what_n_points_can_see_follows_from_n():
    said = " ".join(words(correlations=[row()])["What these points can support"])
    # t(.975, 10) = 2.228: R² = t² / (10 + t²) = .33; Fisher's z with 80% power: tanh(2.802 / 3)² = .54.
    assert "With 12 benchmarks an R² must exceed .33" in said and "a true R² must be .54" in said
    assert "size of the data is not controlled here" in said
    partial = PartialCorrelation("pt", "accuracy", "own", 12, (Covariate.LOG_IMAGES,), r2=0.1, p_value=0.2, p_holm=0.2)
    said = words(correlations=[row()], partial=[partial])
    assert "not controlled" not in " ".join(said["What these points can support"])
    assert said["Diversity, or size?"] == [
        "Given the number of images, diversity still explains performance significantly in none of 1 case."
    ]


def controlled(effect, p_value, p_holm):
    ends = {"effect": effect, "low": effect - 0.01, "high": effect + 0.01, "p_value": p_value, "p_holm": p_holm}
    return ControlledEffect(("pt",), (), "accuracy", "own", subsets=9, seeds=2, **ends)


def test_confounders_and_effects_say_what_their_rows_say():
    compared = {"verdict": Comparison.BETTER, "rule": Comparison.ALIKE}
    effect = EffectSize("a", "ho_maml_5", "pt", "own", 0.1, tasks=9, difference=0.1, **compared)
    said = words(
        correlations=[row()],
        verdicts=[
            SizeOrDiversity("pt", "accuracy", "own", 12, verdict=Verdict.SIZE),
            SizeOrDiversity("ho_maml_5", "accuracy", "own", 12, verdict=Verdict.NEITHER),
        ],
        complexity=MatchedComplexity(("dtd", "mio"), rows=(Fit("pt", "accuracy", "own", 2),)),
        effect_sizes=[effect],
        controlled=[controlled(0.02, 0.001, 0.002)],
    )
    assert said["Diversity, or size?"] == [
        "Accuracy, own test split: size, given diversity, for PT; undecided, neither given the other, for HO-MAML 5 "
        "steps (p < .05, uncorrected).",
        "Among benchmarks of matched complexity (dtd and mio), no R² is defined.",
    ]
    assert said["PT against MAML, on the same tasks"] == [
        "Own test split, 1 comparison of MAML with PT (a method on a benchmark), as these networks were trained: "
        "MAML is better by more than 1% in 1, PT in 0, they are within 1% in 0, undecided in 0. By the 1% rule on "
        "Cohen's d: MAML 0, PT 0, no difference 1."
    ]
    assert said["The controlled experiment"] == [
        "Accuracy: +.1 of diversity changes it significantly for PT +.020 [.010, .030]."
    ]


def test_an_effect_that_holms_correction_takes_is_named_with_its_p():
    said = words(correlations=[row()], controlled=[controlled(0.076, 0.008, 0.057)])
    assert said["The controlled experiment"] == [
        "Accuracy: No significant effect of +.1 of diversity for PT +.076 [.066, .086] (p = .008 uncorrected)."
    ]
    said = words(correlations=[row()], controlled=[controlled(0.0004, 0.97, 1.0)])
    assert "for PT <.001 [" in said["The controlled experiment"][0]


def test_every_reason_and_verdict_has_its_words():
    assert set(wording.REASONS) == set(Reason) and set(wording.VERDICTS) == set(Verdict)
    for reason in Reason:
        said = wording.note_text(Note(reason, (Covariate.LOG_IMAGES, "dtd")), row())
        assert said and "{" not in said and "log_images" not in said


def test_a_note_says_how_many_of_what_its_row_counts():
    few = Note(Reason.TOO_FEW_TASKS)
    effect = EffectSize("a", "ho_maml_5", "pt", "own", 0.1, tasks=2, difference=0.1, notes=(few,))
    assert wording.notes_text(effect) == "2 tasks: no interval"
    subset = ControlledEffect(("pt",), (), "loss", "own", subsets=1, seeds=2, notes=(Note(Reason.TOO_FEW_SUBSETS),))
    assert wording.notes_text(subset) == "undefined: 1 subset cannot tell diversity from the rest"
    assert wording.note_text(Note(Reason.SAME_Y), row(metric="loss")) == (
        "undefined: all 12 benchmarks have the same cross-entropy"
    )


def test_where_benchmarks_share_sets_the_report_says_which_test_allows_for_it():
    usual = {"effect": 0.031, "low": 0.01, "high": 0.052, "p_value": 0.006, "p_holm": 0.012}
    line = SharedSetsLine("pt", "accuracy", "own", 36, 7, **usual)
    apart = replace(line, method="ho_maml_5", minus="pt", effect=-0.004, low=-0.01, high=0.002, p_value=0.1, p_holm=0.1)
    parts = {"correlations": [row()], "shared_sets": [line, apart]}
    assert words(**parts)["Given that benchmarks share data sets"] == [
        "Accuracy, own test split: +.1 of diversity changes it significantly for PT +.031 [.010, .052].",
        "Accuracy, own test split: No significant effect of +.1 of diversity for HO-MAML 5 steps minus PT "
        "-.004 [-.010, .002].",
    ]
    said = " ".join(prose.headline(analysis_of(**parts)))
    assert "take benchmarks as independent, but some share data sets" in said
    assert "accuracy changes significantly with diversity in 1 of 1 case" in said and "in none of 1 case" in said
    assert "share data sets" not in " ".join(prose.headline(analysis_of(correlations=[row()])))
