"""CLIP score: how near each picture is to its words, in the opinion of a CLIP (Hessel et al. 2021).

Shapes: N pictures, one caption each; P width of the space that both share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.feature_networks import fitted
from toile.model_files.clip_pair import ClipPair

WEIGHT = 2.5
"""w of equation 1."""

PUBLISHED_PREFIX = "A photo depicts "
"""What the paper puts before every caption; a CLIP that learnt other captions, as ours, does without."""


@dataclass(frozen=True, eq=False)
class ClipScores:
    """cosines: (N,) float32, of each picture's and its caption's place, -1 to 1."""

    cosines: Tensor

    @property
    def scores(self) -> Tensor:
        """(N,) float32, 0 to 2.5: `w * max(cos, 0)` (Hessel et al. 2021, eq. 1)."""
        return WEIGHT * self.cosines.clamp(min=0.0)


@torch.no_grad()
def clip_scores(
    pair: ClipPair, pixels: Tensor, captions: Sequence[str], prefix: str = "", batch_size: int = 64
) -> ClipScores:
    """Compares pictures with their words; the batch size changes nothing but the memory needed.

    Args:
        pair: the judge, from `load_clip_pair`: of `find_judge("words")`, or of a folder that the user has.
        pixels: (N, H, W, 3) uint8; of another size than the tower's they are scaled to fit and padded with white.
        captions: N; words over the length of the text tower are cut.
        prefix: put before every caption, such as `PUBLISHED_PREFIX`.

    Raises:
        ToileError: not one caption a picture, or none at all.
    """
    if len(pixels) != len(captions) or not len(captions):
        raise ToileError(f"{len(pixels)} pictures and {len(captions)} captions: give one of each, at least one")
    height, width = pair.height_width
    found = []
    for first in range(0, len(captions), batch_size):
        some = slice(first, first + batch_size)
        images = pair.encode_pixels(fitted(pixels[some], width, height))
        words = pair.encode_captions([prefix + caption for caption in captions[some]])
        found.append((images * words).sum(dim=1).float())
    return ClipScores(torch.cat(found))
