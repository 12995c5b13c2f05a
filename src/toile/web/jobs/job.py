"""A job as those who asked for it see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toile.web.jobs.request import JobRequest

State = Literal["queued", "running", "done", "failed", "cancelled"]
# Why a job has failed: its request cannot be made; the work came to nothing; the process that made it died; it took too
# long; the server was stopped while somebody waited for it.
Reason = Literal["refused", "failed", "lost", "deadline", "stopped"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class PictureInfo:
    """A finished picture of a job; its file is the engine's to give.

    Attributes:
        number: in the job, from 0.
        seed: of this picture.
        width, height: of the picture in the file.
        reading: the prompt in the words that the model knows; None where it was read as typed.
        warnings: what a person should know.
        flagged: whether the model's safety checker flagged it.
        has_maps: whether there are maps of its words.
    """

    number: int
    seed: int
    width: int
    height: int
    reading: str | None = None
    warnings: tuple[str, ...] = ()
    flagged: bool = False
    has_maps: bool = False


@dataclass(frozen=True)
class Job:
    """A job at one moment.

    Attributes:
        id: cannot be guessed.
        owner: who may see and cancel it.
        request: what was asked for; without files once it has ended.
        state: where it is.
        position: jobs before it in the queue; None if it waits no more.
        fraction: share of the work that is done, 0 to 1.
        pictures: those that are finished, by number.
        error, reason: what went wrong, in one line, and of which kind it is.
        created, started, ended: seconds since 1970.
    """

    id: str
    owner: str
    request: JobRequest
    state: State
    created: float
    position: int | None = None
    fraction: float = 0.0
    pictures: tuple[PictureInfo, ...] = ()
    error: str | None = None
    reason: Reason | None = None
    started: float | None = None
    ended: float | None = None

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ENDED


@dataclass(frozen=True)
class Rating:
    """What a person thinks of one picture.

    Attributes:
        job, number: the picture.
        thumb: 1 up, -1 down.
        rated: seconds since 1970.
    """

    job: str
    number: int
    thumb: int
    rated: float


@dataclass(frozen=True)
class PairRating:
    """Which of two pictures a person prefers.

    Attributes:
        a, b: job and number of each.
        choice: "a", "b" or "tie".
        rated: seconds since 1970.
    """

    a: tuple[str, int]
    b: tuple[str, int]
    choice: str
    rated: float
