"""Do pictures show what was asked for? Shares with intervals, beside the same shares on real pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from toile.errors import ToileError
from toile.models.classifier import ARTICLE_TYPE, MISSING, AttributeLabels

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def wilson_interval(num_right: int, num_total: int) -> tuple[float, float]:
    """The 95 % interval of a share of successes (Wilson 1927): 0 <= low <= high <= 1."""
    if not 0 <= num_right <= num_total or num_total < 1:
        raise ToileError(f"{num_right} of {num_total} is not a share")
    share, z_squared = num_right / num_total, _Z**2
    centre = share + z_squared / (2 * num_total)
    reach = _Z * math.sqrt(share * (1 - share) / num_total + z_squared / (4 * num_total**2))
    scale = 1 + z_squared / num_total
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


@dataclass(frozen=True)
class Share:
    """So many of so many pictures."""

    num_right: int
    num_total: int

    @property
    def value(self) -> float:
        """Between 0 and 1."""
        return self.num_right / self.num_total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson_interval(self.num_right, self.num_total)


@dataclass(frozen=True)
class AttributeScore:
    """One attribute on the same prompts: judged pictures and real ones, pair by pair.

    Attributes:
        num_pairs: prompts whose wanted label is known.
        num_both, num_only_judged, num_only_real: pairs where the classifier finds the wanted label on both pictures, on
            the judged one only, on the real one only.
    """

    num_pairs: int
    num_both: int
    num_only_judged: int
    num_only_real: int

    @property
    def judged(self) -> Share:
        """How often the judged pictures show the wanted label."""
        return Share(self.num_both + self.num_only_judged, self.num_pairs)

    @property
    def real(self) -> Share:
        """How often the classifier finds the label on the real pictures; what it misses is its own fault."""
        return Share(self.num_both + self.num_only_real, self.num_pairs)

    @property
    def ratio(self) -> float:
        """judged / real; NaN when no real picture is named rightly."""
        return self.judged.num_right / self.real.num_right if self.real.num_right else math.nan

    @property
    def ratio_interval(self) -> tuple[float, float]:
        """The 95 % interval of the ratio of two paired shares, normal on the log scale.

        Its variance is `(only_judged + only_real) / (judged * real)` in counts, by the delta method (Nam & Blackwelder
        2002, "Analysis of the ratio of marginal probabilities in a matched-pair setting").
        """
        judged, real = self.judged.num_right, self.real.num_right
        if not judged or not real:
            return (math.nan, math.nan)
        reach = _Z * math.sqrt((self.num_only_judged + self.num_only_real) / (judged * real))
        return self.ratio * math.exp(-reach), self.ratio * math.exp(reach)


def wanted_labels(labels: AttributeLabels, records: Sequence[Mapping[str, str]]) -> dict[str, Tensor]:
    """What each prompt's record asks for, as outputs of the classifier.

    Args:
        records: the fields of N product records.

    Returns:
        For each attribute (N,) int64, `MISSING` where it is unknown. Article types that share the output for all
        others are missing too: that output being right would say little.
    """
    wanted = {
        attribute: torch.tensor([labels.target(attribute, fields) for fields in records], dtype=torch.int64)
        for attribute in labels.attributes
    }
    kinds = wanted[ARTICLE_TYPE]
    return {**wanted, ARTICLE_TYPE: kinds.masked_fill(kinds == len(labels.article_type), MISSING)}


def score_attributes(
    wanted: Mapping[str, Tensor], judged: Mapping[str, Tensor], real: Mapping[str, Tensor]
) -> dict[str, AttributeScore]:
    """Compares what a classifier finds with what was asked for.

    Args:
        wanted: for each attribute (N,) int64, from `wanted_labels`.
        judged, real: the classifier's predictions (N,) on the pictures to judge and on the real ones, prompt by prompt.

    Returns:
        A score for each attribute that at least one prompt asks for.
    """
    scores = {}
    for attribute, labels in wanted.items():
        if not len(labels) == len(judged[attribute]) == len(real[attribute]):
            raise ToileError(
                f"{len(labels)} prompts, {len(judged[attribute])} pictures and {len(real[attribute])} real ones: "
                "give one of each"
            )
        known = labels != MISSING
        judged_right, real_right = (judged[attribute] == labels)[known], (real[attribute] == labels)[known]
        if bool(known.any()):
            scores[attribute] = AttributeScore(
                num_pairs=int(known.sum()),
                num_both=int((judged_right & real_right).sum()),
                num_only_judged=int((judged_right & ~real_right).sum()),
                num_only_real=int((~judged_right & real_right).sum()),
            )
    return scores
