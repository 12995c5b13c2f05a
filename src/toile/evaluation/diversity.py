"""How different the pictures of one prompt are: 0 and 1 for a generator that always makes the same one.

Shapes: P prompts, K pictures of each, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError


@dataclass(frozen=True)
class Diversity:
    """Of P prompts with K pictures each.

    Attributes:
        distances: (P,) float64, mean distance between two pictures of the prompt.
        vendi: (P,) float64, the Vendi score: 1 (all alike) to K (all unlike).
    """

    distances: Tensor
    vendi: Tensor


def measure_diversity(features: Tensor, centre: Tensor | None = None) -> Diversity:
    """Diversity of pictures by prompt.

    Args:
        features: (P, K, F), K at least 2.
        centre: (F,), mean features of real pictures. Features of a network share a large part, beside which all
            pictures look alike; the Vendi score takes the angles between what remains without it.

    Raises:
        ToileError: another shape, or numbers that are not finite.
    """
    if features.ndim != 3 or not len(features) or features.shape[1] < 2:
        raise ToileError(f"features {tuple(features.shape)}: (prompts, pictures of each, features), at least 2 of each")
    if not bool(features.isfinite().all()):
        raise ToileError("features are not finite: look at the pictures, or at the network that judges them")
    values = features.double()
    distances = torch.stack([torch.pdist(each).mean() for each in values])
    if centre is not None:
        values = values - centre.double()
    vendi = torch.stack([vendi_score(cosine_similarities(each)) for each in values])
    return Diversity(distances, vendi)


def cosine_similarities(features: Tensor) -> Tensor:
    """(K, F) -> (K, K) float64, 1 on the diagonal; features that are all zero are like themselves only."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    return (unit @ unit.T).fill_diagonal_(1.0)


def vendi_score(similarity: Tensor) -> Tensor:
    """The effective number of different pictures: exp of the entropy of the eigenvalues of similarity / K.

    Friedman & Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", definition 3.1.

    Args:
        similarity: (K, K) positive semidefinite, 1 on the diagonal.

    Returns:
        (), float64, 1 to K.
    """
    eigenvalues = torch.linalg.eigvalsh(similarity.double() / len(similarity)).clamp(min=0.0)
    return torch.exp(-torch.special.xlogy(eigenvalues, eigenvalues).sum())


def draw_groups(groups: Sequence[str], num_each: int, seed: int = 0) -> tuple[tuple[str, ...], np.ndarray]:
    """Real pictures to compare with: so many of each group, such as those of one colour and article.

    Args:
        groups: the group of each picture; "" belongs to none.
        num_each: K; smaller groups are left out.
        seed: of the draw.

    Returns:
        The names of the P groups, sorted, and the positions of their pictures, (P, K) int64.

    Raises:
        ToileError: no group is large enough.
    """
    members: dict[str, list[int]] = {}
    for position, group in enumerate(groups):
        if group:
            members.setdefault(group, []).append(position)
    names = tuple(sorted(name for name, positions in members.items() if len(positions) >= num_each))
    if not names:
        raise ToileError(f"no group of pictures has {num_each}: ask for fewer of each, or give more pictures")
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.array(members[name]), num_each, replace=False) for name in names]
    return names, np.stack(drawn).astype(np.int64)
