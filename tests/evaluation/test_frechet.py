"""The Frechet distance against closed forms and against scipy's matrix root (E1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from toile.errors import ToileError
from toile.evaluation.frechet import (
    NUM_SIZES,
    FeatureStatistics,
    extrapolate_frechet,
    frechet_distance,
)


def features(count: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mix + torch.randn(width, generator=generator)


def with_moments(mean: torch.Tensor, covariance: torch.Tensor) -> FeatureStatistics:
    """Statistics of features that have exactly these moments."""
    width = len(mean)
    raw = torch.randn(4 * width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    centred = raw - raw.mean(dim=0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T @ centred / (len(raw) - 1))).T
    return FeatureStatistics.of(white @ torch.linalg.cholesky(covariance).T + mean)


@pytest.mark.parametrize("width", [1, 5, 64])
def test_identical_sets_are_at_distance_zero(width: int) -> None:
    statistics = FeatureStatistics.of(100.0 * features(200, width, seed=0))
    assert frechet_distance(statistics, statistics) <= 1e-9 * float(statistics.covariance.trace())


def test_a_shift_costs_its_squared_length() -> None:
    base, shift = features(300, 8, seed=1), torch.arange(8.0) - 2.0
    distance = frechet_distance(FeatureStatistics.of(base.double()), FeatureStatistics.of(base.double() + shift))
    assert distance == pytest.approx(float(shift.square().sum()), rel=1e-9)


def test_diagonal_gaussians() -> None:
    mean_a, mean_b = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([0.5, 1.0, 0.0]).double()
    std_a, std_b = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 0.5, 3.0]).double()
    a, b = with_moments(mean_a, std_a.square().diag()), with_moments(mean_b, std_b.square().diag())
    distance = frechet_distance(a, b)
    assert distance == pytest.approx(float((mean_a - mean_b).square().sum() + (std_a - std_b).square().sum()), rel=1e-8)


def test_scaled_copies_of_one_covariance() -> None:
    mix = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    covariance, mean = mix @ mix.T, torch.zeros(6, dtype=torch.float64)
    distance = frechet_distance(with_moments(mean, covariance), with_moments(mean, 9.0 * covariance))
    assert distance == pytest.approx(float(covariance.trace()) * (3.0 - 1.0) ** 2, rel=1e-8)


def test_agrees_with_the_matrix_root_of_scipy() -> None:
    a, b = features(500, 16, seed=4), features(400, 16, seed=5)
    mean_gap = a.double().mean(0) - b.double().mean(0)
    covariance_a, covariance_b = np.cov(a.double().numpy().T), np.cov(b.double().numpy().T)
    root = sqrtm(covariance_a @ covariance_b).real
    expected = float(mean_gap.square().sum()) + np.trace(covariance_a + covariance_b - 2.0 * root)
    assert frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b)) == pytest.approx(expected, rel=1e-7)


@settings(deadline=None)  # the first call of a matrix routine takes long
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_symmetric_and_never_negative(seed_a: int, seed_b: int) -> None:
    a, b = (FeatureStatistics.of(features(20, 4, seed)) for seed in (seed_a, seed_b))
    forward, backward = frechet_distance(a, b), frechet_distance(b, a)
    assert forward >= 0.0
    assert forward == pytest.approx(backward, rel=1e-9, abs=1e-9)


def test_dead_features_do_no_harm() -> None:
    a, b = features(50, 6, seed=1), features(50, 6, seed=2)
    padded = [FeatureStatistics.of(torch.cat([x, torch.zeros(50, 3)], dim=1)) for x in (a, b)]
    expected = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    assert frechet_distance(*padded) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.floats(-1e4, 1e4))
def test_batches_change_nothing(sizes: list[int], offset: float) -> None:
    together = features(sum(sizes) + 2, 5, seed=6).double() + offset
    streamed, first = FeatureStatistics(5), 0
    for size in [*sizes, 2]:
        streamed.update(together[first : first + size])
        first += size
    assert streamed.count == len(together)
    torch.testing.assert_close(streamed.mean, together.mean(0))
    torch.testing.assert_close(streamed.covariance, together.T.cov(), rtol=1e-7, atol=1e-7)


def test_fewer_pictures_than_features_are_refused() -> None:
    enough, few = FeatureStatistics.of(features(8, 8, seed=0)), FeatureStatistics.of(features(7, 8, seed=0))
    assert frechet_distance(enough, enough) == pytest.approx(0.0, abs=1e-6)
    for pair in ((enough, few), (few, enough)):
        with pytest.raises(ToileError, match="7 pictures are too few .* 8 features"):
            frechet_distance(*pair)


def test_unfit_features_are_refused() -> None:
    statistics = FeatureStatistics(4)
    with pytest.raises(ToileError, match=r"\(3, 5\)"):
        statistics.update(torch.zeros(3, 5))
    with pytest.raises(ToileError, match="NaN"):
        statistics.update(torch.full((3, 4), torch.nan))
    assert statistics.count == 0
    with pytest.raises(ToileError, match="width 4 and 5"):
        frechet_distance(FeatureStatistics.of(features(9, 4, 0)), FeatureStatistics.of(features(9, 5, 0)))


def gaussians(width: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Factors of two covariances whose variances fall as those of real features do, and the distance of the Gaussians.

    Both have mean 0 and the same axes, so the distance is that of the standard deviations.
    """
    first, second = torch.arange(1, width + 1).double() ** -0.5, 1.2 * torch.arange(1, width + 1).double() ** -0.4
    axes = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(9)).double()).Q
    return axes * first, axes * second, float((first - second).square().sum())


