"""Between a picture and a short list of numbers, its code: convolutions down to few positions, one linear layer, back.

Shapes: B pictures, H x W their size, K the width of the code, D that of what steers the blocks.
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError
from toile.nn.blocks import ResnetBlock, Upsample
from toile.nn.layers import Conv2d, GroupNorm, Linear

_EPS = 1e-5
_GROUP = 8  # channels of a group that is normalised


def smallest_size(sample_size: tuple[int, int], channels: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the last level, where every level has half the size of the one before.

    Args:
        sample_size: H, W.
        channels: of the levels, the first of which has half the size of the picture; multiples of 8.

    Raises:
        ToileError: H or W cannot be halved so often, or channels are no multiples of 8.
    """
    factor = 2 ** len(channels)
    if any(width < 1 or width % _GROUP for width in channels):
        raise ToileError(f"block_out_channels {channels}: multiples of {_GROUP}")
    if any(side < 1 or side % factor for side in sample_size):
        raise ToileError(
            f"sample_size {sample_size} (height, width): multiples of {factor}, as {len(channels)} levels halve it"
        )
    return sample_size[0] // factor, sample_size[1] // factor


class PictureEncoder(nn.Module):
    """Stem of stride 2, one residual block a level, a linear layer over all positions of the last.

    Args:
        sample_size: H, W.
        channels: of the levels, from the picture on, see `smallest_size`.
        out_dim: K.
        steer_dim: D; None for an encoder that sees nothing but the picture.
    """

    def __init__(
        self, sample_size: tuple[int, int], channels: tuple[int, ...], out_dim: int, steer_dim: int | None = None
    ) -> None:
        super().__init__()
        height, width = smallest_size(sample_size, channels)
        self.conv_in = Conv2d(3, channels[0], 3, stride=2, padding=1)
        before = (channels[0], *channels)
        self.levels = nn.ModuleList(
            ResnetBlock(before[i], own, steer_dim, num_groups=gcd(before[i], own) // _GROUP, eps=_EPS)
            for i, own in enumerate(channels)
        )
        self.norm_out = GroupNorm(channels[-1] // _GROUP, channels[-1], eps=_EPS)
        self.to_code = Linear(channels[-1] * height * width, out_dim)

    def forward(self, images: Tensor, steer: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] and (B, D) -> (B, K)."""
        x = self.conv_in(images)
        for index, level in enumerate(self.levels):
            x = level(F.avg_pool2d(x, 2) if index else x, steer)
        return self.to_code(self.norm_out(x, silu=True).flatten(1))


class PictureDecoder(nn.Module):
    """A linear layer to all positions of the last level, a residual block a level, each steered by the code as well.

    The last step doubles the size by depth to space (Shi et al. 2016), so that no block works at the full size.

    Args:
        sample_size: H, W.
        channels: of the levels, from the picture on, see `smallest_size`.
        code_dim: K.
    """

    def __init__(self, sample_size: tuple[int, int], channels: tuple[int, ...], code_dim: int) -> None:
        super().__init__()
        self.start = (channels[-1], *smallest_size(sample_size, channels))
        self.from_code = Linear(code_dim, self.start[0] * self.start[1] * self.start[2])
        self.steer = Linear(code_dim, channels[-1])
        widths = channels[::-1]
        before = (widths[0], *widths)
        self.levels = nn.ModuleList(
            ResnetBlock(before[i], own, channels[-1], num_groups=gcd(before[i], own) // _GROUP, eps=_EPS)
            for i, own in enumerate(widths)
        )
        self.upsamplers = nn.ModuleList(Upsample(own) for own in widths[:-1])
        self.norm_out = GroupNorm(widths[-1] // _GROUP, widths[-1], eps=_EPS)
        self.conv_out = Conv2d(widths[-1], 12, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        """(B, K) -> images (B, 3, H, W) in [-1, 1]."""
        x = self.from_code(code).view(-1, *self.start).contiguous(memory_format=torch.channels_last)
        steer = F.silu(self.steer(code))
        for index, level in enumerate(self.levels):
            x = level(x, steer)
            if index < len(self.upsamplers):
                x = self.upsamplers[index](x)
        return torch.tanh(F.pixel_shuffle(self.conv_out(self.norm_out(x, silu=True)), 2))
