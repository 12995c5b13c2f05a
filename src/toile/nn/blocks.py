"""Residual and resampling blocks shared by the autoencoder and the U-Net.

Shapes: B batch, C channels, H x W positions, D width of the time embedding.
Parameter names are those of diffusers (`norm1`, `conv1`, `time_emb_proj`, `conv_shortcut`, ...).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError
from toile.nn.doubling import DoublingConv2d, doubled
from toile.nn.layers import Conv2d, GroupNorm, Linear


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, added to the input (He et al. 2016; time added as in Ho et al. 2020).

    Args:
        in_channels, out_channels: a 1x1 convolution carries the input over when they differ.
        time_dim: D, or `None` for a block without time (the autoencoder's).
        num_groups: groups of both GroupNorms.
        eps: epsilon of both GroupNorms.
    """

    def __init__(
        self, in_channels: int, out_channels: int, time_dim: int | None = None, *, num_groups: int, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(num_groups, in_channels, eps=eps)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = Linear(time_dim, out_channels) if time_dim is not None else None
        self.norm2 = GroupNorm(num_groups, out_channels, eps=eps)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, in, H, W) and (1 or B, D), already through SiLU -> (B, out, H, W)."""
        shift = None
        if self.time_emb_proj is not None:
            assert time is not None
            shift = self.time_emb_proj(time)
        hidden = self.conv1(self.norm1(x, silu=True), shift=shift)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return self.conv2(self.norm2(hidden, silu=True), plus=x)


class Downsample(nn.Module):
    """Halves H and W by a strided 3x3 convolution.

    Args:
        pad_end_only: pad one row below and one column right instead of all round, as the autoencoder does
            (Esser et al. 2021), so that even sizes halve exactly.
    """

    def __init__(self, channels: int, *, pad_end_only: bool) -> None:
        super().__init__()
        self.pad_end_only = pad_end_only
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=0 if pad_end_only else 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.pad_end_only:
            x = F.pad(x, (0, 1, 0, 1))
        return self.conv(x)


class Upsample(nn.Module):
    """Repeats every position in both directions, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = DoublingConv2d(channels)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, *size); twice H and W when no size is given.

        Raises:
            ToileError: `size` is neither twice H and W nor one less, the sizes that `Downsample` brings to H and W.
        """
        full = 2 * x.shape[-2], 2 * x.shape[-1]
        if size is None or tuple(size) == full:
            return self.conv.doubled(x)
        if not (0 <= full[0] - size[0] <= 1 and 0 <= full[1] - size[1] <= 1):
            raise ToileError(f"{size[1]}x{size[0]} cannot be upsampled to: {full[1]}x{full[0]}, or one less each way")
        return self.conv(doubled(x)[..., : size[0], : size[1]])
