"""Lab has its published values, and a table of colours learns what colour is called what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.lab_colour import ColourTable, Palette, colour_shares, lab_of_srgb
from toile.models.classifier import MISSING

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (20, 40, 200)}


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        # Lindbloom's colour calculator, sRGB, D65, no adaptation
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.2408, 80.0925, 67.2032)),
        ((0, 255, 0), (87.7347, -86.1827, 83.1793)),
        ((0, 0, 255), (32.2970, 79.1875, -107.8602)),
        ((119, 119, 119), (50.0344, 0.0, 0.0)),
    ],
)
def test_known_colours(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    assert lab_of_srgb(torch.tensor(rgb) / 255).tolist() == pytest.approx(lab, abs=0.01)


def test_lab_is_smooth_where_its_formulas_meet() -> None:
    levels = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    light = lab_of_srgb(levels[:, None].expand(-1, 3))[:, 0]
    assert bool((light.diff() > 0).all()) and float(light.diff().max()) < 0.0025


def pictures(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Squares of noisy colours, each below a band of another colour that says nothing."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (num,), generator=generator)
    heads = torch.randint(0, 3, (num,), generator=generator)
    table = torch.tensor(list(COLOURS.values()))
    pixels = torch.full((num, 20, 16, 3), 255, dtype=torch.uint8)
    for region, labels in ((slice(1, 4), heads), (slice(6, 16), targets)):
        rows = region.stop - region.start
        noise = torch.randint(-15, 16, (num, rows, 8, 3), generator=generator)
        pixels[:, region, 4:12] = (table[labels][:, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return pixels, targets


def test_a_table_learns_the_colours_in_the_middle() -> None:
    table = ColourTable.of(*pictures(90, 0), num_labels=3, num_colours=8)
    others, targets = pictures(60, 1)
    assert torch.equal(table.predict(others), targets)
    again = ColourTable.of(*pictures(90, 0), num_labels=3, num_colours=8)
    assert torch.equal(table.weights, again.weights) and torch.equal(table.palette.nearest, again.palette.nearest)


def test_missing_labels_teach_nothing() -> None:
    pixels, targets = pictures(90, 0)
    targets[targets == 2] = MISSING
    table = ColourTable.of(pixels, targets, num_labels=3, num_colours=8)
    assert set(table.predict(pixels).tolist()) <= {0, 1}
    with pytest.raises(ToileError, match="0 known colours"):
        ColourTable.of(pixels, torch.full((90,), MISSING), num_labels=3)
    with pytest.raises(ToileError, match="too few colours"):
        ColourTable.of(torch.full((4, 20, 16, 3), 255, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), 1)


def test_shares_are_of_the_article_alone() -> None:
    lab = torch.stack([lab_of_srgb(torch.tensor(rgb) / 255) for rgb in ((200, 30, 30), (30, 160, 40), (255, 255, 255))])
    channels = torch.cartesian_prod(*[(torch.arange(32) + 0.5) / 32] * 3)
    palette = Palette(lab.float(), torch.cdist(lab_of_srgb(channels), lab).argmin(dim=1))
    pixels = torch.full((2, 20, 16, 3), 255, dtype=torch.uint8)
    pixels[0, 5:15, 3:8] = torch.tensor([200, 30, 30], dtype=torch.uint8)
    pixels[0, 5:15, 8:13] = torch.tensor([30, 160, 40], dtype=torch.uint8)
    torch.testing.assert_close(colour_shares(pixels, palette), torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]))
