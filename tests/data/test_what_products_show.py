"""What silhouettes, colours and suites find in the published pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from toile.evaluation.attributes import Share
from toile.evaluation.lab_colour import ColourTable
from toile.evaluation.silhouette import measure_shapes, silhouettes
from toile.evaluation.suites import unseen_pairs, word_swaps
from toile.models.classifier import MISSING
from toile.training.classifier_objective import find_labels
from toile.training.pictures import DataConfig, PictureSet, colour_and_article

ARTICLES = ("Earrings", "Watches", "Shirts", "Formal Shoes")
pytestmark = [pytest.mark.realdata, pytest.mark.slow]


@pytest.fixture(scope="module")
def pictures(shared_data: Path) -> PictureSet:
    path = shared_data / "fashion-product-images-small.zip"
    return PictureSet(DataConfig(64, 80, path=path, only={"articleType": ARTICLES}))


def positions_of(pictures: PictureSet, article: str, most: int) -> torch.Tensor:
    found = [n for n, record in enumerate(pictures.records) if record.fields.get("articleType") == article]
    return torch.tensor(found[:most])


def test_earrings_are_two_and_watches_one(pictures: PictureSet) -> None:
    two, one = (
        measure_shapes(silhouettes(pictures.pixels[positions_of(pictures, article, 100)]))
        for article in ("Earrings", "Watches")
    )
    assert float((two.second_piece > 0.5).float().mean()) > 0.5
    assert float((one.second_piece > 0.05).float().mean()) <= 0.02
    assert float(one.area.median()) > 2 * float(two.area.median()) > 0


def test_people_are_cut_off_by_the_lower_edge(pictures: PictureSet) -> None:
    shirts = measure_shapes(silhouettes(pictures.pixels[positions_of(pictures, "Shirts", 200)]))
    _, right, bottom, left = shirts.edges.median(dim=0).values.tolist()
    assert bottom > 0.3 and max(right, left) < 0.1


def test_colours_are_named_far_better_than_by_the_commonest(pictures: PictureSet) -> None:
    learnt = np.unique(pictures.train)[::2]
    labels = find_labels((pictures.records[n] for n in learnt), ("article_type", "base_colour"), 1, 20)
    targets = [
        torch.tensor([labels.target("base_colour", pictures.records[n].fields) for n in side.tolist()])
        for side in (learnt, np.concatenate([pictures.validation, pictures.test]))
    ]
    table = ColourTable.of(pictures.pixels[torch.from_numpy(learnt)], targets[0], labels.num_classes("base_colour"))
    known = targets[1] != MISSING
    held_out = np.concatenate([pictures.validation, pictures.test])
    found = table.predict(pictures.pixels[torch.from_numpy(held_out)])
    right = Share(int((found == targets[1])[known].sum()), int(known.sum()))
    commonest = float((targets[1][known] == targets[0][targets[0] != MISSING].mode().values).float().mean())
    assert right.num_total > 400 and commonest < 0.4
    assert right.interval[0] > 0.45


def test_there_are_pairs_that_nobody_photographed(pictures: PictureSet) -> None:
    learnt = {colour_and_article(pictures.records[n].fields) for n in pictures.train.tolist()}
    suite = unseen_pairs(pictures, min_count=100)
    assert suite is not None and len(suite.prompts) >= 5
    assert not {"Deodorant", "Free Gifts", "Lipstick"} & {fields["articleType"] for fields in suite.fields}
    assert not learnt & {f"{fields['baseColour']} {fields['articleType']}" for fields in suite.fields}
    swaps = word_swaps(pictures, 50)
    assert swaps is not None and len(swaps.groups) == 50
    assert len({prompt.fields["baseColour"] for prompt in swaps.prompts}) >= 8
