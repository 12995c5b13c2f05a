"""How busy an engine is, as it tells those who watch over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerStatus:
    """One worker: where it computes, "" until it is ready; its process; how often that was started."""

    device: str
    dtype: str
    pid: int | None
    is_ready: bool
    is_busy: bool
    starts: int


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
