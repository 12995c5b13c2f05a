"""A sweep by workers on several machines: each takes trials in the shared folder, one process follows them all.

Workers divide the trials as those do that people start by hand, see `sweep_study`: a trial belongs to the process that
holds its lock. So one that dies loses nothing, and its trial goes on inside the run it was at.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from toile.cluster.crew import Crew, WorkerRecord
from toile.cluster.joining import Cluster, Worker, WorkerLostError
from toile.cluster.places import Place
from toile.cluster.surroundings import Surroundings
from toile.errors import ToileError, WorkFailedError
from toile.training.records import StepRecord
from toile.training.sweep import (
    RunRecord,
    SweepEndRecord,
    SweepRecord,
    TrialRecord,
    end_of_sweep,
    open_study,
    run_sweep,
)
from toile.training.sweep_recipe import SweepRecipe
from toile.training.sweep_study import SweepStudy, storage_errors

_POLL_SECONDS = 0.2
_SECONDS_BETWEEN_STEPS = 0.5

ClusterRecord = SweepRecord | WorkerRecord


def run_sweep_on_cluster(
    cluster: Cluster,
    sweep: SweepRecipe,
    directory: Path,
    *,
    workers: int | None = None,
    resume: bool = False,
    minutes: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[ClusterRecord, None, None]:
    """Trains every setting with every seed, as `run_sweep` does, by workers on all machines of a cluster.

    All machines need the working folder and the sweep's at the same paths, on a disk that they share and that can be
    locked; several machines also need a database, see `SweepRecipe.storage`. Losses are those of `run_sweep` with as
    many threads as a worker has, except where settings are drawn or given up by earlier results ("tpe", "halving").
    Of the steps of a run only some are told. Closing the generator stops all workers, with their states saved.

    Args:
        cluster: from `joined`.
        sweep, directory, resume, minutes: see `run_sweep`.
        workers: how many; by default one a machine, with all its processors.
        should_stop: asked all the time; the records then end without a `SweepEndRecord`, with all states saved.

    Raises:
        ToileError: as `run_sweep`; a machine without the folder or with other versions; several machines without a
            database.
        WorkFailedError: workers die, one after the other.
    """
    places = cluster.places(workers)
    if len(cluster.addresses) > 1 and (sweep.storage or "sqlite").startswith("sqlite"):
        raise ToileError(
            "SQLite works for one machine, and the cluster has several: put storage = "
            '"postgresql://user@host/name" into the recipe of the sweep'
        )
    deadline = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
    study = open_study(sweep, directory, resume)
    with _mark(directory) as mark:
        follower = _Follower(cluster, study, Crew(cluster, places), mark, deadline)
        try:
            while not follower.ended and not should_stop():
                yield from follower.records(_POLL_SECONDS)
        finally:
            follower.dismiss()
    if follower.ended:
        with storage_errors():
            yield end_of_sweep(study, time.monotonic() >= deadline)


class SweepWorker:
    """What runs in the process of a worker."""

    def __init__(self) -> None:
        self._asked_to_stop = threading.Event()

    def stop(self) -> None:
        """Asks `work` to end after the present step, with its state saved."""
        self._asked_to_stop.set()

    def work(
        self, surroundings: Surroundings, place: Place, sweep: SweepRecipe, directory: Path, mark: str, minutes: float
    ) -> Iterator[ClusterRecord | ToileError]:
        """Takes trials until there are none left.

        Args:
            surroundings, place: of this worker.
            sweep, directory: as `run_sweep`; the sweep is there already.
            mark: name of a file in the sweep's folder.
            minutes: to stop after; infinite for never.
        """
        try:
            surroundings.take_on(place.cpus, needs_folder=True)
            if not _mark_path(directory, mark).is_file():
                raise ToileError(
                    f"{directory.absolute()} is not the sweep's folder here: all machines need the same one, for "
                    "example over NFS"
                )
            yield WorkerRecord(place, os.getpid(), "begun")
            limit = None if math.isinf(minutes) else minutes
            with closing(run_sweep(sweep, directory, resume=True, minutes=limit)) as records:
                yield from self._told(records)
        except ToileError as error:
            yield error

    def _told(self, records: Iterator[SweepRecord]) -> Iterator[SweepRecord]:
        last = -math.inf
        for record in records:
            if self._asked_to_stop.is_set():
                return
            now = time.monotonic()
            if not isinstance(record, RunRecord):
                yield record
            elif isinstance(record.record, StepRecord) and now - last >= _SECONDS_BETWEEN_STEPS:
                last = now
                yield record


class _Follower:
    """Follows all workers of a sweep, and replaces those that die.

    Attributes:
        ended: nobody finds a trial any more.
    """

    def __init__(self, cluster: Cluster, study: SweepStudy, crew: Crew, mark: str, deadline: float) -> None:
        self.cluster, self.study, self.crew = cluster, study, crew
        self.mark, self.deadline = mark, deadline
        self.surroundings = Surroundings.here()
        self.streams: dict[Any, Worker] = {}
        self.at_work: set[Worker] = set()
        self.work_is_left = True
        self.ended = False

    def records(self, seconds: float) -> Iterator[ClusterRecord]:
        """What workers have told, after waiting for it at most so long.

        Raises:
            ToileError: a worker cannot work.
        """
        while self.work_is_left and self.crew.free:
            self._start()
        yield from self.crew.waiting()
        for stream in self.cluster.ready(list(self.streams), seconds):
            worker = self.streams[stream]
            try:
                told = self.cluster.next_of(stream)
            except StopIteration:
                self._leave(stream)
                self.crew.finished(worker)
                continue
            except WorkerLostError as error:
                self._leave(stream)
                self.work_is_left = True  # its trial is free
                yield self.crew.lost(worker, error)
                continue
            yield from self._heard(worker, told)
        self.ended = not self.at_work and not self.work_is_left

    def dismiss(self) -> None:
        """Lets all workers come to the end of their steps; those that have not begun are ended at once."""
        try:
            for stream, worker in list(self.streams.items()):
                if worker in self.at_work:
                    self.cluster.call(worker, "stop")
                else:
                    self._leave(stream)
            while self.streams:
                for stream in self.cluster.ready(list(self.streams), _POLL_SECONDS):
                    try:
                        self.cluster.next_of(stream)
                    except (StopIteration, WorkerLostError):
                        self._leave(stream)
        finally:
            self.crew.dismiss()

    def _start(self) -> None:
        worker = self.crew.start(SweepWorker, calls_at_once=2)  # to be told to stop while it works
        minutes = (self.deadline - time.monotonic()) / 60
        arguments = (self.surroundings, worker.place, self.study.sweep, self.study.directory, self.mark, minutes)
        self.streams[self.cluster.stream(worker, "work", *arguments)] = worker

    def _leave(self, stream: Any) -> None:
        self.at_work.discard(self.streams.pop(stream))

    def _heard(self, worker: Worker, told: ClusterRecord | ToileError) -> Iterator[ClusterRecord]:
        if isinstance(told, ToileError):
            kind = WorkFailedError if isinstance(told, WorkFailedError) else ToileError
            raise kind(f"worker on {worker.place.host}: {told}")
        if isinstance(told, SweepEndRecord):
            self.work_is_left = False
            return
        if isinstance(told, WorkerRecord):
            self.at_work.add(worker)
            self.crew.begun()
        if isinstance(told, TrialRecord):
            self.crew.progressed()
        yield told


@contextlib.contextmanager
def _mark(directory: Path) -> Iterator[str]:
    """A file in the sweep's folder by which workers know that they see the same one."""
    name = secrets.token_hex(8)
    path = _mark_path(directory, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield name
    finally:
        path.unlink(missing_ok=True)


def _mark_path(directory: Path, name: str) -> Path:
    return directory / "sweep" / f"shared-{name}"
