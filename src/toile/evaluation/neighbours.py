"""Precision, recall, density and coverage: whose neighbours are judged pictures, and whose are real ones?

Around each picture lies a ball that reaches to the k-th nearest other picture of its set. "Within" is strictly nearer,
as in the authors' own code of density and coverage, with whose `prdc` all four agree.

Shapes: M judged pictures, N reference pictures, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.feature_sets import check_feature_sets, distances, row_blocks

PRECISION_K, COVERAGE_K = 3, 5
# A neighbour lies on the rim of the ball it defines; measured once more, rounding must not let it in.
_RIM = 1.0 - 1e-9


@dataclass(frozen=True)
class Neighbours:
    """How judged pictures lie among reference pictures.

    Attributes:
        precision: share of judged pictures within the ball (k = `PRECISION_K`) of at least one reference picture: do
            they look real? (Kynkaanniemi et al. 2019, eq. 1 and 2.)
        recall: share of reference pictures within the ball of at least one judged picture: is all that is real made?
        density: in how many balls (k = `COVERAGE_K`) of reference pictures a judged picture lies, divided by k; about
            1 for real pictures, above it where they crowd around typical ones (Naeem et al. 2020, eq. 4).
        coverage: share of reference balls with at least one judged picture within (eq. 5).
        nearest: (M,) int64, the nearest reference picture of each judged one.
        distances: (M,) float64, how far it is.
        strangeness: (M,) float64, that distance in units of the nearest picture's ball (k = `PRECISION_K`): how far
            outside of what is real a picture is. Balls without extent, around pictures with k copies, count as
            middling ones.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    nearest: Tensor
    distances: Tensor
    strangeness: Tensor


def compare_neighbours(
    judged: Tensor, reference: Tensor, precision_k: int = PRECISION_K, coverage_k: int = COVERAGE_K
) -> Neighbours:
    """Finds out how judged pictures lie among reference pictures, in memory that does not grow with pairs.

    Of identical sets all four are 1, as long as no picture has k copies. Precision and recall change places with the
    sets. All four depend on N and M: compare only sets of the same sizes.

    Args:
        judged: (M, F), more than `precision_k` pictures.
        reference: (N, F), more pictures than both k.
        precision_k: of precision and recall, at least 1.
        coverage_k: of density and coverage, at least 1.

    Raises:
        ToileError: a k below 1, too few pictures, widths that differ, or values that are not finite.
    """
    if precision_k < 1 or coverage_k < 1:
        raise ToileError(f"k is {precision_k} and {coverage_k}; it must be at least 1")
    most = max(precision_k, coverage_k)
    check_feature_sets(judged, reference, fewest=most + 1, measure=f"balls that reach to neighbour {most}")
    # Around the origin least is lost when squares are subtracted.
    centre = reference.double().mean(dim=0)
    radii = neighbour_radii(reference, (precision_k, coverage_k), centre)
    judged_radii = neighbour_radii(judged, (precision_k,), centre)[0]
    rims, judged_rims = _RIM * radii, _RIM * judged_radii

    real = reference.double() - centre
    num_precise, num_balls = 0, 0
    recalled = torch.zeros(len(reference), dtype=torch.bool)
    nearest_judged = torch.full((len(reference),), torch.inf, dtype=torch.float64)
    nearest, nearest_distances = [], []
    for rows in row_blocks(len(judged), len(reference)):
        block = distances(judged[rows].double() - centre, real)
        num_precise += int((block < rims[0]).any(dim=1).sum())
        num_balls += int((block < rims[1]).sum())
        recalled |= (block < judged_rims[rows, None]).any(dim=0)
        nearest_judged = torch.minimum(nearest_judged, block.amin(dim=0))
        found = block.min(dim=1)
        nearest.append(found.indices)
        nearest_distances.append(found.values)
    indices, gaps = torch.cat(nearest), torch.cat(nearest_distances)
    units = torch.where(radii[0] > 0, radii[0], radii[0].median())[indices]
    return Neighbours(
        precision=num_precise / len(judged),
        recall=float(recalled.double().mean()),
        density=num_balls / (coverage_k * len(judged)),
        coverage=float((nearest_judged < rims[1]).double().mean()),
        nearest=indices,
        distances=gaps,
        strangeness=torch.where(gaps > 0, gaps / units, 0.0),
    )


def neighbour_radii(features: Tensor, ks: tuple[int, ...], centre: Tensor) -> Tensor:
    """How far the k-th nearest other picture of the same set is.

    Args:
        features: (N, F), more pictures than each k.
        ks: each at least 1.
        centre: (F,) float64, anywhere near the features.

    Returns:
        (len(ks), N) float64.
    """
    values = features.double() - centre
    radii = []
    for rows in row_blocks(len(values), len(values)):
        block = distances(values[rows], values)
        # The nearest of all is the picture itself, or a copy of it.
        smallest = block.topk(max(ks) + 1, dim=1, largest=False, sorted=True).values
        radii.append(smallest[:, list(ks)])
    return torch.cat(radii).T.contiguous()
