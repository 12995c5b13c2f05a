"""Power-function averages of the weights (Karras et al. 2024, "Analyzing and Improving the Training Dynamics")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn


def gamma_of(relative_width: float) -> float:
    """Exponent of the profile whose standard deviation is `relative_width` of the run so far (their Algorithm 2)."""
    t = relative_width**-2
    return float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max())


class Weights(Protocol):
    """What can be averaged: a module, or the part of one that a process holds."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Names and weights, in the same order at every call."""


class PowerEMA:
    """One average of a module's parameters: w_ema <- beta_t w_ema + (1 - beta_t) w, beta_t = (1 - 1/t) ** (gamma + 1).

    The horizon grows with the run, so a short run and a long one are averaged over the same share of it.

    Args:
        weights: a module, whose parameters are averaged and buffers are not; or a part of one.
        relative_width: standard deviation of the averaging profile, as a share of the run, e.g. 0.05 or 0.10.
    """

    def __init__(self, weights: Weights, relative_width: float) -> None:
        self.relative_width = relative_width
        self.gamma = gamma_of(relative_width)
        self.averages = {name: p.detach().clone() for name, p in weights.named_parameters()}

    @torch.no_grad()
    def update(self, weights: Weights, updates_done: int) -> None:
        """Takes in the weights after update number `updates_done` (1 is the first)."""
        beta = (1.0 - 1.0 / updates_done) ** (self.gamma + 1.0)
        current = [p.detach() for _, p in weights.named_parameters()]
        torch._foreach_lerp_(list(self.averages.values()), current, 1.0 - beta)

    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Restores saved averages; names and shapes must be the module's."""
        for name, average in self.averages.items():
            average.copy_(averages[name])

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchanges the module's weights with the averages; a second call undoes the first."""
        for name, parameter in module.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.averages[name])
            self.averages[name].copy_(kept)
