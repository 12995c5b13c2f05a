"""What is measured, and what came out: a value with its interval, the protocol it belongs to, and who it is of."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

EVALUATION_FORMAT = "toile-evaluation/1"
LOWER, HIGHER = "lower", "higher"
REALISM, FAITHFULNESS, VARIETY, ORIGINALITY = "realism", "faithfulness", "variety", "originality"
GROUPS: Mapping[str, str] = {
    REALISM: "How real: are these pictures of the kind that people took?",
    FAITHFULNESS: "How faithful: do they show what the words say?",
    VARIETY: "How varied: are they as different from each other as real ones?",
    ORIGINALITY: "How original: are they new, or copies of what was learnt from?",
}


@dataclass(frozen=True)
class Measure:
    """Something that is measured.

    Attributes:
        key: its name in files; one that belongs to a feature network ends with the network's name in brackets.
        title: for people.
        meaning: a sentence for someone who has never met it.
        group: one of `GROUPS`.
        better: "lower" or "higher".
        is_share: values are between 0 and 1 and shown as percentages.
        is_contest: whether the best value makes its maker better. Where noise varies most and blur copies least,
            nobody is called better: such values are read beside those of real pictures.
    """

    key: str
    title: str
    meaning: str
    group: str
    better: str
    is_share: bool = False
    is_contest: bool = True

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        return f"{self.better} is better" if self.is_contest else "no contest: read beside real pictures"

    @property
    def arrow(self) -> str:
        """Which way is better, as a sign; "" for what is no contest."""
        if not self.is_contest:
            return ""
        return "\N{UPWARDS ARROW}" if self.better == HIGHER else "\N{DOWNWARDS ARROW}"

    def worded(self, value: float) -> str:
        """A value for people: shares in percent, others with three or four digits."""
        if math.isnan(value):
            return "-"
        return f"{100 * value:.1f} %" if self.is_share else f"{value:.4g}"


@dataclass(frozen=True)
class Score:
    """What came out of a measure.

    Attributes:
        value: over all pictures, or the mean over disjoint sets of them.
        low, high: its 95 % interval; NaN where there is none.
        n: pictures (or pairs, or prompts) it is of.
        sets: the values of the disjoint sets, each with prompts and seeds of its own; () for a mean over pictures.
        each: (N,) float64, the values of the pictures, or their means by prompt where prompts come several times; NaN
            where there is none. None for a value of sets.
        is_share: values of pictures are 0 or 1.
    """

    value: float
    low: float
    high: float
    n: int
    sets: tuple[float, ...] = ()
    each: np.ndarray | None = field(default=None, repr=False, compare=False)
    is_share: bool = False

    def facts(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes None, and values of pictures are left out."""
        plain = {"value": self.value, "low": self.low, "high": self.high}
        return {**{name: None if math.isnan(value) else value for name, value in plain.items()}, "n": self.n} | (
            {"sets": list(self.sets)} if self.sets else {}
        )


@dataclass(frozen=True)
class Protocol:
    """All that scores must have in common to be compared.

    Attributes:
        pictures: identity of the data and of what is held out.
        suite: which prompts, for people.
        prompts: SHA-256 of their texts and of the pictures they are of.
        num_pictures, num_sets: how many are judged, in so many disjoint sets with seeds of their own.
        num_reference: real pictures that distances are measured to.
        division_seed: of the division of held-out pictures into prompts and reference.
        picture_seed: of the first picture; the next ones have the following numbers.
        size: width x height at which pictures are judged.
        networks: for each feature network the SHA-256 of its weights and how it prepares pictures; copies and
            variety are measured in the first.
    """

    pictures: str
    suite: str
    prompts: str
    num_pictures: int
    num_sets: int
    num_reference: int
    division_seed: int
    picture_seed: int
    size: str
    networks: Mapping[str, tuple[str, str]]

    @property
    def id(self) -> str:
        """Eight hexadecimal digits; scores of different ids cannot be compared."""
        return _digest({**asdict(self), "networks": list(self.networks.items())})

    def id_with(self, settings: Mapping[str, Any]) -> str:
        """The id, and four more digits for how one model was used (sampler, steps, guidance, precision)."""
        return f"{self.id}-{_digest(settings)[:4]}"


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class WorstCase:
    """A picture that is among the worst of its maker.

    Attributes:
        index: its number among the maker's pictures.
        reason: what is wrong with it, such as "article type: asked for Handbags, judged as Tshirts".
    """

    index: int
    reason: str


@dataclass(frozen=True)
class Entry:
    """One maker of pictures and its scores.

    Attributes:
        name: as it was given.
        is_control: real pictures, reconstructions, copies or shuffled prompts, which say what scores can be.
        meaning: of a control, what it shows; "" else.
        settings: sampler, steps, guidance, precision, or whatever its pictures depend on.
        facts: what else is known of it: architecture, recipe, hash of its weights, seconds a picture.
        protocol_id: beside every score.
        scores: by keys of measures.
        worst: worst cases first.
        step: of a training, when it is one stage of a run; None else.
        notes: what a reader must know, a sentence each.
    """

    name: str
    scores: Mapping[str, Score]
    protocol_id: str
    is_control: bool = False
    meaning: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    worst: tuple[WorstCase, ...] = ()
    step: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What can be said of two makers in one measure.

    Attributes:
        measure: its key.
        better, worse: names; in the order of the table when they cannot be told apart.
        is_told: whether they can be told apart.
        difference, low, high: how much better in the measure's own units, with its 95 % interval.
        num_needed: about how many pictures would tell them apart, where they cannot be now; None if more never would.
        sentence: for people.
    """

    measure: str
    better: str
    worse: str
    is_told: bool
    difference: float
    low: float
    high: float
    num_needed: int | None
    sentence: str


@dataclass(frozen=True)
class Evaluation:
    """Everything that a page, a table or a model card shows.

    Attributes:
        protocol: of all scores.
        measures: what was measured, by key, in the order they are shown.
        entries: makers, in the order they were given.
        controls: floors and ceilings.
        verdicts: of all pairs of makers.
        captions: prompts of the pictures, of which every maker made one each.
        notes: what a reader must know of the whole.
        minutes: that it took, with the making of pictures.
        left_out: what was not measured, and why, a sentence each.
    """

    protocol: Protocol
    measures: Mapping[str, Measure]
    entries: tuple[Entry, ...]
    controls: tuple[Entry, ...]
    verdicts: tuple[Verdict, ...]
    captions: tuple[str, ...]
    notes: tuple[str, ...] = ()
    minutes: float = 0.0
    left_out: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format": EVALUATION_FORMAT,
            "protocol": {"id": self.protocol.id, **asdict(self.protocol)},
            "measures": {key: asdict(measure) for key, measure in self.measures.items()},
            "entries": [_entry_facts(entry) for entry in self.entries],
            "controls": [_entry_facts(entry) for entry in self.controls],
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "notes": list(self.notes),
            "left_out": list(self.left_out),
            "minutes": self.minutes,
        }


def _entry_facts(entry: Entry) -> dict[str, Any]:
    names = ("name", "is_control", "meaning", "settings", "facts", "protocol_id", "step", "notes")
    return {
        **{name: getattr(entry, name) for name in names},
        "scores": {key: score.facts() for key, score in entry.scores.items()},
        "worst": [asdict(case) for case in entry.worst],
    }
