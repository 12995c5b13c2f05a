"""What the training loop knows of a task: something to train, a loss, and batches that are functions of the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor, nn

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Loss:
    """A scalar to descend.

    Attributes:
        total: the scalar.
        parts: named parts of it for the log, detached, in their own units.
        each: (B,) the losses of the examples, detached, where the total is their mean; they tell how certain it is.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    each: Tensor | None = None


class Objective(Protocol[Batch]):
    """A task for the loop.

    Every random number a loss needs (noise, timesteps, captions, crops) is part of the batch, so a loss is a function
    of the weights and the batch alone, and validation on fixed noise is validation on fixed batches. Batches are made
    on the CPU, so that draws are the same wherever a run computes; a loss gets them on the device of the module.
    """

    @property
    def module(self) -> nn.Module:
        """Everything that is trained, saved and averaged."""

    def batch(self, examples: range) -> Batch:
        """The examples of the run with these numbers (0 is the first); the same at every call."""

    def loss(self, batch: Batch, step: int) -> Loss:
        """Mean loss over the batch."""

    def validation_batches(self) -> Iterator[Batch]:
        """Held-out examples with fixed draws, the same at every call."""

    def samples(self) -> Tensor | None:
        """Images (B, 3, H, W) that show the present weights on fixed inputs; `None` when there is nothing to see."""
