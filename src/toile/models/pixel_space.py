"""The autoencoder that does nothing: pixels themselves as latents, for diffusion without a learned latent space.

It has the signature of `toile.models.vae.VAE`. Squares of p x p pixels may be stacked into channels, which loses
nothing and lets the U-Net begin p times smaller (Shi et al. 2016, "pixel shuffle"; as patches of pixels in Hoogeboom et
al. 2023, "simple diffusion", sec. 3.3).

Shapes: B batch, H x W picture, p side of a square, h = H / p, w = W / p, C = 3 p^2 channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError


@dataclass(frozen=True)
class PixelSpaceConfig:
    """How pixels are stacked.

    Attributes:
        latent_channels: C, which is 3 for pixels as they are, 12 for squares of 2 x 2, 48 for squares of 4 x 4.
    """

    latent_channels: int = 3

    def __post_init__(self) -> None:
        if self.latent_channels < 1 or 3 * self.downsampling**2 != self.latent_channels:
            raise ToileError(f"latent_channels {self.latent_channels}: pixels make 3, 12, 27, 48 ... channels")

    @property
    def downsampling(self) -> int:
        """p: how many picture pixels one latent position spans in each direction."""
        return math.isqrt(max(self.latent_channels, 0) // 3)


class PixelSpace(nn.Module):
    """Pixels with the mean and the spread of each colour taken out, so that they are on the scale noise is added at.

    Mean and spread are measured, never learned; `measure` sets them, a fresh one has 0 and 1.
    """

    def __init__(self, config: PixelSpaceConfig) -> None:
        super().__init__()
        self.config = config
        self.mean = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.std = nn.Parameter(torch.ones(3), requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.mean.dtype

    @torch.no_grad()
    def measure(self, images: Tensor) -> None:
        """Takes mean and spread of each colour from images (B, 3, H, W) in [-1, 1].

        They are rounded to bfloat16, so that they are the same numbers in all precisions that files have.
        """
        self.mean.copy_(images.mean(dim=(0, 2, 3)).bfloat16())
        self.std.copy_(images.std(dim=(0, 2, 3)).clamp_min(1e-2).bfloat16())

    def encode_images(self, images: Tensor, in_bands: bool = False) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], H and W multiples of p -> latents (B, C, h, w); nothing to do in bands."""
        factor = self.config.downsampling
        if images.shape[-1] % factor or images.shape[-2] % factor:
            raise ToileError(
                f"picture is {images.shape[-1]}x{images.shape[-2]}: width and height must be multiples of {factor}"
            )
        return F.pixel_unshuffle((images - _by_colour(self.mean)) / _by_colour(self.std), factor)

    def decode_latents(self, latents: Tensor, in_bands: bool = False) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), not clamped."""
        return F.pixel_shuffle(latents, self.config.downsampling) * _by_colour(self.std) + _by_colour(self.mean)


def _by_colour(values: Tensor) -> Tensor:
    """(3,) -> (3, 1, 1)."""
    return values[:, None, None]
