"""How far made pictures are from real ones of the same words: a kernel distance between small copies of both.

Shapes: N pairs of a real and a made picture with the same words, F numbers a picture, D numbers of words.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_SHORTER_SIDE = 8


def thumbnails(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [-1, 1] -> (N, F), their means over squares, about 8 of them along the shorter side."""
    return F.avg_pool2d(images.float(), max(1, min(images.shape[2:]) // _SHORTER_SIDE)).flatten(1)


def picture_word_distance(real: Tensor, made: Tensor, words: Tensor) -> Tensor:
    """Maximum mean discrepancy of (picture, words) between real and made pictures (Gretton et al. 2012, eq. 5).

    The kernel is the product of a Gaussian of the pictures and one of the words, so a picture is compared with those
    of like words: what is real but not what the words say is far away too. Each Gaussian is as wide as the median
    distance (of the real pictures, of the words). The estimate is the biased one, which is never negative; with equal
    real pictures and words its bias is nearly the same for all that is made.

    Args:
        real, made: (N, F), row i of both has the words of row i.
        words: (N, D).

    Returns:
        a scalar, 0 if and only if all rows are equal; its square is the discrepancy's.
    """
    like_words = _gaussian(words, words, _median_distance(words))
    width = _median_distance(real)
    like = _gaussian(real, real, width) + _gaussian(made, made, width)
    across = _gaussian(real, made, width)
    square = (like_words * (like - across - across.T)).mean()
    return square.clamp_min(0.0).sqrt()


def mean_distance(rows: Tensor) -> Tensor:
    """Mean distance between two different rows of (N, F), N at least 2, as root of the mean square over F: a scalar."""
    distances = torch.cdist(rows, rows) / rows.shape[1] ** 0.5
    return distances.sum() / (len(rows) * (len(rows) - 1))


def _gaussian(one: Tensor, other: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(one, other).square() / (2 * width.square()))


def _median_distance(rows: Tensor) -> Tensor:
    """Between different rows; 1 where more than half of them are equal."""
    first, second = torch.triu_indices(len(rows), len(rows), offset=1)
    if not len(first):
        return torch.ones(())
    median = torch.cdist(rows, rows)[first, second].median()
    return torch.where(median > 0, median, torch.ones_like(median))
