"""What a judge of labels says of pictures: what was asked for and is there, what went wrong, and which are worst.

It needs real pictures with labels of articles, and a judge that learnt to name them; other pictures are measured
without. Shapes: N judged pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from toile.evaluation.attributes import wanted_labels
from toile.evaluation.failures import (
    NOT_CLOTHING,
    WRONG_ARTICLE,
    FailureLimits,
    Failures,
    Looks,
    count_failures,
    look_at,
)
from toile.evaluation.lab_colour import ColourTable
from toile.evaluation.measures import FAILURES
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.real_side import RealSide
from toile.evaluation.scores import Score
from toile.evaluation.silhouette import have_silhouettes, shapes_of
from toile.evaluation.suites import Prompt
from toile.evaluation.verdict import score_of_pictures
from toile.models.classifier import ARTICLE_TYPE, BASE_COLOUR, MISSING, AttributeClassifier

_LOOKED_AT = 4000  # real pictures that limits and colours are learnt from, besides the held-out ones


@dataclass(frozen=True)
class Labelled:
    """What the judge says of N pictures.

    Attributes:
        scores: by keys of measures.
        faults: for each picture what is wrong with it, for people.
    """

    scores: Mapping[str, Score]
    faults: tuple[tuple[str, ...], ...]


class LabelBench:
    """Holds pictures to the labels that their prompts ask for.

    Args:
        real: the real pictures; limits of what is normal come from them.
        judge: names attributes.
        seed: of everything that is drawn.
    """

    def __init__(self, real: RealSide, judge: AttributeClassifier, seed: int = 0) -> None:
        self.real, self.judge, self.seed = real, judge.eval(), seed

    def prepare(self) -> None:
        """Works out what real pictures say, before others are made.

        Raises:
            ToileError: they say too little for limits or colours.
        """
        _ = self._limits, self._colours

    def measure(self, pixels: Tensor, prompts: Sequence[Prompt], sets: PictureSets) -> Labelled:
        """Measures N pictures.

        Args:
            pixels: (N, H, W, 3) uint8.
            prompts: N, what each was asked to show.
            sets: of them.
        """
        shares: dict[str, np.ndarray] = {}
        looks, wanted = look_at(self.judge, pixels), self._wanted(prompts)
        for attribute, labels in wanted.items():
            shares[attribute] = hits(looks.predictions[attribute], labels)
        if self._colours is not None:
            shares["colour_lab"] = hits(self._colours.predict(pixels), wanted[BASE_COLOUR])
        failures = count_failures(self._limits, looks, wanted[ARTICLE_TYPE])
        for kind in self._kinds:
            shares[kind] = failures.flags[kind].double().numpy()
        shares[WRONG_ARTICLE] = np.where(wanted[ARTICLE_TYPE] == MISSING, math.nan, shares[WRONG_ARTICLE])
        scores = {
            key: score_of_pictures(each, True, sets.prompts) for key, each in shares.items() if not np.isnan(each).all()
        }
        return Labelled(scores, self._faults(looks, wanted, failures))

    def _faults(self, looks: Looks, wanted: Mapping[str, Tensor], failures: Failures) -> tuple[tuple[str, ...], ...]:
        labels = self.judge.config.labels
        reasons: list[list[str]] = [[] for _ in looks.features]
        for attribute in (ARTICLE_TYPE, BASE_COLOUR):
            if attribute not in wanted:
                continue
            names, found = [*labels.of(attribute), "another"], looks.predictions[attribute]
            for index in np.flatnonzero(hits(found, wanted[attribute]) == 0).tolist():
                asked, seen = names[int(wanted[attribute][index])], names[int(found[index])]
                reasons[index].append(f"asked for {asked}, looks like {seen}")
        for kind in self._kinds:
            for index in torch.nonzero(failures.flags[kind])[:, 0].tolist():
                reasons[index].append(FAILURES[kind][0])
        return tuple(map(tuple, reasons))

    def _wanted(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        return wanted_labels(self.judge.config.labels, [prompt.fields for prompt in prompts])

    @cached_property
    def _limits(self) -> FailureLimits:
        """Of the reference, which neither judge nor makers know; shapes of learnt pictures too, which are more."""
        positions = np.concatenate([self.real.reference, self._some_learnt])
        articles = wanted_labels(self.judge.config.labels, self._fields(positions))[ARTICLE_TYPE]
        shapes = shapes_of(self.real.pixels(positions))
        looks = look_at(self.judge, self.real.pixels(self.real.reference))
        return FailureLimits.of(looks, articles[: len(self.real.reference)], shapes, articles)

    @cached_property
    def _kinds(self) -> tuple[str, ...]:
        """The failures that can be told: those of silhouettes only where real pictures have some."""
        plain = have_silhouettes(self.real.pixels(self.real.reference[:500]))
        return tuple(FAILURES) if plain else (NOT_CLOTHING, WRONG_ARTICLE)

    @cached_property
    def _colours(self) -> ColourTable | None:
        """Learnt from training pictures; None where the judge knows no colours."""
        labels = self.judge.config.labels
        if BASE_COLOUR not in labels.attributes:
            return None
        positions = self._some_learnt
        wanted = wanted_labels(labels, self._fields(positions))[BASE_COLOUR]
        return ColourTable.of(self.real.pixels(positions), wanted, len(labels.of(BASE_COLOUR)))

    @property
    def _some_learnt(self) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(self.real.learnt)[:_LOOKED_AT]

    def _fields(self, positions: np.ndarray) -> list[Mapping[str, str]]:
        return [self.real.pictures.records[position].fields for position in positions.tolist()]


def hits(found: Tensor, wanted: Tensor) -> np.ndarray:
    """(N,) float64: 1 where the label that is wanted was found, 0 where another, NaN where none is wanted."""
    right = (found == wanted).double()
    return right.masked_fill(wanted == MISSING, math.nan).numpy()
