"""A word that changes the colour alone is told from one that changes nothing, and from one that changes all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.attributes import Share
from toile.evaluation.word_swap import JudgedPictures, difference_outside, measure_word_swap
from toile.models.classifier import MISSING

RED, BLUE = (200, 20, 20), (20, 20, 200)


def square(colour: tuple[int, int, int], left: int = 4) -> Tensor:
    pixels = torch.full((20, 16, 3), 255, dtype=torch.uint8)
    pixels[4:12, left : left + 8] = torch.tensor(colour, dtype=torch.uint8)
    return pixels


def judged(pixels: list[Tensor], colours: list[int], articles: list[int]) -> JudgedPictures:
    return JudgedPictures(
        torch.stack(pixels), {"base_colour": torch.tensor(colours), "article_type": torch.tensor(articles)}
    )


def test_shares_and_overlaps_by_hand() -> None:
    first = judged([square(RED)] * 4, [0, 0, 0, 1], [0, 0, 0, 0])
    second = judged([square(BLUE), square(RED), square(BLUE, 8), square(BLUE)], [1, 0, 1, 1], [0, 0, 2, 0])
    reseeded = judged([square(RED, 0)] * 4, [0, 0, 0, 0], [0, 0, 0, 0])
    swap = measure_word_swap(first, second, reseeded, torch.tensor([0, 0, 0, MISSING]), torch.ones(4))
    assert swap.colour_obeyed == Share(3, 3)
    assert swap.colour_followed == Share(2, 3)
    assert swap.colour_stayed == Share(1, 3)
    assert swap.swapped.article_kept == Share(3, 4)
    assert swap.swapped.overlaps.tolist() == pytest.approx([1, 1, 1 / 3, 1])
    assert swap.swapped.overlap == pytest.approx(5 / 6)
    assert swap.swapped.outside_mean == 0.0
    assert swap.reseeded.article_kept == Share(4, 4)
    assert swap.reseeded.overlap == pytest.approx(1 / 3)
    with pytest.raises(ToileError, match="colours of no pair"):
        measure_word_swap(first, second, reseeded, torch.full((4,), MISSING), torch.ones(4))
    with pytest.raises(ToileError, match="as many pictures as pairs"):
        measure_word_swap(first, second, reseeded, torch.ones(3), torch.ones(3))


def test_only_what_is_outside_counts() -> None:
    first, second = square(RED)[None], square(BLUE)[None]
    mask = torch.zeros(1, 20, 16, dtype=torch.bool)
    mask[:, 4:12, 4:12] = True
    second[:, 0] = 245
    assert difference_outside(first, second, mask).tolist() == pytest.approx([10 * 16 / (320 - 64)])
    assert difference_outside(first, second, torch.ones_like(mask)).tolist() == [0.0]
