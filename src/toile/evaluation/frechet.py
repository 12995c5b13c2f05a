"""The Frechet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017, eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError

NUM_SIZES = 15


class FeatureStatistics:
    """Mean and covariance of features that come in batches, in float64.

    The batches change nothing but the last digits: the running sums are kept around the running mean
    (Chan, Golub & LeVeque 1983, the pairwise update).

    Args:
        feature_dim: F, the width of the features.
    """

    def __init__(self, feature_dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(feature_dim, dtype=torch.float64)
        self._scatter = torch.zeros(feature_dim, feature_dim, dtype=torch.float64)

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """The statistics of features (N, F)."""
        statistics = cls(features.shape[1])
        statistics.update(features)
        return statistics

    def update(self, features: Tensor) -> None:
        """Takes in features (N, F).

        Raises:
            ToileError: another width, or values that are not finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ToileError(f"features are {tuple(features.shape)}; give (pictures, {len(self.mean)})")
        if not bool(features.isfinite().all()):
            raise ToileError("features hold NaN or infinity; the pictures or the evaluator's weights are damaged")
        if not len(features):
            return
        values = features.double()
        mean = values.mean(dim=0)
        centred, gap = values - mean, mean - self.mean
        total = self.count + len(values)
        self._scatter += centred.T @ centred + gap.outer(gap) * (self.count * len(values) / total)
        self.mean = self.mean + gap * (len(values) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """(F, F) float64, unbiased (divided by N - 1)."""
        if self.count < 2:
            raise ToileError(f"{self.count} pictures have no covariance; give at least 2")
        return self._scatter / (self.count - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """`|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`, at least 0, the same both ways.

    It grows by about 1 / N as sets get smaller, so compare only distances between sets of the same sizes.

    Raises:
        ToileError: the widths differ, or a set has fewer pictures than features: its covariance is singular and the
            distance would measure little but the number of pictures.
    """
    _check_pair(a, b)
    covariance_a, covariance_b = a.covariance, b.covariance
    # tr((A B)^(1/2)) is the sum of the singular values of A^(1/2) B^(1/2): no complex roots, nothing to clamp.
    overlap = torch.linalg.svdvals(_square_root(covariance_a) @ _square_root(covariance_b)).sum()
    distance = (a.mean - b.mean).square().sum() + covariance_a.trace() + covariance_b.trace() - 2.0 * overlap
    return max(0.0, float(distance))


def _check_pair(a: FeatureStatistics, b: FeatureStatistics) -> None:
    width = len(a.mean)
    if len(b.mean) != width:
        raise ToileError(f"features of width {width} and {len(b.mean)} cannot be compared")
    for statistics in (a, b):
        if statistics.count < width:
            raise ToileError(
                f"{statistics.count} pictures are too few for a Frechet distance in {width} features; "
                f"give at least {width}"
            )


def _square_root(covariance: Tensor) -> Tensor:
    """The symmetric root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T


@dataclass(frozen=True)
class ExtrapolatedFrechet:
    """A Frechet distance for sets without end, and the line it was read from.

    Attributes:
        value: the intercept; it scatters around the truth, so it may be below 0 where that is near 0.
        standard_error: of the intercept, from how far the distances lie from the line.
        slope: of the line, per 1 / N.
        sizes: N of the subsets, ascending.
        distances: at these sizes.
    """

    value: float
    standard_error: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def extrapolate_frechet(features: Tensor, reference: FeatureStatistics, seed: int = 0) -> ExtrapolatedFrechet:
    """The Frechet distance that pictures without end would have (Chong & Forsyth 2020, sec. 3.2).

    The distance of N pictures is too large by about c / N, with a c that differs from model to model. So the distances
    of subsets of `NUM_SIZES` sizes are laid out over 1 / N, and the least-squares line is followed to 1 / N = 0. At
    each size the mean of as many disjoint subsets as there are is taken, which steadies it. The sizes begin at N / 4,
    or at 2 F where that is more, because below it the bias leaves the line; but at N / 2 at the latest. So with less
    than 4 F pictures the estimate tends to be too low, by less than the plain distance is too high.

    The standard error says how straight the line is. All its points are made of the same pictures, so what other
    pictures of the same model would have given differs by several times as much: take intervals from disjoint sets.

    The reference stays as it is: what its own number of pictures adds is in all scores against it, if not equally.

    Args:
        features: (N, F), at least 2 F of them, none of a picture that is in the reference.
        reference: of at least F pictures.
        seed: of the order in which pictures come into subsets.

    Raises:
        ToileError: as `frechet_distance`, or fewer than 2 F pictures, which give no line to follow.
    """
    judged = _for_line(features)
    _check_pair(FeatureStatistics.of(judged), reference)
    root, variance = _square_root(reference.covariance), reference.covariance.trace()
    shuffled = _shuffled(judged, seed)
    sizes = _sizes(len(judged), judged.shape[1])
    means = []
    for size in sizes:
        distances = []
        for part in _disjoint(shuffled, size, len(shuffled) // size):
            statistics = FeatureStatistics.of(part)
            covariance = statistics.covariance
            # The reference's root is worked out once, so eigenvalues serve here where `frechet_distance` has singular
            # values; rounding below 0 costs less than subsets differ by.
            overlap = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0.0).sqrt().sum()
            gap = (statistics.mean - reference.mean).square().sum()
            distances.append(float(gap + covariance.trace() + variance - 2.0 * overlap))
        means.append(math.fsum(distances) / len(distances))
    return _follow_line(sizes, means)


def _for_line(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2 * features.shape[1]:
        raise ToileError(
            f"features {tuple(features.shape)} are too few pictures to extrapolate a Frechet distance; "
            "give at least twice as many as features"
        )
    return features


def _sizes(num_pictures: int, width: int) -> list[int]:
    smallest = max(num_pictures // 4, min(2 * width, num_pictures // 2), width)
    steps = torch.linspace(smallest, num_pictures, NUM_SIZES, dtype=torch.float64).round()
    return sorted({int(size) for size in steps})


def _shuffled(features: Tensor, seed: int) -> Tensor:
    return features[torch.from_numpy(np.random.default_rng(seed).permutation(len(features)))]


def _disjoint(features: Tensor, size: int, num_parts: int) -> Iterator[Tensor]:
    for part in range(num_parts):
        yield features[part * size : (part + 1) * size]


def _follow_line(sizes: Sequence[int], distances: Sequence[float]) -> ExtrapolatedFrechet:
    """Ordinary least squares of the distances over 1 / size: the value at 0."""
    inverse = 1.0 / torch.tensor(sizes, dtype=torch.float64)
    values = torch.tensor(distances, dtype=torch.float64)
    centre, spread = inverse.mean(), (inverse - inverse.mean()).square().sum()
    slope = ((inverse - centre) * (values - values.mean())).sum() / spread
    intercept = values.mean() - slope * centre
    variance = (values - intercept - slope * inverse).square().sum() / (len(sizes) - 2)
    error = (variance * (1.0 / len(sizes) + centre.square() / spread)).sqrt()
    return ExtrapolatedFrechet(float(intercept), float(error), float(slope), tuple(sizes), tuple(distances))
