"""The sliced Wasserstein distance: one-dimensional transport along many directions (Bonneel et al. 2015, sec. 2).

It needs no covariance, so it also works with fewer pictures than features.

Shapes: N and M pictures, F features, D directions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.feature_sets import check_feature_sets

NUM_DIRECTIONS = 512
_AT_ONCE = 64


def sliced_distance(a: Tensor, b: Tensor, num_directions: int = NUM_DIRECTIONS, seed: int = 0) -> float:
    """The mean over directions of the squared Wasserstein-2 distance of the projections (Deshpande et al. 2018, eq. 3).

    At least 0, the same both ways, 0 for identical sets. A shift by c gives about |c|^2 / F: the mean over all
    directions. It grows as sets get smaller, so compare only distances between sets of the same sizes, along the same
    directions.

    Args:
        a, b: (N, F) and (M, F), at least 2 pictures each.
        num_directions: D, uniform on the sphere; at least 1.
        seed: of the directions.

    Raises:
        ToileError: widths that differ, fewer than 2 pictures, values that are not finite, or no direction.
    """
    check_feature_sets(a, b, fewest=2, measure="a sliced distance")
    if num_directions < 1:
        raise ToileError(f"{num_directions} directions; give at least 1")
    # In float32 the directions would not be of length 1 to the last digit, and sums of squares show it.
    total = torch.zeros((), dtype=torch.float64)
    for directions in random_directions(num_directions, a.shape[1], seed).split(_AT_ONCE):
        projected = [(features.double() @ directions.T).T.contiguous() for features in (a, b)]
        total += squared_wasserstein(*projected).sum()
    return float(total) / num_directions


def random_directions(num_directions: int, width: int, seed: int) -> Tensor:
    """(D, F) float64 of length 1, uniform on the sphere; a larger D only adds to them."""
    normal = torch.from_numpy(np.random.default_rng(seed).standard_normal((num_directions, width)))
    return normal / normal.norm(dim=1, keepdim=True)


def squared_wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Squared Wasserstein-2 distances of numbers: the integral of the squared gap of their quantile functions.

    Quantile functions are steps, so the integral is a sum over the steps of both, exact for all N and M.

    Args:
        a, b: (D, N) and (D, M) float64.

    Returns:
        (D,).
    """
    a, b = a.sort(dim=1).values, b.sort(dim=1).values
    num_a, num_b = a.shape[1], b.shape[1]
    if num_a == num_b:
        return (a - b).square().mean(dim=1)
    # Steps end at i / N and j / M; as multiples of 1 / (N M) they are whole numbers, so none is split by rounding.
    ends = torch.cat([torch.arange(1, num_a + 1) * num_b, torch.arange(1, num_b + 1) * num_a]).unique()
    widths = ends.diff(prepend=torch.zeros(1, dtype=ends.dtype)).double() / (num_a * num_b)
    gaps = a[:, (ends - 1) // num_b] - b[:, (ends - 1) // num_a]
    return gaps.square() @ widths
