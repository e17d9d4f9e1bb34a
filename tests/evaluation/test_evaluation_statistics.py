"""Intervals and paired tests, against numbers that others have published or that can be counted."""

from __future__ import annotations

import json
import math
import time
import tracemalloc

import numpy as np
import pytest

from tunesmith.evaluation.statistics import compare, interval, mean_interval


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


# -- the mean of scores ----------------------------------------------------------------------------


def names(n: int, size: int = 1) -> list[str]:
    """The document of each of ``n`` questions, ``size`` about each."""
    return [f"文档 {question // size}" for question in range(n)]


def test_right_or_wrong_answers_to_questions_of_their_own_have_wilsons_interval() -> None:
    assert mean_interval([1, 0, 1, 1, None, 0], names(6)) == interval(3, 5)
    assert mean_interval([True] * 20, names(20)) == interval(20, 20)
    assert mean_interval([], []) == mean_interval([None], ["a"]) == (0, 1)


def test_answers_that_go_wrong_together_are_known_less_well() -> None:
    together, by_turns = [1.0] * 50 + [0.0] * 50, [1.0, 0.0] * 50
    low, high = mean_interval(together, names(100, 10))
    assert high - low > 2 * (interval(50, 100)[1] - interval(50, 100)[0])
    low, high = mean_interval(by_turns, names(100, 10))  # as in independent questions, but for ten documents
    assert (low, high) == pytest.approx(interval(50, 100), abs=0.02)


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("n", "size"), [(1, 1), (30, 30), (30, 3), (400, 20)])
def test_scores_that_are_all_equal_have_an_interval_nonetheless(score: float, n: int, size: int) -> None:
    low, high = mean_interval([score] * n, names(n, size))
    assert 0 <= low <= score <= high <= 1
    assert high - low > 1 / (n / size + 4)  # no narrower than that of one question for each document


def test_scores_in_between_have_a_narrower_interval_than_right_and_wrong() -> None:
    low, high = mean_interval([0.5, 0.6, 0.4, 0.55, 0.45] * 20, names(100))
    assert 0.48 < low < 0.5 < high < 0.52
    # mean ± Student's t times the standard error
    assert (high - low) / 2 == pytest.approx(1.984 * np.std([0.5, 0.6, 0.4, 0.55, 0.45] * 20, ddof=1) / 10, rel=0.01)


def test_the_interval_of_a_mean_holds_the_true_one_in_95_of_100() -> None:
    random, held = np.random.default_rng(7), 0
    for _ in range(400):
        knows = random.beta(1.6, 0.4, 20).repeat(5)  # 80 % right, some documents much less
        low, high = mean_interval((random.random(100) < knows).astype(float).tolist(), names(100, 5))
        held += low <= 0.8 <= high
    assert held >= 372


# -- two models ------------------------------------------------------------------------------------


def test_questions_of_their_own_are_judged_as_by_mcnemars_exact_test() -> None:
    base = [True, True, False, False, False, False, False, False]
    tuned = [True, False, True, True, True, True, True, False]
    difference = compare(base, tuned, names(8))
    assert difference.p_value == pytest.approx(2 * (1 + 6) / 2**6)
    assert (difference.mean, difference.n, difference.clusters) == (0.5, 8, 8)
    assert difference.verdict == "not distinguishable"


def test_six_of_six_is_a_difference_and_five_of_five_is_not() -> None:
    six, five = (compare([0] * n, [1] * n, names(n)) for n in (6, 5))
    assert (six.p_value, six.verdict) == (0.03125, "better")
    assert (five.p_value, five.verdict) == (0.0625, "not distinguishable")
    assert compare([1] * 6, [0] * 6, names(6)).verdict == "worse"


def test_models_that_answer_alike_do_not_differ_and_could_by_little() -> None:
    same = compare([1, 0] * 100, [1, 0] * 100, names(200))
    assert (same.mean, same.p_value, same.needed, same.verdict) == (0, 1, None, "not distinguishable")
    assert same.interval == pytest.approx((-0.0137, 0.0137), abs=1e-4)
    assert compare([0, 1], [1, 0], names(2)).mean == 0


def test_all_of_200_against_none_leaves_room_for_a_few_in_the_interval() -> None:
    low, high = compare([0] * 200, [1] * 198 + [0] * 2, names(200)).interval
    assert (low, high) == (pytest.approx(0.957, abs=0.003), 1)
    low, high = compare([0] * 200, [1] * 200, names(200)).interval
    assert (low, high) == (pytest.approx(0.97, abs=0.01), 1)


def test_what_neither_or_only_one_was_graded_on_counts_for_neither() -> None:
    first, second = [1, None, 0, None, 0, 1] * 5, [1, 1, None, None, 1, 1] * 5
    difference = compare(first, second, names(30))
    assert (difference.n, difference.clusters) == (15, 15)
    assert difference.mean == pytest.approx(1 / 3)
    nothing = compare([None, 1], [1, None], names(2))
    assert (nothing.n, nothing.interval, nothing.verdict) == (0, (-1, 1), "not distinguishable")


@pytest.mark.parametrize("size", [1, 5, 30])
def test_the_interval_the_p_value_and_the_verdict_never_contradict_each_other(size: int) -> None:
    random = np.random.default_rng(size)
    for shift in np.linspace(-0.3, 0.3, 61):
        first = random.random(90)
        second = np.clip(first + shift + random.normal(0, 0.5, 90), 0, 1)
        for a, b in ((first, second), (first > 0.5, second > 0.5)):
            difference = compare(a.tolist(), b.tolist(), names(90, size))
            low, high = difference.interval
            assert low <= difference.mean <= high
            assert (difference.p_value < 0.05) is not (low <= 0 <= high)
            assert (difference.verdict == "not distinguishable") is (low <= 0 <= high)


