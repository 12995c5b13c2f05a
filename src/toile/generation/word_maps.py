"""Which word drew which pixels: cross-attention, averaged over a whole run (Tang et al. 2023, "DAAM").

Shapes: B pictures, L tokens, h x w latents, K heads, N positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from toile.data.images import contact_sheet
from toile.errors import ToileError
from toile.generation.attention_control import AttentionPlace
from toile.text.rows import PromptTokens

_COLD, _HOT = np.array([20, 20, 60]), np.array([255, 220, 60])
_CELL_WIDTH = 160


class WordMaps:
    """Collects cross-attention; an `Edit` that changes nothing.

    Args:
        num_pictures: B; of a doubled batch the last B rows are those with the prompts.
        size: (h, w) of the latents.
    """

    def __init__(self, num_pictures: int, size: tuple[int, int]) -> None:
        self.num_pictures = num_pictures
        self.size = size
        self._sum: Tensor | None = None
        self._count = 0

    def __call__(self, place: AttentionPlace, probabilities: Tensor) -> Tensor:
        if place.is_cross:
            positions = probabilities[-self.num_pictures :].mean(1)  # over heads: (B, N, L)
            height, width = map_size(positions.shape[1], self.size)
            maps = positions.transpose(1, 2).unflatten(2, (height, width))
            maps = F.interpolate(maps, self.size, mode="bilinear", align_corners=False)
            self._sum = maps if self._sum is None else self._sum + maps
            self._count += 1
        return probabilities

    def maps(self) -> Tensor:
        """(B, L, h, w) float32: the mean share of attention that each token got at each position; sums to 1 over L.

        Raises:
            ToileError: no cross-attention was seen.
        """
        if self._sum is None:
            raise ToileError("no attention to words was seen: the network has none, or it was not asked")
        return self._sum / self._count


def map_size(positions: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a feature map with so many positions, in a U-Net over latents of `size` (h, w).

    Raises:
        ToileError: no level of a U-Net has so many.
    """
    height, width = size
    while height * width > positions and (height > 1 or width > 1):
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    if height * width != positions:
        raise ToileError(f"{positions} positions fit no level over latents of {size[0]} x {size[1]}")
    return height, width


def map_of(maps: Tensor, tokens: PromptTokens, phrase: str) -> Tensor:
    """The map of a word or of several in a row: (L, h, w) of one picture -> (h, w), the sum over their tokens.

    Raises:
        ToileError: the words do not occur in the prompt.
    """
    return maps[list(tokens.positions_of(phrase))].sum(0)


def overlay(pixels: np.ndarray, heat: Tensor) -> Image.Image:
    """A picture (H, W, 3) uint8 with a map (h, w) over it: dark where the word was not looked at, bright where most."""
    height, width = pixels.shape[:2]
    smooth = F.interpolate(heat[None, None].float(), (height, width), mode="bicubic", align_corners=False)[0, 0]
    low, high = float(smooth.min()), float(smooth.max())
    share = ((smooth - low) / (high - low) if high > low else torch.zeros_like(smooth)).numpy()[..., None]
    grey = pixels.astype(np.float32).mean(-1, keepdims=True)
    tinted = (_COLD * (1 - share) + _HOT * share) * 0.6 + grey * 0.4
    return Image.fromarray(tinted.round().clip(0, 255).astype(np.uint8))


def map_sheet(pixels: np.ndarray, maps: Tensor, tokens: PromptTokens, phrases: Sequence[str] = ()) -> Image.Image:
    """A picture beside the overlays of its words, with the words under them.

    Args:
        pixels: (H, W, 3) uint8.
        maps: (L, h, w) of this picture.
        tokens: of its prompt.
        phrases: which words; () for every word with a letter or digit, each once.

    Raises:
        ToileError: a phrase that does not occur in the prompt.
    """
    if not phrases:
        phrases = tuple(dict.fromkeys(word.text for word in tokens.words if any(map(str.isalnum, word.text))))
    overlays = [overlay(pixels, map_of(maps, tokens, phrase)) for phrase in phrases]
    scale = max(1, round(_CELL_WIDTH / pixels.shape[1]))
    return contact_sheet([Image.fromarray(pixels), *overlays], captions=["", *phrases], scale=scale)
