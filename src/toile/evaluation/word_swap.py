"""What one changed word changes: pairs of pictures of one seed, whose prompts differ in the colour only.

The yardstick are pairs of one prompt and two seeds: what differs as much between those is not the word's doing.
Shapes: N pairs, H x W the pictures' size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.attributes import Share
from toile.evaluation.silhouette import overlap, silhouettes
from toile.models.classifier import ARTICLE_TYPE, BASE_COLOUR, MISSING


@dataclass(frozen=True)
class PairLikeness:
    """How alike the two pictures of each pair are.

    Attributes:
        article_kept: how often the judge finds the same type of article in both.
        overlaps: (N,) intersection over union of the silhouettes.
        outside: (N,) mean difference where neither has its article, in 8-bit steps.
    """

    article_kept: Share
    overlaps: Tensor
    outside: Tensor

    @property
    def overlap(self) -> float:
        """Mean over pairs."""
        return float(self.overlaps.mean())

    @property
    def outside_mean(self) -> float:
        """Mean over pairs."""
        return float(self.outside.mean())


@dataclass(frozen=True)
class WordSwap:
    """What swapping the word of a colour does.

    Attributes:
        colour_obeyed: how often the judge finds the first word's colour in the first picture.
        colour_followed: how often it finds the second word's colour in the second picture.
        colour_stayed: how often it still finds the first word's colour in the second picture.
        swapped: pairs of one seed, the word changed.
        reseeded: pairs of one prompt, the seed changed.
    """

    colour_obeyed: Share
    colour_followed: Share
    colour_stayed: Share
    swapped: PairLikeness
    reseeded: PairLikeness


@dataclass(frozen=True)
class JudgedPictures:
    """pixels: (N, H, W, 3) uint8; predictions: for each attribute (N,), the judge's outputs for them."""

    pixels: Tensor
    predictions: Mapping[str, Tensor]


def measure_word_swap(
    first: JudgedPictures,
    second: JudgedPictures,
    reseeded: JudgedPictures,
    first_colours: Tensor,
    second_colours: Tensor,
) -> WordSwap:
    """Compares pictures of pairs of prompts.

    Args:
        first: of the first prompts.
        second: of the second prompts, which differ in the colour's word, with the seeds of `first`.
        reseeded: of the first prompts, with other seeds.
        first_colours, second_colours: (N,) the judge's outputs that the words ask for (`wanted_labels`), `MISSING`
            where it does not know the colour; such pairs are left out of the shares of colours.

    Raises:
        ToileError: the numbers of pictures differ, or the judge knows no pair's colours.
    """
    if not len(first.pixels) == len(second.pixels) == len(reseeded.pixels) == len(first_colours) == len(second_colours):
        raise ToileError("a swap of words needs as many pictures as pairs: first, second and reseeded ones")
    known = (first_colours != MISSING) & (second_colours != MISSING)
    if not bool(known.any()):
        raise ToileError("the judge knows both colours of no pair: give pairs of colours it was trained on")

    def share_of(judged: JudgedPictures, wanted: Tensor) -> Share:
        return Share(int((judged.predictions[BASE_COLOUR] == wanted)[known].sum()), int(known.sum()))

    return WordSwap(
        share_of(first, first_colours),
        share_of(second, second_colours),
        share_of(second, first_colours),
        compare_pairs(first, second),
        compare_pairs(first, reseeded),
    )


def compare_pairs(first: JudgedPictures, second: JudgedPictures) -> PairLikeness:
    """How alike the pictures are, pair by pair."""
    masks = silhouettes(first.pixels), silhouettes(second.pixels)
    kept = first.predictions[ARTICLE_TYPE] == second.predictions[ARTICLE_TYPE]
    return PairLikeness(
        Share(int(kept.sum()), len(kept)),
        overlap(*masks),
        difference_outside(first.pixels, second.pixels, masks[0] | masks[1]),
    )


def difference_outside(first: Tensor, second: Tensor, masks: Tensor) -> Tensor:
    """Mean absolute difference of pictures where a mask is not, in 8-bit steps; 0 where the mask is everywhere.

    Args:
        first, second: (N, H, W, 3) uint8.
        masks: (N, H, W) bool.

    Returns:
        (N,) float32.
    """
    outside = ~masks
    differences = (first.float() - second.float()).abs().mean(dim=-1) * outside
    return differences.flatten(1).sum(dim=1) / outside.flatten(1).sum(dim=1).clamp(min=1)