def test_the_order_of_questions_and_of_models_changes_nothing_but_the_sign() -> None:
    random = np.random.default_rng(3)
    first, second, clusters = random.random(120).tolist(), random.random(120).tolist(), names(120, 4)
    difference = compare(first, second, clusters)
    order = random.permutation(120)
    shuffled = compare(*([part[i] for i in order] for part in (first, second, clusters)))
    assert shuffled.interval == pytest.approx(difference.interval, abs=1e-9)
    assert shuffled.p_value == pytest.approx(difference.p_value)
    turned = compare(second, first, clusters)
    assert turned.interval == pytest.approx((-difference.interval[1], -difference.interval[0]), abs=1e-9)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare([True], [], ["a"])
    with pytest.raises(ValueError, match="shorter"):
        compare([True], [True], [])


def test_a_difference_is_written_with_its_verdict() -> None:
    written = compare([0] * 12, [1] * 12, names(12)).to_json()
    assert json.loads(json.dumps(written)) == written
    assert list(written) == ["mean", "interval", "p_value", "n", "clusters", "needed", "verdict"]
    assert (written["n"], written["needed"], written["verdict"]) == (12, 6, "better")


def test_ten_thousand_questions_are_compared_in_a_second_and_little_memory() -> None:
    random = np.random.default_rng(0)
    first, second = random.random(10_000).tolist(), random.random(10_000).tolist()
    tracemalloc.start()
    compare(first, second, names(10_000))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100e6
    begun = time.process_time()
    compare(first, second, names(10_000))
    assert time.process_time() - begun < 2  # 0.4 s where nothing else runs


# -- how often it is mistaken ----------------------------------------------------------------------


def seen(make, n: int, size: int, times: int = 400) -> float:
    """The share of simulated evaluations in which a difference is seen."""
    random = np.random.default_rng([n, size])
    found = 0
    for _ in range(times):
        first, second = make(random, n, size)
        found += compare(first.tolist(), second.tolist(), names(n, size)).verdict != "not distinguishable"
    return found / times


def suited(random: np.random.Generator, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Equally good on the whole; each knows some documents well and some hardly."""
    knows = random.beta(0.5, 0.5, (2, -(-n // size))).repeat(size, axis=1)[:, :n]
    first, second = (random.random(knows.shape) < knows).astype(float)
    return first, second


def suited_in_between(random: np.random.Generator, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = random.beta(0.5, 0.5, (2, -(-n // size))).repeat(size, axis=1)[:, :n]
    return np.clip(first + random.normal(0, 0.1, n), 0, 1), np.clip(second + random.normal(0, 0.1, n), 0, 1)


def one_of_ten_more(random: np.random.Generator, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Base gets half right; of all questions tuned gains 15 % and loses 5 %: they disagree on one in five."""
    first, drawn = random.random(n) < 0.5, random.random(n)
    return first.astype(float), np.where(first, drawn >= 0.1, drawn < 0.3).astype(float)


@pytest.mark.parametrize(("make", "n", "size"), [
    (suited, 20, 1), (suited, 20, 5), (suited, 50, 5), (suited, 100, 20), (suited, 300, 1), (suited, 300, 20),
    (suited_in_between, 20, 1), (suited_in_between, 50, 5), (suited_in_between, 100, 1), (suited_in_between, 300, 20),
])  # fmt: skip
def test_models_that_are_equally_good_are_not_told_apart_in_94_of_100(make, n: int, size: int) -> None:
    assert seen(make, n, size) <= 0.06


def test_questions_about_one_document_taken_for_independent_would_fool_us() -> None:
    random, fooled = np.random.default_rng(1), 0
    for _ in range(100):
        first, second = suited(random, 300, 20)
        fooled += compare(first.tolist(), second.tolist(), names(300)).verdict != "not distinguishable"
    assert fooled > 25


@pytest.mark.parametrize("size", [1, 5])
def test_ten_points_are_found_in_90_of_100_with_300_questions(size: int) -> None:
    assert seen(one_of_ten_more, 300, size) >= 0.9


def test_as_many_questions_as_are_said_to_be_needed_find_the_difference_in_80_of_100() -> None:
    random = np.random.default_rng(5)
    first, second = one_of_ten_more(random, 4000, 1)
    needed = compare(first.tolist(), second.tolist(), names(4000)).needed
    assert needed is not None
    assert 130 < needed < 220  # 169 for a difference of exactly 10 points
    assert 0.74 < seen(one_of_ten_more, 169, 1) < 0.86


def test_a_difference_of_losses_may_be_larger_than_any_score():
    """In nats it is as in bits: the interval goes with the unit, and is not cut where scores end."""
    base = [1.6 + 0.2 * (i % 5) for i in range(60)]
    tuned = [0.05 + 0.01 * (i % 7) for i in range(60)]
    rows = [str(i) for i in range(60)]
    nats = compare(tuned, base, rows, bounded=False)
    bits = compare([x / math.log(2) for x in tuned], [x / math.log(2) for x in base], rows, bounded=False)
    low, high = nats.interval
    assert 1.5 < low < nats.mean < high < 2.5
    assert bits.interval == pytest.approx([low / math.log(2), high / math.log(2)])
    assert bits.p_value == pytest.approx(nats.p_value)
