"""Intervals and paired tests, against numbers that others have published or that can be counted."""

from __future__ import annotations

import pytest

from tunesmith.evaluation.statistics import compare, interval


def test_wilson_agrees_with_published_values() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 5000])
def test_the_interval_holds_the_share_and_stays_within_0_and_1(n: int) -> None:
    for right in {0, 1, n // 2, n - 1, n}:
        low, high = interval(right, n)
        assert 0 <= low <= right / n <= high <= 1
        assert interval(n - right, n) == pytest.approx((1 - high, 1 - low))


def test_all_right_ends_at_exactly_1_and_none_right_at_0() -> None:
    assert all(interval(n, n)[1] == 1 and interval(0, n)[0] == 0 for n in range(1, 300))


def test_without_questions_nothing_is_known() -> None:
    assert interval(0, 0) == (0, 1)


@pytest.mark.parametrize(("right", "n"), [(-1, 5), (6, 5), (1, 0)])
def test_an_impossible_share_is_refused(right: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{right} of {n}"):
        interval(right, n)


def test_only_questions_on_which_the_models_disagree_count() -> None:
    base = [True, True, False, False, False, False, False, False]
    tuned = [True, False, True, True, True, True, True, False]
    paired = compare(base, tuned)
    assert (paired.only_first, paired.only_second) == (1, 5)
    assert paired.p_value == pytest.approx(2 * (1 + 6) / 2**6)


def test_models_that_agree_everywhere_do_not_differ() -> None:
    assert compare([True, False], [True, False]).p_value == 1
    assert compare([], []).p_value == 1
    assert compare([True, False], [False, True]).p_value == 1


def test_six_of_six_is_significant_and_five_of_five_is_not() -> None:
    assert compare([False] * 6, [True] * 6).p_value == 0.03125
    assert compare([False] * 5, [True] * 5).p_value == 0.0625


def test_thousands_of_disagreements_are_counted_exactly() -> None:
    assert 0 < compare([False] * 1000, [True] * 1000).p_value < 1e-300
    assert compare([False, True] * 3000, [True, False] * 3000).p_value == 1


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare([True], [])