@pytest.mark.parametrize("times", [2, 4, 8])
def test_the_extrapolated_distance_is_closer_to_that_of_the_gaussians(times: int) -> None:
    width, num_seeds = 24, 12
    factor_a, factor_b, truth = gaussians(width)
    plain, extrapolated = [], []
    for seed in range(num_seeds):
        generator = torch.Generator().manual_seed(seed)
        a, b = (
            torch.randn(count, width, generator=generator, dtype=torch.float64) @ factor.T
            for count, factor in ((times * width, factor_a), (60 * width, factor_b))
        )
        reference = FeatureStatistics.of(b)
        plain.append(frechet_distance(FeatureStatistics.of(a), reference))
        extrapolated.append(extrapolate_frechet(a, reference).value)
    gaps = [np.abs(np.array(values) - truth) for values in (plain, extrapolated)]
    assert np.mean(plain) - truth > 0.02 * truth  # the plain one is biased indeed
    assert abs(np.mean(extrapolated) - truth) < 0.5 * (np.mean(plain) - truth)
    assert (gaps[1] < gaps[0]).mean() >= 0.75 and gaps[1].mean() < 0.7 * gaps[0].mean()


def test_a_straight_line_is_followed_exactly() -> None:
    """The line is that of numpy's least squares; the reference is a point, so the distances are easy."""
    a = features(400, 4, seed=1)
    point = FeatureStatistics.of(torch.zeros(4, 4))
    found = extrapolate_frechet(a, point)
    assert found.sizes[0] == 100 and found.sizes[-1] == 400 and len(found.sizes) == NUM_SIZES
    assert found.distances[-1] == pytest.approx(frechet_distance(FeatureStatistics.of(a), point), rel=1e-9)
    inverse = 1.0 / np.array(found.sizes)
    slope, intercept = np.polyfit(inverse, found.distances, 1)
    assert (found.slope, found.value) == (pytest.approx(slope, rel=1e-6), pytest.approx(intercept, rel=1e-9))
    covariance = np.polyfit(inverse, found.distances, 1, cov=True)[1]
    assert found.standard_error == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-6)


def test_subsets_begin_where_the_bias_is_straight() -> None:
    reference = FeatureStatistics.of(features(40, 10, seed=1))
    smallest = [extrapolate_frechet(features(n, 10, seed=2), reference).sizes[0] for n in (20, 30, 40, 80, 200)]
    assert smallest == [10, 15, 20, 20, 50]


def test_the_extrapolated_distance_is_a_function_of_the_seed() -> None:
    a, b = features(60, 6, seed=1), features(80, 6, seed=2)
    reference = FeatureStatistics.of(b)
    first = extrapolate_frechet(a, reference, seed=3)
    assert first == extrapolate_frechet(a, reference, seed=3) != extrapolate_frechet(a, reference, seed=4)


def test_too_few_pictures_to_extrapolate_are_refused() -> None:
    a, reference = features(16, 8, 0), FeatureStatistics.of(features(16, 8, 1))
    assert len(extrapolate_frechet(a, reference).sizes) == 9
    with pytest.raises(ToileError, match="too few pictures to extrapolate .* at least twice"):
        extrapolate_frechet(a[:15], reference)
    with pytest.raises(ToileError, match="7 pictures are too few .* 8 features"):
        extrapolate_frechet(a, FeatureStatistics.of(features(7, 8, 1)))
    with pytest.raises(ToileError, match="width 8 and 7"):
        extrapolate_frechet(a, FeatureStatistics.of(features(16, 7, 1)))
    with pytest.raises(ToileError, match="NaN"):
        extrapolate_frechet(torch.full((16, 8), torch.nan), reference)
