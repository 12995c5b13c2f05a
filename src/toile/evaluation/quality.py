"""One report on a set of pictures: attributes, Frechet distance and white backgrounds, beside real pictures.

The protocol: the held-out pictures of a split are divided at random in two. The first part, N records, gives the
prompts; the rest is the reference. Judged are N pictures, one for each prompt: generated ones, or reconstructions.

- attributes: the classifier's hits on the N judged pictures beside its hits on the N real pictures of the same prompts;
- Frechet distance: judged pictures to the reference. Its floor is the same distance with the real pictures of the
  prompts in place of the judged ones: the same N, the same prompts, the same reference, no picture on both sides. What
  the split into prompts and reference happens to give is averaged out over further random divisions of the same sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.attributes import CONFIDENCE, AttributeScore, Share, score_attributes, wanted_labels
from toile.evaluation.features import Observations, observe
from toile.evaluation.frechet import FeatureStatistics, frechet_distance
from toile.models.classifier import AttributeClassifier

NUM_DIVISIONS = 10
BORDER_WIDTH = 4
WHITE_LEVEL = 250


@dataclass(frozen=True)
class Division:
    """Positions (int64) of held-out pictures: those that give the prompts, and the reference; nothing in both."""

    prompts: np.ndarray
    reference: np.ndarray


def divide_held_out(positions: np.ndarray, num_prompts: int, seed: int = 0) -> Division:
    """Divides held-out positions at random.

    Args:
        positions: validation and test side of a split.
        num_prompts: N; at least one picture must remain for the reference.
    """
    if not 1 <= num_prompts < len(positions):
        raise ToileError(f"{num_prompts} prompts of {len(positions)} held-out pictures: give 1 to {len(positions) - 1}")
    shuffled = np.random.default_rng(seed).permutation(positions)
    return Division(shuffled[:num_prompts], shuffled[num_prompts:])


@dataclass(frozen=True)
class RealPictures:
    """What the classifier sees in held-out real pictures: the prompts' own, and the reference."""

    records: tuple[Mapping[str, str], ...]
    own: Observations
    reference: Observations
    own_pixels: Tensor
    floors: tuple[float, ...]


def observe_real(
    classifier: AttributeClassifier,
    own: Tensor,
    reference: Tensor,
    records: Sequence[Mapping[str, str]],
    seed: int = 0,
) -> RealPictures:
    """Prepares the real side of a report.

    Args:
        own: (N, H, W, 3) uint8, the real pictures of the prompts.
        reference: (R, H, W, 3) uint8, other held-out pictures.
        records: the fields of the N records.
        seed: of the further divisions for the floor.

    Raises:
        ToileError: N or R is smaller than the number of features, or the numbers do not match.
    """
    if len(records) != len(own):
        raise ToileError(f"{len(records)} records and {len(own)} pictures: give one of each")
    seen_own, seen_reference = observe(classifier, own), observe(classifier, reference)
    floors = _floors(seen_own.features, seen_reference.features, seed)
    return RealPictures(tuple(records), seen_own, seen_reference, own, floors)


def _floors(own: Tensor, reference: Tensor, seed: int) -> tuple[float, ...]:
    """The division in use first, then further random ones of the same sizes."""
    together, rng = torch.cat([own, reference]), np.random.default_rng(seed)
    orders = [np.arange(len(together))] + [rng.permutation(len(together)) for _ in range(NUM_DIVISIONS - 1)]
    floors = []
    for order in orders:
        shuffled = together[torch.from_numpy(order)]
        floors.append(_distance(shuffled[: len(own)], shuffled[len(own) :]))
    return tuple(floors)


def _distance(a: Tensor, b: Tensor) -> float:
    return frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))


