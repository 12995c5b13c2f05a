"""How well the classes of pictures can be told apart by codes: of the pictures themselves, or of texts about them.

Shapes: N codes of width F, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toile.data.records import Record
from toile.errors import ToileError

MISSING = -1
# Fields of records that say what is on a picture, the first one that any record has.
_CLASS_FIELDS = ("articleType", "class")


@dataclass(frozen=True)
class Separability:
    """How far apart the classes are among some codes.

    Attributes:
        accuracy: share of the codes that are nearest to the mean of their own class, each left out of that mean.
        chance: the same for codes that say nothing: the share of the largest class.
        between: variance between the classes, the trace of the scatter of their means around the mean of all.
        within: variance within them, the trace of the scatter of codes around their means.
        num_codes, num_classes: that were looked at.
    """

    accuracy: float
    chance: float
    between: float
    within: float
    num_codes: int
    num_classes: int

    @property
    def share_between(self) -> float:
        """Variance between classes as a share of all, 0 to 1 (the correlation ratio)."""
        total = self.between + self.within
        return self.between / total if total > 0 else 0.0


def separability(codes: Tensor, labels: Tensor) -> Separability:
    """How far apart the classes are among codes; classes of one code are left out.

    Args:
        codes: (N, F).
        labels: (N,) int64, `MISSING` where no class is known.

    Raises:
        ToileError: codes are not finite, there are fewer than two classes of two codes, or shapes do not fit.
    """
    codes, labels = _checked(codes, labels)
    _, labels, counts = labels.unique(return_inverse=True, return_counts=True)
    kept = counts[labels] > 1
    if int((counts > 1).sum()) < 2:
        raise ToileError("separability: give at least two classes with two codes each")
    codes = codes[kept]
    _, labels, counts = labels[kept].unique(return_inverse=True, return_counts=True)
    means = _means(codes, labels, len(counts))
    deviations = codes - means[labels]
    distances = torch.cdist(codes, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    # Without code x, the mean of its class of n lies at m + (m - x) / (n - 1): n / (n - 1) times as far from x as m.
    own = counts[labels].double()
    rows = torch.arange(len(codes))
    distances[rows, labels] = deviations.square().sum(1) * (own / (own - 1)).square()
    # A tie is no answer: where all codes are one, nothing is told apart.
    others = distances.clone()
    others[rows, labels] = torch.inf
    right = distances[rows, labels] < others.amin(dim=1)
    around = means[labels] - codes.mean(dim=0)
    return Separability(
        accuracy=float(right.double().mean()),
        chance=int(counts.max()) / len(codes),
        between=float(around.square().sum(1).mean()),
        within=float(deviations.square().sum(1).mean()),
        num_codes=len(codes),
        num_classes=len(counts),
    )


def nearest_class_accuracy(codes: Tensor, reference: Tensor, labels: Tensor) -> float:
    """Share of the codes that are nearest to the mean of their class among other codes.

    Args:
        codes, reference: (N, F), of the same things seen in two ways: texts and pictures.
        labels: (N,) int64, `MISSING` where no class is known.

    Raises:
        ToileError: codes are not finite, no class is known, or shapes do not fit.
    """
    codes, known = _checked(codes, labels)
    reference, _ = _checked(reference, labels)
    if codes.shape != reference.shape or not len(codes):
        raise ToileError(f"codes {tuple(codes.shape)} and {tuple(reference.shape)} of known classes: give as many")
    _, known, counts = known.unique(return_inverse=True, return_counts=True)
    nearest = torch.cdist(codes, _means(reference, known, len(counts))).argmin(dim=1)
    return float((nearest == known).double().mean())


def total_variance(codes: Tensor) -> float:
    """Mean squared distance of codes (N, F) from their mean."""
    codes = codes.double()
    return float((codes - codes.mean(dim=0)).square().sum(dim=1).mean())


def class_labels(records: Sequence[Record]) -> Tensor:
    """What is on the pictures of N records, as numbers in the order of their names: (N,) int64, `MISSING` if unknown.

    Article types of products, classes of Fashion-MNIST; other sources say nothing of the kind.
    """
    field = next((name for name in _CLASS_FIELDS if any(name in record.fields for record in records)), "")
    names = sorted({record.fields[field] for record in records if field in record.fields})
    numbers = {name: number for number, name in enumerate(names)}
    return torch.tensor([numbers.get(record.fields.get(field, ""), MISSING) for record in records], dtype=torch.int64)


def _checked(codes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of known class in float64, with their labels."""
    if codes.ndim != 2 or labels.shape != codes.shape[:1]:
        raise ToileError(f"codes {tuple(codes.shape)}, labels {tuple(labels.shape)}: give (N, F) and (N,)")
    if not bool(torch.isfinite(codes).all()):
        raise ToileError("codes are not finite: the network that made them is broken")
    known = labels != MISSING
    return codes[known].double(), labels[known]


def _means(codes: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(K, F): of the codes of each class; every class has one."""
    sums = torch.zeros(num_classes, codes.shape[1], dtype=codes.dtype).index_add_(0, labels, codes)
    return sums / labels.bincount(minlength=num_classes)[:, None]
