"""Pictures that went wrong in the ways people complain of, by rules whose limits come from real pictures.

A rule says "more than all but one in a hundred real pictures", so real pictures break it too: their rate stands beside.

- not clothing: no real picture is near in the judge's features, or the judge is sure of no type of article;
- wrong article: the type that the prompt asks for is less probable to the judge than those of real pictures are; that
  it names another is far more frequent, with real pictures too, and stands in the scores of attributes;
- several: a second piece stands beside the first and is too large for real pictures of that type (earrings are two);
- out of frame: more of the picture's edges is touched than by real pictures of that type.

Shapes: N pictures, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.feature_sets import distances, row_blocks
from toile.evaluation.features import observe
from toile.evaluation.neighbours import neighbour_radii
from toile.evaluation.silhouette import Shapes, shapes_of
from toile.models.classifier import ARTICLE_TYPE, MISSING, AttributeClassifier

NOT_CLOTHING, WRONG_ARTICLE, SEVERAL, OUT_OF_FRAME = "not clothing", "wrong article", "several", "out of frame"
REAL_SHARE = 0.99  # of real pictures are within a limit
_EITHER_SHARE = 1 - (1 - REAL_SHARE) / 2  # where one failure has two limits
# A percentile of fewer pictures would be little more than their largest value: the limit is that of all types.
FEWEST_OF_A_TYPE = 50
# Specks and shadows are no second article, however few real pictures have them.
_SMALLEST_SECOND = 0.05
_SMALLEST_EDGE = 0.02
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Looks:
    """What is seen in N pictures.

    Attributes:
        features: (N, F), the judge's.
        probabilities: (N, types), of articles.
        shapes: of the silhouettes.
        predictions: for each attribute (N,), the judge's answers.
    """

    features: Tensor
    probabilities: Tensor
    shapes: Shapes
    predictions: Mapping[str, Tensor] = field(default_factory=dict)


def look_at(classifier: AttributeClassifier, pixels: Tensor) -> Looks:
    """Looks at pictures with a judge, and at their silhouettes.

    Args:
        pixels: (N, H, W, 3) uint8.
    """
    seen = observe(classifier, pixels)
    with torch.no_grad():
        probabilities = classifier.logits(seen.features)[ARTICLE_TYPE].softmax(dim=1)
    return Looks(seen.features, probabilities, shapes_of(pixels), seen.predictions)


@dataclass(frozen=True)
class FailureLimits:
    """What real pictures stay within, all but 1 % of them.

    Attributes:
        reference: (R, F) features of real pictures.
        distance: largest distance to the nearest of them.
        certainty: smallest probability of the most probable type.
        wanted: smallest probability of the type that is wanted.
        second: (types + 1,) largest second piece as a share of the first, for each of the judge's types; last for any.
        edge: (types + 1,) largest touched share of the edges, in the same order.
    """

    reference: Tensor
    distance: float
    certainty: float
    wanted: float
    second: Tensor
    edge: Tensor

    @staticmethod
    def of(real: Looks, wanted: Tensor, shapes: Shapes, articles: Tensor) -> FailureLimits:
        """Takes the limits from real pictures.

        Args:
            real: R pictures that the judge did not learn from. Each is as far from the others as judged ones may be.
            wanted: (R,) their types, as the judge's outputs; `MISSING` where unknown.
            shapes: of M real pictures, as many as there are; the judge has no part in them.
            articles: (M,) their types.

        Raises:
            ToileError: too few pictures for a limit.
        """
        known, num_types = wanted != MISSING, real.probabilities.shape[1]
        if min(int(known.sum()), len(articles)) < FEWEST_OF_A_TYPE:
            raise ToileError(f"limits of failures need at least {FEWEST_OF_A_TYPE} real pictures")
        nearest = neighbour_radii(real.features, (1,), real.features.double().mean(dim=0))[0]
        return FailureLimits(
            real.features,
            float(nearest.quantile(_EITHER_SHARE)),
            float(real.probabilities.amax(dim=1).quantile(1 - _EITHER_SHARE)),
            float(_of_type(real.probabilities, wanted)[known].quantile(1 - REAL_SHARE)),
            _limits_by_type(shapes.second_piece, articles, num_types).clamp(min=_SMALLEST_SECOND),
            _limits_by_type(shapes.edge, articles, num_types).clamp(min=_SMALLEST_EDGE),
        )


def _limits_by_type(values: Tensor, articles: Tensor, num_types: int) -> Tensor:
    limits = values.quantile(REAL_SHARE).expand(num_types + 1).clone()
    for number in range(num_types):
        own = values[articles == number]
        if len(own) >= FEWEST_OF_A_TYPE:
            limits[number] = own.quantile(REAL_SHARE)
    return limits


def _of_type(probabilities: Tensor, wanted: Tensor) -> Tensor:
    """(N,) the probability of the wanted type; of any where it is unknown."""
    return probabilities.gather(1, wanted.clamp(min=0)[:, None])[:, 0]


def _nearest(features: Tensor, reference: Tensor) -> Tensor:
    """(N,) float32, Euclidean distance to the nearest of a reference, in blocks of bounded memory."""
    centre = reference.double().mean(dim=0)
    real = reference.double() - centre
    blocks = row_blocks(len(features), len(reference))
    return torch.cat([distances(features[rows].double() - centre, real).amin(dim=1).float() for rows in blocks])


@dataclass(frozen=True)
class Failures:
    """Which of N pictures went wrong, and how.

    Attributes:
        flags: for each kind of failure (N,) bool; those whose wanted type is unknown are never of the wrong one.
        severities: for each kind (N,) float32, to show the worst first: above 1 is a failure.
    """

    flags: Mapping[str, Tensor]
    severities: Mapping[str, Tensor]


def count_failures(limits: FailureLimits, looks: Looks, wanted: Tensor) -> Failures:
    """Finds the pictures that went wrong.

    Args:
        wanted: (N,) the type of article that each prompt asks for, as the judge's output; `MISSING` where unknown
            (`wanted_labels` gives this).
    """
    if len(wanted) != len(looks.features) or not len(wanted):
        raise ToileError(f"{len(wanted)} wanted types for {len(looks.features)} pictures: give one of each")
    known = wanted != MISSING
    rows = torch.where(known, wanted, len(limits.second) - 1)
    far = _nearest(looks.features, limits.reference) / limits.distance
    severities = {
        NOT_CLOTHING: torch.maximum(far, limits.certainty / looks.probabilities.amax(dim=1)),
        WRONG_ARTICLE: limits.wanted / _of_type(looks.probabilities, wanted).clamp(min=_TINY) * known,
        SEVERAL: looks.shapes.second_piece / limits.second[rows],
        OUT_OF_FRAME: looks.shapes.edge / limits.edge[rows],
    }
    return Failures({kind: values > 1 for kind, values in severities.items()}, severities)
