"""Training the conditional variational autoencoder: the evidence lower bound of a Gaussian picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.models.cvae import ConditionalVAE
from toile.training.caption_words import CaptionWords
from toile.training.draws import ShuffledOrder, example_noise
from toile.training.objective import Loss
from toile.training.pictures import PictureSet
from toile.training.placing import brought_to, device_of

_SAMPLES = 16
_TOGETHER = 64


@dataclass(frozen=True)
class CVAEObjectiveConfig:
    """Weights of the terms.

    Attributes:
        absolute_weight: of the mean absolute error, besides the mean squared error.
        kl_weight: of the divergence, in nats per picture value. With the squared error alone it is twice the variance
            that the bound takes pixels to have around the decoder's picture (Kingma & Welling 2014, app. C.2).
        compile: run the network through torch.compile (needs a C++ compiler; the first step takes a minute).
    """

    absolute_weight: float = 0.0
    kl_weight: float = 0.1
    compile: bool = False

    def __post_init__(self) -> None:
        if not self.absolute_weight >= 0 or not self.kl_weight >= 0:
            raise ToileError(f"absolute_weight {self.absolute_weight}, kl_weight {self.kl_weight}: 0 or more")


@dataclass(frozen=True)
class CVAEBatch:
    """images: (B, 3, H, W) in [-1, 1]; words: (B, D); noise: (B, N) for the draw from the posterior."""

    images: Tensor
    words: Tensor
    noise: Tensor


class CVAEObjective:
    """Squared error + KL (Kingma & Welling 2014, eq. 7; Sohn et al. 2015, eq. 5)."""

    def __init__(
        self,
        cvae: ConditionalVAE,
        words: CaptionWords,
        pictures: PictureSet,
        config: CVAEObjectiveConfig,
        seed: int,
        num_validation: int = 512,
    ) -> None:
        self.module = cvae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.words, self.pictures, self.config, self.seed = words, pictures, config, seed
        self.num_validation = min(num_validation, len(pictures.validation))
        self._order = ShuffledOrder(len(pictures.train), seed)
        self._compiled = torch.compile(self._forward, dynamic=False) if config.compile else self._forward

    @property
    def generator(self) -> ConditionalVAE:
        """What makes pictures of noise and words."""
        return self.module

    def batch(self, examples: range) -> CVAEBatch:
        """Examples in shuffled order, each with the words of one of its captions and the posterior's noise."""
        positions = self.pictures.train[self._order.positions(examples)]
        noise = example_noise(self.seed, "posterior", examples, (self.module.config.noise_dim,))
        return CVAEBatch(self.pictures.images(positions), self.words.written(positions, examples), noise)

    def loss(self, batch: CVAEBatch, step: int) -> Loss:
        """Weighted sum of the terms; "psnr" in dB, "kl" in nats per picture."""
        images, config = batch.images, self.config
        forward = self._compiled if self.module.training else self._forward
        made, kl = forward(images, batch.words, batch.noise)
        error = made.float() - images
        square = error.square().flatten(1).mean(dim=1)
        each = square + config.kl_weight * kl / images[0].numel()
        if config.absolute_weight:
            each = each + config.absolute_weight * error.abs().flatten(1).mean(dim=1)
        psnr = 10.0 * torch.log10(4.0 / square.detach().mean())
        return Loss(each.mean(), {"psnr": psnr, "kl": kl.detach().mean()}, each.detach())

    def validation_batches(self) -> Iterator[CVAEBatch]:
        """Held-out pictures with their full captions and fixed noise."""
        for first in range(0, self.num_validation, _TOGETHER):
            examples = range(first, min(first + _TOGETHER, self.num_validation))
            positions = self.pictures.validation[examples.start : examples.stop]
            noise = example_noise(self.seed, "validation", examples, (self.module.config.noise_dim,))
            yield CVAEBatch(self.pictures.images(positions), self.words.full(positions), noise)

    def samples(self) -> Tensor:
        """New pictures (up to 16, 3, H, W) of held-out captions, from fixed noise."""
        positions: np.ndarray = self.pictures.validation[:_SAMPLES]
        noise = example_noise(self.seed, "samples", range(len(positions)), (self.module.config.noise_dim,))
        noise, words = brought_to(device_of(self.module), (noise, self.words.full(positions)))
        return self.module.decode(noise, words).float()

    def _forward(self, images: Tensor, words: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.module.posterior(images, words)
        return self.module.decode(posterior.sample(noise), words), posterior.kl()
