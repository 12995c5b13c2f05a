"""The Frechet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017, eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from toile.errors import ToileError


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
    width = len(a.mean)
    if len(b.mean) != width:
        raise ToileError(f"features of width {width} and {len(b.mean)} cannot be compared")
    for statistics in (a, b):
        if statistics.count < width:
            raise ToileError(
                f"{statistics.count} pictures are too few for a Frechet distance in {width} features; "
                f"give at least {width}"
            )
    covariance_a, covariance_b = a.covariance, b.covariance
    # tr((A B)^(1/2)) is the sum of the singular values of A^(1/2) B^(1/2): no complex roots, nothing to clamp.
    overlap = torch.linalg.svdvals(_square_root(covariance_a) @ _square_root(covariance_b)).sum()
    distance = (a.mean - b.mean).square().sum() + covariance_a.trace() + covariance_b.trace() - 2.0 * overlap
    return max(0.0, float(distance))


def _square_root(covariance: Tensor) -> Tensor:
    """The symmetric root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
