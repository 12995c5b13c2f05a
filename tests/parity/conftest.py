"""What the comparisons of networks share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def randomize() -> Callable[[nn.Module], None]:
    """Gives every bias and norm a value of its own, so that none can be forgotten or exchanged."""

    def add_noise(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)

    return add_noise
