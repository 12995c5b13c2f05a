"""Who is first is what the verdicts say, and controls say where one stands."""

from __future__ import annotations

import dataclasses
from typing import Any

from toile.evaluation.scores import Score
from toile.evaluation.standing import bounds_of, headline, leading_verdicts, main_measures, place_sentence


def test_the_headline_says_who_is_first_in_what(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    assert headline(evaluation)[0] == ("toile 12 M is first in realism, faithfulness and variety.")
    untold = tuple(dataclasses.replace(found, is_told=False) for found in evaluation.verdicts)
    title, *ties = headline(dataclasses.replace(evaluation, verdicts=untold))
    assert title.startswith("No maker is first")
    assert ties[0] == "In realism toile 12 M, pixel diffusion, conditional GAN and 3 more cannot be told apart."
    assert [measure.key for measure in main_measures(evaluation)] == [
        "frechet[shape]",
        "type",
        "recall[shape]",
        "copies",
    ]
    assert len(main_measures(evaluation, 2)) == 7


def test_verdicts_of_the_best_come_first_and_none_is_lost(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    leading, others = leading_verdicts(evaluation)
    assert len(leading) == 3 * 5 and {id(v) for v in (*leading, *others)} == {id(v) for v in evaluation.verdicts}
    assert [found.measure for found in leading[:5]] == ["frechet[shape]"] * 5
    assert all("toile 12 M" in (found.better, found.worse) for found in leading)


def test_bounds_are_the_controls_worst_and_best_in_a_measure(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    lower, higher = (
        bounds_of(evaluation, plausible.measures["copies"]),
        bounds_of(evaluation, plausible.measures["type"]),
    )
    assert lower and (lower.worst, lower.worst_value, lower.best) == ("copies", 1.0, "real pictures")
    assert higher and (higher.worst, higher.best, higher.best_value) == ("shuffled prompts", "copies", 0.93)
    best = dataclasses.replace(evaluation.entries[0], scores={"type": Score(0.99, 0.98, 1.0, 2000)})
    assert "better than every control" in place_sentence(evaluation, plausible.measures["type"], best)
