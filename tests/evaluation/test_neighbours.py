"""Precision, recall, density and coverage against a plain reading of the papers, and on layouts known by hand (E1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.errors import ToileError
from toile.evaluation import feature_sets
from toile.evaluation.neighbours import compare_neighbours


def features(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def naive(judged: np.ndarray, reference: np.ndarray, precision_k: int, coverage_k: int) -> tuple[float, ...]:
    """One picture at a time, as the papers say it."""

    def gap(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.sqrt(((x - y) ** 2).sum()))

    def radius(rows: np.ndarray, i: int, k: int) -> float:
        return sorted(gap(rows[i], rows[j]) for j in range(len(rows)) if j != i)[k - 1]

    def in_manifold(point: np.ndarray, rows: np.ndarray, k: int) -> bool:
        return any(gap(point, rows[i]) < radius(rows, i, k) for i in range(len(rows)))

    balls = [radius(reference, i, coverage_k) for i in range(len(reference))]
    inside = np.array([[gap(x, y) < ball for y, ball in zip(reference, balls, strict=True)] for x in judged])
    return (
        float(np.mean([in_manifold(x, reference, precision_k) for x in judged])),
        float(np.mean([in_manifold(y, judged, precision_k) for y in reference])),
        float(inside.sum() / (coverage_k * len(judged))),
        float(inside.any(axis=0).mean()),
    )


@pytest.mark.parametrize(("seed", "shift", "scale"), [(0, 0.0, 1.0), (1, 1.0, 1.0), (2, 0.0, 0.3), (3, 0.5, 2.0)])
def test_agrees_with_a_plain_reading_of_the_papers(seed: int, shift: float, scale: float) -> None:
    judged, reference = scale * features(25, 3, seed) + shift, features(31, 3, seed + 50)
    found = compare_neighbours(judged, reference)
    expected = naive(judged.double().numpy(), reference.double().numpy(), 3, 5)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected, abs=1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    judged, reference = features(23, 4, 0), features(31, 4, 1)
    whole = compare_neighbours(judged, reference)
    monkeypatch.setattr(feature_sets, "MOST_PAIRS", 70)
    parts = compare_neighbours(judged, reference)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(whole, name) == getattr(parts, name)
    assert torch.equal(whole.nearest, parts.nearest)
    torch.testing.assert_close(whole.strangeness, parts.strangeness)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(6, 40), st.floats(-100, 100))
def test_identical_sets_score_one(seed: int, num: int, offset: float) -> None:
    same = features(num, 5, seed) + offset
    found = compare_neighbours(same, same[torch.randperm(num, generator=torch.Generator().manual_seed(seed))])
    assert (found.precision, found.recall, found.density, found.coverage) == (1.0, 1.0, 1.0, 1.0)
    assert found.distances.max() == 0.0 and found.strangeness.max() == 0.0


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000))
def test_precision_and_recall_change_places(seed: int) -> None:
    a, b = features(20, 3, seed), 0.7 * features(20, 3, seed + 1)
    forward, backward = compare_neighbours(a, b), compare_neighbours(b, a)
    assert (forward.precision, forward.recall) == (backward.recall, backward.precision)


def test_far_pictures_are_neither_precise_nor_cover_anything() -> None:
    reference = features(40, 4, 0)
    far = compare_neighbours(features(40, 4, 1) + 1000.0, reference)
    assert (far.precision, far.recall, far.density, far.coverage) == (0.0, 0.0, 0.0, 0.0)
    assert far.strangeness.min() > 100.0
    one_kind = compare_neighbours(reference[:1] + 0.001 * features(40, 4, 2), reference)
    assert one_kind.precision == 1.0 and one_kind.recall <= 0.05 and one_kind.coverage < 0.4


def test_a_layout_known_by_hand() -> None:
    """Real pictures at 0, 1, 2, 3 on a line, k = 1: all balls reach 1 far."""
    reference = torch.arange(4.0)[:, None]
    judged = torch.tensor([[0.5], [4.0], [6.0], [1.0]])
    found = compare_neighbours(judged, reference, precision_k=1, coverage_k=1)
    assert found.precision == 2 / 4  # 4 lies on a rim, which is outside
    assert found.density == (2 + 0 + 0 + 1) / 4
    assert found.coverage == 2 / 4
    assert found.recall == 2 / 4  # judged balls: (0, 1), (2, 6), (4, 8), (0.5, 1.5), without their rims: 1 and 3
    assert found.nearest.tolist()[1:] == [3, 3, 1]
    assert found.distances.tolist() == pytest.approx([0.5, 1.0, 3.0, 0.0])
    assert found.strangeness.tolist() == pytest.approx([0.5, 1.0, 3.0, 0.0])


def test_pictures_with_copies_have_middling_balls_for_strangeness() -> None:
    """Four copies make a ball of no extent; a picture beside them is not infinitely strange."""
    copies = torch.zeros(4, 1)
    reference = torch.cat([copies, torch.tensor([[10.0], [12.0], [14.0], [16.0], [18.0], [20.0]])])
    found = compare_neighbours(torch.tensor([[1.0], [0.0], [11.0], [11.0], [11.0], [11.0]]), reference)
    assert 0.0 < found.strangeness[0] < 1.0
    assert found.strangeness[1] == 0.0


def test_unfit_input_is_refused() -> None:
    a = features(8, 4, 0)
    with pytest.raises(ToileError, match="width 4 and 3"):
        compare_neighbours(a, features(8, 3, 0))
    for pair in ((a, a[:5]), (a[:5], a)):
        with pytest.raises(ToileError, match="5 pictures are too few for balls that reach to neighbour 5; .* least 6"):
            compare_neighbours(*pair)
    with pytest.raises(ToileError, match="NaN"):
        compare_neighbours(a, torch.full((8, 4), torch.nan))
    with pytest.raises(ToileError, match="k is 0 and 5"):
        compare_neighbours(a, a, precision_k=0)
