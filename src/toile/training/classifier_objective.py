"""Training to name the attributes of real product pictures: the judge of generated ones, and what leads to them.

Shapes: B examples, C channels and H x W size of what is looked at: pictures, or their latents.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from toile.data.records import Record
from toile.errors import ToileError
from toile.models.classifier import (
    ARTICLE_TYPE,
    BASE_COLOUR,
    FIELDS,
    MISSING,
    AttributeClassifier,
    AttributeClassifierConfig,
    AttributeLabels,
)
from toile.training.draws import ShuffledOrder, generator, seed_of, spread_places
from toile.training.made_latents import MadeConfig, MadeLatents
from toile.training.objective import Loss
from toile.training.pictures import PictureSet

_WHITE = 1.0


@dataclass(frozen=True)
class ClassifierObjectiveConfig:
    """What is told apart, and how pictures are varied.

    Attributes:
        num_article_types: the most frequent types have an output each, all others share one.
        min_label_count: labels of the other attributes on fewer training pictures are left out.
        attributes: what is told apart, of the names in `toile.models.classifier.FIELDS`.
        max_shift: pictures move by up to so many pixels each way, white comes in; latents by so many positions, their
            edges are repeated. Never flipped or recoloured: the direction of a shoe and the shade of a shirt are part
            of what is judged.
        max_noise: largest standard deviation of normal noise that is added; each example's is drawn evenly from 0 on.
            Gradients of what has learnt with noise follow what can be seen (Kaur et al. 2019, "Are perceptually-aligned
            gradients a general property of robust classifiers?").
        made: latents that a model made, to learn from besides; only where latents are looked at.
        compile: run the network through torch.compile (needs a C++ compiler; the first step takes a minute).
    """

    num_article_types: int = 40
    min_label_count: int = 20
    attributes: tuple[str, ...] = (ARTICLE_TYPE, BASE_COLOUR, "gender", "usage")
    max_shift: int = 3
    max_noise: float = 0.0
    compile: bool = False
    made: MadeConfig = MadeConfig()

    def __post_init__(self) -> None:
        if ARTICLE_TYPE not in self.attributes or not set(self.attributes) <= set(FIELDS):
            raise ToileError(
                f"attributes {', '.join(self.attributes) or 'none'}: {ARTICLE_TYPE} and any of {', '.join(FIELDS)}"
            )
        if self.num_article_types < 1 or self.min_label_count < 1 or self.max_shift < 0:
            raise ToileError("num_article_types and min_label_count must be at least 1, max_shift at least 0")
        if not 0 <= self.max_noise < math.inf:
            raise ToileError(f"max_noise {self.max_noise:g}: a number from 0 on")


@dataclass(frozen=True)
class ClassifierBatch:
    """inputs: images (B, 3, H, W) in [-1, 1], or scaled latents (B, C, H, W); targets: (B, attributes) int64, `MISSING`
    where the record says nothing, and of what was made; opinions: of that, for each attribute (B, classes) float32
    probabilities, 0 for all else; none where nothing was made.
    """

    inputs: Tensor
    targets: Tensor
    opinions: Mapping[str, Tensor] = field(default_factory=dict)


class ClassifierObjective:
    """Sum over attributes of the mean cross-entropy over the pictures that have a label, and over what was made.

    Args:
        classifier: what learns.
        pictures: with their records.
        config: how.
        seed: of all that is drawn.
        num_validation: held-out pictures, at most.
        latents: (N, C, H, W) of every picture, to be looked at instead; None for the pictures themselves.
        made: what to learn from besides.
    """

    def __init__(
        self,
        classifier: AttributeClassifier,
        pictures: PictureSet,
        config: ClassifierObjectiveConfig,
        seed: int,
        num_validation: int = 1024,
        latents: Tensor | None = None,
        made: MadeLatents | None = None,
    ) -> None:
        self.module = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config, self.pictures, self.latents, self.seed = config, pictures, latents, seed
        self.num_validation = min(num_validation, len(pictures.validation))
        self._targets = classifier.targets([record.fields for record in pictures.records])
        self._order = ShuffledOrder(len(pictures.train), seed)
        self._made = made
        self._order_of_made = ShuffledOrder(0 if made is None else len(made.latents), seed_of(seed, "made"))
        self._compiled = torch.compile(self.module, dynamic=False) if config.compile else self.module

    def batch(self, examples: range) -> ClassifierBatch:
        """Training pictures in shuffled order, each moved a little, under noise of its own."""
        positions = self.pictures.train[self._order.positions(examples)]
        inputs, targets = self._inputs(positions), self._targets[torch.from_numpy(positions)]
        opinions = {} if self._made is None else self._put_made(examples, inputs, targets, self._made)
        largest = self.config.max_shift
        shifts = [
            torch.randint(-largest, largest + 1, (2,), generator=generator(self.seed, "shift", example))
            for example in examples
        ]
        inputs = shifted(inputs, torch.stack(shifts), None if self.latents is not None else _WHITE)
        if self.config.max_noise:
            inputs = inputs + self.config.max_noise * self._noise(examples, inputs)
        return ClassifierBatch(inputs, targets, opinions)

    def _put_made(self, examples: range, inputs: Tensor, targets: Tensor, made: MadeLatents) -> dict[str, Tensor]:
        """Puts what was made in the place of some of the examples, and returns the opinions of that."""
        places = torch.tensor(spread_places(examples)) < self.config.made.share
        rows = torch.from_numpy(self._order_of_made.positions(examples))[places]
        inputs[places], targets[places] = made.latents[rows].float(), MISSING
        opinions = {name: torch.zeros(len(inputs), found.shape[1]) for name, found in made.opinions.items()}
        for name, found in made.opinions.items():
            opinions[name][places] = found[rows].float()
        return opinions

    def _inputs(self, positions: np.ndarray) -> Tensor:
        if self.latents is None:
            return self.pictures.images(positions)
        return self.latents[torch.from_numpy(positions)].float().contiguous(memory_format=torch.channels_last)

    def _noise(self, examples: range, like: Tensor) -> Tensor:
        """Like a batch, of standard deviations between 0 and 1."""
        rows = []
        for example in examples:
            source = generator(self.seed, "noise", example)
            rows.append(torch.rand((), generator=source) * torch.randn(like.shape[1:], generator=source))
        return torch.stack(rows).contiguous(memory_format=torch.channels_last)

    def loss(self, batch: ClassifierBatch, step: int) -> Loss:
        """Cross-entropy in nats, summed over attributes; the share named rightly for each attribute."""
        outputs = self._compiled(batch.inputs) if self.module.training else self.module(batch.inputs)
        terms, parts = [], {}
        for index, attribute in enumerate(self.module.attributes):
            logits, targets = outputs[attribute].float(), batch.targets[:, index]
            known = (targets != MISSING).sum().clamp(min=1)
            terms.append(F.cross_entropy(logits, targets, ignore_index=MISSING, reduction="sum") / known)
            if attribute in batch.opinions:
                opinions = batch.opinions[attribute]
                terms.append(-(opinions * logits.log_softmax(1)).sum() / opinions.sum().clamp(min=1))
            parts[attribute] = (logits.detach().argmax(dim=1) == targets).sum() / known
        return Loss(torch.stack(terms).sum(), parts)

    def validation_batches(self) -> Iterator[ClassifierBatch]:
        """Held-out pictures where they are."""
        for first in range(0, self.num_validation, 128):
            positions = self.pictures.validation[first : min(first + 128, self.num_validation)]
            yield ClassifierBatch(self._inputs(positions), self._targets[torch.from_numpy(positions)])

    def samples(self) -> None:
        """A classifier makes no pictures."""
        return None


def build_classifier(
    config: AttributeClassifierConfig, pictures: PictureSet, objective: ClassifierObjectiveConfig
) -> AttributeClassifier:
    """A fresh classifier for a set of pictures; labels the config leaves out are found in the training side."""
    labels = config.labels
    if labels == AttributeLabels():
        records = (pictures.records[int(position)] for position in np.unique(pictures.train))
        labels = find_labels(records, objective.attributes, objective.num_article_types, objective.min_label_count)
        if missing := set(objective.attributes) - set(labels.attributes):
            few = objective.min_label_count
            raise ToileError(f"{', '.join(sorted(missing))}: no label is on {few} training pictures")
    return AttributeClassifier(replace(config, labels=labels, trained_on=pictures.identity))


def find_labels(
    records: Iterable[Record], attributes: Sequence[str], num_article_types: int, min_count: int
) -> AttributeLabels:
    """The labels in use, most frequent first, equally frequent ones by name.

    Args:
        records: of the training side.
        attributes: which of them are looked for.
        num_article_types: keep so many article types.
        min_count: keep labels of the other attributes that so many records have.
    """
    counts: dict[str, Counter[str]] = {attribute: Counter() for attribute in attributes}
    for record in records:
        for attribute, count in counts.items():
            if FIELDS[attribute] in record.fields:
                count[record.fields[FIELDS[attribute]]] += 1
    ranked = {
        attribute: sorted(count.items(), key=lambda item: (-item[1], item[0])) for attribute, count in counts.items()
    }
    kept = {attribute: tuple(label for label, n in labels if n >= min_count) for attribute, labels in ranked.items()}
    kept[ARTICLE_TYPE] = tuple(label for label, _ in ranked[ARTICLE_TYPE][:num_article_types])
    return AttributeLabels(**kept)


def shifted(inputs: Tensor, shifts: Tensor, fill: float | None) -> Tensor:
    """Moves each picture, or its latents, by whole positions.

    Args:
        inputs: (B, C, H, W).
        shifts: (B, 2) int64, positions down and to the right.
        fill: what comes in where nothing was; None for what is next to it.

    Returns:
        (B, C, H, W), channels_last.
    """
    height, width = inputs.shape[2:]
    margin = int(shifts.abs().max())
    sides = (margin, margin, margin, margin)
    padded = F.pad(inputs, sides, mode="replicate") if fill is None else F.pad(inputs, sides, value=fill)
    moved = [
        picture[:, margin - down : margin - down + height, margin - right : margin - right + width]
        for picture, (down, right) in zip(padded, shifts.tolist(), strict=True)
    ]
    return torch.stack(moved).contiguous(memory_format=torch.channels_last)
