"""Several processes, on one machine or many, that train together: each takes its part of every batch.

They are started by torchrun, which tells each its rank and where the first one is:

    torchrun --nproc-per-node 2 --no-python toile train recipes/fashion-64x80.toml

All hold the same weights and make the same updates, because gradients are added up before each of them. Every draw is a
function of the example's number, so it does not matter which process sees an example.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from toile.errors import WorkFailedError

_NUMBERS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0; the first one validates, samples, saves and writes the log.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def add_up(self, numbers: list[float]) -> list[float]:
        """The sums over all processes of numbers that each gives, in float64."""
        if self.count == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64)
        self._reduce(total)
        return total.tolist()

    def add_up_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces gradients by their sums over all processes."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        while gradients:
            together = [gradients.pop()]
            while gradients and sum(map(torch.numel, together)) + gradients[-1].numel() <= _NUMBERS_AT_ONCE:
                together.append(gradients.pop())
            flat = torch.cat([gradient.flatten() for gradient in together])
            self._reduce(flat)
            for gradient, part in zip(together, flat.split([g.numel() for g in together]), strict=True):
                gradient.copy_(part.view(gradient.shape))

    def _reduce(self, values: Tensor) -> None:
        try:
            distributed.all_reduce(values)
        except RuntimeError as error:
            raise WorkFailedError(f"another of the {self.count} processes has ended: {error}") from error

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Lets the first process do something alone, and the others after it, for example read what it has written."""
        if self.count > 1 and not self.is_first:
            distributed.barrier()
        yield
        if self.count > 1 and self.is_first:
            distributed.barrier()


def join_processes() -> Processes:
    """This process among those that torchrun started; alone if it did not."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return Processes(distributed.get_rank(), count)
