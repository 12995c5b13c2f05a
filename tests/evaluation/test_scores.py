"""Protocols have ids, and what is written is plain JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from toile.evaluation.scores import HIGHER, REALISM, Entry, Evaluation, Measure, Protocol, Score, WorstCase

PROTOCOL = Protocol("data", "held-out", "words", 2000, 5, 1640, 0, 0, "64x80", {"attributes": ("abc", "as they are")})


def test_an_id_changes_with_everything_that_scores_depend_on() -> None:
    changes = [
        {"pictures": "other"},
        {"num_pictures": 1999},
        {"num_sets": 4},
        {"num_reference": 1},
        {"division_seed": 1},
        {"picture_seed": 1},
        {"size": "32x32"},
        {"suite": "reports"},
        {"prompts": "other words"},
        {"networks": {"attributes": ("abd", "as they are")}},
        {"networks": {"attributes": ("abc", "resized")}},
        {"networks": {"words": ("xyz", "as they are"), "attributes": ("abc", "as they are")}},
        {"networks": {"attributes": ("abc", "as they are"), "words": ("xyz", "as they are")}},
    ]
    ids = {replace(PROTOCOL, **change).id for change in changes}  # type: ignore[arg-type]
    assert len(ids | {PROTOCOL.id}) == len(changes) + 1
    assert PROTOCOL.id == replace(PROTOCOL).id


def test_settings_of_a_model_change_only_the_end_of_its_id() -> None:
    ids = {PROTOCOL.id_with({"steps": steps}) for steps in (10, 20)}
    assert len(ids) == 2 and {one.partition("-")[0] for one in ids} == {PROTOCOL.id}


def test_facts_are_plain_json_without_nan() -> None:
    measure = Measure("share", "share", "How often.", REALISM, HIGHER, is_share=True)
    scores = {"share": Score(0.5, math.nan, math.nan, 2, sets=(0.4, 0.6))}
    entry = Entry("a", scores, PROTOCOL.id_with({}), worst=(WorstCase(3, "why"),))
    evaluation = Evaluation(PROTOCOL, {"share": measure}, (entry,), (), (), ("a caption",))
    facts = json.loads(json.dumps(evaluation.facts(), allow_nan=False))
    assert facts["entries"][0]["scores"]["share"] == {
        "value": 0.5,
        "low": None,
        "high": None,
        "n": 2,
        "sets": [0.4, 0.6],
    }
    assert facts["entries"][0]["worst"] == [{"index": 3, "reason": "why"}]
    assert facts["protocol"]["id"] == PROTOCOL.id


def test_shares_are_worded_in_percent() -> None:
    assert Measure("a", "a", "", REALISM, HIGHER, is_share=True).worded(0.1234) == "12.3 %"
    assert Measure("a", "a", "", REALISM, HIGHER).worded(1.23456) == "1.235"
    assert Measure("a", "a", "", REALISM, HIGHER).worded(math.nan) == "-"
