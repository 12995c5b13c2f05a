"""Are judged pictures copies of training pictures? A distance that punishes it, and an audit that says which.

Shapes: M judged pictures, T training pictures, H held-out real pictures, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.feature_sets import check_feature_sets, row_blocks
from toile.evaluation.frechet import FeatureStatistics, frechet_distance

MIFID_EPSILON = 0.1
_MIFID_TINY = 1e-14
YARDSTICK = 100
"""The limit of the audit is where the nearest one in so many held-out pictures lies."""
ALARM_LEVEL = 0.01
# Cosines of float64 are right to about 1e-15; nearer than this, pictures are copies.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class MemorisationFrechet:
    """MiFID and what it is made of.

    Attributes:
        value: frechet / (penalty + 1e-14).
        frechet: the distance without the punishment.
        memorisation: mean over judged pictures of 1 - |cosine| to the nearest training picture, 0 to 1.
        penalty: `memorisation` where that is below epsilon, else 1.
    """

    value: float
    frechet: float
    memorisation: float
    penalty: float


def mifid(judged: Tensor, training: Tensor, epsilon: float = MIFID_EPSILON) -> MemorisationFrechet:
    """The memorisation-informed Frechet distance (Bai et al. 2021, sec. 3.2), as picture challenges of Kaggle score.

    "Generative Dog Images" and "I'm Something of a Painter Myself" divide the Frechet distance to the training
    pictures by the memorisation distance, where that is below epsilon = 0.1 in their Inception features; other features
    have other distances, so there a fitting epsilon must be found. As there, features that are all 0 are left out
    of the memorisation distance.

    Args:
        judged: (M, F), at least F pictures.
        training: (T, F), at least F pictures.
        epsilon: below which memorisation distance pictures count as learnt by heart, above 0.

    Raises:
        ToileError: as `frechet_distance`, or epsilon out of range.
    """
    if not 0.0 < epsilon <= 1.0:
        raise ToileError(f"epsilon is {epsilon:g}; it must be above 0, at most 1")
    check_feature_sets(judged, training, fewest=2, measure="MiFID")
    distance = frechet_distance(FeatureStatistics.of(judged), FeatureStatistics.of(training))
    return mifid_of(distance, memorisation_distance(judged, training), epsilon)


def mifid_of(frechet: float, memorisation: float, epsilon: float = MIFID_EPSILON) -> MemorisationFrechet:
    """MiFID from its two parts (Bai et al. 2021, eq. 4 and 5)."""
    penalty = memorisation if memorisation < epsilon else 1.0
    return MemorisationFrechet(frechet / (penalty + _MIFID_TINY), frechet, memorisation, penalty)


def memorisation_distance(judged: Tensor, training: Tensor) -> float:
    """Mean over judged pictures of the smallest 1 - |cosine| to a training picture (Bai et al. 2021, eq. 3), 0 to 1.

    Args, errors: see `memorisation_distances`; pictures without a distance do not count.
    """
    return float(memorisation_distances(judged, training).nanmean())


def memorisation_distances(judged: Tensor, training: Tensor) -> Tensor:
    """For each judged picture the smallest 1 - |cosine| to a training picture, (M,) float64; NaN for one that is all 0.

    Args:
        judged, training: (M, F) and (T, F); rows that are all 0 are left out.

    Raises:
        ToileError: nothing is left, widths that differ, or values that are not finite.
    """
    check_feature_sets(judged, training, fewest=1, measure="a memorisation distance")
    seen, training = judged.ne(0).any(dim=1), training[training.ne(0).any(dim=1)]
    if not bool(seen.any()) or not len(training):
        raise ToileError("all features are 0; give pictures in which the evaluator sees something")
    distances = torch.full((len(judged),), torch.nan, dtype=torch.float64)
    distances[seen] = _nearest(judged[seen], training, both_ways=True).distances
    return distances


@dataclass(frozen=True)
class NearestTraining:
    """For each of N pictures the training picture that is most like it.

    Attributes:
        distances: (N,) float64, 1 - cosine, 0 to 2; exactly 0 for copies.
        indices: (N,) int64, rows of the training features.
    """

    distances: Tensor
    indices: Tensor


def nearest_training(features: Tensor, training: Tensor) -> NearestTraining:
    """Finds the nearest training picture of each picture by the cosine of their features, block by block.

    Args:
        features: (N, F), at least 1. Features whose mean is far from 0, such as plain pixels, tell pictures apart
            better once a mean is taken off.
        training: (T, F), at least 1. Features that are all 0 are at distance 1 from all others.

    Raises:
        ToileError: widths that differ, no pictures, or values that are not finite.
    """
    check_feature_sets(features, training, fewest=1, measure="a search for copies")
    return _nearest(features, training, both_ways=False)


def _nearest(features: Tensor, training: Tensor, both_ways: bool) -> NearestTraining:
    lengths = torch.nn.functional.normalize
    known = lengths(training.double(), dim=1)
    distances, indices = [], []
    for rows in row_blocks(len(features), len(training)):
        cosines = lengths(features[rows].double(), dim=1) @ known.T
        found = (cosines.abs_() if both_ways else cosines).max(dim=1)
        gaps = 1.0 - found.values
        distances.append(gaps.masked_fill(gaps < _ROUNDING, 0.0))
        indices.append(found.indices)
    return NearestTraining(torch.cat(distances), torch.cat(indices))


@dataclass(frozen=True)
class CopyAudit:
    """Whether more pictures are like training pictures than chance gives.

    Attributes:
        nearest: of each judged picture.
        limit: cosine distance; the nearest 1 % of held-out real pictures are at most this far from a training picture.
        num_near: judged pictures that are at most that far.
        num_held_out_near: held-out pictures that are; more than 1 % where many are equally far.
        num_held_out: H.
        alarm_from: how many near pictures raise the alarm.
        p_value: how often chance alone gives so many near ones, if judged pictures are like held-out ones.
        alarm: whether that is at most `ALARM_LEVEL`.
    """

    nearest: NearestTraining
    limit: float
    num_near: int
    num_held_out_near: int
    num_held_out: int
    alarm_from: int
    p_value: float
    alarm: bool

    @property
    def share(self) -> float:
        """Of judged pictures that are near, 0 to 1."""
        return self.num_near / len(self.nearest.distances)

    @property
    def most_alike(self) -> Tensor:
        """(M,) int64: judged pictures, those nearest to a training picture first."""
        return self.nearest.distances.argsort(stable=True)

    @property
    def sentence(self) -> str:
        """The finding, for people."""
        found = (
            f"{self.num_near:,} of {len(self.nearest.distances):,} pictures ({self.share:.1%}) are as near to a "
            f"training picture as the nearest {self.num_held_out_near:,} of {self.num_held_out:,} real pictures "
            f"that were held out ({self.num_held_out_near / self.num_held_out:.1%})"
        )
        if self.alarm:
            return f"Copies: {found}; by chance so many come about with probability {self.p_value:.2g}."
        return f"No sign of copies: {found}; {self.alarm_from:,} or more would be one."


def audit_copies(judged: NearestTraining, held_out: NearestTraining) -> CopyAudit:
    """Compares how near judged and held-out real pictures come to training pictures.

    The rule: the limit is the distance that the nearest 1 % of held-out pictures keep to training pictures. Real
    pictures resemble each other too, and near-duplicates in the data are on both sides of the scale. The alarm is
    raised when so many judged pictures are within the limit that it would happen to other held-out pictures in at most
    1 % of audits: `ALARM_LEVEL` is the false-alarm rate, see `chances_of_so_many`.

    A few copies among many pictures do not reach `alarm_from`; look at those that are most alike too.

    Args:
        judged: of M pictures.
        held_out: of H real pictures that were held out, at least `YARDSTICK`, against the same training pictures.

    Raises:
        ToileError: too few held-out pictures to know their nearest 1 %, all of them equally near, or so few judged ones
            that not even copies alone would raise the alarm.
    """
    num_judged, num_held_out = len(judged.distances), len(held_out.distances)
    if num_held_out < YARDSTICK:
        raise ToileError(
            f"{num_held_out} held-out pictures are too few to know their nearest 1 %; give at least {YARDSTICK}"
        )
    limit = float(held_out.distances.kthvalue(num_held_out // YARDSTICK).values)
    num_near = int((judged.distances <= limit).sum())
    num_held_out_near = int((held_out.distances <= limit).sum())
    if num_held_out_near == num_held_out:
        raise ToileError("all held-out pictures are equally near to training pictures; use features that tell more")
    chances = chances_of_so_many(num_judged, num_held_out_near, num_held_out)
    alarm_from = int((chances > ALARM_LEVEL).sum())
    if alarm_from > num_judged:
        raise ToileError(f"{num_judged} pictures are too few to tell copies from chance; give more")
    return CopyAudit(
        nearest=judged,
        limit=limit,
        num_near=num_near,
        num_held_out_near=num_held_out_near,
        num_held_out=num_held_out,
        alarm_from=alarm_from,
        p_value=float(chances[num_near]),
        alarm=num_near >= alarm_from,
    )


def chances_of_so_many(num_judged: int, num_held_out_near: int, num_held_out: int) -> Tensor:
    """For k = 0 to M the probability that k or more judged pictures are near, if they are like held-out ones.

    Let r held-out pictures be near. In a random order of all M + H pictures, j judged ones come before the held-out one
    number r + 1 with probability `C(j + r, r) C(M + H - j - r - 1, H - r - 1) / C(M + H, H)`, the negative
    hypergeometric distribution. So it is exact although the limit is set by the held-out pictures themselves. Its tail
    is the p-value of Fisher's exact test, one-sided, of near and far by judged and held-out.

    Args:
        num_judged: M, at least 1.
        num_held_out_near: r, 0 to H - 1.
        num_held_out: H.

    Returns:
        (M + 1,) float64, descending from 1.
    """
    judged = torch.arange(num_judged + 1, dtype=torch.float64)
    far = torch.tensor(float(num_held_out - num_held_out_near - 1), dtype=torch.float64)
    near, everyone = judged + num_held_out_near, num_judged + num_held_out
    logs = _log_choose(near, judged) + _log_choose(everyone - near - 1, far)
    # The largest term is taken off first, and the sum must be 1: no term under- or overflows.
    return logs.softmax(0).flip(0).cumsum(0).flip(0).clamp(max=1.0)


def _log_choose(total: Tensor, chosen: Tensor) -> Tensor:
    return torch.lgamma(total + 1) - torch.lgamma(chosen + 1) - torch.lgamma(total - chosen + 1)
