"""What the answers of several people say: who is preferred, how sure that is, and how far the people agree.

What is counted are pairs of pictures, not answers: of several people's answers to one pair the majority counts, and a
pair that they are split on is a tie. Answers to one pair depend on each other, pairs do not; so the interval holds for
other pictures of the same makers, however many people answered. Where a pair was shown twice the first answer counts;
the second one says how far a person agrees with himself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toile.evaluation.agreement import (
    alpha_interval,
    decisions_needed,
    exact_interval,
    krippendorff_alpha,
    sign_test,
)
from toile.evaluation.attributes import CONFIDENCE, Share
from toile.evaluation.rating import QUESTIONS, AnswerSheet, RatingKey
from toile.evaluation.rating_page import CHOICES

A, B, SAME = "a", "b", "same"
LEFT, _, RIGHT = CHOICES


@dataclass(frozen=True)
class Tally:
    """How often the first maker won, how often it was a tie, how often it lost."""

    wins: int
    ties: int
    losses: int

    @property
    def total(self) -> int:
        """All three."""
        return self.wins + self.ties + self.losses

    @property
    def decided(self) -> Share | None:
        """Wins among those that are no ties; None if all are ties."""
        return Share(self.wins, self.wins + self.losses) if self.wins + self.losses else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The exact 95 % interval of that share, which leaves out 1/2 exactly when the sign test tells them apart."""
        return exact_interval(self.wins, self.losses) if self.wins + self.losses else None


