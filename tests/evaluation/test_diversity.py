"""A collapsed generator has no diversity; two known sets have the one that can be computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.evaluation.diversity import (
    cosine_similarities,
    draw_groups,
    measure_diversity,
    vendi_score,
)


def test_a_collapsed_generator() -> None:
    features = torch.randn(5, 1, 7, generator=torch.Generator().manual_seed(0)).expand(5, 4, 7)
    diversity = measure_diversity(features, centre=torch.ones(7))
    assert diversity.distances.tolist() == [0.0] * 5
    assert diversity.vendi.tolist() == pytest.approx([1.0] * 5, abs=1e-6)


def test_pictures_that_have_nothing_in_common() -> None:
    features = (3.0 * torch.eye(4)).expand(2, 4, 4)
    diversity = measure_diversity(features)
    assert diversity.distances.tolist() == pytest.approx([3 * math.sqrt(2)] * 2)
    assert diversity.vendi.tolist() == pytest.approx([4.0] * 2)


def test_two_groups_of_equal_pictures_count_as_two() -> None:
    features = torch.tensor([[[1.0, 0.0]] * 3 + [[0.0, 2.0]] * 3])
    diversity = measure_diversity(features)
    assert float(diversity.vendi) == pytest.approx(2.0)
    assert float(diversity.distances) == pytest.approx(9 / 15 * math.sqrt(5))  # 9 of 15 pairs are of both groups


def test_vendi_of_two_pictures_at_an_angle() -> None:
    """Eigenvalues of [[1, c], [c, 1]] / 2 are (1 + c) / 2 and (1 - c) / 2."""
    angle = 0.7
    features = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    high = (1 + math.cos(angle)) / 2
    entropy = -high * math.log(high) - (1 - high) * math.log(1 - high)
    assert float(vendi_score(cosine_similarities(features))) == pytest.approx(math.exp(entropy))
    moved = measure_diversity(features[None] + 100, centre=torch.full((2,), 100.0))
    assert float(moved.vendi) == pytest.approx(math.exp(entropy), rel=1e-5)


def test_features_of_nothing_are_unlike_all_others() -> None:
    assert float(vendi_score(cosine_similarities(torch.zeros(3, 5)))) == pytest.approx(3.0)


def test_groups_are_drawn_whole_and_by_seed() -> None:
    groups = ["b", "a", "b", "", "b", "a", "c", "b"]
    names, positions = draw_groups(groups, 2)
    assert names == ("a", "b") and positions.shape == (2, 2)
    for name, row in zip(names, positions.tolist(), strict=True):
        assert len(set(row)) == 2 and all(groups[position] == name for position in row)
    assert np.array_equal(draw_groups(groups, 2)[1], positions)
    with pytest.raises(ToileError, match="no group of pictures has 5"):
        draw_groups(groups, 5)


@pytest.mark.parametrize("features", [torch.zeros(3, 1, 4), torch.zeros(3, 4), torch.full((1, 2, 3), torch.nan)])
def test_unfit_features_are_refused(features: torch.Tensor) -> None:
    with pytest.raises(ToileError, match="features"):
        measure_diversity(features)
