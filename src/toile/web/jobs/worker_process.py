"""A worker process as the engine sees it: started, talked to, and started again when it dies."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from toile.web.jobs.messages import FromWorker, Ready, ToWorker

if TYPE_CHECKING:
    from toile.web.jobs.worker import WorkerConfig

_LONGEST_PAUSE = 30.0
_SECONDS_TO_END = 10.0


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


class WorkerProcess:
    """One process on one device.

    Args:
        config: how it is set up.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.ready: Ready | None = None
        self.flight: Flight | None = None
        self.starts = 0
        self.start_at = 0.0
        self._failures = 0
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection | None:
        """To be waited on; None while there is no process."""
        return self._connection

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return None if self._process is None else self._process.pid

    @property
    def is_idle(self) -> bool:
        """Whether it can be given a work."""
        return self.ready is not None and self.flight is None

    def start(self) -> None:
        """Starts the process; it says when it is ready."""
        from toile.web.jobs.worker import run_worker

        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=run_worker, args=(theirs, self.config), daemon=True, name="toile-worker")
        self._process.start()
        theirs.close()  # else its end would stay open when it dies
        self._connection = ours
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
        """Says something; what a dead process is told is lost, and `receive` will say that it is dead."""
        if self._connection is not None:
            try:
                self._connection.send(message)
            except OSError:
                pass

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            self._process.kill()

    def bury(self) -> str:
        """What is left to do for a dead process; says how it ended, and lets it be started again after a pause."""
        assert self._process is not None and self._connection is not None
        self._process.join(_SECONDS_TO_END)
        if self._process.exitcode is None:  # it closed its end but lives
            self._process.kill()
            self._process.join()
        code = self._process.exitcode
        self._connection.close()
        self._process.close()
        self._process = self._connection = self.ready = self.flight = None
        self._failures += 1
        self.start_at = time.monotonic() + (0.0 if self._failures == 1 else min(2.0**self._failures, _LONGEST_PAUSE))
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """Ends the process after its current step."""
        if self._process is None or self._connection is None:
            return
        self._connection.close()
        if self.ready is not None:  # else it is still loading, and would not hear of it for long
            self._process.join(_SECONDS_TO_END)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()
        self._process = self._connection = self.ready = self.flight = None
