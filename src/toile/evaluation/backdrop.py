"""What stands behind a product: white, as in a catalogue, or the grey of a photographer's studio."""

from __future__ import annotations

import torch
from torch import Tensor

# Two patches in the upper corners, where there is seldom a product: their inset and sizes, in shares of W and H.
_INSET, _SIDE = (4 / 64, 2 / 80), (10 / 64, 12 / 80)
DARKEST, BRIGHTEST = 90, 235
_MOST_COLOUR = 18  # difference of the largest and the smallest of three mean colours
_MOST_SPREAD = 14  # standard deviation within the corners


def has_grey_backdrop(pixels: Tensor) -> Tensor:
    """Whether both upper corners are plain grey: neither white nor black, of no colour, without detail.

    Args:
        pixels: (N, H, W, 3) uint8.

    Returns:
        (N,) bool.
    """
    height, width = pixels.shape[1:3]
    top, bottom = round(_INSET[1] * height), round((_INSET[1] + _SIDE[1]) * height)
    near, far = round(_INSET[0] * width), round((_INSET[0] + _SIDE[0]) * width)
    corners = torch.cat([pixels[:, top:bottom, near:far], pixels[:, top:bottom, width - far : width - near]], dim=2)
    values = corners.flatten(1, 2).float()  # (N, positions, 3)
    means, spread = values.mean(dim=1), values.std(dim=1).mean(dim=1)
    level, colour = means.mean(dim=1), means.amax(dim=1) - means.amin(dim=1)
    return (level > DARKEST) & (level < BRIGHTEST) & (colour < _MOST_COLOUR) & (spread < _MOST_SPREAD)
