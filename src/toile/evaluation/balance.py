"""How often each kind occurs in two sets of pictures, and how far the two balances are apart.

Shapes: N and M pictures, K kinds (labels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toile.errors import ToileError
from toile.evaluation.attributes import CONFIDENCE, Share

OTHERS = "others"
NUM_DRAWS = 4000


@dataclass(frozen=True)
class Balance:
    """How many pictures are of each kind; kinds exclude each other.

    Attributes:
        labels: K names, all different.
        counts: K, of pictures.
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.counts) or len(set(self.labels)) != len(self.labels) or min(self.counts) < 0:
            raise ToileError(f"{len(self.labels)} labels and {len(self.counts)} counts are no balance")
        if not self.total:
            raise ToileError("no pictures to weigh up; give at least one")

    @property
    def total(self) -> int:
        """All pictures."""
        return sum(self.counts)

    def share(self, label: str) -> Share:
        """Of one kind, with Wilson's interval."""
        return Share(self.counts[self.labels.index(label)], self.total)

    @property
    def shares(self) -> np.ndarray:
        """(K,) float64, adding up to 1."""
        return np.array(self.counts, dtype=np.float64) / self.total


def count_kinds(kinds: np.ndarray, labels: Sequence[str]) -> Balance:
    """The balance of pictures whose kinds (N,) are given as numbers of labels, 0 to K - 1; others are left out."""
    known = kinds[(kinds >= 0) & (kinds < len(labels))]
    return Balance(tuple(labels), tuple(np.bincount(known, minlength=len(labels)).tolist()))


def with_others(kinds: np.ndarray, kept: Sequence[int]) -> np.ndarray:
    """Kinds (N,) renumbered: those in `kept` become 0, 1, ... in that order, all others len(kept)."""
    renumbered = np.full(len(kinds), len(kept), dtype=np.int64)
    for number, kind in enumerate(kept):
        renumbered[kinds == kind] = number
    return renumbered


@dataclass(frozen=True)
class BalanceGap:
    """How far two balances are apart.

    Attributes:
        value: total variation distance of the two sets, half the sum of |p - q| over kinds (Levin & Peres 2017, prop.
            4.2): 0 for equal balances, 1 for such as have no kind in common, the share of pictures that would have to
            be of another kind to make one balance the other. It is never below 0, so chance alone makes it larger.
        low, high: interval that holds the true distance in at least 95 %. With many kinds chance adds so much that
            plain bootstrap intervals miss it, so `low` is `value` less the distance that bootstrapped balances keep
            from the ones seen (it bounds the error by the triangle inequality), and 0 where chance alone would do;
            `high` is the basic bootstrap's (Davison & Hinkley 1997, sec. 5.2), at least `value`.
        by_chance: the distance that chance alone exceeds once in twenty, if the two were of one balance.
        p_value: how often chance alone gives the distance seen or more.
    """

    value: float
    low: float
    high: float
    by_chance: float
    p_value: float

    @property
    def is_told(self) -> bool:
        """Whether the balances differ by more than chance, at 5 %."""
        return self.p_value < 1 - CONFIDENCE


def compare_pairs(
    a: np.ndarray, b: np.ndarray, num_kinds: int, seed: int = 0, num_draws: int = NUM_DRAWS
) -> BalanceGap:
    """Compares pictures that belong together, such as those of the same caption, pair by pair.

    The bootstrap draws pairs; chance exchanges the two pictures of a pair (Good 2005, sec. 3.2), which leaves alone
    what both have from the caption.

    Args:
        a, b: kinds (N,) int64, 0 to num_kinds - 1; the i-th of both belong together.
        seed: of the draws.
        num_draws: at least 1, of each kind.

    Raises:
        ToileError: not as many of one as of the other, or none.
    """
    if len(a) != len(b):
        raise ToileError(f"{len(a)} and {len(b)} pictures are no pairs")
    steps = _one_hot(a, num_kinds) - _one_hot(b, num_kinds)
    num, rng = len(steps), np.random.default_rng(seed)
    drawn = rng.multinomial(num, np.full(num, 1 / num), num_draws) @ steps
    exchanged = rng.choice([-1.0, 1.0], (num_draws, num)) @ steps
    return _gap(steps.sum(axis=0) / num, drawn / num, exchanged / num)


def compare_sets(a: np.ndarray, b: np.ndarray, num_kinds: int, seed: int = 0, num_draws: int = NUM_DRAWS) -> BalanceGap:
    """Compares two sets of pictures that have nothing to do with each other.

    The bootstrap draws each set anew; chance deals all pictures out to two sets of these sizes.

    Args:
        a, b: kinds (N,) and (M,) int64, 0 to num_kinds - 1.
        seed, num_draws: as `compare_pairs`.
    """
    counts = [_one_hot(kinds, num_kinds).sum(axis=0).astype(np.int64) for kinds in (a, b)]
    (of_a, of_b), (num_a, num_b) = counts, (len(a), len(b))
    rng = np.random.default_rng(seed)
    of_one, of_other = (rng.multinomial(sum(of), of / sum(of), num_draws) / sum(of) for of in counts)
    dealt = rng.multivariate_hypergeometric(of_a + of_b, num_a, num_draws)
    return _gap(of_a / num_a - of_b / num_b, of_one - of_other, dealt / num_a - (of_a + of_b - dealt) / num_b)


def _one_hot(kinds: np.ndarray, num_kinds: int) -> np.ndarray:
    if not len(kinds) or kinds.min() < 0 or kinds.max() >= num_kinds:
        raise ToileError(f"kinds of {len(kinds)} pictures: give one picture or more, with kinds 0 to {num_kinds - 1}")
    return np.eye(num_kinds)[kinds]


def _gap(difference: np.ndarray, drawn: np.ndarray, by_chance: np.ndarray) -> BalanceGap:
    """Of the difference of two balances (K,), of bootstrapped ones (D, K), and of those that chance makes (D, K)."""
    value = 0.5 * float(np.abs(difference).sum())
    again, chance = 0.5 * np.abs(drawn).sum(axis=1), 0.5 * np.abs(by_chance).sum(axis=1)
    least = float(np.quantile(again, (1 - CONFIDENCE) / 2))
    error = float(np.quantile(0.5 * np.abs(drawn - difference).sum(axis=1), (1 + CONFIDENCE) / 2))
    as_far = int((chance >= value - 1e-12).sum())
    p_value = (as_far + 1) / (len(chance) + 1)
    return BalanceGap(
        value=value,
        low=max(0.0, value - error) if p_value < 1 - CONFIDENCE else 0.0,
        high=min(1.0, max(value, 2 * value - least)),
        by_chance=float(np.quantile(chance, CONFIDENCE)),
        p_value=p_value,
    )
