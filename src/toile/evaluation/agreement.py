"""Statistics of people's choices: do raters agree, is one side preferred, and how many answers would tell.

Shapes: N units (pairs of pictures), R raters, C categories.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np

from toile.errors import ToileError
from toile.evaluation.attributes import CONFIDENCE
from toile.evaluation.verdict import MOST_PICTURES, POWER

_NORMAL = NormalDist()


def krippendorff_alpha(units: Sequence[Sequence[Hashable | None]]) -> float:
    """Krippendorff's alpha for nominal data with missing answers (Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability", sections A to C): 1 - observed / expected disagreement.

    Args:
        units: for each of N units the answers of the raters, None where one gave none; units with fewer than two
            answers say nothing and are left out.

    Returns:
        1 is perfect agreement, 0 what chance gives, below 0 is less than that. NaN where it is not defined: no unit has
        two answers, or all answers that count are the same.
    """
    counts = _answer_counts(units)
    return float(_alphas(counts, np.ones((1, len(counts))))[0])


def _answer_counts(units: Sequence[Sequence[Hashable | None]]) -> np.ndarray:
    """(N', C): how often each of the C answers was given to each of the N' units with two answers or more."""
    kinds: dict[Hashable, int] = {}
    for answer in (answer for unit in units for answer in unit if answer is not None):
        kinds.setdefault(answer, len(kinds))
    counts = np.zeros((len(units), len(kinds)))
    for row, unit in zip(counts, units, strict=True):
        for answer in unit:
            if answer is not None:
                row[kinds[answer]] += 1
    return counts[counts.sum(axis=1) >= 2]


def _alphas(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Alpha (D,) for D weightings (D, N') of the units, each weight how often a unit is there; NaN where undefined."""
    answers = counts.sum(axis=1)
    observed = weights @ ((answers**2 - (counts**2).sum(axis=1)) / (answers - 1))
    of_each = weights @ counts
    total = of_each.sum(axis=1)
    expected = total**2 - (of_each**2).sum(axis=1)
    alphas = np.full(len(weights), math.nan)
    np.divide((total - 1) * observed, expected, out=alphas, where=expected > 0)
    return 1.0 - alphas


def alpha_interval(
    units: Sequence[Sequence[Hashable | None]], seed: int = 0, num_draws: int = 2000
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of `krippendorff_alpha`: units are drawn with replacement.

    Args:
        units: as for `krippendorff_alpha`.
        seed: of the draws.
        num_draws: at least 1; draws in which alpha is not defined do not count.

    Returns:
        (NaN, NaN) if alpha is defined in none of them.
    """
    counts = _answer_counts(units)
    if not len(counts):
        return math.nan, math.nan
    num = len(counts)
    alphas = _alphas(counts, np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), num_draws))
    alphas = alphas[~np.isnan(alphas)]
    if not len(alphas):
        return math.nan, math.nan
    low, high = np.quantile(alphas, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def fleiss_kappa(counts: np.ndarray) -> float:
    """Fleiss' kappa of complete data (Fleiss 1971, eqs. 3 to 7).

    With the same R answers for every unit, 1 - alpha = (1 - kappa) * (N R - 1) / (N R): alpha expects pairs without
    replacement, kappa with it.

    Args:
        counts: (N, C), how many of the R raters put each unit into each category; every row adds up to R >= 2.

    Returns:
        1 is perfect agreement, 0 what chance gives; NaN if all answers are the same.

    Raises:
        ToileError: rows of different sums, or fewer than two raters.
    """
    raters = counts.sum(axis=1) if counts.ndim == 2 and len(counts) else np.zeros(1)
    if raters[0] < 2 or (raters != raters[0]).any():
        raise ToileError("Fleiss' kappa needs the same number of answers, two or more, for every unit")
    num = float(raters[0])
    agreement = float(((counts**2).sum(axis=1) - num).mean() / (num * (num - 1)))
    chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return math.nan if chance == 1.0 else (agreement - chance) / (1.0 - chance)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact sign test: how often fair coins would be at least as uneven; ties are left out.

    Args:
        wins, losses: 0 or more; with none at all the p-value is 1.
    """
    if wins < 0 or losses < 0:
        raise ToileError(f"{wins} wins and {losses} losses: counts are 0 or more")
    n, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n)  # whole numbers divided once: exact to the last digit, however large n is


def exact_interval(wins: int, losses: int) -> tuple[float, float]:
    """The exact 95 % interval of the share of wins (Clopper & Pearson 1934), 0 <= low <= high <= 1.

    Its ends are the shares of which so many wins, or more, and so many, or fewer, come about in 2.5 % each. So it
    leaves out 1/2 exactly when the sign test tells the sides apart; Wilson's, which is narrower, does so too early.

    Args:
        wins, losses: 0 or more, not both 0.
    """
    if min(wins, losses) < 0 or not wins + losses:
        raise ToileError(f"{wins} wins and {losses} losses are no share; give at least one of them")
    return _lowest_share(wins, wins + losses), 1.0 - _lowest_share(losses, wins + losses)


def _lowest_share(wins: int, total: int) -> float:
    """The share of which `wins` or more of `total` come about in 2.5 %, by bisection of the binomial distribution."""
    if not wins:
        return 0.0
    won = np.arange(wins, total + 1)
    choices = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in won.tolist()]
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        tail = np.exp(choices + won * math.log(middle) + (total - won) * math.log1p(-middle)).sum()
        low, high = (middle, high) if tail < (1 - CONFIDENCE) / 2 else (low, middle)
    return low


def decisions_needed(share: float, power: float = POWER) -> int | None:
    """About how many decided answers a two-sided sign test at 5 % needs, if the share of wins truly is `share`.

    The usual normal approximation, ((z_0.975 / 2 + z_power * sqrt(p (1 - p))) / (p - 1/2))^2 (Noether 1987, sec. 2).

    Args:
        share: p, 0 to 1.
        power: the chance that the test then tells the two apart.

    Returns:
        None if it is more than a million: nobody will ask so many.
    """
    if not 0 <= share <= 1:
        raise ToileError(f"a share of {share:g} is not possible; allowed: 0 to 1")
    reach = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2) / 2 + _NORMAL.inv_cdf(power) * math.sqrt(share * (1 - share))
    if abs(share - 0.5) * math.sqrt(MOST_PICTURES) < reach:
        return None
    # Fewer than six answers can never reach 5 %, even if all are the same.
    return max(6, math.ceil((reach / (share - 0.5)) ** 2))
