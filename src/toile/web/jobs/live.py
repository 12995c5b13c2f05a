"""A job that has not ended, and the queue in which it waits for its turn."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from toile.web.jobs.events import JobEvent, Queued, Subscription
from toile.web.jobs.job import Job, PictureInfo
from toile.web.jobs.room import Place


class LiveJob:
    """What the engine knows of a job until it has ended. The engine's lock guards all of it.

    Args:
        job: as it was added.
        deadline: when it fails if it has not ended, on the monotonic clock.
        attached: whether somebody waits for it at the other end of a connection.
        place: that it has in the room until it has ended.
    """

    def __init__(self, job: Job, deadline: float, attached: bool, place: Place) -> None:
        self.added = job
        self.deadline = deadline
        self.attached = attached
        self.place = place
        self.key = job.request.batch_key()
        self.made = {picture.number: picture for picture in job.pictures}
        self.waiting = [number for number in range(job.request.num_pictures) if number not in self.made]
        self.flying: dict[int, float] = {}  # by work: pictures that the steps done there amount to
        self.started: float | None = None
        # After a work of several jobs failed nobody knows by whose fault, so each is tried again without the others.
        self.alone = False
        self.preview: bytes | None = None
        self.watched = False
        self.subscriptions: list[Subscription] = []

    @property
    def id(self) -> str:
        """Of the job."""
        return self.added.id

    @property
    def fraction(self) -> float:
        """Share of the work that is done; below 1, as the job has not ended."""
        return min(0.999, (len(self.made) + sum(self.flying.values())) / self.added.request.num_pictures)

    @property
    def is_complete(self) -> bool:
        """Whether all its pictures are saved."""
        return len(self.made) == self.added.request.num_pictures

    def land(self, work: int) -> None:
        """One of the pictures of a work is to be counted among those that are made."""
        left = self.flying.pop(work, 0.0) - 1
        if left > 0:
            self.flying[work] = left

    def add(self, picture: PictureInfo) -> None:
        """A picture was saved."""
        self.made[picture.number] = picture

    def snapshot(self, position: int | None) -> Job:
        """The job as it is now."""
        pictures = tuple(self.made[number] for number in sorted(self.made))
        if self.started is None:
            return replace(self.added, position=position, pictures=pictures)
        return replace(
            self.added, state="running", started=self.started, fraction=self.fraction, pictures=pictures, position=None
        )

    def publish(self, event: JobEvent) -> None:
        """Tells all who watch."""
        for subscription in self.subscriptions:
            subscription.put(event)


class JobQueue:
    """Jobs with pictures that nobody makes yet: the first one comes next, and others that fit go with it."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, LiveJob] = OrderedDict()

    def __iter__(self) -> Iterator[LiveJob]:
        return iter(self._jobs.values())

    def push(self, job: LiveJob, first: bool = False) -> None:
        """Puts a job at the end, or at the beginning."""
        self._jobs[job.id] = job
        self._jobs.move_to_end(job.id, last=not first)

    def remove(self, job: LiveJob) -> None:
        """Takes a job out, if it is there."""
        self._jobs.pop(job.id, None)

    def positions(self) -> dict[str, int]:
        """For each job that has not begun, how many of those are before it."""
        waiting = [job.id for job in self if job.started is None]
        return {job: position for position, job in enumerate(waiting)}

    def has_room_in_batch(self, size_for: Callable[[LiveJob], int]) -> bool:
        """Whether `take` would give pictures, but fewer than may pass the networks together."""
        head = next(iter(self), None)
        return head is not None and sum(len(job.waiting) for job in self._matching(head)) < size_for(head)

    def take(self, size_for: Callable[[LiveJob], int]) -> list[tuple[LiveJob, tuple[int, ...]]]:
        """The pictures to make next, by job: of the first one, then of those that agree with it in all but their words.

        A job of which some pictures still wait goes to the end, so that a large one does not hold up the others.

        Args:
            size_for: how many pictures pass the networks together for a job.
        """
        head = next(iter(self), None)
        if head is None:
            return []
        left = size_for(head)
        taken = []
        for job in self._matching(head):
            numbers = tuple(job.waiting[:left])
            del job.waiting[: len(numbers)]
            taken.append((job, numbers))
            left -= len(numbers)
            if left == 0:
                break
        for job, _ in taken:
            del self._jobs[job.id]
            if job.waiting:
                self.push(job)
        return taken

    def _matching(self, head: LiveJob) -> Iterable[LiveJob]:
        if head.alone:
            return [head]
        return [job for job in self if job is head or (job.key == head.key and not job.alone)]

    def tell_positions(self) -> None:
        """Tells all who watch a waiting job where it stands."""
        for job, position in self.positions().items():
            if self._jobs[job].subscriptions:
                self._jobs[job].publish(Queued(position))


def deadline_after(seconds: float) -> float:
    """So many seconds from now, on the monotonic clock."""
    return time.monotonic() + seconds
