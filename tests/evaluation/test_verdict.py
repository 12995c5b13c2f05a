"""Who is better, and when nobody may be called so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from toile.errors import ToileError
from toile.evaluation.scores import HIGHER, LOWER, REALISM, Entry, Measure, Score
from toile.evaluation.verdict import (
    compare,
    compare_all,
    difference,
    pictures_needed,
    score_of_pictures,
    score_of_sets,
    score_without_sets,
    student,
)

DISTANCE = Measure("distance", "distance", "How far.", REALISM, LOWER)
SHARE = Measure("share", "share", "How often.", REALISM, HIGHER, is_share=True)


def entry(name: str, score: Score, measure: Measure = DISTANCE, protocol: str = "0123abcd-0000") -> Entry:
    return Entry(name, {measure.key: score}, protocol)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 20, 51])
def test_students_quantile_is_that_of_scipy(freedom: int) -> None:
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-9)


def test_the_interval_of_sets_is_students() -> None:
    values = [3.0, 3.4, 2.9, 3.3, 3.1]
    score = score_of_sets(values, 1000)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (score.value, score.low, score.high) == pytest.approx((np.mean(values), low, high))
    assert math.isnan(score_of_sets([1.0], 10).low)


def test_pictures_without_a_value_do_not_count() -> None:
    score = score_of_pictures(np.array([1.0, 0.0, np.nan, 1.0]), is_share=True)
    assert (score.value, score.n) == (pytest.approx(2 / 3), 3)
    assert 0 < score.low < score.value < score.high < 1  # Wilson's
    empty = score_of_pictures(np.array([np.nan]))
    assert math.isnan(empty.value) and empty.n == 0


def test_what_both_have_in_common_is_taken_out() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 500)  # prompts differ far more than makers
    a, b = score_of_pictures(hard + 1.0 + rng.normal(0, 0.5, 500)), score_of_pictures(hard)
    gap, reach = difference(a, b)
    assert gap == pytest.approx(1.0, abs=0.1) and reach < 0.1
    assert (a.high - a.low) / 2 > 0.8  # their own intervals overlap widely


def test_intervals_hold_as_often_as_they_say() -> None:
    """Of 2,000 pairs of makers that are equal, about 5 % are told apart, for sets and for shares of pictures."""
    rng = np.random.default_rng(1)
    trials = 2000
    told_sets = told_pictures = 0
    for _ in range(trials):
        gap, reach = difference(score_of_sets(rng.normal(size=5), 5), score_of_sets(rng.normal(size=5), 5))
        told_sets += abs(gap) > reach
        hits = [score_of_pictures((rng.random(300) < 0.9).astype(float), is_share=True) for _ in range(2)]
        gap, reach = difference(*hits)
        told_pictures += abs(gap) > reach
    assert 0.03 < told_sets / trials < 0.07
    assert 0.03 < told_pictures / trials < 0.07


def test_lower_is_better_where_the_measure_says_so() -> None:
    near, far = entry("near", score_of_sets([1.0, 1.1, 0.9], 300)), entry("far", score_of_sets([5.0, 5.1, 4.9], 300))
    verdict = compare(DISTANCE, far, near)
    assert (verdict.better, verdict.worse, verdict.is_told) == ("near", "far", True)
    assert verdict.difference == pytest.approx(4.0) and verdict.low > 0
    assert verdict.sentence.startswith("near is better than far in distance (by 4")
    turned = compare(DISTANCE, near, far)
    assert turned.sentence == verdict.sentence


def test_what_cannot_be_told_apart_is_not_ranked_and_the_number_needed_is_said() -> None:
    rng = np.random.default_rng(2)
    a = entry("a", score_of_pictures((rng.random(400) < 0.80).astype(float), True), SHARE)
    b = entry("b", score_of_pictures((rng.random(400) < 0.78).astype(float), True), SHARE)
    verdict = compare(SHARE, a, b)
    assert not verdict.is_told and verdict.low < 0 < verdict.high
    assert verdict.num_needed is not None and verdict.num_needed > 400
    assert "a and b cannot be told apart in share at n = 400; needs about" in verdict.sentence


def test_the_number_needed_is_that_of_the_power_it_states() -> None:
    """A difference of 0.1 standard deviations is found in about 80 % of experiments of the size that is asked for."""
    needed = pictures_needed(lead=0.1, reach=1.96 / math.sqrt(100), n=100)
    assert needed == pytest.approx((1.96 + 0.8416) ** 2 / 0.01, rel=0.03)
    rng = np.random.default_rng(3)
    found = np.mean([abs(x.mean()) > 1.96 / math.sqrt(needed) for x in rng.normal(0.1, 1, (1000, needed))])
    assert 0.76 < found < 0.84
    assert pictures_needed(0.0, 1.0, 100) is None
    assert pictures_needed(1e-9, 1.0, 100) is None


def test_equal_pictures_are_never_told_apart() -> None:
    hits = np.array([1.0, 0.0] * 50)
    verdict = compare(
        SHARE, entry("a", score_of_pictures(hits, True), SHARE), entry("b", score_of_pictures(hits, True), SHARE)
    )
    assert not verdict.is_told and verdict.difference == 0


def test_scores_of_different_protocols_are_not_compared() -> None:
    score = score_of_sets([1.0, 2.0], 10)
    with pytest.raises(ToileError, match="different protocols"):
        compare(DISTANCE, entry("a", score, protocol="00000000-0000"), entry("b", score, protocol="00000001-0000"))
    # another sampler is another use of a model under the same protocol
    assert not compare(DISTANCE, entry("a", score), entry("b", score, protocol="0123abcd-ffff")).is_told


def test_leaving_out_set_after_set_gives_the_interval_of_a_value_that_is_biased() -> None:
    """The spread of few numbers, divided by N: the interval holds the truth about as often as it says."""
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(400):
        sets = rng.normal(size=(5, 40))
        without = [np.delete(sets, k, axis=0).std() for k in range(5)]
        score = score_without_sets(float(sets.std()), without, sets.size)
        held += score.low <= 1.0 <= score.high
    assert 0.91 < held / 400 < 0.98
    assert score.value == pytest.approx(sets.std()) and len(score.sets) == 5


def test_for_a_mean_it_is_the_interval_of_the_sets() -> None:
    sets = np.random.default_rng(5).normal(size=(5, 7))
    without = [float(np.delete(sets, k, axis=0).mean()) for k in range(5)]
    jackknife = score_without_sets(float(sets.mean()), without, 35)
    plain = score_of_sets(sets.mean(axis=1).tolist(), 35)
    assert (jackknife.low, jackknife.high) == pytest.approx((plain.low, plain.high))


def test_what_has_no_interval_is_not_compared() -> None:
    alone = [entry(name, score_of_sets([value], 10)) for name, value in (("a", 1.0), ("b", 2.0))]
    assert compare_all({"distance": DISTANCE}, alone) == ()


def test_the_interval_of_a_share_stays_one() -> None:
    wide = score_of_sets([1.0, 0.6, 1.0, 0.9], 40)
    share = score_of_sets([1.0, 0.6, 1.0, 0.9], 40, is_share=True)
    assert wide.high > 1 == share.high and share.low == wide.low and share.sets == wide.sets
    assert math.isnan(score_of_sets([0.5], 10, is_share=True).low)
