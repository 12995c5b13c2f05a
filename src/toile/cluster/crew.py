"""The workers of one piece of work: where one is at work, where one may start, and how many have died."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toile.cluster.joining import Cluster, Worker, WorkerLostError
from toile.cluster.places import Place
from toile.errors import WorkFailedError

SPARE_LOSSES = 3  # this many workers more than there are places may die without anything getting done in between
_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class WorkerRecord:
    """Something happened to a worker.

    Attributes:
        place: where it runs.
        process: its process id there; `None` where it is not known.
        event: "begun", or what else became of it, for people.
    """

    place: Place
    process: int | None
    event: str

    def __str__(self) -> str:
        return f"worker on {self.place}: {self.event}"


class Crew:
    """The workers of one piece of work; those that die can be replaced.

    Args:
        cluster: where they are.
        places: of the workers, all free.

    Attributes:
        free: places where a worker may be started.
        workers: that were started and are neither finished nor lost.
    """

    def __init__(self, cluster: Cluster, places: Sequence[Place]) -> None:
        self.cluster, self.free = cluster, list(places)
        self.workers: list[Worker] = []
        self._allowed_losses = SPARE_LOSSES + len(places)
        self._losses = 0
        self._quiet_since: float | None = time.monotonic()

    def start(self, kind: type, calls_at_once: int = 1) -> Worker:
        """Starts a worker at the next free place, see `Cluster.start`."""
        worker = self.cluster.start(kind, self.free.pop(0), calls_at_once)
        self.workers.append(worker)
        return worker

    def finished(self, worker: Worker) -> None:
        """A worker has nothing to do: its place is free."""
        self.workers.remove(worker)
        self.cluster.kill(worker)
        self.free.append(worker.place)

    def lost(self, worker: Worker, error: WorkerLostError) -> WorkerRecord:
        """A worker has died: its place is free again if the machine is up.

        Raises:
            WorkFailedError: too many have died in a row, or no machine is left.
        """
        self._losses += 1
        self.workers.remove(worker)
        self.cluster.kill(worker)  # where only its result was lost
        if self.cluster.is_up(worker.place):
            self.free.append(worker.place)
        if self._losses > self._allowed_losses:
            raise WorkFailedError(f"{self._losses} workers died in a row, the last one on {worker.place}: {error}")
        if not self.free and not self.workers:
            raise WorkFailedError(f"no machine of the cluster is left; the last one was {worker.place}")
        return WorkerRecord(worker.place, None, "died, what it was at is begun again")

    def progressed(self) -> None:
        """Something is done: deaths are counted anew."""
        self._losses = 0

    def begun(self) -> None:
        """A worker is at work: none need be waited for."""
        self._quiet_since = None

    def waiting(self) -> Iterator[WorkerRecord]:
        """Says once, after a while in which no worker began, what is waited for."""
        if self._quiet_since is not None and time.monotonic() - self._quiet_since > _PATIENCE_SECONDS:
            self._quiet_since = None
            for worker in self.workers:
                yield WorkerRecord(worker.place, None, "waiting until that is free in the cluster")

    def dismiss(self) -> None:
        """Ends all workers at once."""
        for worker in self.workers:
            self.cluster.kill(worker)
        self.workers.clear()
