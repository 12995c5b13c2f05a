"""Training the autoencoder: reconstruct, sharply, from latents that stay close to a unit Gaussian."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from toile.models.vae import VAE
from toile.training.draws import ShuffledOrder, example_noise
from toile.training.objective import Loss
from toile.training.pictures import PictureSet
from toile.training.placing import device_of


@dataclass(frozen=True)
class VAEObjectiveConfig:
    """Weights of the terms.

    Attributes:
        gradient_weight: of the L1 distance between horizontal and vertical differences of neighbouring pixels.
        square_weight: of the mean squared error.
        kl_weight: of the divergence, in nats per picture value.
        compile: run the network through torch.compile (needs a C++ compiler; the first step takes a minute).
    """

    gradient_weight: float = 0.5
    square_weight: float = 0.5
    kl_weight: float = 1e-3
    compile: bool = False


@dataclass(frozen=True)
class VAEBatch:
    """images: (B, 3, H, W) in [-1, 1]; noise: (B, C, h, w) for the draw from the posterior."""

    images: Tensor
    noise: Tensor


class VAEObjective:
    """L1 + squared error + image gradients + KL (Rombach et al. 2022, sec. 3.1, without the adversary)."""

    def __init__(
        self, vae: VAE, pictures: PictureSet, config: VAEObjectiveConfig, seed: int, num_validation: int = 512
    ) -> None:
        self.module = vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config, self.pictures, self.seed = config, pictures, seed
        self.num_validation = min(num_validation, len(pictures.validation))
        self._order = ShuffledOrder(len(pictures.train), seed)
        self._compiled = torch.compile(self._forward, dynamic=False) if config.compile else self._forward

    def batch(self, examples: range) -> VAEBatch:
        """Examples in shuffled order, with the posterior's noise."""
        images = self.pictures.images(self.pictures.train[self._order.positions(examples)])
        return VAEBatch(images, example_noise(self.seed, "posterior", examples, self._latent_shape(images)))

    def loss(self, batch: VAEBatch, step: int) -> Loss:
        """Weighted sum of the terms; "psnr" in dB of the clamped reconstruction, pooled over the batch."""
        images, config = batch.images, self.config
        forward = self._compiled if self.module.training else self._forward
        reconstruction, kl = forward(images, batch.noise)
        error = reconstruction.float() - images
        absolute, square = error.abs().mean(), error.square().mean()
        gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = kl.mean() / images[0].numel()
        total = absolute + config.square_weight * square + config.gradient_weight * gradient + config.kl_weight * kl
        clamped = (reconstruction.detach().float().clamp(-1, 1) - images).square().mean()
        psnr = 10.0 * torch.log10(4.0 / clamped)
        return Loss(total, {"l1": absolute.detach(), "kl": kl.detach(), "psnr": psnr})

    def validation_batches(self) -> Iterator[VAEBatch]:
        """Held-out pictures; without noise, as when latents are cached."""
        for first in range(0, self.num_validation, 64):
            images = self.pictures.images(self.pictures.validation[first : min(first + 64, self.num_validation)])
            yield VAEBatch(images, torch.zeros(len(images), *self._latent_shape(images)))

    def samples(self) -> Tensor:
        """Held-out pictures over their reconstructions: (2 * 16, 3, H, W)."""
        images = self.pictures.images(self.pictures.validation[:16]).to(device_of(self.module))
        return torch.cat([images, self.module.reconstruct(self.module.posterior(images).mean).float()])

    def _latent_shape(self, images: Tensor) -> tuple[int, int, int]:
        factor = self.module.config.downsampling
        return self.module.config.latent_channels, images.shape[2] // factor, images.shape[3] // factor

    def _forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.module.posterior(images)
        return self.module.reconstruct(posterior.sample(noise)), posterior.kl()


@torch.no_grad()
def narrow_posterior(vae: VAE, log_variance: float = -6.0) -> None:
    """Starts a fresh autoencoder with a narrow posterior; unit noise would hide the picture and the KL term win."""
    bias = vae.quant_conv.bias
    assert bias is not None
    bias[vae.config.latent_channels :] = log_variance
