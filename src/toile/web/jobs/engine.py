"""The engine: takes jobs, has their pictures made by worker processes, keeps them, and tells how far they are."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from toile.diffusion.samplers import SAMPLERS
from toile.diffusion.samplers.registry import SamplerInfo
from toile.errors import ToileError
from toile.lora import LORAS
from toile.web.jobs.config import LONGEST_DEADLINE, EngineConfig
from toile.web.jobs.engine_worker import Hire
from toile.web.jobs.errors import NoSuchJobError
from toile.web.jobs.events import Ended, JobEvent, PictureReady, Progress, Queued, Subscription
from toile.web.jobs.gallery import Gallery
from toile.web.jobs.job import Job, PairRating, Rating
from toile.web.jobs.learned_words import LearnedWords, WordFolder
from toile.web.jobs.live import LiveJob, deadline_after
from toile.web.jobs.messages import WordMapsOf
from toile.web.jobs.request import JobRequest
from toile.web.jobs.room import Place, Room
from toile.web.jobs.shelf import ServedModel, open_shelf
from toile.web.jobs.status import EngineStatus
from toile.web.jobs.store import Store
from toile.web.jobs.worker_process import hire_processes
from toile.web.jobs.workshop import Workshop

_STORE_NAME = "studio.sqlite3"
_MOST_STARTS = 3  # of a job that was being made each time the whole server died
_LONGEST_HISTORY = 200


class Engine:
    """Use it in a `with` block, or call `start` and `close`. All methods may be called from any thread.

    Methods that take an owner raise NoSuchJobError for what belongs to somebody else, as for what does not exist.

    Args:
        config: see there.
        hire: gives the workers.

    Raises:
        ToileError: a model or a device is not there, or the folder cannot be used.
    """

    def __init__(self, config: EngineConfig, hire: Hire = hire_processes) -> None:
        self.config = config
        self._shelf = open_shelf(config.models)
        self._words = WordFolder()
        self._store = Store(config.out / _STORE_NAME)
        try:
            workers = hire(config, next(iter(self._shelf.values())).source)
        except ToileError:
            self._store.close()
            raise
        self._gallery = Gallery(config.out / "pictures")
        self._workshop = Workshop(config, workers, self._shelf, self._store, self._gallery)
        self._lock = self._workshop.lock

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------- start and end

    def start(self) -> None:
        """Starts the workers, and takes up the jobs that an earlier engine on this folder left unfinished.

        If one cannot be started, those that were are ended again, and the engine is closed.
        """
        for left in self._store.unfinished():
            job = left.job
            if len(job.pictures) == job.request.num_pictures:
                self._store.ended(job.id, "done", time.time(), None, None)
            elif left.attached:
                self._store.ended(job.id, "failed", time.time(), "the server was stopped", "stopped")
            elif left.starts >= _MOST_STARTS:
                error = f"the server died {left.starts} times while it was being made"
                self._store.ended(job.id, "failed", time.time(), error, "lost")
            elif job.request.model not in self._shelf:
                error = f"model {job.request.model!r} is not served any more"
                self._store.ended(job.id, "failed", time.time(), error, "refused")
            else:
                deadline = deadline_after(self.config.deadline_seconds)
                self._workshop.add(LiveJob(_waiting(job), deadline, False, self.room.take_back(job.owner)))
        self.room.is_open = True
        try:
            self._workshop.start()
        except BaseException:
            self.close()
            raise

    def stop_accepting(self) -> None:
        """From now on no job is taken; those there are go on."""
        self.room.is_open = False

    def close(self, drain_seconds: float = 0.0) -> None:
        """Takes no more jobs, finishes those there are, and ends the workers.

        Args:
            drain_seconds: how long to wait for jobs to end. What has not ended then goes on when an engine is next
                started on this folder, unless somebody waits for it at the other end of a connection.
        """
        self.stop_accepting()
        self._workshop.drain(drain_seconds)
        self._workshop.stop()
        self._store.close()

    # ---------------------------------------------------------------------------------------------------------- jobs

    @property
    def room(self) -> Room:
        """That says whether there is room for one more job."""
        return self._workshop.room

    def check(self, request: JobRequest) -> None:
        """Whether a request can be made here at all. It reads the pictures to begin with, which takes a while.

        Raises:
            ToileError: with the name of what is wrong, and what is allowed.
        """
        model = self._shelf.get(request.model)
        if model is None:
            raise ToileError(f"model is {request.model!r}; served are: {', '.join(self._shelf)}")
        self.config.limits.check(request, model, self.loras(), self._words.files())

    def submit(
        self,
        request: JobRequest,
        owner: str,
        *,
        deadline_seconds: float | None = None,
        attached: bool = False,
        place: Place | None = None,
    ) -> Job:
        """Takes a job.

        Args:
            request: what to make.
            owner: who may see and cancel it.
            deadline_seconds: after which it fails; None for the engine's.
            attached: somebody waits for it at the other end of a connection, so it does not outlive the engine.
            place: that its request was given when it came in; None lets it in now.

        Raises:
            ToileError: it cannot be made; see `check`.
            ClosingError, TooManyJobsError: see `Room.enter`.
        """
        deadline_seconds = self.config.deadline_seconds if deadline_seconds is None else deadline_seconds
        if not 0 < deadline_seconds <= LONGEST_DEADLINE:
            raise ToileError(f"deadline_seconds is {deadline_seconds}; allowed: above 0, to {LONGEST_DEADLINE:g}")
        self.check(request)
        place = self.room.enter(owner) if place is None else place
        try:
            job = Job(secrets.token_hex(12), owner, request, "queued", time.time())
            with self._lock:
                self._store.add(job, attached)
                live = LiveJob(job, deadline_after(deadline_seconds), attached, place)
                self._workshop.add(live)
                return live.snapshot(self._workshop.queue.positions()[job.id])
        finally:
            self.room.give_up(place)

    def job(self, job_id: str, owner: str) -> Job:
        """A job as it is now."""
        with self._lock:
            live = self._workshop.live.get(job_id)
            if live is not None and live.added.owner == owner:
                return live.snapshot(self._workshop.queue.positions().get(job_id))
            job = None if live is not None else self._store.job(job_id, owner)
        if job is None:
            raise NoSuchJobError("there is no such job")
        return job

    def history(self, owner: str, limit: int = 50, before: str | None = None) -> tuple[Job, ...]:
        """An owner's jobs, the last ones first.

        Args:
            owner: whose.
            limit: how many at most, 1 to 200.
            before: id of a job; only older ones are told.
        """
        if not 1 <= limit <= _LONGEST_HISTORY:
            raise ToileError(f"limit is {limit}; allowed: 1 to {_LONGEST_HISTORY}")
        with self._lock:
            positions, live = self._workshop.queue.positions(), self._workshop.live
            return tuple(
                live[job.id].snapshot(positions.get(job.id)) if job.id in live else job
                for job in self._store.history(owner, limit, before)
            )

    def cancel(self, job_id: str, owner: str) -> Job:
        """Cancels a job: its work stops within a step. One that has ended stays as it is."""
        with self._lock:
            live = self._workshop.live.get(job_id)
            if live is not None and live.added.owner == owner:
                self._workshop.end(live, "cancelled")
        return self.job(job_id, owner)

    def forget(self, job_id: str, owner: str) -> None:
        """Deletes a job and its pictures; one that has not ended is cancelled."""
        job = self.cancel(job_id, owner)
        self._store.forget(job_id)
        self._gallery.remove(job_id, range(job.request.num_pictures))

    # -------------------------------------------------------------------------------------------------------- events

    def events(self, job_id: str, owner: str, previews: bool = False) -> Iterator[JobEvent]:
        """What happens to a job, from where it stands now until it has ended; for threads.

        Args:
            job_id, owner: which.
            previews: whether small pictures of what it looks like are wanted; they cost some time.
        """
        something = threading.Event()
        with self._subscribed(job_id, owner, previews, something.set) as subscription:
            more = True
            while more:
                something.wait()
                something.clear()
                events, more = subscription.take()
                yield from events

    async def watch(
        self, job_id: str, owner: str, previews: bool = False, only_end: bool = False
    ) -> AsyncGenerator[JobEvent, None]:
        """The same as `events`, for coroutines; `only_end` leaves out what comes before the end."""
        loop, something = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody listens
                loop.call_soon_threadsafe(something.set)

        with self._subscribed(job_id, owner, previews, wake, only_end) as subscription:
            more = True
            while more:
                await something.wait()
                something.clear()
                events, more = subscription.take()
                for event in events:
                    yield event

    @contextlib.contextmanager
    def _subscribed(
        self, job_id: str, owner: str, previews: bool, wake: Callable[[], None], only_end: bool = False
    ) -> Iterator[Subscription]:
        subscription = Subscription(wake, only_end)
        with self._lock:
            job = self.job(job_id, owner)
            live = self._workshop.live.get(job_id)
            if job.position is not None:
                subscription.put(Queued(job.position))
            for picture in job.pictures:
                subscription.put(PictureReady(picture))
            if job.is_ended:
                subscription.put(Ended(job.state, job.error, job.reason))
            elif live is not None:
                if live.started is not None:
                    subscription.put(Progress(live.fraction, live.preview))
                live.subscriptions.append(subscription)
                if previews:
                    self._workshop.want_previews(live)
        try:
            yield subscription
        finally:
            with self._lock:
                if live is not None and subscription in live.subscriptions:
                    live.subscriptions.remove(subscription)

    def preview(self, job_id: str, owner: str) -> bytes | None:
        """The last preview of a job that is being made, a small JPEG; asking for it has them made from now on."""
        with self._lock:
            self.job(job_id, owner)
            live = self._workshop.live.get(job_id)
            if live is None:
                return None
            self._workshop.want_previews(live)
            return live.preview

    # ------------------------------------------------------------------------------------------ pictures and ratings

    def picture_file(self, job_id: str, owner: str, number: int) -> Path:
        """The PNG file of a finished picture, with its recipe inside."""
        self._check_picture(job_id, owner, number)
        return self._gallery.picture(job_id, number)

    def word_maps(self, job_id: str, owner: str, number: int) -> WordMapsOf:
        """Where a picture of a job that was asked for maps looked for its words."""
        self._check_picture(job_id, owner, number)
        return self._gallery.maps(job_id, number)

    def rate(self, job_id: str, owner: str, number: int, thumb: int) -> None:
        """Keeps a thumb for a picture: 1 up, -1 down, 0 takes it back."""
        if thumb not in (-1, 0, 1):
            raise ToileError(f"thumb is {thumb!r}; allowed: 1 up, -1 down, 0 to take it back")
        self._check_picture(job_id, owner, number)
        self._store.rate(owner, Rating(job_id, number, thumb, time.time()))

    def rate_pair(self, owner: str, a: tuple[str, int], b: tuple[str, int], choice: str) -> None:
        """Keeps which of two pictures, each a job and a number, is better: "a", "b" or "tie"."""
        if choice not in ("a", "b", "tie"):
            raise ToileError(f"choice is {choice!r}; allowed: a, b, tie")
        if a == b:
            raise ToileError("b is the same picture as a; give another one")
        for job_id, number in (a, b):
            self._check_picture(job_id, owner, number)
        self._store.rate_pair(owner, PairRating(a, b, choice, time.time()))

    def ratings(self, owner: str) -> tuple[tuple[Rating, ...], tuple[PairRating, ...]]:
        """All thumbs and all pairs of an owner, the oldest first."""
        return self._store.ratings(owner)

    def _check_picture(self, job_id: str, owner: str, number: int) -> None:
        if not self._store.has_picture(job_id, owner, number):
            raise NoSuchJobError("there is no such picture")

    # ------------------------------------------------------------------------------------------------ what is served

    def models(self) -> Mapping[str, ServedModel]:
        """By name, the default first."""
        return self._shelf

    def loras(self) -> tuple[str, ...]:
        """Names of those in the folder of LoRAs now."""
        return LORAS.names()

    def embeddings(self) -> Mapping[str, LearnedWords]:
        """Files of learned words in their folder now, by name."""
        return self._words.files()

    def refused_embeddings(self) -> Mapping[str, str]:
        """Why others there cannot be read, by name."""
        return self._words.refused()

    def samplers(self) -> Mapping[str, SamplerInfo]:
        """By name."""
        return SAMPLERS

    def status(self) -> EngineStatus:
        """How busy it is."""
        with self._lock:
            running = sum(job.started is not None for job in self._workshop.live.values())
            queued = len(self._workshop.live) - running
            return EngineStatus(queued, running, self.room.is_open, self.room.num_refused, self._workshop.status())


def _waiting(job: Job) -> Job:
    return Job(job.id, job.owner, job.request, "queued", job.created, pictures=job.pictures)
