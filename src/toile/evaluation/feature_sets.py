"""What all measures refuse in sets of features, and how they go through pairs of pictures in bounded memory.

Shapes: N and M pictures, F features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from toile.errors import ToileError

MOST_PAIRS = 2**22
"""Pairs of pictures that are looked at together: 32 MB of float64."""
# Squares of float64 cancel to about this share of their sum; what is smaller cannot be told from a copy.
_ROUNDING = 1e-13


def check_feature_sets(a: Tensor, b: Tensor, fewest: int, measure: str) -> None:
    """Refuses features that no measure can use.

    Args:
        a, b: should be (N, F) and (M, F).
        fewest: of pictures that the measure needs.
        measure: what it is called, with its article, for the message.

    Raises:
        ToileError: not (pictures, features), widths that differ, too few pictures, or values that are not finite.
    """
    for features in (a, b):
        if features.ndim != 2 or not features.shape[1]:
            raise ToileError(f"features are {tuple(features.shape)}; give (pictures, features)")
    if a.shape[1] != b.shape[1]:
        raise ToileError(f"features of width {a.shape[1]} and {b.shape[1]} cannot be compared")
    for features in (a, b):
        if len(features) < fewest:
            raise ToileError(f"{len(features)} pictures are too few for {measure}; give at least {fewest}")
        if not bool(features.isfinite().all()):
            raise ToileError("features hold NaN or infinity; the pictures or the evaluator's weights are damaged")


def row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Slices of rows that together with all columns are at most `MOST_PAIRS` pairs, at least one row each."""
    step = max(1, MOST_PAIRS // max(1, num_columns))
    for first in range(0, num_rows, step):
        yield slice(first, min(first + step, num_rows))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances of all pairs, float64; exactly 0 for copies.

    Args:
        a: (n, F) float64, best centred near the origin, where least is lost to rounding.
        b: (m, F) float64.

    Returns:
        (n, m).
    """
    scale = a.square().sum(1)[:, None] + b.square().sum(1)
    squares = torch.addmm(scale, a, b.T, alpha=-2.0)
    return squares.masked_fill_(squares <= _ROUNDING * scale, 0.0).sqrt_()
