"""All that changes from step to step of a training run, and how it goes into a snapshot and comes back."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toile.training.ema import PowerEMA
from toile.training.sharding import WholeWeights
from toile.weights.files import WeightsError

_ALIGNMENT = 64


@dataclass
class TrainingState:
    """All that changes from step to step; tensors as far as this process holds them."""

    weights: WholeWeights
    optimizer: torch.optim.Optimizer
    averages: list[PowerEMA]
    step: int = 0
    skipped_steps: int = 0
    bad_steps_in_a_row: int = 0

    @contextmanager
    def saved_tensors(self, directory: Path) -> Iterator[dict[str, Tensor] | None]:
        """Every tensor of the state, whole, under a unique name; None on processes that do not save.

        Args:
            directory: where those that were in parts are laid aside as long as this is open, so that they need no more
                memory than one of them does.
        """
        if not self.weights.is_sharded:
            yield {name: value for name, value, _ in self._tensors()}
        elif not self.weights.processes.is_first:
            for _, value, weight in self._tensors():
                self.weights.whole(weight, value)
            yield None
        else:
            with _LaidAside(directory) as aside:
                for name, value, weight in self._tensors():
                    whole = self.weights.whole(weight, value)
                    assert whole is not None
                    aside.add(name, whole)
                yield aside.tensors()

    def _tensors(self) -> Iterator[tuple[str, Tensor, str]]:
        """The tensors under their names in the state, each with the name of the weight that it belongs to."""
        for name, value in self.weights.state().items():
            yield f"module.{name}", value, name
        for index, average in enumerate(self.averages):
            for name, value in average.averages.items():
                yield f"ema{index}.{name}", value, name
        names = self._optimized_names()
        for index, slots in self.optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                yield f"optimizer.{index}.{slot}", value, names[index]

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Restores what `saved_tensors` gave and the counters."""
        self.weights.load(_below("module.", tensors))
        for index, average in enumerate(self.averages):
            averages = _below(f"ema{index}.", tensors)
            average.load({name: self.weights.part(name, value) for name, value in averages.items()})
        names, optimized = self._optimized_names(), self._optimized()
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer.", tensors).items():
            number, slot = name.split(".", 1)
            part = self.weights.part(names[int(number)], value)
            slots.setdefault(int(number), {})[slot] = _laid_out_like(optimized[int(number)], part)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.step, self.skipped_steps = facts["step"], facts["skipped_steps"]
        self.bad_steps_in_a_row = facts["bad_steps_in_a_row"]

    def _optimized(self) -> list[Tensor]:
        """What the optimizer updates, in its order."""
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]

    def _optimized_names(self) -> list[str]:
        names = {id(weight): name for name, weight in self.weights.trained().items()}
        return [names[id(weight)] for weight in self._optimized()]


def build_state(
    weights: WholeWeights,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    ema_widths: Sequence[float],
) -> TrainingState:
    """Optimiser and averages for weights, at step 0."""
    trained = list(weights.trained().values())
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    return TrainingState(weights, optimizer, [PowerEMA(weights, width) for width in ema_widths])


class _LaidAside:
    """Tensors in a file that has no name: the system keeps of it in memory what there is room for.

    Raises:
        WeightsError: the disk refuses.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._places: dict[str, tuple[int, Tensor]] = {}

    def __enter__(self) -> _LaidAside:
        with self._told():
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._directory)
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, name: str, tensor: Tensor) -> None:
        """Takes a copy of a tensor of the CPU."""
        with self._told():
            place = self._file.seek(-(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT)
            self._file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self._places[name] = place, torch.empty_like(tensor, device="meta")

    def tensors(self) -> dict[str, Tensor]:
        """All of them, mapped from the file."""
        with self._told():
            self._file.flush()
            content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        return {
            name: torch.frombuffer(content, dtype=like.dtype, count=like.numel(), offset=place).view(like.shape)
            for name, (place, like) in self._places.items()
        }

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WeightsError(f"cannot lay a state aside in {self._directory}: {error.strerror}") from error


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    # The fused optimiser walks weights and moments in the order of memory: channels_last weights need such moments.
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
