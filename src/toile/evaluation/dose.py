"""Dose and response: what pictures do when the weight of one word goes up and down.

Shapes: W weights in ascending order, N pictures of each (the same seeds), H x W pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toile.data.images import images_from_pixels
from toile.errors import ToileError
from toile.models.classifier import ARTICLE_TYPE, AttributeClassifier


@dataclass(frozen=True)
class DoseResponse:
    """What a word's weight did.

    Attributes:
        weights: W, ascending.
        change: for each weight the mean absolute difference of pixels, 0 to 255, from the pictures of weight 1.
        attribute, label: what the judge was asked for; None without a judge that knows the word.
        probability: for each weight the judge's mean probability of that label; () without one.
        same_type: for each weight the share of pictures of which the judge names the same article type as of weight 1.
        spearman: mean over the N seeds of the rank correlation of weight and probability; None without a judge. It is
            taken seed by seed, so no picture's probability outweighs another's.
    """

    weights: tuple[float, ...]
    change: tuple[float, ...]
    attribute: str | None = None
    label: str | None = None
    probability: tuple[float, ...] = ()
    same_type: tuple[float, ...] = ()
    spearman: float | None = None


def label_of(classifier: AttributeClassifier, word: str) -> tuple[str, str] | None:
    """The (attribute, label) of a judge that a word names; None if it knows none of this name."""
    wanted = word.casefold()
    for attribute in classifier.attributes:
        for label in classifier.config.labels.of(attribute):
            if label.casefold() in (wanted, f"{wanted}s"):
                return attribute, label
    return None


@torch.inference_mode()
def measure_dose(
    pictures: Sequence[Tensor],
    weights: Sequence[float],
    classifier: AttributeClassifier | None = None,
    word: str = "",
) -> DoseResponse:
    """Measures what a weight did.

    Args:
        pictures: W tensors (N, H, W, 3) uint8.
        weights: W of them, ascending, one of them 1.
        classifier: a judge that saw real pictures only; None to measure the change of pixels alone.
        word: the one that was weighted.

    Raises:
        ToileError: weights that do not ascend, or without 1.
    """
    if list(weights) != sorted(set(weights)) or 1 not in weights:
        raise ToileError(f"weights are {list(weights)}; they must ascend, and 1 must be among them")
    plain = list(weights).index(1)
    change = tuple(float((each.float() - pictures[plain].float()).abs().mean()) for each in pictures)
    named = label_of(classifier, word) if classifier is not None else None
    if classifier is None or named is None:
        return DoseResponse(tuple(weights), change)
    attribute, label = named
    logits = [classifier(images_from_pixels(each)) for each in pictures]
    index = classifier.config.labels.of(attribute).index(label)
    odds = torch.stack([log_odds(each[attribute], index) for each in logits])  # (W, N)
    types = torch.stack([each[ARTICLE_TYPE].argmax(-1) for each in logits])
    correlations = [spearman(torch.tensor(weights, dtype=torch.float64), of_seed) for of_seed in odds.T]
    return DoseResponse(
        tuple(weights),
        change,
        attribute,
        label,
        tuple(odds.sigmoid().mean(1).tolist()),
        tuple((types == types[plain]).float().mean(1).tolist()),
        sum(correlations) / len(correlations),
    )


def log_odds(logits: Tensor, index: int) -> Tensor:
    """log(p / (1 - p)) of one output: (N, outputs) -> (N,) float64, which differ where probabilities round to 1."""
    logits = logits.double()
    others = torch.arange(logits.shape[1], device=logits.device) != index
    return logits[:, index] - logits[:, others].logsumexp(1)


def spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation of two rows of n numbers, -1 to 1; equal values share their mean rank; 0 if one is constant."""
    ranks = [_ranks(values) - (len(values) - 1) / 2 for values in (first, second)]
    length = (ranks[0].square().sum() * ranks[1].square().sum()).sqrt()
    return float((ranks[0] * ranks[1]).sum() / length) if float(length) > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    smaller = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    return smaller.double() + (equal.double() - 1) / 2
