"""Training a text and an image tower to agree on which caption belongs to which picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from toile.data.captions import CaptionWriter
from toile.models.clip import CLIPModel
from toile.text.tokenizer import Tokenizer
from toile.training.draws import ShuffledOrder
from toile.training.objective import Loss
from toile.training.pictures import PictureSet

_LARGEST_LOG_SCALE = 4.6052  # ln(100), as in the paper


@dataclass(frozen=True)
class CLIPBatch:
    """images: (B, 3, H, W) in [-1, 1]; token_ids: (B, L) int64."""

    images: Tensor
    token_ids: Tensor


class CLIPObjective:
    """Symmetric cross-entropy between captions and pictures of a batch (Radford et al. 2021, fig. 3)."""

    def __init__(
        self, clip: CLIPModel, tokenizer: Tokenizer, pictures: PictureSet, seed: int, num_validation: int = 1024
    ) -> None:
        self.module, self.tokenizer, self.pictures, self.seed = clip, tokenizer, pictures, seed
        self.num_validation = min(num_validation, len(pictures.validation))
        self._writer = CaptionWriter()
        self._order = ShuffledOrder(len(pictures.train), seed)

    def batch(self, examples: range) -> CLIPBatch:
        """Pictures in shuffled order, each with a caption written for this example of the run."""
        positions = self.pictures.train[self._order.positions(examples)]
        captions = [
            self._writer.write(self.pictures.records[position], self.seed, example)
            for position, example in zip(positions, examples, strict=True)
        ]
        return CLIPBatch(self.pictures.images(positions), self.tokenizer.batch(captions)[0])

    def loss(self, batch: CLIPBatch, step: int) -> Loss:
        """Mean of both cross-entropies; "right" is the share of captions that pick their picture in the batch."""
        if self.module.training:
            with torch.no_grad():
                self.module.logit_scale.clamp_(max=_LARGEST_LOG_SCALE)
        text, images = self.module.encode_text(batch.token_ids), self.module.encode_images(batch.images)
        logits = self.module.logit_scale.exp() * (text.float() @ images.float().T)
        targets = torch.arange(len(logits), device=logits.device)
        total = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
        right = (logits.detach().argmax(1) == targets).float().mean()
        return Loss(total, {"right": right, "scale": self.module.logit_scale.detach().exp()})

    def validation_batches(self) -> Iterator[CLIPBatch]:
        """Held-out pictures with their full captions, 256 at a time."""
        for first in range(0, self.num_validation, 256):
            positions = self.pictures.validation[first : min(first + 256, self.num_validation)]
            captions = [self._writer.full(self.pictures.records[position]) for position in positions]
            yield CLIPBatch(self.pictures.images(positions), self.tokenizer.batch(captions)[0])

    def samples(self) -> None:
        """Nothing to see."""


def train_tokenizer(pictures: PictureSet, vocab_size: int, max_length: int, seed: int) -> Tokenizer:
    """A byte-pair vocabulary from captions of the training split, two written ones and the full one of each record."""
    writer = CaptionWriter()

    def captions() -> Iterator[str]:
        for position in pictures.train:
            record = pictures.records[position]
            yield writer.full(record)
            for draw in range(2):
                yield writer.write(record, seed, draw, int(position))

    return Tokenizer.train(captions(), vocab_size, max_length)
