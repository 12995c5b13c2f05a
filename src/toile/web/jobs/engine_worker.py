"""A worker as the engine sees it: started, talked to through a pipe, and started again when it dies."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from toile.web.jobs.config import EngineConfig
from toile.web.jobs.messages import FromWorker, Ready, ToWorker

_LONGEST_PAUSE = 30.0


@dataclass(eq=False)
class Flight:
    """A work that a worker has.

    Attributes:
        number: of the work.
        places: job and number of each picture, by place.
        begun: on the monotonic clock.
        unwanted_since: when the last of its jobs ended before it did.
    """

    number: int
    places: tuple[tuple[str, int], ...]
    begun: float
    unwanted_since: float | None = None

    @property
    def jobs(self) -> tuple[str, ...]:
        """Those with pictures in it."""
        return tuple(dict.fromkeys(job for job, _ in self.places))


class EngineWorker(ABC):
    """Makes one work at a time, wherever it is. Other methods than `kill` are called by one thread only.

    Attributes:
        ready: what it said when it could begin; None until then.
        flight: the work that it has.
        starts: how often it was started.
        works: how many works it was given.
        start_at: when it may be started again after it died, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.ready: Ready | None = None
        self.flight: Flight | None = None
        self.starts = self.works = 0
        self.start_at = 0.0
        self._failures = 0
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection | None:
        """To be waited on; None while it is not started."""
        return self._connection

    @property
    def is_idle(self) -> bool:
        """Whether it can be given a work."""
        return self.ready is not None and self.flight is None

    @property
    def pid(self) -> int | None:
        """Of its process, as soon as that is known."""
        return None if self.ready is None else self.ready.pid

    def start(self) -> None:
        """Starts it; it says when it is ready."""
        self._connection = self._begin()
        self.starts += 1

    def receive(self) -> list[FromWorker]:
        """All that it has said.

        Raises:
            EOFError: it is dead.
        """
        assert self._connection is not None
        messages: list[FromWorker] = []
        try:
            while self._connection.poll():
                messages.append(self._connection.recv())
        except (EOFError, OSError) as error:
            if not messages:
                raise EOFError from error
        for message in messages:
            if isinstance(message, Ready):
                self.ready = message
                self._failures = 0
        return messages

    def send(self, message: ToWorker) -> None:
        """Says something; what a dead worker is told is lost, and `receive` will say that it is dead."""
        if self._connection is not None:
            try:
                self._connection.send(message)
            except OSError:
                pass

    def bury(self) -> str:
        """What is left to do for a dead worker; says how it ended, and lets it be started again after a pause."""
        assert self._connection is not None
        how = self._end_of_dead()
        self._connection.close()
        self._connection = self.ready = self.flight = None
        self._failures += 1
        self.start_at = time.monotonic() + (0.0 if self._failures == 1 else min(2.0**self._failures, _LONGEST_PAUSE))
        return how

    def stop(self) -> None:
        """Ends it after its current step."""
        if self._connection is None:
            return
        self._connection.close()
        self._end()
        self._connection = self.ready = self.flight = None

    @abstractmethod
    def kill(self) -> None:
        """Ends it at once, so that it can be buried."""

    @abstractmethod
    def _begin(self) -> Connection:
        """Starts it; gives the engine's end of the pipe to it."""

    @abstractmethod
    def _end_of_dead(self) -> str:
        """Clears away what is dead; says how it ended."""

    @abstractmethod
    def _end(self) -> None:
        """Waits until it has ended; its pipe is closed."""


# Gives workers, not started yet, for the config of an engine and what `load` opens before the first work.
Hire = Callable[[EngineConfig, str], Sequence[EngineWorker]]
