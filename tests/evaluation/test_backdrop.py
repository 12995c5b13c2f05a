"""Grey backdrops are told from white ones, from coloured ones, and from detail."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from toile.data.products import ProductTable
from toile.data.sources import load_pictures
from toile.evaluation.backdrop import has_grey_backdrop


def plain(*colour: int) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8).expand(80, 64, 3).clone()


def test_plain_pictures() -> None:
    garment = plain(200, 200, 200)
    garment[20:, 16:48] = torch.tensor([10, 10, 200], dtype=torch.uint8)
    detail = plain(200, 200, 200)
    detail[::2] = 120
    one_corner = plain(255, 255, 255)
    one_corner[:, :32] = 190
    pictures = [plain(200, 200, 200), garment, plain(255, 255, 255), plain(30, 30, 30), plain(200, 180, 170), detail]
    assert has_grey_backdrop(torch.stack([*pictures, one_corner])).tolist() == [True, True, *[False] * 5]


@pytest.mark.slow
@pytest.mark.realdata
def test_the_list_of_the_recipe_is_what_it_finds(shared_data: Path) -> None:
    keys = (Path(__file__).parents[2] / "recipes" / "grey-backdrop.txt").read_text(encoding="utf-8").split()
    source = ProductTable(shared_data / "fashion-product-images-small.zip")
    numbers = {record.key: number for number, record in enumerate(source.records)}
    listed = [numbers[key] for key in keys]
    others = [number for number in range(0, len(source.records), 40) if source.records[number].key not in set(keys)]
    found = has_grey_backdrop(torch.from_numpy(load_pictures(source, 64, 80, [*listed, *others]).pixels))
    assert bool(found[: len(listed)].all()) and not bool(found[len(listed) :].any())
