"""Why the engine does not do what it was asked, where it is not the request that is wrong."""

from __future__ import annotations

from toile.errors import ToileError


class TooManyJobsError(ToileError):
    """The queue is full, or its owner has as many jobs as one may have.

    Attributes:
        retry_after: seconds after which there may be room.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClosingError(ToileError):
    """The engine finishes what it has and takes nothing new."""


class NoSuchJobError(ToileError):
    """There is no such job, picture or map, or it belongs to somebody else: the answer is the same for both."""
