"""Which settings are better, beyond chance: paired differences over training seeds with their t-intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DONE, STOPPED_EARLY, FAILED, UNFINISHED = "done", "stopped early", "failed", "unfinished"
BEST, TIED, WORSE, NOT_RANKED = "best", "tied with the best", "worse than the best", "not ranked"


@dataclass(frozen=True)
class TrialResult:
    """What became of one setting.

    Attributes:
        number: of the trial, from 0.
        setting: dotted key -> value.
        state: "done", "stopped early", "failed" or "unfinished".
        losses: training seed -> held-out loss of the weights that the run exported.
        note: why it failed or where it was stopped.
    """

    number: int
    setting: Mapping[str, Any]
    state: str
    losses: Mapping[int, float]
    note: str = ""


@dataclass(frozen=True)
class Interval:
    """A mean with both ends of its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class RankedTrial:
    """A setting among the others.

    Attributes:
        mean: of the losses of all seeds; `None` unless all are there.
        interval: of this mean over seeds; `None` with one seed.
        difference: loss less the best setting's, over the same seeds; `None` for the best itself and where there is
            nothing to compare.
        verdict: "best", "tied with the best" (the interval of the difference covers 0), "worse than the best", "not
            ranked", or the state of a trial that was not done.
    """

    trial: TrialResult
    mean: float | None
    interval: Interval | None
    difference: Interval | None
    verdict: str


@dataclass(frozen=True)
class Ranking:
    """Trials with all seeds by their mean loss (by number where there is no ranking), then all others; and remarks."""

    rows: tuple[RankedTrial, ...]
    notes: tuple[str, ...]


def rank_trials(trials: Sequence[TrialResult], seeds: Sequence[int]) -> Ranking:
    """Compares the settings that were trained with every seed with the one of the lowest mean loss.

    The runs of one seed share the order of the pictures and every draw of noise, also that of the held-out loss, so
    differences are taken within a seed: what all settings have in common cancels.
    """
    whole = [trial for trial in trials if trial.state == DONE and set(seeds) <= set(trial.losses)]
    rest = [RankedTrial(trial, None, None, None, trial.state) for trial in trials if trial not in whole]
    if len(seeds) < 2 or len(whole) < 2:
        rows = [_alone(trial, seeds) for trial in whole]
        return Ranking((*rows, *rest), _notes_without_ranking(len(seeds), len(whole)))
    ordered = sorted(whole, key=lambda trial: (_mean(trial, seeds), trial.number))
    best = ordered[0]
    rows = [_beside(trial, best, seeds) for trial in ordered]
    num_tied = sum(row.verdict == TIED for row in rows)
    return Ranking((*rows, *rest), _notes_of_ranking(best, num_tied, len(rows), len(seeds)))


def _alone(trial: TrialResult, seeds: Sequence[int]) -> RankedTrial:
    return RankedTrial(trial, _mean(trial, seeds), _interval_over(trial, seeds), None, NOT_RANKED)


def _beside(trial: TrialResult, best: TrialResult, seeds: Sequence[int]) -> RankedTrial:
    if trial is best:
        return RankedTrial(trial, _mean(trial, seeds), _interval_over(trial, seeds), None, BEST)
    difference = mean_interval([trial.losses[seed] - best.losses[seed] for seed in seeds])
    verdict = TIED if difference.low <= 0 <= difference.high else WORSE
    return RankedTrial(trial, _mean(trial, seeds), _interval_over(trial, seeds), difference, verdict)


def _mean(trial: TrialResult, seeds: Sequence[int]) -> float:
    return statistics.fmean(trial.losses[seed] for seed in seeds)


def _interval_over(trial: TrialResult, seeds: Sequence[int]) -> Interval | None:
    return mean_interval([trial.losses[seed] for seed in seeds]) if len(seeds) > 1 else None


def _notes_without_ranking(num_seeds: int, num_whole: int) -> tuple[str, ...]:
    if num_seeds < 2:
        return (
            "One training seed: there is no interval, so luck cannot be told from the setting, and nothing is ranked. "
            "Give two or more as search.seeds.",
        )
    return ("No two settings have been trained with every seed yet: there is nothing to compare.",) * (num_whole < 2)


def _notes_of_ranking(best: TrialResult, num_tied: int, num_whole: int, num_seeds: int) -> tuple[str, ...]:
    if num_tied:
        ties = "1 other is" if num_tied == 1 else f"{num_tied} others are"
        first = f"Trial {best.number} has the lowest mean held-out loss; {ties} tied with it: the gap may be chance."
    else:
        first = f"Trial {best.number} is the best; no other setting is tied with it."
    notes = [
        first,
        f"Intervals of 95 % are t-intervals over {num_seeds} paired training seeds. Each stands for itself: among "
        f"{num_whole} settings the lowest mean is partly luck, so take a small lead with caution.",
    ]
    if num_seeds == 2:
        notes.append("With two seeds intervals are very wide (t = 12.7); three or more tell far more apart.")
    return tuple(notes)


# ------------------------------------------------------------------------------------------------- mathematics


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of two or more values and its 95 % interval by Student's t (Student 1908)."""
    mean = statistics.fmean(values)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def t_quantile(degrees: int, share: float = 0.95) -> float:
    """The t that |T| stays under with probability `share`; T is Student's, of 1 or more degrees of freedom."""
    low, high = 0.0, 1.0
    while _t_within(high, degrees) < share:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, degrees) < share else (low, middle)
    return high


def _t_within(t: float, degrees: int) -> float:
    """P(|T| < t), the finite series of Abramowitz & Stegun 1964, eqs. 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= k / (k + 1) * square
    if odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total
