"""What answers say: counts by hand, people who are simulated, sides that must not matter."""

from __future__ import annotations

import json

import numpy as np
import pytest

from toile.evaluation.rating import Answer, AnswerSheet, RatingKey, Trial, draw_trials
from toile.evaluation.rating_results import RatingResult, Tally, read_results

SWAP = {"left": "right", "right": "left", "same": "same"}


def key_of(trials: tuple[Trial, ...]) -> RatingKey:
    num = sum(not trial.again for trial in trials)
    return RatingKey("s", "fashion", "baseline", tuple("x" * num), trials, 0)


def sheet(key: RatingKey, rater: str, wanted: dict[tuple[int, bool], tuple[str, str]]) -> AnswerSheet:
    """Answers by pair and whether it was shown before: whom the person wants ("a", "b", "same") for each question."""
    answers = []
    for number, trial in enumerate(key.trials):
        if (trial.pair, trial.again) in wanted:
            sides = {"a": "left" if trial.a_left else "right", "b": "right" if trial.a_left else "left", "same": "same"}
            real, words = (sides[maker] for maker in wanted[trial.pair, trial.again])
            answers.append(Answer(number, real, words))
    return AnswerSheet("s", rater, tuple(answers))


@pytest.fixture
def key() -> RatingKey:
    """Four pairs, the first and the last shown again."""
    shown = [
        (0, True, False),
        (1, False, False),
        (2, True, False),
        (3, False, False),
        (3, True, True),
        (0, False, True),
    ]
    return key_of(tuple(Trial(*each) for each in shown))


def test_counts_by_hand(key: RatingKey) -> None:
    ada = sheet(
        key,
        "Ada",
        {
            (0, False): ("a", "same"),
            (1, False): ("a", "b"),
            (2, False): ("b", "same"),
            (3, False): ("same", "same"),
            (3, True): ("same", "a"),
            (0, True): ("b", "same"),
        },
    )
    result = read_results(key, [ada])
    real, words = result.questions
    assert (real.question, real.pairs, real.answers) == ("real", Tally(2, 1, 1), Tally(2, 1, 1))
    assert (words.pairs, words.pairs.decided.value, words.alpha) == (Tally(0, 3, 1), 0.0, None)
    assert real.p_value == words.p_value == 1.0
    [facts] = result.raters
    assert {name: (share.num_right, share.num_total) for name, share in facts.consistent.items()} == {
        "real": (1, 2),
        "words": (1, 2),
    }
    assert (facts.num_answered, facts.left.num_right, facts.left.num_total) == (6, 4, 6)


def test_the_majority_of_the_people_counts(key: RatingKey) -> None:
    votes = ["aabs", "abb ", "sab "]  # of three people for the four pairs; two left the last one out
    names = {"a": "a", "b": "b", "s": "same"}
    sheets = [
        sheet(key, str(who), {(pair, False): (names[v], names[v]) for pair, v in enumerate(vote) if v != " "})
        for who, vote in enumerate(votes)
    ]
    question = read_results(key, sheets).questions[0]
    assert question.pairs == Tally(2, 1, 1)
    assert question.answers == Tally(4, 2, 4)
    # Three units of three answers: aas, aba, bbb; observed 4/2 + 4/2 + 0, expected of 4 a, 4 b, 1 same: 20 + 20 + 8
    observed, expected = (4 + 4 + 0) / 2, 4 * 5 + 4 * 5 + 1 * 8
    assert question.alpha == pytest.approx(1 - 8 * observed / expected)
    assert question.alpha_low <= question.alpha <= question.alpha_high


def simulated(share: float, num_pairs: int, people: int, seed: int, ties: float = 0.0) -> RatingResult:
    """People who see the first maker's picture as better in this share of the pairs, all alike but for 10 %."""
    rng = np.random.default_rng(seed)
    key = key_of(draw_trials(num_pairs, seed, "simulated"))
    truth = np.where(rng.random(num_pairs) < ties, "same", np.where(rng.random(num_pairs) < share, "a", "b"))
    sheets = []
    for who in range(people):
        seen = np.where(rng.random(num_pairs) < 0.1, "same", truth)
        wanted = {(t.pair, t.again): (str(seen[t.pair]), "same") for t in key.trials}
        sheets.append(sheet(key, str(who), wanted))
    return read_results(key, sheets)


