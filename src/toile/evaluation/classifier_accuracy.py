"""The classifier accuracy score: what a classifier learns from generated pictures alone, measured on real ones.

Ravuri & Vinyals 2019, "Classification Accuracy Score for Conditional Generative Models", sec. 3: a model that had the
distribution of the data would teach as much as the data. The paper trains a deep network; with a few thousand pictures
two of those differ more by luck than two makers do. So here the classifier is a logistic regression, which has one
solution and no luck, on what a network that learnt nothing sees, and on the picture itself, shrunken.

Shapes: N pictures, H x W their size, D numbers a picture, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from toile.errors import ToileError
from toile.evaluation.logistic_regression import fit_logistic
from toile.models.classifier import MISSING

SHRINK = 4
_RIDGE = 3e-3
_TINY = 1e-6


def lesson(features: Tensor, pixels: Tensor) -> Tensor:
    """What the classifier sees of pictures: features, and means over squares of `SHRINK` pixels.

    Args:
        features: (N, F), of a network that took no part in any training, best the random one.
        pixels: (N, H, W, 3) uint8.

    Returns:
        (N, D) float32.
    """
    small = [F.avg_pool2d(part.permute(0, 3, 1, 2).float() / 255, SHRINK).flatten(1) for part in pixels.split(1024)]
    return torch.cat([features, torch.cat(small)], dim=1)


@dataclass(frozen=True)
class LinearClassifier:
    """mean, spread: (D,), of what it learnt from; weights: (D, C); bias: (C,)."""

    mean: Tensor
    spread: Tensor
    weights: Tensor
    bias: Tensor

    def predict(self, lessons: Tensor) -> Tensor:
        """(N, D) -> (N,) int64, the most probable class of each."""
        return (((lessons - self.mean) / self.spread) @ self.weights + self.bias).argmax(dim=1)


def learn(lessons: Tensor, targets: Tensor, num_classes: int) -> LinearClassifier:
    """Logistic regression with a small ridge, of all pictures at once.

    Args:
        lessons: (N, D).
        targets: (N,) int64 in [0, C), `MISSING` where unknown; those do not count.
        num_classes: C.

    Raises:
        ToileError: no picture has a label.
    """
    known = targets != MISSING
    if not bool(known.any()):
        raise ToileError("no picture has a label to learn")
    lessons, targets = lessons[known], targets[known]
    mean, spread = lessons.mean(dim=0), lessons.std(dim=0, correction=0) + _TINY
    return LinearClassifier(mean, spread, *fit_logistic((lessons - mean) / spread, targets, num_classes, _RIDGE))


def accuracy(classifier: LinearClassifier, lessons: Tensor, targets: Tensor) -> float:
    """The share of pictures with a known class that it names, 0 to 1.

    Args:
        lessons: (M, D).
        targets: (M,) int64, `MISSING` where unknown.

    Raises:
        ToileError: no picture has a label.
    """
    known = targets != MISSING
    if not bool(known.any()):
        raise ToileError("no picture has a label to be tested with")
    return float((classifier.predict(lessons[known]) == targets[known]).double().mean())
