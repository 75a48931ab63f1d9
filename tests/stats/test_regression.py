"""The line through points against published fixtures, closed forms, and input with nothing to say."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxdiv.errors import InputError
from jaxdiv.stats import regression
from jaxdiv.stats.rows import Reason

DIVERSITY = [0.247, 0.271, 0.393, 0.470, 0.533, 0.537, 0.546]
PUBLISHED = {
    "maml_5": ([0.2019, 0.3697, 0.5679, 0.8206, 0.8571, 0.8961, 0.9065], 0.9735),
    "maml_10": ([0.2015, 0.3737, 0.5707, 0.8358, 0.8721, 0.9052, 0.9109], 0.9714),
    "pt": ([0.2002, 0.3776, 0.5712, 0.8167, 0.8964, 0.9253, 0.9825], 0.9797),
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_printed_points_of_the_one_dimensional_study_give_their_r2_to_four_digits(method):
    accuracy, r2 = PUBLISHED[method]
    assert round(regression.r_squared(DIVERSITY, accuracy).r2, 4) == r2


def test_line_is_the_degree_one_least_squares_fit():
    found = regression.r_squared(DIVERSITY, PUBLISHED["pt"][0])
    slope, intercept = np.polyfit(DIVERSITY, PUBLISHED["pt"][0], 1)
    # polyfit solves by SVD, ours by centred sums: equal to rounding in float64.
    np.testing.assert_allclose([found.slope, found.intercept], [slope, intercept], rtol=1e-12)


def test_negative_correlation_keeps_its_sign_and_an_ordered_interval():
    found = regression.r_squared([1, 2, 3, 4, 5], [5, 4.2, 2.9, 2.1, 1])
    assert found.r < 0 and found.slope < 0
    assert 0 < found.low < found.r2 < found.high < 1


def test_smallest_significant_r2_has_a_p_value_of_five_percent():
    r = math.sqrt(regression.smallest_significant_r2(12))
    t = r * math.sqrt(10 / (1 - r * r))
    assert 2 * stats.t.sf(t, 10) == pytest.approx(0.05, abs=1e-10)  # SciPy has Student's t to 2e-12
    assert regression.smallest_significant_r2(2) is None


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_points_are_undefined_with_a_reason(n):
    found = regression.r_squared(list(range(n)), list(range(n)))
    assert found == regression.RSquared(n, reason=Reason.TOO_FEW_POINTS)


def test_three_points_have_a_value_but_no_knowledge_of_its_interval():
    found = regression.r_squared([1, 2, 3], [1, 3, 2])
    assert found.r2 == pytest.approx(0.25)
    assert (found.low, found.high) == (0.0, 1.0)
    assert found.reason is Reason.NO_INTERVAL


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_no_variance_is_undefined_with_a_reason_not_nan(constant):
    same, different = [constant] * 4, [1.0, 2.0, 3.0, 5.0]
    assert regression.r_squared(same, different).r2 is None
    assert regression.r_squared(same, different).reason is Reason.SAME_X
    flat = regression.r_squared(different, same)
    assert flat.r2 is None and flat.slope == 0 and flat.reason is Reason.SAME_Y


def test_rounding_noise_is_not_variance():
    noisy = [0.3 + 1e-16 * i for i in range(5)]
    assert regression.r_squared([1, 2, 3, 4, 5], noisy).r2 is None


def test_points_on_a_line_have_a_point_interval():
    found = regression.r_squared([1, 2, 3, 4], [2, 4, 6, 8])
    assert found.r2 == pytest.approx(1) and found.low == pytest.approx(1) and found.high == pytest.approx(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_input_that_is_not_finite_is_refused(bad):
    with pytest.raises(InputError, match="not finite"):
        regression.r_squared([1, 2, bad], [1, 2, 3])
    with pytest.raises(InputError, match="equal length"):
        regression.r_squared([1, 2, 3], [1, 2])


def test_band_of_the_trend_equals_the_textbook_interval_of_the_mean():
    x, y = np.random.default_rng(2).normal(size=(2, 9))
    band = regression.trend_band(x, y, [0.0])
    fit = stats.linregress(x - 0.0, y)
    # At x = 0 the line is its intercept, so the band is the intercept's own t interval.
    half = stats.t.ppf(0.975, 7) * fit.intercept_stderr
    np.testing.assert_allclose([band.value[0], band.low[0], band.high[0]], fit.intercept + np.array([0, -half, half]))


def test_two_points_have_a_line_without_band_and_one_has_none():
    assert regression.trend_band([1, 2], [1, 2], [3]).low is None
    assert regression.trend_band([1], [1], [3]) is None
    assert regression.trend_band([1, 1, 1], [1, 2, 3], [3]) is None