@dataclass(frozen=True)
class QuestionResult:
    """What came out of one question.

    Attributes:
        question: its name, one of `QUESTIONS`.
        name_a, name_b: of the makers.
        pairs: of the first maker, by pairs of pictures: the majority of the people counts.
        answers: of the first maker, by single answers.
        p_value: of the exact sign test over the pairs that are no ties.
        alpha: Krippendorff's for "first maker", "second maker" and "same"; None with one person. NaN where it is not
            defined.
        alpha_low, alpha_high: its 95 % bootstrap interval over pairs.
    """

    question: str
    name_a: str
    name_b: str
    pairs: Tally
    answers: Tally
    p_value: float
    alpha: float | None
    alpha_low: float | None
    alpha_high: float | None

    @property
    def is_told(self) -> bool:
        """Whether the makers can be told apart, at 5 %."""
        return self.p_value < 1 - CONFIDENCE

    @property
    def pairs_needed(self) -> int | None:
        """About how many pairs would tell them apart four times in five, if the shares seen are the true ones.

        None if they are told apart already, or if no number that people would look at would do.
        """
        share = self.pairs.decided
        needed = None if share is None or self.is_told else decisions_needed(share.value)
        if needed is None or share is None:
            return None
        return max(self.pairs.total + 1, -(-needed * self.pairs.total // share.num_total))

    @property
    def sentence(self) -> str:
        """For people."""
        asked = QUESTIONS[self.question].lower().removesuffix("?")
        share, interval = self.pairs.decided, self.pairs.interval
        if share is None or interval is None:
            return f"{asked}: all {self.pairs.total} pairs are ties"
        low, high = interval
        ahead, value = self.name_a, share.value
        if value < 0.5:
            ahead, value, low, high = self.name_b, 1 - value, 1 - high, 1 - low
        span = f"{value:.0%} of {share.num_total} decided pairs, {low:.0%} to {high:.0%}"
        if self.is_told:
            return f"{asked}: {ahead} is preferred ({span})"
        needed = self.pairs_needed
        more = f"needs about {needed:,}" if needed else "no number that people would look at would do"
        seen = f"{self.name_a} and {self.name_b} cannot be told apart with {self.pairs.total} pairs"
        return f"{asked}: {seen}; {more} ({ahead}: {span})"


@dataclass(frozen=True)
class RaterFacts:
    """How one person answered.

    Attributes:
        name: as written on the page.
        num_answered: trials, repeated ones with them.
        consistent: for each question, of the pairs seen twice those with the same answer both times; None if there
            were none.
        left: of the answers that are not "same", to all questions, those for the left picture; far from one half, a
            side was favoured.
    """

    name: str
    num_answered: int
    consistent: Mapping[str, Share | None]
    left: Share | None


@dataclass(frozen=True)
class RatingResult:
    """All that a rating says."""

    session: str
    name_a: str
    name_b: str
    num_pairs: int
    raters: tuple[RaterFacts, ...]
    questions: tuple[QuestionResult, ...]

    def facts(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes None."""
        return {
            "session": self.session,
            "makers": [self.name_a, self.name_b],
            "pairs_on_the_page": self.num_pairs,
            "questions": [_question_facts(result) for result in self.questions],
            "raters": [_rater_facts(rater) for rater in self.raters],
        }


def read_results(key: RatingKey, sheets: Sequence[AnswerSheet]) -> RatingResult:
    """Counts.

    Args:
        key: of the page.
        sheets: of one person each, as `read_answers` checked them.
    """
    chosen = [_chosen(key, sheet) for sheet in sheets]
    return RatingResult(
        session=key.session,
        name_a=key.name_a,
        name_b=key.name_b,
        num_pairs=len(key.prompts),
        raters=tuple(_rater(key, sheet, of_one) for sheet, of_one in zip(sheets, chosen, strict=True)),
        questions=tuple(_question(key, name, chosen) for name in QUESTIONS),
    )


def _chosen(key: RatingKey, sheet: AnswerSheet) -> dict[str, dict[tuple[int, bool], str]]:
    """For each question, by pair and whether it was shown again, whom the person chose."""
    chosen: dict[str, dict[tuple[int, bool], str]] = {name: {} for name in QUESTIONS}
    for answer in sheet.answers:
        trial = key.trials[answer.trial]
        for name, of_question in chosen.items():
            side = getattr(answer, name)
            maker = SAME if side not in (LEFT, RIGHT) else A if (side == LEFT) == trial.a_left else B
            of_question[trial.pair, trial.again] = maker
    return chosen


def _rater(key: RatingKey, sheet: AnswerSheet, chosen: Mapping[str, Mapping[tuple[int, bool], str]]) -> RaterFacts:
    consistent: dict[str, Share | None] = {}
    for name, of_question in chosen.items():
        twice = [pair for pair, again in of_question if again and (pair, False) in of_question]
        same = sum(of_question[pair, False] == of_question[pair, True] for pair in twice)
        consistent[name] = Share(same, len(twice)) if twice else None
    sides = [getattr(answer, name) for answer in sheet.answers for name in QUESTIONS]
    decided = [side for side in sides if side in (LEFT, RIGHT)]
    left = Share(decided.count(LEFT), len(decided)) if decided else None
    return RaterFacts(sheet.rater.strip(), len(sheet.answers), consistent, left)


def _question(
    key: RatingKey, name: str, chosen: Sequence[Mapping[str, Mapping[tuple[int, bool], str]]]
) -> QuestionResult:
    units = [[of_one[name].get((pair, False)) for of_one in chosen] for pair in range(len(key.prompts))]
    answers = [answer for unit in units for answer in unit if answer is not None]
    leads = [unit.count(A) - unit.count(B) for unit in units if any(answer is not None for answer in unit)]
    pairs = Tally(sum(lead > 0 for lead in leads), leads.count(0), sum(lead < 0 for lead in leads))
    alpha = low = high = None
    if len(chosen) > 1:
        alpha = krippendorff_alpha(units)
        low, high = alpha_interval(units)
    return QuestionResult(
        question=name,
        name_a=key.name_a,
        name_b=key.name_b,
        pairs=pairs,
        answers=Tally(answers.count(A), answers.count(SAME), answers.count(B)),
        p_value=sign_test(pairs.wins, pairs.losses),
        alpha=alpha,
        alpha_low=low,
        alpha_high=high,
    )


def _question_facts(result: QuestionResult) -> dict[str, Any]:
    share = result.pairs.decided
    derived = {
        "share": None if share is None else share.value,
        "share_interval": result.pairs.interval,
        "is_told": result.is_told,
        "pairs_needed": result.pairs_needed,
        "sentence": result.sentence,
    }
    plain = asdict(result)
    return {name: None if value != value else value for name, value in plain.items()} | derived


def _rater_facts(rater: RaterFacts) -> dict[str, Any]:
    return {**asdict(rater), "left_share": None if rater.left is None else rater.left.value}
