"""The sliced distance against closed forms, scipy and an integral of quantiles (E1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from toile.errors import ToileError
from toile.evaluation.sliced import random_directions, sliced_distance, squared_wasserstein


def features(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(2, 12))
def test_one_dimensional_transport_is_the_best_assignment(seed: int, num_a: int, num_b: int) -> None:
    """Repeated to a common number of equal parts, transport is an assignment, which scipy solves without sorting."""
    a, b = features(num_a, 1, seed)[:, 0].double(), features(num_b, 1, seed + 1)[:, 0].double()
    together = np.lcm(num_a, num_b)
    parts = [np.repeat(each.numpy(), together // len(each)) for each in (a, b)]
    costs = (parts[0][:, None] - parts[1]) ** 2
    expected = costs[linear_sum_assignment(costs)].mean()
    assert float(squared_wasserstein(a[None], b[None])) == pytest.approx(expected, rel=1e-12)


def test_a_shift_costs_its_squared_length_over_the_width() -> None:
    a, shift = features(50, 16, 0), torch.arange(16.0) / 4
    expected = float(shift.square().sum()) / 16
    assert sliced_distance(a, a + shift, num_directions=4000) == pytest.approx(expected, rel=0.05)
    directions = random_directions(4000, 16, 0)
    exact = float((directions @ shift.double()).square().mean())
    assert sliced_distance(a.double(), a.double() + shift, num_directions=4000) == pytest.approx(exact, rel=1e-9)


def test_gaussians_of_two_sizes() -> None:
    """N(0, 1) and N(0, 3^2) are (3 - 1)^2 apart along every direction."""
    a, b = features(20_000, 3, 0), 3.0 * features(15_000, 3, 1)
    assert sliced_distance(a, b, num_directions=20) == pytest.approx(4.0, rel=0.05)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 9), st.integers(2, 9))
def test_symmetric_and_never_negative(seed: int, num_a: int, num_b: int) -> None:
    a, b = features(num_a, 20, seed), features(num_b, 20, seed + 1)  # fewer pictures than features
    forward = sliced_distance(a, b, num_directions=7)
    assert forward > 0.0
    assert forward == pytest.approx(sliced_distance(b, a, num_directions=7), rel=1e-12)


def test_identical_sets_are_at_distance_zero() -> None:
    a = features(9, 30, 0)
    assert sliced_distance(a, a[torch.randperm(9)]) == pytest.approx(0.0, abs=1e-20)
    assert sliced_distance(a, torch.cat([a, a])) == pytest.approx(0.0, abs=1e-20)


def test_directions_are_seeded_and_do_not_depend_on_their_number() -> None:
    directions = random_directions(10, 5, seed=1)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(10, dtype=torch.float64))
    assert torch.equal(directions[:4], random_directions(4, 5, seed=1))
    assert not torch.equal(directions, random_directions(10, 5, seed=2))
    a, b = features(9, 5, 0), features(9, 5, 1)
    assert sliced_distance(a, b, seed=1) == sliced_distance(a, b, seed=1) != sliced_distance(a, b, seed=2)


def test_unfit_input_is_refused() -> None:
    a = features(5, 4, 0)
    with pytest.raises(ToileError, match="width 4 and 3"):
        sliced_distance(a, features(5, 3, 0))
    with pytest.raises(ToileError, match="1 pictures are too few for a sliced distance"):
        sliced_distance(a, a[:1])
    with pytest.raises(ToileError, match="NaN"):
        sliced_distance(torch.full((5, 4), torch.nan), a)
    with pytest.raises(ToileError, match="0 directions"):
        sliced_distance(a, a, num_directions=0)
