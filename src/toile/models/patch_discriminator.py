"""A discriminator that looks at patches: whether each place of a picture is real (Isola et al. 2017, sec. 3.2.2).

It has no norms, as the gradient penalty of Mescheder et al. 2018 wants it, and sees beside the picture the one it was
made of, so that it can tell what is not true to that.

Shapes: B pictures, H x W their size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError

_SLOPE = 0.2


@dataclass(frozen=True)
class PatchDiscriminatorConfig:
    """Size of the network.

    Attributes:
        block_out_channels: channels of each level, finest first; the finest has half the picture's size, every other
            half the size of the one before. Three levels see 46 pixels in each direction.
    """

    block_out_channels: tuple[int, ...] = (48, 96, 192)

    def __post_init__(self) -> None:
        if not self.block_out_channels or min(self.block_out_channels) < 1:
            raise ToileError(f"block_out_channels {self.block_out_channels}: at least one level of at least 1 channel")


class PatchDiscriminator(nn.Module):
    """Convolutions of stride 2, then one score for each patch."""

    def __init__(self, config: PatchDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = (6, *config.block_out_channels)
        self.levels = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.features = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.score = nn.Conv2d(widths[-1], 1, 1)
        # Without norms the usual start makes each layer's result three times weaker in variance, and learning slow.
        for layer in (*self.levels, self.features):
            nn.init.kaiming_normal_(layer.weight, a=_SLOPE)

    def forward(self, images: Tensor, given: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Looks at pictures (B, 3, H, W) in [-1, 1] beside what they were made of, the same shape.

        Returns:
            logits (B, h, w), above 0 = real; and what each level saw, finest first: (B, channels, H / 2, W / 2), ...
        """
        x = torch.cat([images, given], dim=1).contiguous(memory_format=torch.channels_last)
        seen = []
        for level in self.levels:
            x = F.leaky_relu(level(x), _SLOPE)
            seen.append(x)
        return self.score(F.leaky_relu(self.features(x), _SLOPE))[:, 0], seen
