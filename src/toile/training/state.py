"""All that changes from step to step of a training run, and how it goes into a snapshot and comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from toile.training.ema import PowerEMA


@dataclass
class TrainingState:
    """All that changes from step to step."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    averages: list[PowerEMA]
    step: int = 0
    skipped_steps: int = 0
    bad_steps_in_a_row: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state under a unique name."""
        named = {f"module.{name}": value.detach() for name, value in self.module.state_dict().items()}
        for index, average in enumerate(self.averages):
            named |= {f"ema{index}.{name}": value for name, value in average.averages.items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
        return named

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Restores what `tensors()` gave and the counters."""
        self.module.load_state_dict(_below("module.", tensors))
        for index, average in enumerate(self.averages):
            average.load(_below(f"ema{index}.", tensors))
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer.", tensors).items():
            number, slot = name.split(".", 1)
            slots.setdefault(int(number), {})[slot] = _laid_out_like(trained[int(number)], value)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.step, self.skipped_steps = facts["step"], facts["skipped_steps"]
        self.bad_steps_in_a_row = facts["bad_steps_in_a_row"]


def build_state(
    module: nn.Module,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    ema_widths: Sequence[float],
) -> TrainingState:
    """Optimiser and averages for a module, at step 0."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    return TrainingState(module, optimizer, [PowerEMA(module, width) for width in ema_widths])


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    # The fused optimiser walks weights and moments in the order of memory: channels_last weights need such moments.
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
