"""How busy an engine is, as it tells those who watch over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerStatus:
    """One worker.

    Attributes:
        device, dtype: where it computes and in which precision; "" until it is ready.
        pid: of its process on its machine.
        host: the name of that machine; "" for this one, and until it is ready.
        is_ready, is_busy: whether it can make pictures, and whether it does.
        starts: how often it was started.
        works: that it was given.
    """

    device: str
    dtype: str
    pid: int | None
    host: str
    is_ready: bool
    is_busy: bool
    starts: int
    works: int


@dataclass(frozen=True)
class WorkshopStatus:
    """All workers.

    Attributes:
        workers: one by one.
        ended: jobs since the start, by state.
        pictures: saved since the start.
        works: given to workers since the start; pictures / works tells how well jobs go together.
        trouble: what the last worker that became ready could not load; "" for nothing.
    """

    workers: tuple[WorkerStatus, ...]
    ended: Mapping[str, int]
    pictures: int
    works: int
    trouble: str

    @property
    def is_ready(self) -> bool:
        """Whether at least one worker can begin."""
        return any(worker.is_ready for worker in self.workers) and not self.trouble


@dataclass(frozen=True)
class EngineStatus:
    """How busy an engine is.

    Attributes:
        queued, running: jobs that wait, and that are being made.
        is_accepting: whether new ones are taken.
        refused: jobs that found no room, since the start.
        workshop: of its workers.
    """

    queued: int
    running: int
    is_accepting: bool
    refused: int
    workshop: WorkshopStatus
