"""Multinomial logistic regression: one solution, and no luck in finding it.

Shapes: N examples, D numbers each, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_MOST_ROUNDS = 60


def fit_logistic(values: Tensor, targets: Tensor, num_classes: int, ridge: float) -> tuple[Tensor, Tensor]:
    """The weights and the bias that give known classes the highest likelihood, less a ridge on the weights.

    Smallest mean cross entropy of `softmax(values @ weights + bias)` plus `ridge * |weights|^2` (Bishop 2006, "Pattern
    Recognition and Machine Learning", eq. 4.104 and 4.108). That is convex, so from zeros L-BFGS (Liu & Nocedal 1989)
    comes near the one solution, whatever the order of the examples.

    Args:
        values: (N, D) float32, at least one example.
        targets: (N,) int64 in [0, C), all known.
        num_classes: C.
        ridge: above 0, so that weights stay finite where classes can be told apart without a mistake.

    Returns:
        weights (D, C) and bias (C,).
    """
    weights = torch.zeros(values.shape[1], num_classes, requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=_MOST_ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(values @ weights + bias, targets) + ridge * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach(), bias.detach()
