"""Enlarging a picture by diffusion: a network that is told the small picture, and what it is told of it.

The small picture is enlarged smoothly first, and what is diffused is the difference from the true large one, in squares
of p x p pixels (Saharia et al. 2021, "SR3", with the residual of Li et al. 2022, "SRDiff"). While it learns, the small
picture has noise of a random level on it, and the network is told the level ("noise conditioning augmentation", Ho et
al. 2022, sec. 4.2), so that it repairs pictures which a first model made as well as it enlarges true ones.

Shapes: B batch, C = 3 p^2 channels, h x w squares, H = p h, W = p w.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

_BLUR_SIGMA = 2.0  # pixels
_BLUR_REACH = 6


class ClassNetwork(Protocol):
    """A network that is told a class as well, such as `toile.models.unet.UNet` with `num_class_embeds`."""

    def __call__(self, x_in: Tensor, timestep: Tensor, cond: Tensor, class_labels: Tensor, /) -> Tensor: ...


class UpscalingNetwork:
    """A U-Net of 2 C input channels as a network of C: the enlarged picture is added to every input.

    The order, and the level of the noise as class label, are those of diffusers' StableDiffusionUpscalePipeline.

    Args:
        network: the U-Net.
        told: (B, C, h, w), the enlarged picture in squares.
        levels: (1 or B,) int64, levels of the noise that was added to the small picture.
    """

    def __init__(self, network: ClassNetwork, told: Tensor, levels: Tensor) -> None:
        self.network, self.told, self.levels = network, told, levels

    def __call__(self, x_in: Tensor, timestep: Tensor, cond: Tensor, /) -> Tensor:
        told = torch.cat([x_in, self.told.to(x_in)], dim=1).contiguous(memory_format=torch.channels_last)
        return self.network(told, timestep, cond, self.levels)


def enlarge_smoothly(images: Tensor, height: int, width: int) -> Tensor:
    """Bicubic interpolation (Keys 1981, a = -0.5) of images (B, 3, h, w) to (B, 3, height, width)."""
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True)


def sharpen(images: Tensor, amount: float) -> Tensor:
    """Adds what a Gaussian blur of two pixels takes away (an unsharp mask): waves of f cycles per pixel become
    `1 + amount * (1 - exp(-2 * (2 pi f)^2))` times as high, which is 1 + amount from a tenth on.

    Args:
        images: (B, 3, h, w).
        amount: 0 leaves them as they are.

    Returns:
        the same shape, not clamped.
    """
    if amount == 0:
        return images
    places = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, dtype=images.dtype, device=images.device)
    weights = torch.exp(-places.square() / (2 * _BLUR_SIGMA**2))
    weights = weights / weights.sum()
    planes = F.pad(images.flatten(0, 1)[:, None], (_BLUR_REACH,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(planes, weights[None, None, None, :]), weights[None, None, :, None])
    return images + amount * (images - blurred.view_as(images))


def squares_of(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> (B, C, h, w): squares of side x side pixels become channels (Shi et al. 2016)."""
    return F.pixel_unshuffle(images, side)


def images_of_squares(squares: Tensor, side: int) -> Tensor:
    """The inverse of `squares_of`."""
    return F.pixel_shuffle(squares, side)
