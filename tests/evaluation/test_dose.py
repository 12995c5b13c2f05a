"""Dose and response of a word's weight: closed forms."""

from __future__ import annotations

import pytest
import torch

from toile.errors import ToileError
from toile.evaluation.dose import label_of, log_odds, measure_dose, spearman
from toile.models.classifier import AttributeClassifier, AttributeClassifierConfig, AttributeLabels

LABELS = AttributeLabels(("Dresses", "Belts"), ("Red", "Blue"), ("Men", "Women"), ("Casual", "Formal"))


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("second", "expected"),
    [((1, 2, 3, 4), 1.0), ((9, 4, 1, 0), -1.0), ((5, 5, 5, 5), 0.0), ((1, 3, 2, 4), 0.8), ((1, 1, 2, 2), 0.8944272)],
)
def test_rank_correlation(second: tuple[float, ...], expected: float) -> None:
    assert spearman(rows(1, 10, 100, 1000), rows(*second)) == pytest.approx(expected)


def test_a_judge_that_is_sure_is_not_yet_tied() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [30.0, 0.0, 0.0], [40.0, 0.0, 0.0]])
    odds = log_odds(logits, 0)
    torch.testing.assert_close(odds[:1].sigmoid(), logits.double().softmax(-1)[:1, 0])
    assert float(logits[1].softmax(-1)[0]) == float(logits[2].softmax(-1)[0]) == 1
    torch.testing.assert_close(odds[2] - odds[1], torch.tensor(10.0, dtype=torch.float64))


def judge() -> AttributeClassifier:
    torch.manual_seed(0)
    config = AttributeClassifierConfig((8, 8), 4, LABELS)
    return AttributeClassifier(config).eval().requires_grad_(False)


def test_the_label_that_a_word_names() -> None:
    assert label_of(judge(), "red") == ("base_colour", "Red")
    assert label_of(judge(), "belt") == ("article_type", "Belts")
    assert label_of(judge(), "leather") is None


def test_what_is_measured() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randint(0, 200, (3, 16, 16, 3), generator=generator, dtype=torch.uint8)
    pictures = [plain + 20, plain, plain + 10]
    response = measure_dose(pictures, (0.0, 1.0, 2.0), judge(), "red")
    assert response.change == (20.0, 0.0, 10.0)
    assert (response.attribute, response.label) == ("base_colour", "Red")
    assert len(response.probability) == len(response.same_type) == 3
    assert response.same_type[1] == 1.0
    assert response.spearman is not None and -1 <= response.spearman <= 1
    assert measure_dose(pictures, (0.0, 1.0, 2.0)).spearman is None
    assert measure_dose(pictures, (0.0, 1.0, 2.0), judge(), "leather").label is None


@pytest.mark.parametrize("weights", [(0.0, 2.0), (1.0, 0.0), (1.0, 1.0)])
def test_weights_must_ascend_and_have_one_among_them(weights: tuple[float, float]) -> None:
    with pytest.raises(ToileError, match="must ascend"):
        measure_dose([torch.zeros(1, 8, 8, 3, dtype=torch.uint8)] * 2, weights)