@dataclass(frozen=True)
class QualityReport:
    """Scores of N judged pictures.

    Attributes:
        num_pictures, num_reference: N and R.
        attributes: for each attribute, judged beside real on the same prompts.
        frechet: squared Frechet distance of the judged pictures to the reference.
        frechet_floors: of real pictures to real pictures, the division in use first.
        white_border, white_border_real: share of the pictures' border (`BORDER_WIDTH` pixels wide) with all three
            colours at `WHITE_LEVEL` or more, judged and real.
    """

    num_pictures: int
    num_reference: int
    attributes: Mapping[str, AttributeScore]
    frechet: float
    frechet_floors: tuple[float, ...]
    white_border: float
    white_border_real: float

    @property
    def frechet_floor(self) -> float:
        """Mean over the divisions."""
        return float(np.mean(self.frechet_floors))

    @property
    def frechet_ratio(self) -> float:
        """How many times the floor the distance is."""
        return self.frechet / self.frechet_floor

    def rows(self) -> list[tuple[str, str, str, str]]:
        """A table for people: what, on the judged pictures, on real ones, ratio."""
        rows = [
            (f"{name.replace('_', ' ')} (n={score.num_pairs})", _share(score.judged), _share(score.real), _ratio(score))
            for name, score in self.attributes.items()
        ]
        spread = f"{self.frechet_floor:.3f} ({min(self.frechet_floors):.3f}-{max(self.frechet_floors):.3f})"
        rows.append(("Frechet distance", f"{self.frechet:.3f}", spread, f"{self.frechet_ratio:.2f}"))
        white = self.white_border / self.white_border_real if self.white_border_real else math.nan
        rows.append(("white border", f"{self.white_border:.3f}", f"{self.white_border_real:.3f}", f"{white:.3f}"))
        return rows

    def facts(self) -> dict[str, Any]:
        """Plain JSON values: every count, and the values derived from them."""
        attributes = {
            name: {
                **asdict(score),
                "judged": score.judged.value,
                "judged_interval": score.judged.interval,
                "real": score.real.value,
                "real_interval": score.real.interval,
                "ratio": score.ratio,
                "ratio_interval": score.ratio_interval,
            }
            for name, score in self.attributes.items()
        }
        derived = {"frechet_floor": self.frechet_floor, "frechet_ratio": self.frechet_ratio}
        return {**asdict(self), "attributes": attributes, **derived, "confidence": CONFIDENCE}


def evaluate_pictures(classifier: AttributeClassifier, real: RealPictures, judged: Tensor) -> QualityReport:
    """Scores pictures of the prompts that `real` was prepared for.

    Args:
        judged: (N, H, W, 3) uint8, the i-th for the i-th record.

    Raises:
        ToileError: not one picture a record, or fewer pictures than features.
    """
    if len(judged) != len(real.records):
        raise ToileError(f"{len(judged)} pictures for {len(real.records)} records: give one of each")
    seen = observe(classifier, judged)
    wanted = wanted_labels(classifier.config.labels, real.records)
    return QualityReport(
        num_pictures=len(judged),
        num_reference=len(real.reference.features),
        attributes=score_attributes(wanted, seen.predictions, real.own.predictions),
        frechet=_distance(seen.features, real.reference.features),
        frechet_floors=real.floors,
        white_border=white_border_share(judged),
        white_border_real=white_border_share(real.own_pixels),
    )


def white_border_share(pixels: Tensor, width: int = BORDER_WIDTH, level: int = WHITE_LEVEL) -> float:
    """Share of border pixels with all three colours at `level` or more; the border is `width` pixels wide.

    Args:
        pixels: (N, H, W, 3) uint8.
    """
    white = (pixels >= level).all(dim=-1)
    border = torch.ones(white.shape[1:], dtype=torch.bool)
    border[width:-width, width:-width] = False
    return float(white[:, border].double().mean())


@dataclass(frozen=True)
class Fidelity:
    """Peak signal-to-noise ratio in dB of 8-bit pictures, peak 255.

    Attributes:
        psnr_pooled: of the mean squared error over all pictures together.
        psnr_mean: mean over pictures of each one's own; higher, because easy pictures count more.
    """

    psnr_pooled: float
    psnr_mean: float


def measure_fidelity(pixels: Tensor, originals: Tensor) -> Fidelity:
    """Compares pictures with their originals, both (N, H, W, 3) uint8; equal ones have infinite PSNR."""
    if pixels.shape != originals.shape or not len(pixels):
        raise ToileError(f"pictures {tuple(pixels.shape)} and originals {tuple(originals.shape)} must have one shape")
    errors = (pixels.double() - originals.double()).square().flatten(1).mean(dim=1)
    psnr = 10.0 * torch.log10(255.0**2 / torch.stack([errors.mean(), *errors]))
    return Fidelity(float(psnr[0]), float(psnr[1:].mean()))


def _share(share: Share) -> str:
    low, high = share.interval
    return f"{share.value:.3f} ({low:.3f}-{high:.3f})"


def _ratio(score: AttributeScore) -> str:
    low, high = score.ratio_interval
    return f"{score.ratio:.3f} ({low:.3f}-{high:.3f})"
