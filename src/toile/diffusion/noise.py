"""Noise that belongs to an image: it depends on the image's seed and the draw's number, on nothing else.

So an image is the same alone and in a batch, first and last, and a picture can be made again from its seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toile.errors import ToileError

NUM_SEEDS = 2**64
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


class ImageNoise:
    """Standard normal noise for a batch of images.

    Args:
        seeds: one per image, 0 to 2 ** 64 - 1.
        shape: (C, H, W) of one image's latents.

    Raises:
        ToileError: no seed, or one out of range.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int]) -> None:
        if not seeds:
            raise ToileError("no seeds given; give one per image")
        self.seeds = tuple(_checked_seed(seed) for seed in seeds)
        self.shape = shape

    def draw(self, index: int) -> Tensor:
        """The index-th noise of every image.

        Args:
            index: 0 is the noise sampling starts from; samplers take 1, 2, ... for their steps.

        Returns:
            (B, C, H, W) float32 on the CPU. Draw 0 of a seed is what `torch.randn` gives after `manual_seed(seed)`.
        """
        return torch.stack([self._draw_one(seed, index) for seed in self.seeds])

    def _draw_one(self, seed: int, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(draw_seed(seed, index))
        return torch.randn(self.shape, generator=generator)


def noise_between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Noise on the way from one to another along the sphere (slerp, Shoemake 1985), so that it keeps its spread.

    Args:
        first, second: (B, C, H, W) standard normal.
        share: 0 gives the first, 1 the second, bit for bit.

    Returns:
        (B, C, H, W).
    """
    if share in (0, 1):
        return second if share else first
    one, other = first.flatten(1).double(), second.flatten(1).double()
    cosine = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))
    angle = torch.acos(cosine.clamp(-1, 1))
    weights = torch.stack([torch.sin((1 - share) * angle), torch.sin(share * angle)]) / torch.sin(angle)
    straight = torch.tensor([[1 - share], [share]], dtype=torch.float64)
    weights = torch.where(angle < 1e-6, straight, weights)  # equal noise: every way between is straight
    mixed = weights[0][:, None] * one + weights[1][:, None] * other
    return mixed.to(first.dtype).view_as(first)


def draw_seed(seed: int, index: int) -> int:
    """Seed of an image's index-th draw: the index-th output of SplitMix64 started at the image's seed.

    PyTorch's CPU generator looks only at the lower 32 bits of what it is given, so seeds that differ by a multiple of
    2 ** 32 share draw 0 (later draws differ).

    Args:
        seed: of the image, 0 to 2 ** 64 - 1.
        index: 0 gives the seed itself.

    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
    """
    if index < 0:
        raise ToileError(f"noise draw {index} does not exist; the first is 0")
    if index == 0:
        return seed
    z = (seed + index * _GOLDEN_GAMMA) % NUM_SEEDS
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % NUM_SEEDS
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % NUM_SEEDS
    return z ^ (z >> 31)


def image_seeds(seed: int, num_images: int) -> list[int]:
    """Seeds of several images asked for with one: seed, seed + 1, ... and after 2 ** 64 - 1 on from 0.

    Args:
        seed: of the first image, 0 to 2 ** 64 - 1.
        num_images: at least 1.

    Raises:
        ToileError: seed or number out of range.
    """
    if num_images < 1:
        raise ToileError(f"number of images is {num_images}; give at least 1")
    first = _checked_seed(seed)
    return [(first + i) % NUM_SEEDS for i in range(num_images)]


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < NUM_SEEDS:
        raise ToileError(f"seed is {seed!r}; allowed: whole numbers from 0 to {NUM_SEEDS - 1}")
    return seed


def add_salt_and_pepper(images: Tensor, share: Tensor, noise: Tensor) -> Tensor:
    """Makes a share of the positions white or black, all colours at once and either with the same chance.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        share: (B,), between 0 and 1.
        noise: (B, 1, H, W) standard normal; its quantiles decide, so a position that a small share hits a larger one
            hits too.

    Returns:
        (B, 3, H, W).
    """
    quantiles, share = torch.special.ndtr(noise), share.view(-1, 1, 1, 1)
    black, white = quantiles < share / 2, quantiles >= 1 - share / 2
    return images.masked_fill(black, -1.0).masked_fill(white, 1.0)


def salt_and_pepper_share(images: Tensor, mean_square: float) -> Tensor:
    """The share of positions at which salt and pepper change each picture as much as Gaussian noise of this variance.

    Black or white in place of x is a squared error of 1 + x^2 on average, so the share is
    `mean_square / (1 + mean(x^2))`.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        mean_square: expected squared error of a value, 0 or more.

    Returns:
        (B,), between 0 and 1.

    Raises:
        ToileError: salt and pepper at every position would change a picture less.
    """
    share = mean_square / (1.0 + images.square().flatten(1).mean(dim=1))
    if mean_square < 0 or bool((share > 1).any()):
        raise ToileError(f"mean square {mean_square:g}: salt and pepper change these pictures by 0 to 1 + mean(x^2)")
    return share
