"""What a report says of a choice of classes."""

import pytest

from jaxdiv.report.choice import Choice, choice_sentences, choice_table, choice_title
from jaxdiv.report.renderers import grid, to_csv
from jaxdiv.task2vec.classes import Gain

GAINS = [Gain(2, 0.4, 0.3, 0.2, 0.35), Gain(3, 0.32, 0.25, 0.22, 0.28)]
FOUND = Choice("birds", "", "most", "task2vec_scale_free", 64, ("owl", "emu", "tit"), ("birds",) * 3, GAINS)


def test_the_sentence_has_the_choice_random_sets_with_their_range_and_how_it_was_measured():
    assert choice_sentences(FOUND) == [
        "The 3 most diverse of the 64 classes of birds have a diversity of .320 (mean distance of two classes); 3 "
        "random ones .250 (95%: .220 to .280), measured on images that the choice did not see."
    ]
    assert choice_title(FOUND) == "A choice of 3 classes from birds"


def test_with_what_one_has_it_says_what_that_is_alone():
    gains = [Gain(0, 0.21, 0.21, 0.21, 0.21), *GAINS]
    (text,) = choice_sentences(FOUND._replace(pool="birds+moths", have="fish", goal="least", gains=gains))
    assert text == (
        "Together, fish and the 3 classes of birds and moths that add least diversity have a diversity of .320 (mean "
        "distance of two classes); with 3 random ones .250 (95%: .220 to .280); fish alone .210, measured on images "
        "that the choice did not see."
    )


@pytest.mark.parametrize(("value", "said"), [(0.27, True), (0.22, True), (0.29, False), (0.2, False)])
def test_a_gain_within_the_range_of_random_sets_is_called_one_that_chance_gives(value, said):
    (text,) = choice_sentences(FOUND._replace(gains=[Gain(3, value, 0.25, 0.22, 0.28)]))
    assert text.endswith("A random choice may well do the same.") == said


def test_the_first_class_has_no_diversity_and_the_list_has_every_column():
    table = choice_table(FOUND)
    first, second, third = to_csv(table.records, table.keys).splitlines()[1:]
    assert first == "1,owl,birds,,,,,,," and second.startswith("2,emu,birds,0.4,0.3,0.2,0.35,")
    assert [float(cell) for cell in third.split(",")[3:]] == pytest.approx([0.32, 0.25, 0.22, 0.28, 0.07, 0.04, 0.10])
    assert grid(table)[1][2] == ["3", "tit", "birds", ".320", ".250", "[.220, .280]", ".070"]
