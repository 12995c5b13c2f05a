"""Ties and differences on made-up losses, whose intervals are known."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from toile.training.sweep_ranking import (
    BEST,
    DONE,
    FAILED,
    NOT_RANKED,
    TIED,
    UNFINISHED,
    WORSE,
    TrialResult,
    mean_interval,
    rank_trials,
    t_quantile,
)


def trial(number: int, *losses: float, state: str = DONE) -> TrialResult:
    return TrialResult(number, {"lora.rank": number}, state, dict(enumerate(losses)))


def test_quantiles_are_those_of_students_t() -> None:
    for degrees in (*range(1, 31), 99):
        for share in (0.5, 0.95, 0.99):
            assert t_quantile(degrees, share) == pytest.approx(stats.t.ppf((1 + share) / 2, degrees), rel=1e-9)


def test_an_interval_by_hand() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # standard deviation 1, two degrees of freedom
    assert (interval.mean, interval.low, interval.high) == pytest.approx((2.0, 2.0 - half, 2.0 + half))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    draws = stats.norm.rvs(loc=0.3, size=(4000, 3), random_state=0)
    covered = sum(each.low <= 0.3 <= each.high for each in map(mean_interval, draws.tolist()))
    assert covered / 4000 == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_a_real_difference_is_no_tie_and_a_tie_is_none() -> None:
    # Seeds differ by far more than settings; only in pairs can the settings be told apart.
    best = trial(0, 1.00, 2.00, 3.00)
    worse = trial(1, 1.10, 2.11, 3.09)  # differences 0.10, 0.11, 0.09: 0.10 +- 0.025
    tied = trial(2, 1.10, 1.91, 3.09)  # differences 0.10, -0.09, 0.09: 0.033 +- 0.266
    rows = rank_trials([worse, tied, best], (0, 1, 2)).rows
    assert [(row.trial.number, row.verdict) for row in rows] == [(0, BEST), (2, TIED), (1, WORSE)]
    assert rows[0].difference is None
    difference = rows[2].difference
    assert difference is not None
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.10, 0.07516, 0.12484), abs=1e-4)
    # Without pairs the two could not be told apart: their intervals over seeds overlap almost wholly.
    assert rows[0].interval is not None and rows[2].interval is not None
    assert rows[2].interval.low < rows[0].interval.mean < rows[2].interval.high


def test_equal_losses_are_a_tie_and_a_constant_gap_is_none() -> None:
    rows = rank_trials([trial(0, 0.5, 0.25), trial(1, 0.5, 0.25), trial(2, 0.75, 0.5)], (0, 1)).rows
    assert [row.verdict for row in rows] == [BEST, TIED, WORSE]


def test_ties_are_said_in_words() -> None:
    tied = rank_trials([trial(0, 0.5, 0.25), trial(1, 0.5, 0.25)], (0, 1))
    assert "Trial 0 has the lowest mean held-out loss; 1 other is tied with it" in tied.notes[0]
    assert "t = 12.7" in tied.notes[-1]
    clear = rank_trials([trial(0, 0.5, 0.25), trial(1, 1.5, 1.25)], (0, 1))
    assert "no other setting is tied" in clear.notes[0]


def test_one_seed_ranks_nothing() -> None:
    ranking = rank_trials([trial(0, 0.9), trial(1, 0.1)], (0,))
    assert [(row.trial.number, row.verdict) for row in ranking.rows] == [(0, NOT_RANKED), (1, NOT_RANKED)]
    assert all(row.interval is None and row.difference is None for row in ranking.rows)
    [note] = ranking.notes
    assert "no interval" in note and "nothing is ranked" in note


def test_trials_without_all_seeds_are_listed_but_not_ranked() -> None:
    trials = [trial(0, 0.1, state=UNFINISHED), trial(1, state=FAILED), trial(2, 0.5, 0.4), trial(3, 0.6, 0.5)]
    ranking = rank_trials(trials, (0, 1))
    assert [(row.trial.number, row.verdict) for row in ranking.rows] == [
        *((2, BEST), (3, WORSE)),
        *((0, UNFINISHED), (1, FAILED)),
    ]
    assert ranking.rows[2].mean is None
    alone = rank_trials(trials[:3], (0, 1))
    assert alone.rows[0].verdict == NOT_RANKED and "nothing to compare" in alone.notes[0]
