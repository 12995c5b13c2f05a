"""Training a plain autoencoder of pictures and, beside it, a map from words to its codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.models.text_autoencoder import TextAutoencoder
from toile.training.caption_words import CaptionWords
from toile.training.draws import ShuffledOrder
from toile.training.objective import Loss
from toile.training.pictures import PictureSet
from toile.training.placing import device_of
from toile.training.separability import (
    MISSING,
    class_labels,
    nearest_class_accuracy,
    separability,
    total_variance,
)

_SAMPLES = 16
_SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True)
class TextAutoencoderObjectiveConfig:
    """Weights of the terms.

    Attributes:
        absolute_weight: of the mean absolute error, besides the mean squared error.
        text_weight: of the error of codes made of words, as a share of the variance of the pictures' codes.
        compile: run the network through torch.compile (needs a C++ compiler; the first step takes a minute).
    """

    absolute_weight: float = 0.0
    text_weight: float = 0.1
    compile: bool = False

    def __post_init__(self) -> None:
        if not self.absolute_weight >= 0 or not self.text_weight >= 0:
            raise ToileError(f"absolute_weight {self.absolute_weight}, text_weight {self.text_weight}: 0 or more")


@dataclass(frozen=True)
class TextAutoencoderBatch:
    """images: (B, 3, H, W) in [-1, 1]; words: (B, D); labels: (B,) int64 classes, for the log only."""

    images: Tensor
    words: Tensor
    labels: Tensor


class TextAutoencoderObjective:
    """Squared error of the picture, and squared error of the code of its words, which the codes do not learn from."""

    def __init__(
        self,
        autoencoder: TextAutoencoder,
        words: CaptionWords,
        pictures: PictureSet,
        config: TextAutoencoderObjectiveConfig,
        seed: int,
        num_validation: int = 512,
    ) -> None:
        self.module = autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.words, self.pictures, self.config, self.seed = words, pictures, config, seed
        self.num_validation = min(num_validation, len(pictures.validation))
        self._labels = class_labels(pictures.records)
        self._order = ShuffledOrder(len(pictures.train), seed)
        self._compiled = torch.compile(self._forward, dynamic=False) if config.compile else self._forward

    @property
    def generator(self) -> TextAutoencoder:
        """What makes pictures of words."""
        return self.module

    def batch(self, examples: range) -> TextAutoencoderBatch:
        """Examples in shuffled order, each with the words of one of its captions."""
        positions = self.pictures.train[self._order.positions(examples)]
        return self._batch_of(positions, self.words.written(positions, examples))

    def loss(self, batch: TextAutoencoderBatch, step: int) -> Loss:
        """Weighted sum of the terms; "psnr" in dB, "text" the error of the words' codes as a share of the variance.

        Held out also how far apart classes are, see `separability_parts`.
        """
        images, config = batch.images, self.config
        forward = self._compiled if self.module.training else self._forward
        made, codes, text_codes = forward(images, batch.words)
        error, target = made.float() - images, codes.detach().float()
        square = error.square().flatten(1).mean(dim=1)
        variance = (target - target.mean(dim=0)).square().mean().clamp_min(_SMALLEST_VARIANCE)
        text = (text_codes.float() - target).square().mean(dim=1) / variance
        each = square + config.text_weight * text
        if config.absolute_weight:
            each = each + config.absolute_weight * error.abs().flatten(1).mean(dim=1)
        psnr = 10.0 * torch.log10(4.0 / square.detach().mean())
        parts = {"psnr": psnr, "text": text.detach().mean()}
        if not self.module.training:
            parts |= separability_parts(target.cpu(), text_codes.detach().float().cpu(), batch.labels.cpu())
        return Loss(each.mean(), parts, each.detach())

    def validation_batches(self) -> Iterator[TextAutoencoderBatch]:
        """Held-out pictures with their full captions, all at once, because classes need many codes."""
        positions = self.pictures.validation[: self.num_validation]
        yield self._batch_of(positions, self.words.full(positions))

    def samples(self) -> Tensor:
        """Pictures (up to 16, 3, H, W) of the codes of held-out captions."""
        positions: np.ndarray = self.pictures.validation[:_SAMPLES]
        words = self.words.full(positions).to(device_of(self.module))
        return self.module.decode(words.new_empty(len(positions), 0), words).float()

    def _batch_of(self, positions: np.ndarray, words: Tensor) -> TextAutoencoderBatch:
        return TextAutoencoderBatch(self.pictures.images(positions), words, self._labels[torch.from_numpy(positions)])

    def _forward(self, images: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes = self.module.encode_images(images)
        return self.module.decode_code(codes), codes, self.module.encode_words(words)


def separability_parts(codes: Tensor, text_codes: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """How far apart the codes of pictures and of their words are, for the log.

    Args:
        codes, text_codes: (N, K).
        labels: (N,) int64 classes, -1 where unknown.

    Returns:
        "text_spread": variance of the texts' codes over that of the pictures'; and if two classes are known twice:
        "picture_class", "text_class": share of each nearest to the mean of their class; "text_as_picture": share of
        the texts' codes nearest to the mean of the pictures of their class; "picture_between", "text_between": share
        of the variance that is between classes.
    """
    spread = total_variance(text_codes) / max(total_variance(codes), _SMALLEST_VARIANCE)
    parts = {"text_spread": spread}
    counts = labels[labels != MISSING].unique(return_counts=True)[1]
    if int((counts > 1).sum()) >= 2:
        pictures, texts = separability(codes, labels), separability(text_codes, labels)
        parts |= {
            "picture_class": pictures.accuracy,
            "text_class": texts.accuracy,
            "text_as_picture": nearest_class_accuracy(text_codes, codes, labels),
            "picture_between": pictures.share_between,
            "text_between": texts.share_between,
        }
    return {name: torch.tensor(value) for name, value in parts.items()}
