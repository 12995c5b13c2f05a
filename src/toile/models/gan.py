"""A small conditional GAN: a generator that makes a picture of noise and words in one pass, and its discriminator.

The generator is that of Radford et al. 2016 (DCGAN) with residual blocks, and GroupNorm in place of BatchNorm, so that
a picture does not depend on the others in its batch; noise and words shift the channels of every block (as in Brock et
al. 2019, without classes). The discriminator has no norms, as the gradient penalty of Mescheder et al. 2018 wants it,
and reads the words by a projection (Miyato & Koyama 2018, eq. 4).

Shapes: B pictures, H x W their size, h x w the coarsest map (h = H / f), Z noise, D words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError
from toile.nn.blocks import ResnetBlock

_EPS = 1e-5
_SLOPE = 0.2


@dataclass(frozen=True)
class ConditionalGANConfig:
    """Size of both networks.

    Attributes:
        sample_size: height and width of the pictures, multiples of `downsampling`.
        words_dim: D.
        noise_dim: Z.
        condition_dim: width of what noise and words become together, for every block.
        block_out_channels: channels of each level, finest first; the finest has half the picture's size, every other
            half the size of the one before.
        norm_num_groups: groups of the generator's GroupNorms.
    """

    sample_size: tuple[int, int]
    words_dim: int
    noise_dim: int = 64
    condition_dim: int = 128
    block_out_channels: tuple[int, ...] = (32, 64, 128, 256)
    norm_num_groups: int = 4

    def __post_init__(self) -> None:
        widths = self.block_out_channels
        if not widths or any(channels < 1 or channels % self.norm_num_groups for channels in widths):
            raise ToileError(f"block_out_channels {widths}: multiples of norm_num_groups ({self.norm_num_groups})")
        if any(side < 1 or side % self.downsampling for side in self.sample_size):
            raise ToileError(
                f"sample_size {self.sample_size}: with {len(widths)} levels multiples of {self.downsampling}"
            )
        if min(self.noise_dim, self.words_dim, self.condition_dim) < 1:
            raise ToileError("noise_dim, words_dim and condition_dim must be at least 1")

    @property
    def downsampling(self) -> int:
        """f: how many pixels a position of the coarsest map spans in each direction."""
        return 2 ** len(self.block_out_channels)

    @property
    def coarsest(self) -> tuple[int, int]:
        """(h, w)."""
        height, width = self.sample_size
        return height // self.downsampling, width // self.downsampling


class ConditionalGAN(nn.Module):
    """The generator, which is all that making pictures needs."""

    def __init__(self, config: ConditionalGANConfig) -> None:
        super().__init__()
        self.config = config
        widths, (height, width) = config.block_out_channels[::-1], config.coarsest
        self.condition = nn.Linear(config.noise_dim + config.words_dim, config.condition_dim)
        self.start = nn.Linear(config.noise_dim + config.words_dim, widths[0] * height * width)
        self.levels = nn.ModuleList(
            ResnetBlock(
                widths[max(i - 1, 0)], channels, config.condition_dim, num_groups=config.norm_num_groups, eps=_EPS
            )
            for i, channels in enumerate(widths)
        )
        self.norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 3 * 4, 3, padding=1)
        with torch.no_grad():  # the four pixels of a position start alike, or pictures start as a chequerboard
            for values in self.conv_out.parameters():  # (Aitken et al. 2017, sec. 3.2)
                values.copy_(values[::4].repeat_interleave(4, dim=0))

    def decode(self, noise: Tensor, words: Tensor) -> Tensor:
        """Standard normal noise (B, Z) and pooled states of words (B, D) -> images (B, 3, H, W) in [-1, 1]."""
        # States of words have an unknown scale; noise has one per number.
        both = torch.cat([noise, unit_variance(words)], dim=1)
        condition = F.silu(self.condition(both))
        x = self.start(both).unflatten(1, (-1, *self.config.coarsest)).contiguous(memory_format=torch.channels_last)
        for index, level in enumerate(self.levels):
            x = level(F.interpolate(x, scale_factor=2.0, mode="nearest") if index else x, condition)
        return torch.tanh(F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), 2))


class Discriminator(nn.Module):
    """Tells real pictures with their words from all others."""

    def __init__(self, config: ConditionalGANConfig) -> None:
        super().__init__()
        widths, (height, width) = (3, *config.block_out_channels), config.coarsest
        features = widths[-1]
        self.levels = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.features = nn.Linear(features * height * width, features)
        self.score = nn.Linear(features, 1)
        self.words = nn.Linear(config.words_dim, features)

    def look(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> features (B, F)."""
        x = images
        for level in self.levels:
            x = F.leaky_relu(level(x), _SLOPE)
        return F.leaky_relu(self.features(x.flatten(1)), _SLOPE)

    def judge(self, features: Tensor, words: Tensor) -> Tensor:
        """Features (B, F) and pooled states of words (B, D) -> logits (B,), above 0 = real and what the words say."""
        projected = self.words(unit_variance(words))
        return self.score(features)[:, 0] + (features * projected).sum(dim=1) / math.sqrt(features.shape[1])

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        """(B, 3, H, W) and (B, D) -> logits (B,)."""
        return self.judge(self.look(images), words)


def unit_variance(words: Tensor) -> Tensor:
    """(B, D), each row with mean 0 and variance 1."""
    return F.layer_norm(words, words.shape[1:])
