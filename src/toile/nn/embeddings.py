"""How a timestep becomes a vector.

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


class TimestepEmbedding(nn.Module):
    """Two linear layers with SiLU between them: sinusoidal features (B, in_dim) -> (B, dim)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = Linear(in_dim, dim)
        self.linear_2 = Linear(dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))
