"""Several processes, on one machine or many, that train together: each takes its part of every batch.

They are started by torchrun, which tells each its rank and where the first one is:

    torchrun --nproc-per-node 2 --no-python toile train recipes/fashion-64x80.toml

All hold the same weights and make the same updates, because gradients are added up before each of them. Every draw is a
function of the example's number, so it does not matter which process sees an example.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
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

    def rows_of(self, whole: Tensor) -> Tensor:
        """This process's part of a tensor: rows in a run, as `torch.chunk` divides; the last parts may be empty."""
        each = self._rows_each(len(whole))
        return whole[self.rank * each : (self.rank + 1) * each]

    def gather_rows(self, part: Tensor, num_rows: int) -> Tensor | None:
        """On the first process the tensor of so many rows of which each holds its part, None on the others."""
        each = self._rows_each(num_rows)
        padded = part.new_zeros(each, *part.shape[1:])  # all must send equally much
        padded[: len(part)] = part
        whole = part.new_empty(each * self.count, *part.shape[1:]) if self.is_first else None
        with self._noticing(""):
            distributed.gather(padded, None if whole is None else list(whole.split(each)))
        return None if whole is None else whole[:num_rows]

    def _rows_each(self, num_rows: int) -> int:
        return -(-num_rows // self.count)

    def _reduce(self, values: Tensor) -> None:
        with self._noticing(""):
            distributed.all_reduce(values)

    def together(self) -> AbstractContextManager[None]:
        """For work of which a part is done by all processes together.

        Raises:
            WorkFailedError: on leaving, when another process has ended.
        """
        return self._noticing("gloo")  # which says so in its messages; other failures are no other process's

    @contextmanager
    def _noticing(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if what not in str(error):
                raise
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
