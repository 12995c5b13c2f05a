"""The scores that a model card shows, read from an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toile.errors import ToileError
from toile.evaluation.card_text import plain
from toile.evaluation.scores import EVALUATION_FORMAT, Measure
from toile.schema import build_config
from toile.weights.files import read_json

_AUDITS = ("Copies:", "No sign of copies:")  # how `CopyAudit.sentence` begins
_OF_COMPARISONS = "Each of up to"  # how the note begins that is of several makers, which a card does not compare


@dataclass(frozen=True)
class ModelScores:
    """The scores of one model out of an evaluation.

    Attributes:
        entries: name, protocol id and scores (as `Score.facts` writes them) of each way the model was used.
        controls: the same of floors and ceilings.
        meanings: name of each control, and what it shows.
        num_pictures: that scores are of, where nothing else is said.
        measures: by key.
        minutes: that the evaluation took.
        notes: of all these.
        audits: name, and what the audit for copies found, of each way the model was used.
    """

    entries: tuple[tuple[str, str, Mapping[str, Any]], ...]
    controls: tuple[tuple[str, str, Mapping[str, Any]], ...]
    meanings: tuple[tuple[str, str], ...]
    num_pictures: int
    measures: Mapping[str, Measure]
    minutes: float
    notes: tuple[str, ...]
    audits: tuple[tuple[str, str], ...]


def read_scores(path: Path, model_hash: str) -> ModelScores:
    """The scores of a model in an evaluation.json.

    Args:
        path: as `toile evaluate` writes it.
        model_hash: of the model's content.

    Raises:
        ToileError: no such file, another format, damaged, or no scores of this model without a LoRA in it.
    """
    facts = read_json(path)
    if facts.get("format") != EVALUATION_FORMAT:
        raise ToileError(f"{path} is no evaluation of the format {EVALUATION_FORMAT}; toile evaluate writes it")
    try:
        measures = {key: build_config(Measure, each, f"{path}: measures") for key, each in facts["measures"].items()}
        # A LoRA's entry has the hash of its base, but what it makes is not the base's.
        mine = [
            entry
            for entry in facts["entries"]
            if entry["facts"].get("hash") == model_hash and not entry["settings"].get("loras")
        ]
        notes = [("", str(note)) for note in facts["notes"]]
        notes += [("", f"Not measured: {sentence}") for sentence in facts.get("left_out", ())]
        notes += [(str(entry["name"]), str(note)) for entry in mine for note in entry["notes"]]
        scores = ModelScores(
            entries=tuple(_entry(entry) for entry in mine),
            controls=tuple(_entry(entry) for entry in facts["controls"]),
            meanings=tuple((str(entry["name"]), str(entry["meaning"])) for entry in facts["controls"]),
            num_pictures=int(facts["protocol"]["num_pictures"]),
            measures=measures,
            minutes=float(facts["minutes"]),
            notes=tuple(note for _, note in notes if not note.startswith((*_AUDITS, _OF_COMPARISONS))),
            audits=tuple((name, note) for name, note in notes if note.startswith(_AUDITS)),
        )
        names = ", ".join(str(entry["name"]) for entry in facts["entries"])
    except ToileError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ToileError(f"{path} is damaged: {type(error).__name__} at {str(error)[:80]!r}; evaluate again") from error
    if not scores.entries:
        raise ToileError(
            f"{path} has no scores of these weights alone, but of {plain(names)}; run toile evaluate on the model"
        )
    return scores


def _entry(entry: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    for score in entry["scores"].values():
        for name in ("value", "low", "high"):
            if score[name] is not None:
                float(score[name])
        int(score["n"])
    return str(entry["name"]), str(entry["protocol_id"]), entry["scores"]
