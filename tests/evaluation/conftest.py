"""Fixtures of the evaluation tests: an evaluation of made-up but plausible scores, and pictures that go with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from toile.evaluation.page_pictures import CopyPair, CopyPairs, Pictures, PromptRow
from toile.evaluation.scores import (
    FAITHFULNESS,
    HIGHER,
    LOWER,
    ORIGINALITY,
    REALISM,
    VARIETY,
    Entry,
    Evaluation,
    Measure,
    Protocol,
    Score,
    Verdict,
    WorstCase,
)

MEASURES = {
    measure.key: measure
    for measure in (
        Measure("frechet[shape]", "Frechet distance", "How far apart two clouds of pictures lie.", REALISM, LOWER),
        Measure("kid[shape]", "Kernel distance", "The same, right on average at any number.", REALISM, LOWER),
        Measure("precision[shape]", "Precision", "Share that lies among real pictures.", REALISM, HIGHER, True),
        Measure("type", "Article type", "Share whose article is the one asked for.", FAITHFULNESS, HIGHER, True),
        Measure("colour", "Colour", "Share whose colour is the one asked for.", FAITHFULNESS, HIGHER, True),
        Measure("recall[shape]", "Recall", "Share of real pictures that it reaches.", VARIETY, HIGHER, True),
        Measure("diversity", "Diversity of a prompt", "Distance between a prompt's pictures.", VARIETY, HIGHER),
        Measure("copies", "Copies", "Share nearer to training than real ones.", ORIGINALITY, LOWER, True, False),
    )
}
NAMES = (
    "toile 12 M",
    "pixel diffusion",
    "conditional GAN",
    "CVAE, convolutional",
    "CVAE, linear",
    "plain autoencoder",
)
CONTROLS = ("real pictures", "reconstructions", "copies", "shuffled prompts")
# What a maker of rank 0 (best) to 1 (worst) gets, and what the controls get.
_ENDS = {
    "frechet[shape]": (24.2, 131.0, (6.1, 11.8, 7.0, 6.1)),
    "kid[shape]": (0.0131, 0.151, (-0.0002, 0.0044, 0.0002, -0.0002)),
    "precision[shape]": (0.81, 0.22, (0.93, 0.88, 0.95, 0.93)),
    "type": (0.86, 0.31, (0.92, 0.90, 0.93, 0.07)),
    "colour": (0.64, 0.22, (0.66, 0.63, 0.67, 0.11)),
    "recall[shape]": (0.58, 0.04, (0.92, 0.85, 0.61, 0.92)),
    "diversity": (0.71, 0.08, (0.78, 0.74, 0.77, 0.78)),
    "copies": (0.012, 0.004, (0.0098, 0.0131, 1.0, 0.0098)),
}


def _protocol() -> Protocol:
    networks = {"shape": ("ab12" * 16, "60x80, -1 to 1")}
    return Protocol("products", "held out", "0", 2000, 4, 3000, 0, 1, "60x80", networks)


def _score(measure: Measure, value: float, wide: float = 0.03) -> Score:
    half = wide * abs(value) + 0.0005
    return Score(value, value - half, value + half, 2000)


def _verdict(measure: Measure, one: Entry, other: Entry) -> Verdict:
    """Told apart where intervals do not meet; equal values leave the order of the table."""
    sign = 1 if measure.better == HIGHER else -1
    first, second = one.scores[measure.key], other.scores[measure.key]
    if sign * (first.value - second.value) < 0:
        (one, first), (other, second) = (other, second), (one, first)
    difference = abs(first.value - second.value)
    half = (first.high - first.low + second.high - second.low) / 2
    is_told = difference > half
    sentence = (
        f"{one.name} is better than {other.name} in {measure.title} by {measure.worded(difference)} "
        f"({measure.worded(difference - half)} to {measure.worded(difference + half)})."
        if is_told
        else f"{one.name} and {other.name} cannot be told apart in {measure.title} at n = 2,000; needs about 9,000."
    )
    needed = None if is_told else 9000
    return Verdict(
        measure.key, one.name, other.name, is_told, difference, difference - half, difference + half, needed, sentence
    )


def _evaluation_of(names: tuple[str, ...] = NAMES, controls: tuple[str, ...] = CONTROLS, num: int = 24) -> Evaluation:
    """Makers in the order of how good they are; the first two share the first place in colour."""
    entries = []
    for rank, name in enumerate(names):
        share = rank / max(1, len(NAMES) - 1)
        scores = {}
        for key, (best, worst, _) in _ENDS.items():
            # The second is nearly as good as the first in colour.
            place = 0.01 if key == "colour" and rank == 1 else share
            scores[key] = _score(MEASURES[key], best + (worst - best) * place)
        worst_cases = (WorstCase(3, "article type: asked for Handbags, judged as Tshirts"), WorstCase(5, "no clothing"))
        entries.append(Entry(name, scores, f"{_protocol().id}-{rank:04d}", settings={"steps": 20}, worst=worst_cases))
    kept = tuple(
        Entry(
            name,
            {key: _score(MEASURES[key], ends[2][row]) for key, ends in _ENDS.items()},
            f"{_protocol().id}-c{row}",
            is_control=True,
            meaning=f"what {name} get",
        )
        for row, name in enumerate(controls)
    )
    pairs = [(one, other) for row, one in enumerate(entries) for other in entries[row + 1 :]]
    verdicts = tuple(_verdict(measure, *pair) for measure in MEASURES.values() for pair in pairs)
    captions = tuple(f"navy blue casual shirt number {number} for men" for number in range(num))
    return Evaluation(
        _protocol(), MEASURES, tuple(entries), kept, verdicts, captions, ("Captions are templates.",), minutes=17.3
    )


def _pictures_of(evaluation: Evaluation, height: int = 80, width: int = 60) -> Pictures:
    """Flat pictures, each of a colour of its own, and some of everything that a page may show."""
    names = [entry.name for entry in (*evaluation.entries, *evaluation.controls)]
    draws = np.random.default_rng(0)

    def flat(count: int) -> np.ndarray:
        return np.broadcast_to(draws.integers(0, 256, (count, 1, 1, 3), dtype=np.uint8), (count, height, width, 3))

    pairs = [CopyPair(index, flat(1)[0], 0.01 * index) for index in range(3)]
    return Pictures(
        made={name: flat(len(evaluation.captions)) for name in names},
        real=flat(len(evaluation.captions)),
        nearest={name: CopyPairs(pairs, f"{name}: 21 of 2,000 are nearer than they should be.") for name in names},
        variety={name: [PromptRow("a red dress", flat(5)), PromptRow("a green hat", flat(5))] for name in names},
        stages={names[0]: [(500, Image.new("RGB", (300, 90), "red")), (1000, Image.new("L", (300, 90), 200))]},
    )


@dataclass(frozen=True)
class Plausible:
    """What the tests of pages and tables are made of."""

    measures: dict[str, Measure]
    names: tuple[str, ...]
    controls: tuple[str, ...]

    def evaluation(
        self, names: tuple[str, ...] = NAMES, controls: tuple[str, ...] = CONTROLS, num: int = 24
    ) -> Evaluation:
        return _evaluation_of(names, controls, num)

    def pictures(self, evaluation: Evaluation) -> Pictures:
        return _pictures_of(evaluation)


@pytest.fixture(scope="session")
def plausible() -> Plausible:
    """Six makers in the order of how good they are, and four controls."""
    return Plausible(MEASURES, NAMES, CONTROLS)
