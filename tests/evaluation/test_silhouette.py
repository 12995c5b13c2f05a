"""Silhouettes of drawn shapes: what is backdrop, what falls apart, what touches the edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.silhouette import (
    backdrop_levels,
    have_silhouettes,
    label_components,
    measure_shapes,
    overlap,
    silhouettes,
)

RED = torch.tensor([200, 20, 20], dtype=torch.uint8)


def canvas(level: int = 255) -> Tensor:
    return torch.full((1, 40, 32, 3), level, dtype=torch.uint8)


@pytest.mark.parametrize("level", [255, 249, 200, 130])
def test_a_square_on_white_or_grey(level: int) -> None:
    pixels = canvas(level)
    pixels[0, 10:20, 8:18] = RED
    pixels[:, :, :2] = pixels[:, :, -2:] = 255  # what brings pictures to shape is backdrop too
    expected = torch.zeros(1, 40, 32, dtype=torch.bool)
    expected[0, 10:20, 8:18] = True
    assert torch.equal(silhouettes(pixels), expected)
    assert backdrop_levels(pixels).tolist() == [level if level < 255 else 255]


def test_white_inside_an_outline_belongs_to_the_article() -> None:
    pixels = canvas()
    pixels[0, 10:20, 8:18] = RED
    pixels[0, 12:18, 10:16] = 255
    assert int(silhouettes(pixels).sum()) == 100
    pixels[0, 14, 16:18] = 255  # a gap lets the white in from outside
    assert int(silhouettes(pixels).sum()) == 100 - 36 - 2


def test_shade_on_grey_is_backdrop_and_colour_is_not() -> None:
    pixels = canvas(200)
    pixels[0, 30:] = 170
    assert not bool(silhouettes(pixels).any())
    pixels[0, 30:] = torch.tensor([170, 170, 120], dtype=torch.uint8)
    assert int(silhouettes(pixels).sum()) == 10 * 32
    dark = canvas(60)  # no studio is so dark: the article fills the picture
    assert bool(silhouettes(dark).all())


def test_pictures_on_black_have_no_silhouettes_whatever_some_odd_ones_are() -> None:
    on_white, on_black = canvas().repeat(30, 1, 1, 1), torch.zeros(30, 40, 32, 3, dtype=torch.uint8)
    for number in range(30):
        for pictures in (on_white, on_black):
            pictures[number, 5 : 10 + number, 5:25] = RED
    on_black[:, :2] = on_black[:, -2:] = 255
    on_black[:, :, :2] = on_black[:, :, -2:] = 255
    on_black[0, 5:, 5:] = 255
    assert have_silhouettes(on_white) and not have_silhouettes(on_black)


@pytest.mark.parametrize("diagonal", [True, False])
def test_components_are_those_of_scipy(diagonal: bool) -> None:
    masks = torch.rand(20, 23, 17, generator=torch.Generator().manual_seed(0)) < 0.55
    spiral = torch.zeros(1, 23, 17, dtype=torch.bool)
    spiral[0, ::2] = True
    spiral[0, 1::4, -1] = spiral[0, 3::4, 0] = True  # a snake through the whole picture
    masks = torch.cat([masks, spiral])
    structure = np.ones((3, 3)) if diagonal else None
    for mask, labels in zip(masks, label_components(masks, diagonal), strict=True):
        expected, count = ndimage.label(mask.numpy(), structure)
        pairs = set(zip(expected.ravel().tolist(), labels.ravel().tolist(), strict=True))
        assert len(pairs) == count + 1 and (0, 0) in pairs  # one label for one label
        last = [np.flatnonzero(expected == number).max() + 1 for number in range(1, count + 1)]
        assert {label for _, label in pairs} == {0, *last}


def test_areas_pieces_and_edges() -> None:
    masks = torch.zeros(4, 40, 32, dtype=torch.bool)
    masks[0, 10:20, 4:14] = masks[0, 10:15, 18:28] = True  # beside
    masks[1, 0:10, 4:14] = masks[1, 20:30, 5:10] = True  # below, and touches the top
    masks[2, 5:35, 29:] = True  # the right edge, three pixels away from which is the picture's own
    shapes = measure_shapes(masks)
    assert shapes.area.tolist() == pytest.approx([150 / 1280, 150 / 1280, 90 / 1280, 0])
    expected = [[100, 50, 0], [100, 50, 0], [90, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(shapes.pieces, torch.tensor(expected) / 1280)
    assert shapes.beside.tolist() == [True, False, False, False]
    torch.testing.assert_close(shapes.second_piece, torch.tensor([0.5, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(
        shapes.edges,
        torch.tensor([[0, 0, 0, 0], [10 / 32, 0, 0, 0], [0, 30 / 40, 0, 0], [0, 0, 0, 0]]),
    )
    torch.testing.assert_close(shapes.edge, torch.tensor([0, 10 / 128, 30 / 160, 0]))
    assert len(measure_shapes(masks[:0]).area) == 0


def test_a_picture_is_the_same_alone_and_among_others() -> None:
    pixels = torch.randint(0, 256, (300, 12, 10, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    pixels[pixels > 100] = 255
    assert torch.equal(silhouettes(pixels)[280:281], silhouettes(pixels[280:281]))


def test_overlap() -> None:
    first, second = torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)
    first[0, :2], second[0, 1:3] = True, True
    first[1, 0], second[1, 0] = True, True
    assert overlap(first, second).tolist() == pytest.approx([1 / 3, 1.0, 1.0])
    with pytest.raises(ToileError, match="one shape"):
        overlap(first, second[:1])


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ToileError, match="uint8"):
        silhouettes(torch.zeros(1, 4, 4, 3))
    assert silhouettes(torch.zeros(0, 4, 4, 3, dtype=torch.uint8)).shape == (0, 4, 4)
