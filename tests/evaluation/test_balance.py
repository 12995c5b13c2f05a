"""Balances in closed form, and intervals that hold what they say."""

from __future__ import annotations

import numpy as np
import pytest

from toile.errors import ToileError
from toile.evaluation.balance import (
    Balance,
    compare_pairs,
    compare_sets,
    count_kinds,
    with_others,
)


def test_counts_and_shares() -> None:
    balance = count_kinds(np.array([0, 0, 2, -1, 0, 5]), ("Men", "Women", "Boys"))
    assert balance == Balance(("Men", "Women", "Boys"), (3, 0, 1))
    assert balance.shares.tolist() == [0.75, 0.0, 0.25]
    assert (balance.share("Men").num_right, balance.share("Men").num_total) == (3, 4)
    assert with_others(np.array([0, 1, 2, 3, 2]), [2, 0]).tolist() == [1, 2, 0, 2, 0]


@pytest.mark.parametrize(
    ("labels", "counts"), [(("a",), (1, 2)), (("a", "a"), (1, 2)), (("a",), (-1,)), (("a",), (0,))]
)
def test_what_is_no_balance_is_refused(labels: tuple[str, ...], counts: tuple[int, ...]) -> None:
    with pytest.raises(ToileError):
        Balance(labels, counts)


def test_the_gap_is_the_largest_difference_in_any_set_of_kinds() -> None:
    """That is the definition of the total variation distance."""
    rng = np.random.default_rng(0)
    a, b = rng.choice(6, 80, p=rng.dirichlet(np.ones(6))), rng.choice(6, 50, p=rng.dirichlet(np.ones(6)))
    subsets = [[kind for kind in range(6) if code >> kind & 1] for code in range(64)]
    largest = max(abs(np.isin(a, subset).mean() - np.isin(b, subset).mean()) for subset in subsets)
    assert compare_sets(a, b, 6, num_draws=10).value == compare_sets(b, a, 6, num_draws=10).value
    assert compare_sets(a, b, 6, num_draws=10).value == pytest.approx(largest)
    assert compare_pairs(a[:50], b, 6, num_draws=10).value == compare_sets(a[:50], b, 6, num_draws=10).value


def test_equal_and_opposite_pictures() -> None:
    kinds = np.arange(40) % 4
    same = compare_pairs(kinds, kinds, 4)
    assert (same.value, same.low, same.high, same.p_value, same.is_told) == (0.0, 0.0, 0.0, 1.0, False)
    ones, zeros = np.ones(40, dtype=np.int64), np.zeros(40, dtype=np.int64)
    for gap in (compare_pairs(zeros, ones, 2), compare_sets(zeros, ones, 2)):
        assert gap.value == gap.low == gap.high == 1.0
        assert gap.is_told and gap.by_chance < 0.5


def test_pairs_see_what_sets_do_not() -> None:
    """Ten of 400 pairs change from kind 0 to 1: small beside the scatter of sets, but no pair changes back."""
    before = np.repeat([0, 1], 200)
    after = np.where(np.arange(400) < 10, 1, before)
    paired, alone = compare_pairs(before, after, 2), compare_sets(before, after, 2)
    assert paired.value == pytest.approx(10 / 400) and alone.value == pytest.approx(10 / 400)
    assert paired.is_told and not alone.is_told
    assert 0 < paired.low < 10 / 400 < paired.high < alone.high
    assert compare_pairs(before, after, 2, seed=1) != paired == compare_pairs(before, after, 2)


def test_unequal_or_unknown_kinds_are_refused() -> None:
    kinds = np.zeros(3, dtype=np.int64)
    with pytest.raises(ToileError, match="3 and 2 pictures are no pairs"):
        compare_pairs(kinds, kinds[:2], 1)
    for wrong in (kinds[:0], kinds - 1, kinds + 1):
        with pytest.raises(ToileError, match="with kinds 0 to 0"):
            compare_sets(kinds, wrong, 1)


@pytest.mark.parametrize("paired", [True, False])
def test_chance_is_rarely_taken_for_a_difference_and_the_interval_holds(paired: bool) -> None:
    """Sets of one balance, and of balances whose distance is 0.15, of 12 kinds: chance adds much to such a distance."""
    rng, p = np.random.default_rng(0), np.array([0.3, 0.2, 0.1] + [0.4 / 9] * 9)
    q = p + np.array([-0.15, 0.1, 0.05] + [0.0] * 9)
    compare = compare_pairs if paired else compare_sets
    told = held = 0
    for trial in range(100):
        a, alike, other = (rng.choice(12, 150, p=of) for of in (p, p, q))
        same = compare(a, alike, 12, seed=trial, num_draws=150)
        told += same.is_told
        assert (same.low == 0.0) or same.is_told
        gap = compare(a, other, 12, seed=trial, num_draws=150)
        held += gap.low <= 0.15 <= gap.high
    assert told <= 12
    assert held >= 90
