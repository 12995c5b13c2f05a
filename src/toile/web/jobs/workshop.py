"""The thread that gives works to the worker processes, saves what they make, and mends what breaks."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait

from toile.errors import ToileError
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine_worker import EngineWorker, Flight
from toile.web.jobs.events import Ended, PictureReady, Progress
from toile.web.jobs.gallery import Gallery
from toile.web.jobs.job import PictureInfo, Reason, State
from toile.web.jobs.live import JobQueue, LiveJob
from toile.web.jobs.messages import Drop, Finished, Passed, Ready, Refused, Share, Stepped, Watch, Work
from toile.web.jobs.room import Room
from toile.web.jobs.shelf import ServedModel
from toile.web.jobs.status import WorkerStatus, WorkshopStatus
from toile.web.jobs.store import Store

_SECONDS_BETWEEN_LOOKS = 0.25
# A worker that is still busy so long after nobody wants its work is stuck, and is ended.
_SECONDS_TO_NOTICE = 300.0
# So long an idle worker waits at most for requests that are just being read, so that they are made together.
_SECONDS_TO_GATHER = 0.1
_SECONDS_TO_GUESS = 1.0  # a picture, before any is made
_LONGEST_RETRY = 120

_log = logging.getLogger(__name__)


class Workshop:
    """What is behind an engine. Everything in it is guarded by `lock`.

    Args:
        config: of the engine.
        workers: that make the pictures, not started yet.
        shelf: the models it serves.
        store, gallery: where what is made is kept.
    """

    def __init__(
        self,
        config: EngineConfig,
        workers: Sequence[EngineWorker],
        shelf: Mapping[str, ServedModel],
        store: Store,
        gallery: Gallery,
    ) -> None:
        self.lock = threading.RLock()
        self.live: dict[str, LiveJob] = {}
        self.queue = JobQueue()
        self._config, self._shelf, self._store, self._gallery = config, shelf, store, gallery
        self._workers = workers
        self.room = Room(config.queue, config.per_owner, len(self._workers), self._seconds_to_room)
        self._wake_receiver, self._wake_sender = Pipe(duplex=False)
        self._idle = threading.Condition(self.lock)
        self._is_stopping = self._has_moved = False
        self._works = self._pictures = 0
        self._ended: Counter[str] = Counter()
        self._seconds_a_picture = _SECONDS_TO_GUESS
        self._trouble = ""
        self._gathers_until: float | None = None
        self._thread = threading.Thread(target=self._run, name="toile-workshop", daemon=True)

    # --------------------------------------------------------------------------------------------- from the engine

    def start(self) -> None:
        """Starts the workers and the thread."""
        for worker in self._workers:
            worker.start()
        self._thread.start()

    def drain(self, seconds: float) -> None:
        """Waits until no job is left, or the time is over."""
        with self._idle:
            self._idle.wait_for(lambda: not self.live, seconds)

    def stop(self) -> None:
        """Ends the thread and the workers; what is left waits for the next start, or fails if somebody waits for it."""
        with self.lock:
            self._is_stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        for worker in self._workers:
            worker.stop()
        with self.lock:
            for job in list(self.live.values()):
                if job.attached:
                    self.end(job, "failed", "the server was stopped", "stopped")
                    continue
                self._store.waits_again(job.id)
                for subscription in job.subscriptions:
                    subscription.close()
            self.live.clear()
        self._wake_receiver.close()
        self._wake_sender.close()

    def add(self, job: LiveJob) -> None:
        """A new job, which waits for its turn."""
        with self.lock:
            self.live[job.id] = job
            self.queue.push(job)
            self.room.settle(job.place)
        self._wake()

    def end(self, job: LiveJob, state: State, error: str | None = None, reason: Reason | None = None) -> None:
        """A job is over, whether its pictures are made or not."""
        with self.lock:
            if self.live.pop(job.id, None) is None:
                return
            self.queue.remove(job)
            self.room.leave(job.place)
            self._store.ended(job.id, state, time.time(), error, reason)
            self._ended[state] += 1
            for worker in self._workers:
                if worker.flight is not None and job.id in worker.flight.jobs:
                    worker.send(Drop(job.id))
                    if not any(other in self.live for other in worker.flight.jobs):
                        worker.flight.unwanted_since = time.monotonic()
            job.publish(Ended(state, error, reason))
            self._has_moved = True
            if not self.live:
                self._idle.notify_all()
        self._wake()

    def want_previews(self, job: LiveJob) -> None:
        """Somebody looks at a job."""
        if not job.watched:
            job.watched = True
            for worker in self._workers:
                if worker.flight is not None and job.id in worker.flight.jobs:
                    worker.send(Watch(job.id))

    def _seconds_to_room(self) -> int:
        """About how long it takes until a job that waits has begun, in whole seconds. It does not ask for the lock."""
        flights = [flight for worker in self._workers if (flight := worker.flight) is not None]
        ends = [flight.begun + len(flight.places) * self._seconds_a_picture for flight in flights]
        left = min(ends, default=0.0) - time.monotonic()
        return min(_LONGEST_RETRY, max(1, math.ceil(left)))

    def status(self) -> WorkshopStatus:
        """Of all workers."""
        workers = tuple(
            WorkerStatus(
                "" if worker.ready is None else worker.ready.device,
                "" if worker.ready is None else worker.ready.dtype,
                worker.pid,
                "" if worker.ready is None else worker.ready.host,
                worker.ready is not None,
                worker.flight is not None,
                worker.starts,
                worker.works,
            )
            for worker in self._workers
        )
        return WorkshopStatus(workers, dict(self._ended), self._pictures, self._works, self._trouble)

    # ------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        while True:
            connections = [worker.connection for worker in self._workers if worker.connection is not None]
            wait([*connections, self._wake_receiver], self._seconds_to_look())
            while self._wake_receiver.poll():
                self._wake_receiver.recv_bytes()
            if self._is_stopping:
                return
            try:
                self._turn()
            except Exception:  # a full disk, say: jobs meet their deadlines, and what comes later may go well
                _log.exception("what workers said could not be dealt with")
                time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _seconds_to_look(self) -> float:
        if self._gathers_until is None:
            return _SECONDS_BETWEEN_LOOKS
        return min(_SECONDS_BETWEEN_LOOKS, max(0.0, self._gathers_until - time.monotonic()))

    def _turn(self) -> None:
        finished: list[tuple[Flight, Finished]] = []
        with self.lock:
            for worker in self._workers:
                finished += self._hear(worker)
            self._look_at_the_clock()
            self._give_works()
            if self._has_moved:  # once for all that went
                self._has_moved = False
                self.queue.tell_positions()
        # Workers are busy again before anything is written, so that they need not wait for the disk.
        for flight, picture in finished:
            self._save(flight, picture)

    def _wake(self) -> None:
        try:
            self._wake_sender.send_bytes(b"")
        except OSError:
            pass  # stopped meanwhile

    def _hear(self, worker: EngineWorker) -> list[tuple[Flight, Finished]]:
        """Takes what a worker says; returns the pictures that are to be saved."""
        finished: list[tuple[Flight, Finished]] = []
        if worker.connection is None:
            if time.monotonic() >= worker.start_at:
                worker.start()
            return finished
        try:
            messages = worker.receive()
        except EOFError:
            self._mend(worker)
            return finished
        for message in messages:
            if isinstance(message, Ready):
                self._trouble = message.trouble
                continue
            flight = worker.flight
            if flight is None or message.work != flight.number:
                continue
            if isinstance(message, Stepped):
                self._tell_step(flight, message)
                continue
            if isinstance(message, Refused):
                self._land(worker)
                self._retry_or_fail(flight, message.message, "failed" if message.is_fault else "refused")
                continue
            finished += [(flight, picture) for picture in message.pictures]
            self._count(flight, message)
            if message.is_last:
                self._land(worker)
        return finished

    def _land(self, worker: EngineWorker) -> None:
        """A worker has done with what it was given."""
        worker.flight = None
        self.room.end_work()

    def _tell_step(self, flight: Flight, step: Stepped) -> None:
        rows = Counter(flight.places[place][0] for place in step.places)
        for job_id, num_rows in rows.items():
            job = self.live.get(job_id)
            if job is not None:
                job.flying[flight.number] = num_rows * step.fraction
                preview = step.previews.get(job_id)
                job.preview = preview or job.preview
                job.publish(Progress(job.fraction, preview))

    def _count(self, flight: Flight, passed: Passed) -> None:
        if passed.pictures:
            seconds = (time.monotonic() - flight.begun) / len(flight.places)
            self._seconds_a_picture += 0.3 * (seconds - self._seconds_a_picture)

    def _save(self, flight: Flight, picture: Finished) -> None:
        job_id, number = flight.places[picture.place]
        with self.lock:
            job = self.live.get(job_id)
        if job is None:
            return
        try:
            self._gallery.save(job_id, number, picture.png, picture.maps)
        except ToileError as error:
            self.end(job, "failed", str(error), "failed")
            return
        info = PictureInfo(
            number,
            picture.seed,
            picture.width,
            picture.height,
            picture.reading,
            picture.warnings,
            picture.flagged,
            picture.maps is not None,
        )
        with self.lock:
            if job_id not in self.live:  # it was cancelled meanwhile
                self._gallery.remove(job_id, [number])
                return
            self._store.add_picture(job_id, info)
            self._pictures += 1
            job.land(flight.number)
            job.add(info)
            job.publish(PictureReady(info))
            if job.is_complete:
                self.end(job, "done")
            else:
                job.publish(Progress(job.fraction))

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for job in [job for job in self.live.values() if now > job.deadline]:
            self.end(job, "failed", "it took longer than its deadline allows", "deadline")
        for worker in self._workers:
            flight = worker.flight
            if flight is not None and flight.unwanted_since is not None:
                if now > flight.unwanted_since + _SECONDS_TO_NOTICE:
                    _log.warning("worker %s does not answer and is ended", self._workers.index(worker))
                    worker.kill()

    def _give_works(self) -> None:
        for worker in self._workers:
            if worker.is_idle and self._has_gathered() and (taken := self.queue.take(self._batch_size)):
                self._give(worker, taken)

    def _has_gathered(self) -> bool:
        """Whether what waits should be begun: not while more comes in that could go with it, unless that takes long."""
        now = time.monotonic()
        if self.room.num_coming and self.queue.has_room_in_batch(self._batch_size):
            self._gathers_until = self._gathers_until or now + _SECONDS_TO_GATHER
            if now < self._gathers_until:
                return False
        self._gathers_until = None
        return True

    def _batch_size(self, job: LiveJob) -> int:
        request = job.added.request
        model = self._shelf[request.model]
        size = request.wanted.settings_over(model.settings.of_quality(request.wanted.quality)).batch_size
        return size if self._config.max_batch is None else min(size, self._config.max_batch)

    def _give(self, worker: EngineWorker, taken: list[tuple[LiveJob, tuple[int, ...]]]) -> None:
        self._works += 1
        worker.works += 1
        request = taken[0][0].added.request
        shares = tuple(Share(job.id, job.added.request.wanted, numbers) for job, numbers in taken)
        places = tuple((job.id, number) for job, numbers in taken for number in numbers)
        worker.flight = Flight(self._works, places, time.monotonic())
        self.room.begin_work([job.place for job, _ in taken])
        source = self._shelf[request.model].source
        files = request.image, request.mask, request.fit, request.mask_blur
        worker.send(Work(self._works, source, shares, *files, request.embeddings))
        for job, _ in taken:
            if job.watched:
                worker.send(Watch(job.id))
            job.flying[self._works] = 0.0
            if job.started is None:
                job.started = time.time()
                self._store.started(job.id, job.started)
            job.publish(Progress(job.fraction))
        self._has_moved = True

    def _mend(self, worker: EngineWorker) -> None:
        """A worker is dead: its jobs are tried again or fail, all others wait for the next one."""
        flight, was_ready = worker.flight, worker.ready is not None
        how = worker.bury()
        number = self._workers.index(worker)
        _log.warning("worker %s ended with %s%s", number, how, "" if was_ready else " before it was ready")
        if flight is not None:
            self.room.end_work()
            self._retry_or_fail(flight, f"the worker that made it ended with {how}", "lost")
        if worker.start_at <= time.monotonic():
            worker.start()

    def _retry_or_fail(self, flight: Flight, message: str, reason: Reason) -> None:
        """After a work of several jobs each gets another try on its own, as nobody knows whose fault it was."""
        jobs = [self.live[job_id] for job_id in flight.jobs if job_id in self.live]
        for job in reversed(jobs):
            job.flying.pop(flight.number, None)
            if len(flight.jobs) == 1 or job.alone:
                self.end(job, "failed", message, reason)
                continue
            job.alone = True
            lost = [number for job_id, number in flight.places if job_id == job.id and number not in job.made]
            job.waiting = sorted({*job.waiting, *lost})
            if job.waiting:
                self.queue.push(job, first=True)
