"""Shares, their intervals, and which prompts count."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest

from toile.errors import ToileError
from toile.evaluation.attributes import AttributeScore, score_attributes, wanted_labels, wilson_interval
from toile.models.classifier import MISSING, AttributeLabels

LABELS = AttributeLabels(("Shirts", "Jeans"), ("Red", "Blue"), ("Men", "Women"), ("Casual",))


@pytest.mark.parametrize(("right", "total"), [(0, 1), (0, 20), (7, 20), (20, 20), (1953, 2000)])
def test_wilson_interval_agrees_with_scipy(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("right", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_no_share_no_interval(right: int, total: int) -> None:
    with pytest.raises(ToileError, match="not a share"):
        wilson_interval(right, total)


def test_only_known_and_frequent_labels_are_wanted() -> None:
    records = [
        {"articleType": "Jeans", "baseColour": "Blue", "gender": "Men", "usage": "Casual"},
        {"articleType": "Kurtas", "baseColour": "Skin"},
    ]
    wanted = wanted_labels(LABELS, records)
    assert LABELS.target("article_type", records[1]) == 2
    assert {name: labels.tolist() for name, labels in wanted.items()} == {
        "article_type": [1, MISSING],
        "base_colour": [1, MISSING],
        "gender": [0, MISSING],
        "usage": [0, MISSING],
    }


def test_pairs_are_counted_and_missing_ones_are_not() -> None:
    wanted = {"gender": torch.tensor([0, 0, 1, 1, 0, MISSING]), "usage": torch.full((6,), MISSING)}
    judged = {"gender": torch.tensor([0, 0, 0, 1, 1, 0]), "usage": torch.zeros(6)}
    real = {"gender": torch.tensor([0, 1, 1, 0, 1, 0]), "usage": torch.zeros(6)}
    scores = score_attributes(wanted, judged, real)
    assert scores == {"gender": AttributeScore(num_pairs=5, num_both=1, num_only_judged=2, num_only_real=1)}
    assert scores["gender"].judged.value == 3 / 5
    assert scores["gender"].real.value == 2 / 5
    assert scores["gender"].ratio == 3 / 2
    with pytest.raises(ToileError, match="6 prompts, 5 pictures"):
        score_attributes(wanted, {"gender": torch.zeros(5)}, real)


def test_ratio_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Simulated pairs with dependent outcomes: judged right 0.9 x 0.9 of the time, real 0.9."""
    generator = torch.Generator().manual_seed(0)
    easy = torch.rand(2000, 400, generator=generator) < 0.9
    kept = torch.rand(2000, 400, generator=generator) < 0.9
    hits = 0
    for real, also in zip(easy, kept, strict=True):
        both = int((real & also).sum())
        low, high = AttributeScore(400, both, 0, int(real.sum()) - both).ratio_interval
        hits += low <= 0.9 <= high
    assert 0.93 <= hits / 2000 <= 0.97


def test_equal_pictures_have_ratio_one_without_doubt() -> None:
    score = AttributeScore(num_pairs=100, num_both=80, num_only_judged=0, num_only_real=0)
    assert score.ratio == 1.0
    assert score.ratio_interval == (1.0, 1.0)
    assert math.isnan(AttributeScore(10, 0, 3, 0).ratio)


def test_every_attribute_has_labels() -> None:
    assert [LABELS.num_classes(attribute) for attribute in LABELS.attributes] == [3, 2, 2, 1]
    with pytest.raises(ToileError, match="gender has a label twice"):
        AttributeLabels(gender=("Men", "Men"))
