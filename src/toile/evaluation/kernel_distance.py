"""The kernel distance, KID: an unbiased squared maximum mean discrepancy (Binkowski et al. 2018, sec. 4).

Shapes: N and M pictures, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toile.evaluation.feature_sets import check_feature_sets

_BLOCK = 2048


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The squared maximum mean discrepancy with the kernel `k(x, y) = (x.y / F + 1)^3`, unbiased (eq. 4).

    `mean of k(a_i, a_j), i != j  +  mean of k(b_i, b_j), i != j  -  2 mean of k(a_i, b_j)`, over all pairs, in float64.
    Being unbiased, it has the same expectation for all N and M, and for two sets of one distribution that is 0: then it
    falls below 0 about as often as above. Of a set and itself it is therefore below 0 too. The same both ways.

    Args:
        a, b: (N, F) and (M, F), at least 2 pictures each; fewer than F are enough.

    Raises:
        ToileError: widths that differ, fewer than 2 pictures, or values that are not finite.
    """
    check_feature_sets(a, b, fewest=2, measure="a kernel distance")
    between = _sum_between(a, b) / (len(a) * len(b))
    return _mean_within(a) + _mean_within(b) - 2.0 * between


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """(n, F), (m, F) -> (n, m) float64."""
    inner = (a.double() @ b.double().T).div_(a.shape[1]).add_(1.0)
    return inner.square().mul_(inner)


def _sum_between(a: Tensor, b: Tensor) -> float:
    total = torch.zeros((), dtype=torch.float64)
    for rows in a.split(_BLOCK):
        for columns in b.split(_BLOCK):
            total += _kernel(rows, columns).sum()
    return float(total)


def _mean_within(features: Tensor) -> float:
    """Mean kernel of all pairs of two different pictures."""
    total = torch.zeros((), dtype=torch.float64)
    blocks = features.split(_BLOCK)
    for index, rows in enumerate(blocks):
        own = _kernel(rows, rows)
        total += own.sum() - own.diagonal().sum()
        for columns in blocks[index + 1 :]:
            total += 2.0 * _kernel(rows, columns).sum()
    return float(total) / (len(features) * (len(features) - 1))
