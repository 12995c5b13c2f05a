"""Agreement and sign tests against published worked examples, scipy and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from toile.errors import ToileError
from toile.evaluation.agreement import (
    alpha_interval,
    decisions_needed,
    exact_interval,
    fleiss_kappa,
    krippendorff_alpha,
    sign_test,
)

# Krippendorff 2011: section A (two observers, binary) and section C (four observers, five values, missing answers).
TWO_OBSERVERS = ["0100000010", "1110010000"]
FOUR_OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
# The ten subjects, fourteen raters and five categories with which Fleiss' kappa is usually explained.
FOURTEEN_RATERS = """
0 0 0 0 14 / 0 2 6 4 2 / 0 0 3 5 6 / 0 3 9 2 0 / 2 2 8 1 1
7 7 0 0 0 / 3 2 6 3 0 / 2 5 3 2 2 / 6 5 2 1 0 / 0 2 2 3 7
"""


def units_of(observers: list[str]) -> list[list[str | None]]:
    return [[None if answer == "." else answer for answer in unit] for unit in zip(*observers, strict=True)]


def fleiss_table() -> np.ndarray:
    rows = FOURTEEN_RATERS.replace("\n", " / ").split("/")
    return np.array([[int(number) for number in row.split()] for row in rows if row.strip()])


def answers_of(counts: np.ndarray) -> list[list[int]]:
    return [np.repeat(np.arange(len(row)), row).tolist() for row in counts]


def test_alpha_of_the_published_examples() -> None:
    assert krippendorff_alpha(units_of(TWO_OBSERVERS)) == pytest.approx(0.095, abs=5e-4)
    assert krippendorff_alpha(units_of(FOUR_OBSERVERS)) == pytest.approx(0.743, abs=5e-4)


def test_kappa_of_the_published_example() -> None:
    assert fleiss_kappa(fleiss_table()) == pytest.approx(0.210, abs=5e-4)


def test_alpha_and_kappa_agree_on_complete_data() -> None:
    rng = np.random.default_rng(0)
    for table in [fleiss_table(), *(rng.multinomial(4, [0.5, 0.3, 0.2], size=25) for _ in range(5))]:
        total = table.sum()
        expected = 1 - (1 - fleiss_kappa(table)) * (total - 1) / total
        assert krippendorff_alpha(answers_of(table)) == pytest.approx(expected, abs=1e-12)


def test_agreement_at_its_ends() -> None:
    assert krippendorff_alpha([["a", "a"], ["b", "b"], ["a", None]]) == 1.0
    assert krippendorff_alpha([["a", "b"], ["b", "a"]]) < 0
    assert math.isnan(krippendorff_alpha([["a", "a"], ["a", "a"]]))
    assert math.isnan(krippendorff_alpha([["a", None], [None, "b"]]))
    assert alpha_interval([["a", None]]) == pytest.approx((math.nan, math.nan), nan_ok=True)
    assert math.isnan(fleiss_kappa(np.array([[2, 0], [2, 0]])))
    for unfit in (np.array([[1, 1], [2, 1]]), np.array([[1, 0], [0, 1]]), np.zeros((0, 2))):
        with pytest.raises(ToileError, match="same number of answers"):
            fleiss_kappa(unfit)


def test_alpha_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Two raters who know the truth with probability 0.8 and else guess: alpha is 0.8 * 0.8 for two even categories."""
    rng, hits = np.random.default_rng(0), 0
    for trial in range(150):
        truth = rng.integers(0, 2, 60)
        answers = [np.where(rng.random(60) < 0.8, truth, rng.integers(0, 2, 60)) for _ in range(2)]
        low, high = alpha_interval(np.stack(answers, axis=1).tolist(), seed=trial, num_draws=200)
        hits += low <= 0.64 <= high
    assert 0.88 <= hits / 150 <= 0.99


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (6, 0), (13, 27), (200, 200), (900, 1100)])
def test_sign_test_agrees_with_scipy(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == sign_test(losses, wins) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("wins", "losses"), [(0, 1), (7, 1), (1, 7), (0, 40), (13, 27), (200, 200), (3000, 2900)])
def test_exact_interval_agrees_with_scipy(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses).proportion_ci(0.95, method="exact")
    assert exact_interval(wins, losses) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_the_exact_interval_and_the_sign_test_say_the_same() -> None:
    for total in (*range(1, 16), 100, 1000):
        for wins in range(total // 2 + 1) if total < 100 else range(total // 2 - 33, total // 2 - 7):
            low, high = exact_interval(wins, total - wins)
            assert (high < 0.5) == (sign_test(wins, total - wins) < 0.05) and low < 0.5, (wins, total)


def test_counts_below_nothing_are_refused() -> None:
    for wins, losses in ((0, 0), (-1, 2)):
        with pytest.raises(ToileError, match=f"{wins} wins and {losses} losses are no share"):
            exact_interval(wins, losses)
    with pytest.raises(ToileError, match="-1 wins"):
        sign_test(-1, 2)
    with pytest.raises(ToileError, match="share of 1.5"):
        decisions_needed(1.5)


def test_as_many_answers_as_needed_tell_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    for share in (0.6, 0.3):
        needed = decisions_needed(share)
        assert needed is not None
        wins = rng.binomial(needed, share, 1000)
        told = np.mean([sign_test(int(won), needed - int(won)) < 0.05 for won in wins])
        assert 0.74 <= told <= 0.86, (share, needed, told)


def test_what_nobody_will_ask() -> None:
    assert decisions_needed(0.5) is None and decisions_needed(0.5005) is None
    assert decisions_needed(1.0) == 6
