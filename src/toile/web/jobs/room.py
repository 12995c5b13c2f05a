"""Room for jobs: who may come in is decided in a moment, whatever the engine is doing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto

from toile.web.jobs.errors import ClosingError, TooManyJobsError


class Stage(Enum):
    """Where the holder of a place is: a request that is being read, a job that waits or is being made, or gone."""

    COMING = auto()
    WAITING = auto()
    BEGUN = auto()
    GONE = auto()


@dataclass(eq=False)
class Place:
    """What a request holds from when it is let in, and its job until that has ended. Only its room changes it."""

    owner: str
    stage: Stage = Stage.COMING


class Room:
    """How many jobs there are, and may be. Its lock is its own, and is never held while anything takes long.

    Args:
        queue: requests and jobs that may wait, besides one for each worker that has nothing to do.
        per_owner: how many an owner may have; None sets no limit.
        num_workers: all of them without a work yet.
        seconds_to_room: guesses in how many seconds there may be room.
    """

    def __init__(self, queue: int, per_owner: int | None, num_workers: int, seconds_to_room: Callable[[], int]) -> None:
        self.is_open = False
        self._queue, self._per_owner, self._seconds_to_room = queue, per_owner, seconds_to_room
        self._lock = threading.Lock()
        self._num_free = num_workers
        self._num_refused = 0
        self._in_stage: Counter[Stage] = Counter()
        self._of_owner: Counter[str] = Counter()

    @property
    def num_coming(self) -> int:
        """Requests that were let in and are no jobs yet."""
        return self._in_stage[Stage.COMING]

    @property
    def num_refused(self) -> int:
        """Requests that found no room, since the start."""
        return self._num_refused

    # -------------------------------------------------------------------------------------------------- of requests

    def check(self, owner: str) -> None:
        """Whether a request would be let in now.

        Raises:
            ClosingError: none is any more.
            TooManyJobsError: the queue is full, or the owner has too many jobs; it says when to try again.
        """
        with self._lock:
            self._check(owner)

    def enter(self, owner: str) -> Place:
        """Lets a request in: nobody else gets its place until it has become a job that ended, or `give_up` is called.

        Raises:
            ClosingError, TooManyJobsError: see `check`.
        """
        with self._lock:
            self._check(owner)
            return self._entered(owner)

    def give_up(self, place: Place) -> None:
        """A request is dealt with. If it has become a job, that keeps the place."""
        with self._lock:
            if place.stage is Stage.COMING:
                self._move(place, Stage.GONE)

    # ------------------------------------------------------------------------------------------------------ of jobs

    def settle(self, place: Place) -> None:
        """A request has become a job, which waits."""
        with self._lock:
            self._move(place, Stage.WAITING)

    def take_back(self, owner: str) -> Place:
        """A place for a job that was let in by an earlier engine."""
        with self._lock:
            return self._entered(owner)

    def begin_work(self, places: Iterable[Place]) -> None:
        """A worker makes pictures of the jobs that have these places."""
        with self._lock:
            self._num_free -= 1
            for place in places:
                self._move(place, Stage.BEGUN)

    def end_work(self) -> None:
        """A worker has nothing to do any more."""
        with self._lock:
            self._num_free += 1

    def leave(self, place: Place) -> None:
        """A job has ended."""
        with self._lock:
            self._move(place, Stage.GONE)

    # -------------------------------------------------------------------------------------------- with the lock held

    def _check(self, owner: str) -> None:
        if not self.is_open:
            raise ClosingError("the server is being stopped and takes no new jobs")
        of_owner = self._of_owner[owner]
        if self._per_owner is not None and of_owner >= self._per_owner:
            self._refuse(f"{of_owner} jobs of yours have not ended; allowed: {self._per_owner}")
        if self._in_stage[Stage.COMING] + self._in_stage[Stage.WAITING] >= self._queue + self._num_free:
            self._refuse(f"the queue is full: {self._queue} jobs wait")

    def _refuse(self, message: str) -> None:
        self._num_refused += 1
        raise TooManyJobsError(message, self._seconds_to_room())

    def _entered(self, owner: str) -> Place:
        self._in_stage[Stage.COMING] += 1
        self._of_owner[owner] += 1
        return Place(owner)

    def _move(self, place: Place, stage: Stage) -> None:
        self._in_stage[place.stage] -= 1
        self._in_stage[stage] += 1
        place.stage = stage
        if stage is Stage.GONE:
            self._of_owner[place.owner] -= 1
            if not self._of_owner[place.owner]:
                del self._of_owner[place.owner]
