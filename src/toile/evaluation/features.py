"""What the judge sees in pictures: features and attributes, in batches.

Shapes: N pictures, H x W their size, F features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from toile.data.images import images_from_pixels
from toile.errors import ToileError
from toile.models.classifier import PICTURE_CHANNELS, AttributeClassifier, AttributeClassifierConfig
from toile.weights.folder import load_component


@dataclass(frozen=True)
class Observations:
    """features: (N, F) float32; predictions: for each attribute (N,) int64, the classifier's outputs."""

    features: Tensor
    predictions: Mapping[str, Tensor]


@torch.no_grad()
def observe(classifier: AttributeClassifier, pixels: Tensor, batch_size: int = 128) -> Observations:
    """Looks at pictures in float32; the batch size changes nothing but the memory needed.

    Args:
        classifier: the judge; it is put into evaluation mode.
        pixels: (N, H, W, 3) uint8, N at least 1.
    """
    if not len(pixels):
        raise ToileError("no pictures to look at; give at least one")
    classifier.eval()
    features = [
        classifier.features(images_from_pixels(pixels[first : first + batch_size]))
        for first in range(0, len(pixels), batch_size)
    ]
    together = torch.cat(features)
    logits = classifier.logits(together)
    return Observations(together, {attribute: rows.argmax(dim=1) for attribute, rows in logits.items()})


def load_evaluator(folder: Path, data_identity: str | None = None) -> AttributeClassifier:
    """Reads a classifier (config.json and weights) in float32.

    Args:
        data_identity: of the data and split whose held-out pictures it is to judge (`PictureSet.pixels_identity`); a
            judge may have learnt from a part of their training side.

    Raises:
        ToileError: it was trained on another split, so it may have seen the held-out pictures; it looks at latents, as
            a ranker does; or the folder is unfit.
    """
    classifier = load_component(folder, AttributeClassifier, AttributeClassifierConfig)
    if (channels := classifier.config.in_channels) != PICTURE_CHANNELS:
        raise ToileError(f"{folder} looks at latents of {channels} channels: a judge must look at pictures")
    trained_on = classifier.config.trained_on
    if data_identity is not None and not same_held_out(trained_on, data_identity):
        raise ToileError(
            f"the evaluator in {folder} was trained on {trained_on or 'unknown data'}, not on the training side of "
            f"{data_identity}: it may have seen the held-out pictures; train it on this data and split"
        )
    return classifier


def same_held_out(trained_on: str, data_identity: str) -> bool:
    """Whether what a judge learnt from leaves out the held-out pictures of these data.

    Args:
        trained_on: `PictureSet.identity`, or `pixels_identity`, of the judge's training; "" where it is not known.
        data_identity: `PictureSet.pixels_identity` of the pictures it is to look at.
    """
    return re.split(":masks |:learnt |:balanced ", trained_on)[0] == data_identity
