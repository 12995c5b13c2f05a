"""Suites ask for what they say: held-out captions, pairs never seen together, one word changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.data.captions import CaptionWriter
from toile.errors import ToileError
from toile.evaluation.attributes import wanted_labels
from toile.evaluation.quality import divide_held_out
from toile.evaluation.suites import held_out, reports, unseen_pairs, word_swaps
from toile.models.classifier import MISSING, AttributeLabels
from toile.training.pictures import DataConfig, PictureSet, colour_and_article

COLOURS = {"Red": (220, 30, 30), "Blue": (30, 30, 220), "Green": (30, 160, 30)}
KINDS = ("Shirts", "Jeans", "Watches", "Ties")
LABELS = AttributeLabels(KINDS, tuple(COLOURS))


@pytest.fixture(scope="module")
def folder(write_products: Callable[..., Path]) -> Path:
    """240 products of all pairs but green ties; every tenth lacks a colour. 60 deodorants, which are all green."""
    products, rng = [], np.random.default_rng(0)
    for number in range(240):
        kind, colour = KINDS[number % 4], list(COLOURS)[number // 4 % 3]
        if (colour, kind) == ("Green", "Ties"):
            colour = "Red"
        pixels = np.full((10, 8, 3), 255, dtype=np.uint8)
        pixels[2:8, 2:6] = COLOURS[colour] + rng.integers(0, 30, (6, 4, 3))
        named = "" if number % 10 == 0 else colour
        title = f"Maker {number} checked thing"
        products.append((pixels, {"articleType": kind, "baseColour": named, "productDisplayName": title}))
    scent = {"masterCategory": "Personal Care", "articleType": "Deodorant", "baseColour": "Green", "usage": ""}
    for number in range(240, 300):
        pixels = np.full((10, 8, 3), number % 200, dtype=np.uint8)
        products.append((pixels, {**scent, "productDisplayName": f"Maker {number} fresh thing"}))
    return write_products(products)


@pytest.fixture(scope="module")
def pictures(folder: Path) -> PictureSet:
    return PictureSet(DataConfig(8, 10, path=folder))


def test_held_out_prompts_are_those_of_the_division(pictures: PictureSet) -> None:
    suite = held_out(pictures, 12, seed=3)
    division = divide_held_out(np.concatenate([pictures.validation, pictures.test]), 12, 3)
    assert [prompt.position for prompt in suite.prompts] == division.prompts.tolist()
    assert not {prompt.position for prompt in suite.prompts} & set(pictures.train.tolist())
    for prompt in suite.prompts:
        record = pictures.records[prompt.position]
        assert prompt.text == CaptionWriter().full(record) and prompt.fields == record.fields
    assert suite.texts == tuple(prompt.text for prompt in suite.prompts)
    assert held_out(pictures, 12, seed=3) == suite != held_out(pictures, 12, seed=4)


def test_no_learnt_picture_shows_an_unseen_pair(folder: Path, pictures: PictureSet) -> None:
    suite = unseen_pairs(pictures, min_count=20)
    assert [(prompt.text, dict(prompt.fields)) for prompt in suite.prompts] == [
        ("green tie", {"baseColour": "Green", "articleType": "Ties"})
    ]
    removed = ("Blue Jeans", "Red Watches")
    fewer = PictureSet(DataConfig(8, 10, path=folder, unseen=removed))
    suite = unseen_pairs(fewer, removed=removed, min_count=20)
    pairs = [f"{fields['baseColour']} {fields['articleType']}" for fields in suite.fields]
    assert pairs == [*removed, "Green Ties"]
    learnt = {colour_and_article(fewer.records[position].fields) for position in fewer.train}
    assert not learnt & set(pairs)
    assert wanted_labels(LABELS, suite.fields)["base_colour"].tolist() == [1, 0, 2]
    assert wanted_labels(LABELS, suite.fields)["article_type"].tolist() == [1, 2, 3]
    assert len(unseen_pairs(fewer, 2, removed=removed, min_count=20).prompts) == 2


@pytest.mark.parametrize("removed", ["Blue Jeans", "Blue Socks"])
def test_pairs_that_were_learnt_are_not_unseen(pictures: PictureSet, removed: str) -> None:
    with pytest.raises(ToileError, match=removed):
        unseen_pairs(pictures, removed=(removed,), min_count=20)


def test_data_that_has_no_pairs_is_no_fault(pictures: PictureSet) -> None:
    assert len(unseen_pairs(pictures, 2, min_count=20).prompts) == 1
    assert unseen_pairs(pictures, min_count=1000) is None
    assert len(word_swaps(pictures, 1000, colours=tuple(COLOURS)).groups) > 10
    assert word_swaps(pictures, 1, colours=("Pink", "Brown")) is None


def test_swaps_change_the_word_of_the_colour_and_nothing_else(pictures: PictureSet) -> None:
    suite = word_swaps(pictures, 10, seed=1, colours=tuple(COLOURS))
    assert suite.group_size == 2 and len(suite.prompts) == 20
    to = Counter()
    for first, second in suite.groups:
        record = pictures.records[first.position]
        assert first.text == CaptionWriter().full(record) and second.position is None
        old, new = first.fields["baseColour"], second.fields["baseColour"]
        assert old != new and first.text.replace(old.lower(), new.lower()) == second.text
        assert {**second.fields, "baseColour": old} == first.fields
        to[new] += 1
    assert len(to) > 1
    wanted = wanted_labels(LABELS, suite.fields)["base_colour"]
    assert bool((wanted[::2] != wanted[1::2]).all() and (wanted != MISSING).all())
    assert word_swaps(pictures, 10, seed=1, colours=tuple(COLOURS)) == suite


def test_the_prompts_of_the_reports() -> None:
    suite = reports()
    assert {
        "maroon strapless top",
        "an image of a 2011 Casual Fall White Men's Sweater",
        "photograph of a 90s style top appropriate for winter",
    } <= set(suite.texts)
    labels = AttributeLabels(("Tops", "Sweaters", "Dresses", "Tshirts"), ("Maroon", "Blue", "White", "Grey"))
    wanted = wanted_labels(labels, suite.fields)
    assert wanted["article_type"].tolist() == [0, 0, 0, 1, 2, 3, MISSING, MISSING]
    assert torch.equal(wanted["base_colour"], torch.tensor([0, MISSING, 1, 2, 3, 2, 2, MISSING]))
