"""The kernel distance against a double loop and known expectations (E1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.errors import ToileError
from toile.evaluation import kernel_distance as module
from toile.evaluation.kernel_distance import kernel_distance


def features(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def naive(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1.0) ** 3)

    within = [
        sum(kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j)
        / (len(rows) * (len(rows) - 1))
        for rows in (a, b)
    ]
    return sum(within) - 2.0 * float(np.mean([kernel(x, y) for x in a for y in b]))


@pytest.mark.parametrize("block", [2, 3, 2048])
def test_agrees_with_a_double_loop(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    a, b = features(7, 5, 0), features(10, 5, 1) + 0.5
    expected = naive(a.double().numpy(), b.double().numpy())
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_pictures_without_spread_differ_by_their_kernels() -> None:
    """k(x, x) + k(y, y) - 2 k(x, y), for sets that hold one point each."""
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([0.0, -1.0])
    expected = (5 / 2 + 1) ** 3 + (1 / 2 + 1) ** 3 - 2 * (-2 / 2 + 1) ** 3
    assert kernel_distance(x.expand(3, 2), y.expand(4, 2)) == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(x.expand(3, 2), x.expand(5, 2)) == pytest.approx(0.0, abs=1e-12)


def test_the_expectation_of_shifted_gaussians() -> None:
    """One feature, x ~ N(0, 1) and y ~ N(c, 1): the kernel is a polynomial, so moments give its mean."""
    shift, num = 0.7, 400

    def mean_kernel(m: float, n: float) -> float:
        # E (xy)^p = E x^p E y^p for x ~ N(m, 1), y ~ N(n, 1); (xy + 1)^3 = (xy)^3 + 3 (xy)^2 + 3 xy + 1.
        return (m**3 + 3 * m) * (n**3 + 3 * n) + 3 * (m**2 + 1) * (n**2 + 1) + 3 * m * n + 1

    expected = mean_kernel(0, 0) + mean_kernel(shift, shift) - 2 * mean_kernel(0, shift)
    found = [kernel_distance(features(num, 1, seed), features(num, 1, 1000 + seed) + shift) for seed in range(60)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 3 * error and error < expected / 10


@pytest.mark.parametrize("num", [10, 40])
def test_one_distribution_is_at_zero_on_average_whatever_the_number(num: int) -> None:
    found = np.array([kernel_distance(features(num, 8, seed), features(15, 8, 500 + seed)) for seed in range(200)])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found))
    assert 0.3 < (found < 0).mean() < 0.8


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 9), st.integers(2, 9))
def test_the_same_both_ways(seed: int, num_a: int, num_b: int) -> None:
    a, b = features(num_a, 4, seed), features(num_b, 4, seed + 1) * 2.0
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a), rel=1e-12, abs=1e-12)


def test_a_set_and_itself_is_below_zero() -> None:
    a = features(50, 6, 0)
    assert -1.0 < kernel_distance(a, a) < 0.0


def test_unfit_input_is_refused() -> None:
    a = features(5, 4, 0)
    with pytest.raises(ToileError, match="width 4 and 3"):
        kernel_distance(a, features(5, 3, 0))
    for pair in ((a, a[:1]), (a[:1], a)):
        with pytest.raises(ToileError, match="1 pictures are too few for a kernel distance; give at least 2"):
            kernel_distance(*pair)
    for damaged in (torch.nan, torch.inf):
        with pytest.raises(ToileError, match="NaN"):
            kernel_distance(a, torch.full((5, 4), damaged))
    with pytest.raises(ToileError, match=r"\(4,\)"):
        kernel_distance(a, a[0])
