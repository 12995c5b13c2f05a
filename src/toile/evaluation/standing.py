"""Who is first and where one stands between floor and ceiling: what a page and a terminal say in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toile.evaluation.scores import GROUPS, HIGHER, Entry, Evaluation, Measure, Score, Verdict

_NAMES_IN_A_SENTENCE = 4


@dataclass(frozen=True)
class Standing:
    """Who is first in a measure.

    Attributes:
        measure: which.
        best: the maker with the best value.
        tied: makers that cannot be told apart from it, in the order of the table; () if it is first alone.
        num_makers: how many have a value.
    """

    measure: Measure
    best: str
    tied: tuple[str, ...]
    num_makers: int

    @property
    def is_alone(self) -> bool:
        """Whether the best is told apart from every other maker, of which there must be one."""
        return self.num_makers > 1 and not self.tied


@dataclass(frozen=True)
class Bounds:
    """The controls with the worst and the best value of a measure, and these values; the first of equal ones."""

    worst: str
    worst_value: float
    best: str
    best_value: float


def main_measures(evaluation: Evaluation, each: int = 1) -> list[Measure]:
    """The first measures of every group, in the order of the groups, of those that any maker has a value in.

    Args:
        each: how many of a group.
    """
    found = []
    for group in GROUPS:
        of_group = [measure for measure in evaluation.measures.values() if measure.group == group]
        found += [measure for measure in of_group if _values(evaluation.entries, measure.key)][:each]
    return found


def standing_in(evaluation: Evaluation, measure: Measure) -> Standing | None:
    """Who is first in a measure, by what its verdicts tell apart; None for no contest, or where nobody has a value."""
    values = _values(evaluation.entries, measure.key)
    if not values or not measure.is_contest:
        return None
    told = [verdict for verdict in evaluation.verdicts if verdict.measure == measure.key and verdict.is_told]
    beaten = {verdict.worse for verdict in told}
    best = _best([name for name in values if name not in beaten] or list(values), values, measure)
    below = {verdict.worse for verdict in told if verdict.better == best}
    return Standing(measure, best, tuple(name for name in values if name != best and name not in below), len(values))


def bounds_of(evaluation: Evaluation, measure: Measure) -> Bounds | None:
    """The worst and the best control of a measure; None where no control has a value."""
    values = _values(evaluation.controls, measure.key)
    if not values:
        return None
    best, worst = _best(list(values), values, measure), _best(list(values), values, measure, sign=-1)
    return Bounds(worst, values[worst], best, values[best])


def headline(evaluation: Evaluation) -> tuple[str, ...]:
    """The result in a few sentences; the first is the title of a page."""
    if not evaluation.entries:
        return ("Nothing was measured.",)
    mains = main_measures(evaluation)
    if len(evaluation.entries) == 1:
        return _headline_of_one(evaluation, evaluation.entries[0].name, mains)
    standings = [standing for measure in mains if (standing := standing_in(evaluation, measure))]
    firsts: dict[str, list[str]] = {}
    for standing in standings:
        if standing.is_alone:
            firsts.setdefault(standing.best, []).append(standing.measure.group)
    ranked = sorted(firsts.items(), key=lambda item: -len(item[1]))
    if ranked:
        name, groups = ranked[0]
        title = "; ".join(
            [f"{name} is first in {_listed(groups)}", *(f"{other} in {_listed(those)}" for other, those in ranked[1:])]
        )
    elif not standings:
        title = f"{len(evaluation.entries)} makers, not compared in what pictures look like"
    else:
        title = "No maker is first: the best cannot be told apart from the next"
    ties = [
        f"In {standing.measure.group} {_listed([standing.best, *standing.tied])} cannot be told apart."
        for standing in standings
        if standing.tied
    ]
    return (f"{title}.", *ties)


def place_sentence(evaluation: Evaluation, measure: Measure, entry: Entry) -> str:
    """Where a maker stands between the worst and the best control of a measure."""
    score, bounds = entry.scores.get(measure.key), bounds_of(evaluation, measure)
    if score is None or math.isnan(score.value):
        return f"{measure.title}: no value."
    said = f"{measure.title} {measure.worded(score.value)}"
    if bounds is None:
        return f"{said}; no control says what it could be."
    best = f"{bounds.best} ({measure.worded(bounds.best_value)})"
    worst = f"{bounds.worst} ({measure.worded(bounds.worst_value)})"
    if bounds.worst_value == bounds.best_value:
        return f"{said}, beside {best}."
    way = (score.value - bounds.worst_value) / (bounds.best_value - bounds.worst_value)
    if way > 1:
        return f"{said}: better than every control, of which {best} is the best."
    if way < 0:
        return f"{said}: short of every control, from {worst} to {best}."
    return f"{said}: {100 * way:.0f} % of the way from {worst} to {best}."


def leading_verdicts(evaluation: Evaluation) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts of the main measures that the best of each has with the others, and all other verdicts.

    Originality is among the others: it is a condition, no contest.
    """
    best = {}
    for measure in (each for each in main_measures(evaluation) if each.is_contest):
        standing = standing_in(evaluation, measure)
        if standing is not None:
            best[measure.key] = standing.best
    leading: list[Verdict] = []
    others: list[Verdict] = []
    for measure_key in (*best, *(key for key in evaluation.measures if key not in best)):
        for verdict in evaluation.verdicts:
            if verdict.measure == measure_key:
                is_leading = best.get(measure_key) in (verdict.better, verdict.worse)
                (leading if is_leading else others).append(verdict)
    return leading, others


def interval_text(measure: Measure, score: Score) -> str:
    """A score's interval for people; "" where there is none."""
    if math.isnan(score.low) or math.isnan(score.high):
        return ""
    low, high = measure.worded(score.low), measure.worded(score.high)
    return f"{low.removesuffix(' %')} to {high}"


def _headline_of_one(evaluation: Evaluation, name: str, mains: Sequence[Measure]) -> tuple[str, ...]:
    if not evaluation.controls:
        return (f"{name}, measured alone.", "No other maker and no control says what its scores could be.")
    sentences = (place_sentence(evaluation, measure, evaluation.entries[0]) for measure in mains)
    return (f"{name} between floor and ceiling.", *sentences)


def _values(entries: Sequence[Entry], key: str) -> dict[str, float]:
    """Names and values of those that have one."""

    def pairs() -> Iterator[tuple[str, float]]:
        for entry in entries:
            score = entry.scores.get(key)
            if score is not None and not math.isnan(score.value):
                yield entry.name, score.value

    return dict(pairs())


def _best(names: Sequence[str], values: dict[str, float], measure: Measure, sign: int = 1) -> str:
    sign = sign if measure.better == HIGHER else -sign
    return max(names, key=lambda name: sign * values[name])


def _listed(words: Sequence[str]) -> str:
    """ "a, b and c", cut where there are many."""
    if len(words) > _NAMES_IN_A_SENTENCE:
        words = [*words[: _NAMES_IN_A_SENTENCE - 1], f"{len(words) - _NAMES_IN_A_SENTENCE + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
