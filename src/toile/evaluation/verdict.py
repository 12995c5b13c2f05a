"""From two scores to a sentence: who is better in what, or that they cannot be told apart, and how many pictures would.

Two makers get the same prompts and seeds, so what is compared are differences, picture by picture or set by set. That
takes out what both have in common: prompts that are hard for everyone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import NormalDist

import numpy as np

from toile.errors import ToileError
from toile.evaluation.attributes import CONFIDENCE, wilson_interval
from toile.evaluation.scores import LOWER, Entry, Measure, Score, Verdict

POWER = 0.8
MOST_PICTURES = 1_000_000
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
_Z_POWER = NormalDist().inv_cdf(POWER)


def score_of_sets(values: Sequence[float], n: int, is_share: bool = False) -> Score:
    """The mean over K disjoint sets with Student's interval of K - 1 degrees of freedom.

    Args:
        values: of each set; with one set there is no interval.
        n: pictures in all sets together.
        is_share: they are shares, so the interval ends at 0 and 1.
    """
    mean, reach = _of_sets(np.asarray(values, dtype=np.float64))
    low, high = mean - reach, mean + reach
    if is_share and not math.isnan(reach):
        low, high = max(low, 0.0), min(high, 1.0)
    return Score(mean, low, high, n, tuple(map(float, values)))


def score_without_sets(whole: float, without: Sequence[float], n: int) -> Score:
    """A value of all pictures, with an interval from what it is without each of K disjoint sets.

    The delete-a-group jackknife (Shao & Tu 1995, sec. 2.3): `K whole - (K - 1) without_k` are as good as K independent
    values. So a value that suffers from small numbers, such as a Frechet distance, is taken of all pictures.

    Args:
        whole: of all pictures.
        without: of all but those of each set.
        n: pictures in all.

    Returns:
        A score whose `sets` are those K values; their mean may differ from `value`, which stands in the middle.
    """
    count = len(without)
    values = count * whole - (count - 1) * np.asarray(without, dtype=np.float64)
    reach = _of_sets(values)[1]
    return Score(whole, whole - reach, whole + reach, n, tuple(map(float, values)))


def score_of_pictures(each: np.ndarray, is_share: bool = False, prompts: np.ndarray | None = None) -> Score:
    """The mean over pictures with its normal interval; a share's is Wilson's (1927), which holds near 0 and 1.

    Args:
        each: (N,) values, NaN where a picture has none.
        is_share: they are 0 or 1.
        prompts: (N,) int64, the number of each picture's prompt. Pictures of one prompt depend on each other, so where
            prompts come several times the interval is that of the means by prompt.
    """
    each = np.asarray(each, dtype=np.float64)
    n, lowest, highest = int((~np.isnan(each)).sum()), *((0.0, 1.0) if is_share else (-math.inf, math.inf))
    if prompts is not None and len(np.unique(prompts)) < len(prompts):
        each, is_share = means_by_prompt(each, prompts), False
    known = each[~np.isnan(each)]
    if not len(known):
        return Score(math.nan, math.nan, math.nan, 0, each=each, is_share=is_share)
    mean = float(known.mean())
    if is_share:
        low, high = wilson_interval(int(known.sum()), len(known))
        return Score(mean, low, high, n, each=each, is_share=True)
    reach = _Z * float(known.std(ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return Score(mean, max(mean - reach, lowest), min(mean + reach, highest), n, each=each)


def means_by_prompt(each: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """(N,) values, NaN where there is none, and (N,) numbers of prompts -> the mean of each prompt, by its number."""
    _, rows = np.unique(prompts, return_inverse=True)
    known = ~np.isnan(each)
    counts = np.bincount(rows, known)
    sums = np.bincount(rows, np.where(known, each, 0.0))
    return np.divide(sums, counts, out=np.full(len(counts), math.nan), where=counts > 0)


def difference(a: Score, b: Score) -> tuple[float, float]:
    """a - b and how far its 95 % interval reaches to each side.

    Pictures of the same prompts are compared pair by pair: normal, and for shares with half a pair added to each cell
    of the table of pairs (Agresti & Min 2005, "Simple improved confidence intervals for comparing matched
    proportions"), which holds when few pairs differ. Sets are compared set by set with Student's t. Scores without
    either are compared by their own intervals.
    """
    if a.each is not None and b.each is not None and len(a.each) == len(b.each):
        gaps = a.each.astype(np.float64) - b.each
        gaps = gaps[~np.isnan(gaps)]
        if len(gaps) < 2:
            return math.nan, math.nan
        mean = float(gaps.mean())
        if a.is_share and b.is_share:
            num = len(gaps) + 2
            spread = (np.square(gaps).sum() + 1) / num - (gaps.sum() / num) ** 2
            return mean, _Z * math.sqrt(max(spread, 0.0) / num)
        return mean, _Z * float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    if a.sets and len(a.sets) == len(b.sets):
        return a.value - b.value, _of_sets(np.asarray(a.sets) - np.asarray(b.sets))[1]
    reaches = [(score.high - score.low) / 2 for score in (a, b)]
    return a.value - b.value, math.hypot(*reaches)


def compare(measure: Measure, a: Entry, b: Entry) -> Verdict:
    """What can be said of two makers in one measure, both of which have a score in it.

    Raises:
        ToileError: their scores are of different protocols.
    """
    if a.protocol_id.partition("-")[0] != b.protocol_id.partition("-")[0]:
        raise ToileError(
            f"{a.name} was measured under protocol {a.protocol_id}, {b.name} under {b.protocol_id}: "
            "scores of different protocols cannot be compared; evaluate both in one command"
        )
    first, second = a.scores[measure.key], b.scores[measure.key]
    gap, reach = difference(first, second)
    if measure.better == LOWER:
        gap = -gap
    better, worse, lead = (a, b, gap) if not gap < 0 else (b, a, -gap)
    is_told = lead - reach > 0
    n = min(first.n, second.n)
    needed = None if is_told else pictures_needed(lead, reach, n)
    scale, unit = (100.0, " points") if measure.is_share else (1.0, "")
    span = f"{scale * lead:.3g}{unit}, {scale * (lead - reach):.3g} to {scale * (lead + reach):.3g}"
    if is_told:
        sentence = f"{better.name} is better than {worse.name} in {measure.title} (by {span})"
    elif math.isnan(lead) or math.isnan(reach):
        sentence = f"{a.name} and {b.name} cannot be compared in {measure.title}: too few pictures"
    else:
        more = f"needs about {needed:,}" if needed is not None else "no number of pictures that could be made would do"
        sentence = f"{a.name} and {b.name} cannot be told apart in {measure.title} at n = {n:,}; {more} ({span})"
    return Verdict(measure.key, better.name, worse.name, is_told, lead, lead - reach, lead + reach, needed, sentence)


def pictures_needed(lead: float, reach: float, n: int) -> int | None:
    """About how many pictures would tell a difference of this size four times out of five; None above a million.

    Intervals shrink with the root of the number of pictures (Cohen 1988, sec. 2.4).
    """
    if not lead > 0 or not math.isfinite(reach):
        return None
    needed = n * (reach / lead * (1 + _Z_POWER / _Z)) ** 2
    digits = 10 ** max(0, math.floor(math.log10(max(needed, 1))) - 1)
    return None if needed > MOST_PICTURES else math.ceil(needed / digits) * digits


def compare_all(measures: Mapping[str, Measure], entries: Sequence[Entry]) -> tuple[Verdict, ...]:
    """All pairs of makers in all contests that both have a score in; without scores that have no interval."""
    verdicts = (
        compare(measure, a, b)
        for key, measure in measures.items()
        if measure.is_contest
        for a, b in combinations(entries, 2)
        if key in a.scores and key in b.scores
    )
    return tuple(verdict for verdict in verdicts if math.isfinite(verdict.low))


def _of_sets(values: np.ndarray) -> tuple[float, float]:
    """Mean and reach of Student's interval."""
    if len(values) < 2:
        return float(values.mean()), math.nan
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), student(len(values) - 1) * error


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t for 1 or more degrees of freedom, found by bisection of its distribution.

    The distribution is the regularised incomplete beta function, summed for whole degrees of freedom (Abramowitz &
    Stegun 1964, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, 1000.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """The probability that |T| < t."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for k in range(3, freedom - 1, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        return 2 / math.pi * (angle + math.sin(angle) * total)
    term = total = 1.0
    for k in range(2, freedom, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return math.sin(angle) * total