def test_a_clear_preference_is_said_and_a_faint_one_is_not() -> None:
    real, words = simulated(0.85, 80, 3, seed=0).questions
    assert real.is_told and real.alpha > 0.5
    assert "which looks more like a photograph of a real product: fashion is preferred (" in real.sentence
    assert not words.is_told and words.sentence == "which fits the words better: all 80 pairs are ties"
    assert "baseline is preferred (8" in simulated(0.15, 80, 3, seed=0).questions[0].sentence
    faint = simulated(0.6, 40, 1, seed=3, ties=0.5).questions[0]
    assert not faint.is_told
    assert f"cannot be told apart with 40 pairs; needs about {faint.pairs_needed:,} (" in faint.sentence
    assert faint.pairs_needed > 40


def test_the_interval_leaves_out_one_half_exactly_when_the_makers_are_told_apart() -> None:
    key = key_of(tuple(Trial(pair, True, False) for pair in range(12)))
    for decided in range(1, 13):
        for wins in range(decided + 1):
            chosen = {pair: "a" if pair < wins else "b" if pair < decided else "same" for pair in range(12)}
            answers = sheet(key, "x", {(pair, False): (maker, maker) for pair, maker in chosen.items()})
            question = read_results(key, [answers]).questions[0]
            low, high = question.pairs.interval
            assert low <= question.pairs.decided.value <= high
            assert question.is_told == (not low <= 0.5 <= high), (wins, decided)
    seven = Tally(7, 0, 1)  # Wilson's interval begins at 53 %, though coins are as uneven in 7 % of throws
    assert seven.interval == pytest.approx((0.47349, 0.99684), abs=1e-5)  # tables of Clopper & Pearson
    assert Tally(0, 3, 0).interval is None


def test_ties_make_more_pairs_needed() -> None:
    key = key_of(tuple(Trial(pair, True, False) for pair in range(40)))
    few = {(pair, False): ("a" if pair < 6 else "b" if pair < 10 else "same",) * 2 for pair in range(40)}
    many = {(pair, False): ("a" if pair < 24 else "b",) * 2 for pair in range(40)}
    needed = [read_results(key, [sheet(key, "x", each)]).questions[0].pairs_needed for each in (few, many)]
    assert needed == [4 * 194, 194]


def test_a_person_who_always_says_left_is_seen() -> None:
    key = key_of(draw_trials(40, 0, "left"))
    lefts = tuple(Answer(number, "left", "left") for number in range(len(key.trials)))
    result = read_results(key, [AnswerSheet("s", "left", lefts)])
    assert result.questions[0].pairs == Tally(20, 0, 20)
    assert not result.questions[0].is_told and result.questions[0].pairs_needed is None
    assert "no number that people would look at would do" in result.questions[0].sentence
    [facts] = result.raters
    assert facts.left.value == 1.0 and facts.consistent["real"].num_right == 0


def test_sides_do_not_matter() -> None:
    key = key_of(draw_trials(20, 0, "sides"))
    turned = key_of(tuple(Trial(trial.pair, not trial.a_left, trial.again) for trial in key.trials))
    rng = np.random.default_rng(0)
    choices = rng.choice(list(SWAP), (len(key.trials), 2)).tolist()
    answers = tuple(Answer(number, real, words) for number, (real, words) in enumerate(choices))
    swapped = tuple(Answer(answer.trial, SWAP[answer.real], SWAP[answer.words]) for answer in answers)
    one, other = (read_results(of, [AnswerSheet("s", "x", given)]) for of, given in ((key, answers), (turned, swapped)))
    assert one.questions == other.questions
    assert [rater.consistent for rater in one.raters] == [rater.consistent for rater in other.raters]


def test_facts_are_plain_json() -> None:
    result = simulated(0.85, 20, 2, seed=1)
    facts = json.loads(json.dumps(result.facts(), allow_nan=False))
    assert facts["makers"] == ["fashion", "baseline"]
    assert facts["questions"][0]["share"] == result.questions[0].pairs.decided.value
    assert facts["questions"][0]["share_interval"] == list(result.questions[0].pairs.interval)
    assert facts["questions"][1]["share_interval"] is None
    assert facts["questions"][1]["alpha"] is None  # all answers the same: not defined
