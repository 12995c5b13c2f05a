"""What pictures teach: right labels teach, shuffled ones do not, and the answer depends on the seed alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.evaluation.classifier_accuracy import AccuracyConfig, LabelledPixels, classifier_accuracy
from toile.models.classifier import AttributeLabels

KINDS = {"Shirts": slice(2, 6), "Jeans": slice(4, 14), "Watches": slice(12, 15)}
COLOURS = {"Red": (220, 30, 30), "Blue": (30, 30, 220)}
LABELS = AttributeLabels(tuple(KINDS), tuple(COLOURS), gender=("Men",))
CONFIG = AccuracyConfig(widths=(8, 16), steps=80, batch_size=16, learning_rate=1e-2)


def drawn(num: int, seed: int) -> LabelledPixels:
    rng = np.random.default_rng(seed)
    pixels, fields = np.full((num, 16, 16, 3), 255, dtype=np.uint8), list[Mapping[str, str]]()
    for picture in pixels:
        kind, colour = rng.choice(list(KINDS)), rng.choice(list(COLOURS))
        picture[KINDS[kind], 4:12] = np.array(COLOURS[colour]) + rng.integers(0, 30, 3)
        fields.append({"articleType": str(kind), "baseColour": str(colour)})
    return LabelledPixels(torch.from_numpy(pixels), fields)


@pytest.mark.slow
def test_right_labels_teach_and_shuffled_ones_do_not() -> None:
    real, held_out = drawn(120, 1), drawn(80, 2)
    good = drawn(120, 0)
    bad = LabelledPixels(good.pixels, [good.fields[n] for n in np.random.default_rng(0).permutation(120)])
    taught = classifier_accuracy(good, real, held_out, LABELS, CONFIG)
    assert taught.num_taught == 120 and set(taught.scores) == {"article_type", "base_colour"}
    assert taught.labels == AttributeLabels(tuple(KINDS), tuple(COLOURS))
    for score in taught.scores.values():
        assert score.num_pairs == 80 and score.judged.value > 0.95 and score.real.value > 0.95
    confused = classifier_accuracy(bad, real, held_out, LABELS, CONFIG).scores
    assert confused["article_type"].judged.value < 0.6 and confused["base_colour"].judged.value < 0.8
    assert confused["article_type"].real == taught.scores["article_type"].real


def test_the_same_pictures_teach_the_same_whatever_was_drawn_before() -> None:
    brief = AccuracyConfig(widths=(8, 16), steps=6, batch_size=8, learning_rate=1e-2)
    pictures, held_out = drawn(40, 0), drawn(30, 2)
    first = classifier_accuracy(pictures, pictures, held_out, LABELS, brief)
    state = torch.get_rng_state()
    assert all(score.num_only_judged == score.num_only_real == 0 for score in first.scores.values())
    torch.rand(3)
    assert classifier_accuracy(pictures, pictures, held_out, LABELS, brief) == first
    torch.set_rng_state(state)


def test_unfit_sets_are_refused() -> None:
    few, many = drawn(4, 0), drawn(5, 0)
    with pytest.raises(ToileError, match="4 generated and 5 real"):
        classifier_accuracy(few, many, many, LABELS, CONFIG)
    with pytest.raises(ToileError, match="one size"):
        classifier_accuracy(few, few, LabelledPixels(many.pixels[:, :8], many.fields), LABELS, CONFIG)
    with pytest.raises(ToileError, match="too few to learn from"):
        classifier_accuracy(few, few, many, LABELS, CONFIG)
    with pytest.raises(ToileError, match="one of each"):
        LabelledPixels(few.pixels, many.fields)
    with pytest.raises(ToileError, match="held_back"):
        AccuracyConfig(held_back=0)
