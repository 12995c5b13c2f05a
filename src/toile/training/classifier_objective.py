"""Training the judge of generated pictures: name the attributes of real product pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

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
from toile.training.draws import ShuffledOrder, generator
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
        max_shift: pictures move by up to so many pixels each way, white comes in. Never flipped or recoloured: the
            direction of a shoe and the shade of a shirt are part of what is judged.
        compile: run the network through torch.compile (needs a C++ compiler; the first step takes a minute).
    """

    num_article_types: int = 40
    min_label_count: int = 20
    attributes: tuple[str, ...] = (ARTICLE_TYPE, BASE_COLOUR, "gender", "usage")
    max_shift: int = 3
    compile: bool = False

    def __post_init__(self) -> None:
        if ARTICLE_TYPE not in self.attributes or not set(self.attributes) <= set(FIELDS):
            raise ToileError(
                f"attributes {', '.join(self.attributes) or 'none'}: {ARTICLE_TYPE} and any of {', '.join(FIELDS)}"
            )
        if self.num_article_types < 1 or self.min_label_count < 1 or self.max_shift < 0:
            raise ToileError("num_article_types and min_label_count must be at least 1, max_shift at least 0")


@dataclass(frozen=True)
class ClassifierBatch:
    """images: (B, 3, H, W) in [-1, 1]; targets: (B, attributes) int64, `MISSING` where the record says nothing."""

    images: Tensor
    targets: Tensor


class ClassifierObjective:
    """Sum over attributes of the mean cross-entropy over the pictures that have a label."""

    def __init__(
        self,
        classifier: AttributeClassifier,
        pictures: PictureSet,
        config: ClassifierObjectiveConfig,
        seed: int,
        num_validation: int = 1024,
    ) -> None:
        self.module = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config, self.pictures, self.seed = config, pictures, seed
        self.num_validation = min(num_validation, len(pictures.validation))
        self._targets = classifier.targets([record.fields for record in pictures.records])
        self._order = ShuffledOrder(len(pictures.train), seed)
        self._compiled = torch.compile(self.module, dynamic=False) if config.compile else self.module

    def batch(self, examples: range) -> ClassifierBatch:
        """Training pictures in shuffled order, each moved a little."""
        positions = self.pictures.train[self._order.positions(examples)]
        images, largest = self.pictures.images(positions), self.config.max_shift
        shifts = [
            torch.randint(-largest, largest + 1, (2,), generator=generator(self.seed, "shift", example))
            for example in examples
        ]
        return ClassifierBatch(shift_images(images, torch.stack(shifts)), self._targets[torch.from_numpy(positions)])

    def loss(self, batch: ClassifierBatch, step: int) -> Loss:
        """Cross-entropy in nats, summed over attributes; the share named rightly for each attribute."""
        outputs = self._compiled(batch.images) if self.module.training else self.module(batch.images)
        terms, parts = [], {}
        for index, attribute in enumerate(self.module.attributes):
            logits, targets = outputs[attribute].float(), batch.targets[:, index]
            known = (targets != MISSING).sum().clamp(min=1)
            terms.append(F.cross_entropy(logits, targets, ignore_index=MISSING, reduction="sum") / known)
            parts[attribute] = (logits.detach().argmax(dim=1) == targets).sum() / known
        return Loss(torch.stack(terms).sum(), parts)

    def validation_batches(self) -> Iterator[ClassifierBatch]:
        """Held-out pictures where they are."""
        for first in range(0, self.num_validation, 128):
            positions = self.pictures.validation[first : min(first + 128, self.num_validation)]
            yield ClassifierBatch(self.pictures.images(positions), self._targets[torch.from_numpy(positions)])

    def samples(self) -> None:
        """A classifier makes no pictures."""
        return None


def build_classifier(
    config: AttributeClassifierConfig, pictures: PictureSet, objective: ClassifierObjectiveConfig
) -> AttributeClassifier:
    """A fresh classifier for a set of pictures; labels the config leaves out are found in the training side."""
    labels = config.labels
    if labels == AttributeLabels():
        records = (pictures.records[int(position)] for position in pictures.train)
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


def shift_images(images: Tensor, shifts: Tensor) -> Tensor:
    """Moves each picture by whole pixels; white comes in where nothing was.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        shifts: (B, 2) int64, pixels down and to the right.

    Returns:
        (B, 3, H, W), channels_last.
    """
    height, width = images.shape[2:]
    margin = int(shifts.abs().max())
    padded = F.pad(images, (margin, margin, margin, margin), value=_WHITE)
    moved = [
        picture[:, margin - down : margin - down + height, margin - right : margin - right + width]
        for picture, (down, right) in zip(padded, shifts.tolist(), strict=True)
    ]
    return torch.stack(moved).contiguous(memory_format=torch.channels_last)
