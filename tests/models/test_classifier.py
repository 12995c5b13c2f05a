"""The judge's network: size, cost and independence of the batch."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from toile.errors import ToileError
from toile.models.classifier import MISSING, AttributeClassifier, AttributeClassifierConfig, AttributeLabels

LABELS = AttributeLabels(
    tuple(f"type {i}" for i in range(40)), tuple(f"colour {i}" for i in range(46)), ("Men", "Women"), ("Casual",)
)


def test_the_default_size_is_small_and_cheap() -> None:
    with torch.device("meta"):
        classifier = AttributeClassifier(AttributeClassifierConfig(labels=LABELS))
        with FlopCounterMode(display=False) as counter:
            outputs = classifier(torch.empty(1, 3, 80, 64))
    assert 1.0e6 < sum(p.numel() for p in classifier.parameters()) < 2.0e6
    assert counter.get_total_flops() < 0.15e9
    assert {name: out.shape[1] for name, out in outputs.items()} == {
        "article_type": 41,
        "base_colour": 46,
        "gender": 2,
        "usage": 1,
    }


def test_a_picture_is_seen_the_same_in_any_batch() -> None:
    torch.manual_seed(0)
    classifier = AttributeClassifier(AttributeClassifierConfig((8, 16), 4, LABELS))
    images = torch.rand(5, 3, 20, 16) * 2 - 1
    torch.testing.assert_close(classifier.features(images)[2:3], classifier.features(images[2:3]))
    assert classifier.features(images).shape == (5, 16)


def test_targets_of_records() -> None:
    torch.manual_seed(0)
    classifier = AttributeClassifier(AttributeClassifierConfig((4, 4), 2, LABELS))
    records = [{"articleType": "type 3", "baseColour": "colour 45", "gender": "Women"}, {"articleType": "rare"}, {}]
    assert classifier.targets(records).tolist() == [
        [3, 45, 1, MISSING],
        [40, MISSING, MISSING, MISSING],
        [MISSING] * 4,
    ]


def test_unfit_configs_are_refused() -> None:
    with pytest.raises(ToileError, match="no labels for article_type"):
        AttributeClassifier(AttributeClassifierConfig())
    with pytest.raises(ToileError, match="multiples of norm_num_groups"):
        AttributeClassifierConfig((12, 16), norm_num_groups=8)
    for wrong in ({"in_channels": 0}, {"conv_in_stride": 3}):
        with pytest.raises(ToileError, match="conv_in_stride"):
            AttributeClassifierConfig(**wrong)  # type: ignore[arg-type]
