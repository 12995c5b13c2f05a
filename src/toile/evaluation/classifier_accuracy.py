"""The classifier accuracy score: what a classifier learns from generated pictures, measured on real ones.

Ravuri & Vinyals 2019, "Classification Accuracy Score for Conditional Generative Models", section 3: a model that had
the distribution of the data would teach as much as the data. What as many real pictures teach is the ceiling.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toile.data.images import images_from_pixels
from toile.data.records import Record
from toile.errors import ToileError
from toile.evaluation.attributes import AttributeScore, score_attributes, wanted_labels
from toile.evaluation.features import observe
from toile.models.classifier import ARTICLE_TYPE, AttributeClassifier, AttributeClassifierConfig, AttributeLabels
from toile.training.classifier_objective import ClassifierObjective, ClassifierObjectiveConfig
from toile.training.draws import generator, seed_of
from toile.training.loop import LoopConfig, train

COLOUR = "base_colour"


@dataclass(frozen=True)
class AccuracyConfig:
    """The classifier that is taught, and how.

    Attributes:
        widths: its channels, see `AttributeClassifierConfig`.
        steps, batch_size, learning_rate: of its training.
        held_back: share of the pictures it does not learn from; they choose between its last and its averaged weights.
        seed: of its first weights and of the order of pictures.
    """

    widths: tuple[int, ...] = (16, 32, 64)
    steps: int = 250
    batch_size: int = 64
    learning_rate: float = 1.2e-2
    held_back: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_back < 1:
            raise ToileError(f"held_back {self.held_back:g}: above 0, below 1")


@dataclass(frozen=True)
class ClassifierAccuracy:
    """What was learnt from N pictures.

    Attributes:
        num_taught: N, of generated and of real pictures.
        scores: for each attribute the share of real held-out pictures that are named rightly: `judged` after learning
            from generated pictures, `real` after learning from real ones.
        labels: the classes.
    """

    num_taught: int
    scores: Mapping[str, AttributeScore]
    labels: AttributeLabels


@dataclass(frozen=True)
class LabelledPixels:
    """pixels: (N, H, W, 3) uint8; fields: for each picture the labels as product records have them."""

    pixels: Tensor
    fields: Sequence[Mapping[str, str]]

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.fields) or not len(self.fields):
            raise ToileError(f"{len(self.pixels)} pictures and {len(self.fields)} labels: give one of each")


def classifier_accuracy(
    generated: LabelledPixels,
    real: LabelledPixels,
    held_out: LabelledPixels,
    labels: AttributeLabels,
    config: AccuracyConfig | None = None,
) -> ClassifierAccuracy:
    """Teaches one classifier by generated pictures and another by real ones, and tests both on others that are real.

    Args:
        generated: N pictures with the labels of their prompts.
        real: N pictures of the training side.
        held_out: M pictures that neither the model nor the classifiers learnt from.
        labels: the classes, such as the judge's; only article type and colour are learnt.

    Raises:
        ToileError: not as many generated pictures as real ones, or pictures of different sizes.
    """
    if len(generated.pixels) != len(real.pixels):
        raise ToileError(
            f"{len(generated.pixels)} generated and {len(real.pixels)} real pictures: as many of each teach as much"
        )
    if len({tuple(each.pixels.shape[1:]) for each in (generated, real, held_out)}) > 1:
        raise ToileError("generated, real and held-out pictures must have one size")
    config = config or AccuracyConfig()
    kept = AttributeLabels(article_type=labels.article_type, base_colour=labels.base_colour)
    found = [taught_predictions(taught, held_out.pixels, kept, config) for taught in (generated, real)]
    scores = score_attributes(wanted_labels(kept, held_out.fields), *found)
    return ClassifierAccuracy(len(generated.pixels), scores, kept)


def taught_predictions(
    taught: LabelledPixels, held_out: Tensor, labels: AttributeLabels, config: AccuracyConfig | None = None
) -> Mapping[str, Tensor]:
    """What a classifier that learnt from some pictures finds in others.

    Args:
        taught: what it learns from.
        held_out: (M, H, W, 3) uint8.
        labels: the classes, such as the judge's; only article type and colour are learnt.

    Returns:
        for each attribute (M,) int64, its outputs.
    """
    config = config or AccuracyConfig()
    labels = AttributeLabels(article_type=labels.article_type, base_colour=labels.base_colour)
    pictures = _PicturesInMemory(taught, config)
    network = AttributeClassifierConfig(config.widths, labels=labels, trained_on=pictures.identity)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "classifier accuracy"))
        classifier = AttributeClassifier(network)
    objective = ClassifierObjective(
        classifier, pictures, ClassifierObjectiveConfig(attributes=(ARTICLE_TYPE, COLOUR)), config.seed
    )
    loop = LoopConfig(
        config.steps,
        config.batch_size,
        config.learning_rate,
        warmup_steps=max(1, config.steps // 20),
        decay_share=0.6,
        ema_widths=(0.05,),
        precision="float32",
        validate_every=0,
        save_every=0,
    )
    found: dict[str, Tensor] = {}

    def look() -> None:
        found.update(observe(classifier, held_out).predictions)

    with tempfile.TemporaryDirectory() as folder:
        for _ in train(objective, loop, Path(folder), {"pictures": pictures.identity}, export=look):
            pass
    return found


class _PicturesInMemory:
    """Pictures with labels as the objective takes them (`LabelledPictures`); some are held back at random."""

    def __init__(self, taught: LabelledPixels, config: AccuracyConfig) -> None:
        self.pixels = taught.pixels
        self.records = tuple(Record(str(number), fields) for number, fields in enumerate(taught.fields))
        order = torch.randperm(len(self.records), generator=generator(config.seed, "held back")).numpy()
        num_held_back = round(config.held_back * len(order))
        if not 0 < num_held_back < len(order):
            raise ToileError(f"{len(order)} pictures are too few to learn from and hold some back")
        self.validation, self.train = np.sort(order[:num_held_back]), np.sort(order[num_held_back:])
        self.identity = hashlib.sha256(self.pixels.numpy().tobytes()).hexdigest()

    def images(self, positions: np.ndarray) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], channels_last."""
        images = images_from_pixels(self.pixels[torch.from_numpy(positions)])
        return images.contiguous(memory_format=torch.channels_last)
