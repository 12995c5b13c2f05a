"""The report: equal pictures score as real ones, spoilt ones do not, and the parts never overlap."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.evaluation.features import load_evaluator, observe
from toile.evaluation.quality import (
    divide_held_out,
    evaluate_pictures,
    measure_fidelity,
    observe_real,
    white_border_share,
)
from toile.models.classifier import AttributeClassifier, AttributeClassifierConfig, AttributeLabels
from toile.weights.folder import save_component

LABELS = AttributeLabels(("Shirts", "Jeans"), ("Red", "Blue"), ("Men", "Women"), ("Casual", "Formal"))
FIELDS = {"articleType": "Jeans", "baseColour": "Red", "gender": "Women", "usage": "Casual"}


@pytest.fixture
def classifier() -> AttributeClassifier:
    torch.manual_seed(0)
    return AttributeClassifier(AttributeClassifierConfig((4, 8), 2, LABELS, trained_on="some split")).eval()


def pictures(count: int, seed: int) -> torch.Tensor:
    pixels = torch.randint(0, 256, (count, 20, 16, 3), generator=torch.Generator().manual_seed(seed))
    pixels[:, :, :4], pixels[:, :, -4:], pixels[:, :4], pixels[:, -4:] = 255, 255, 255, 252
    return pixels.to(torch.uint8)


def test_the_real_pictures_themselves_score_as_real(classifier: AttributeClassifier) -> None:
    own, reference = pictures(40, seed=1), pictures(30, seed=2)
    real = observe_real(classifier, own, reference, [FIELDS] * 40)
    report = evaluate_pictures(classifier, real, own)
    assert report.frechet == report.frechet_floors[0] > 0.0
    assert (report.num_pictures, report.num_reference) == (40, 30)
    assert len(set(report.frechet_floors)) == 10
    assert all(score.num_only_judged == score.num_only_real == 0 for score in report.attributes.values())
    assert report.white_border == report.white_border_real == 1.0


def test_spoilt_pictures_are_farther_away(classifier: AttributeClassifier) -> None:
    own = pictures(40, seed=1)
    real = observe_real(classifier, own, pictures(30, seed=2), [FIELDS] * 40)
    spoilt = evaluate_pictures(classifier, real, own // 2)
    assert spoilt.frechet_ratio > 2.0
    assert spoilt.white_border == 0.0
    assert json.loads(json.dumps(spoilt.facts()))["frechet_floor"] == spoilt.frechet_floor
    assert len({len(row) for row in spoilt.rows()}) == 1


def test_counts_must_match_and_suffice(classifier: AttributeClassifier) -> None:
    real = observe_real(classifier, pictures(40, 1), pictures(30, 2), [FIELDS] * 40)
    with pytest.raises(ToileError, match="39 pictures for 40 records"):
        evaluate_pictures(classifier, real, pictures(39, 3))
    with pytest.raises(ToileError, match="39 records and 40 pictures"):
        observe_real(classifier, pictures(40, 1), pictures(30, 2), [FIELDS] * 39)
    with pytest.raises(ToileError, match="7 pictures are too few"):
        observe_real(classifier, pictures(40, 1), pictures(7, 2), [FIELDS] * 40)


def test_the_division_is_complete_and_disjoint() -> None:
    held_out = np.arange(100, 150)
    division = divide_held_out(held_out, 30, seed=3)
    assert len(division.prompts) == 30
    assert sorted([*division.prompts, *division.reference]) == held_out.tolist()
    again, other = divide_held_out(held_out, 30, seed=3), divide_held_out(held_out, 30, seed=4)
    assert division.prompts.tolist() == again.prompts.tolist() != other.prompts.tolist()
    for count in (0, 50):
        with pytest.raises(ToileError, match="give 1 to 49"):
            divide_held_out(held_out, count)


def test_batches_do_not_change_what_is_seen(classifier: AttributeClassifier) -> None:
    pixels = pictures(7, seed=5)
    one, all_at_once = observe(classifier, pixels, batch_size=1), observe(classifier, pixels)
    torch.testing.assert_close(one.features, all_at_once.features)
    assert one.features.shape == (7, 8)
    assert {name: tuple(found.shape) for name, found in one.predictions.items()} == dict.fromkeys(one.predictions, (7,))
    with pytest.raises(ToileError, match="no pictures"):
        observe(classifier, pixels[:0])


def test_fidelity_of_known_errors() -> None:
    originals = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8)
    off = originals.clone()
    off[0] += 1
    off[1] += 10
    fidelity = measure_fidelity(off, originals)
    each = [20 * math.log10(255 / 1), 20 * math.log10(255 / 10)]
    assert fidelity.psnr_mean == pytest.approx(sum(each) / 2)
    assert fidelity.psnr_pooled == pytest.approx(10 * math.log10(255**2 / ((1 + 100) / 2)))
    assert measure_fidelity(originals, originals).psnr_pooled == math.inf


def test_white_border_needs_all_three_colours() -> None:
    pixels = torch.full((1, 6, 6, 3), 250, dtype=torch.uint8)
    pixels[:, 1:5, 1:5] = 0
    assert white_border_share(pixels, width=1) == 1.0
    pixels[:, 0, 0, 1] = 249
    assert white_border_share(pixels, width=1) == 19 / 20


def test_a_saved_evaluator_comes_back_and_knows_its_split(classifier: AttributeClassifier, tmp_path) -> None:
    save_component(tmp_path, classifier, classifier.config, {"_class_name": "AttributeClassifier"}, torch.float32)
    loaded = load_evaluator(tmp_path, "some split")
    assert loaded.config == classifier.config
    torch.testing.assert_close(observe(loaded, pictures(3, 0)).features, observe(classifier, pictures(3, 0)).features)
    with pytest.raises(ToileError, match="may have seen the held-out pictures"):
        load_evaluator(tmp_path, "another split")
