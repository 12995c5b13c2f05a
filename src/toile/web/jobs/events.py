"""What happens to a job, told to whoever watches it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from toile.web.jobs.job import PictureInfo, Reason, State


@dataclass(frozen=True)
class Queued:
    """It waits; `position` jobs are before it."""

    position: int


@dataclass(frozen=True)
class Progress:
    """It is being made.

    Attributes:
        fraction: share of the work that is done, 0 to 1.
        preview: a small JPEG of the picture as it is now; None if there is no new one.
    """

    fraction: float
    preview: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PictureReady:
    """One of its pictures is finished and can be fetched."""

    picture: PictureInfo


@dataclass(frozen=True)
class Ended:
    """It is over: nothing comes after this.

    Attributes:
        state: "done", "failed" or "cancelled".
        error, reason: see `Job`.
    """

    state: State
    error: str | None = None
    reason: Reason | None = None


JobEvent = Queued | Progress | PictureReady | Ended


class Subscription:
    """Events of one job for one watcher, who may be slow: of those that say where it is only the last one is kept.

    Args:
        wake: called from the engine's threads when there is something to take.
        only_end: whether nothing but the end is of interest, so that there is no need to wake anybody before.
    """

    def __init__(self, wake: Callable[[], None], only_end: bool = False) -> None:
        self._wake, self._only_end = wake, only_end
        self._pending: deque[JobEvent] = deque()
        self._lock = threading.Lock()
        self._closed = False

    def put(self, event: JobEvent) -> None:
        """Adds an event."""
        if self._only_end and not isinstance(event, Ended):
            return
        with self._lock:
            last = self._pending[-1] if self._pending else None
            if isinstance(event, Queued | Progress) and isinstance(last, Queued | Progress):
                if isinstance(event, Progress) and event.preview is None and isinstance(last, Progress):
                    event = Progress(event.fraction, last.preview)
                self._pending.pop()
            self._pending.append(event)
        self._wake()

    def close(self) -> None:
        """Nothing comes any more."""
        with self._lock:
            self._closed = True
        self._wake()

    def take(self) -> tuple[list[JobEvent], bool]:
        """What came since the last call, and whether more may come."""
        with self._lock:
            events = list(self._pending)
            self._pending.clear()
            return events, not self._closed and not (events and isinstance(events[-1], Ended))
