"""Means, intervals and paired differences."""

import warnings

import pytest
from scipy import stats

from src.compare.estimates import estimate, paired_difference


def test_an_estimate_by_hand() -> None:
    found = estimate([1.0, 2.0, 6.0])
    assert found
    assert found.mean == 3.0
    assert found.std == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
    assert found.interval == pytest.approx((3 - 4.302653 * (7 / 3) ** 0.5, 3 + 4.302653 * (7 / 3) ** 0.5))


def test_a_paired_difference_is_scipys() -> None:
    ours = {0: 0.91, 1: 0.95, 2: 0.93, 3: 0.90}
    theirs = {3: 0.86, 2: 0.90, 1: 0.93, 0: 0.90}
    found = paired_difference(ours, theirs)
    expected = stats.ttest_rel(list(ours.values()), [theirs[seed] for seed in ours]).confidence_interval(0.95)
    assert found
    assert found.mean == pytest.approx(0.025)
    assert found.interval == pytest.approx((expected.low, expected.high))
    # The test is paired: the interval of two independent samples is wider.
    assert found.margin
    assert found.margin < stats.ttest_ind(list(ours.values()), list(theirs.values())).confidence_interval().high - 0.025


def test_only_shared_seeds_count() -> None:
    found = paired_difference({0: 1.0, 1: 5.0, 2: 3.0}, {0: 0.0, 2: 1.0, 7: 9.0})
    assert found
    assert (found.mean, found.num_values) == (1.5, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_one_value_has_no_spread_and_no_interval() -> None:
    found = estimate([0.5])
    assert found
    assert (found.mean, found.std, found.margin, found.interval) == (0.5, None, None, None)
    assert estimate([]) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate([0.25, 0.25, 0.25])
    assert found
    assert found.interval == (0.25, 0.25)
