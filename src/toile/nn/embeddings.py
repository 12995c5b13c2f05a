"""How a timestep, and the scale of guidance, become a vector.

Shapes: B batch, D embedding width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.nn.layers import Linear


def timestep_features(timesteps: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal features of timesteps, cosines first (Vaswani et al. 2017, sec. 3.5; order of Ho et al. 2020's U-Net).

    Args:
        timesteps: (B,) any real dtype, 0..999 in this family; fractions are allowed.
        dim: even width of the result.
        max_period: longest wavelength, in timesteps.

    Returns:
        (B, dim) float32.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) * (-math.log(max_period) / half)
    angles = timesteps.to(torch.float32)[:, None] * exponents.exp()[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def guidance_features(scales: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal features of guidance scales, sines first (Meng et al. 2023, sec. 3.1; order and units of Luo et al.
    2023's code, as in diffusers' `get_guidance_scale_embedding`): of 1000 (s - 1), so that no guidance is 0.

    Args:
        scales: (B,) guidance scales s, 1 = off.
        dim: even width of the result, at least 4.
        max_period: ratio of the longest wavelength and the shortest.

    Returns:
        (B, dim) float32.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=scales.device) * (-math.log(max_period) / (half - 1))
    angles = 1000 * (scales.to(torch.float32)[:, None] - 1) * exponents.exp()[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers with SiLU between them: sinusoidal features (B, in_dim) -> (B, dim).

    Args:
        in_dim: width of the features of the timestep.
        dim: width of the result.
        cond_dim: width of further features, which a matrix adds to those of the timestep; None = there are none. It
            begins at zero, so that a network that is given them works at first as it did without.
    """

    def __init__(self, in_dim: int, dim: int, cond_dim: int | None = None) -> None:
        super().__init__()
        self.linear_1 = Linear(in_dim, dim)
        self.linear_2 = Linear(dim, dim)
        if cond_dim is not None:
            self.cond_proj = Linear(cond_dim, in_dim, bias=False)
            nn.init.zeros_(self.cond_proj.weight)

    def forward(self, features: Tensor, further: Tensor | None = None) -> Tensor:
        """(1 or B, in_dim), and (1 or B, cond_dim) where the layer takes them -> (1 or B, dim)."""
        if further is not None:
            features = features + self.cond_proj(further)
        return self.linear_2(F.silu(self.linear_1(features)))
