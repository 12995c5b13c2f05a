"""Several workers behind one queue: they work at the same time, and what becomes of one is nothing to the others."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from toile.errors import ToileError
from toile.picture_recipe import read_recipe
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine import Engine
from toile.web.jobs.engine_worker import EngineWorker
from toile.web.jobs.worker_process import WorkerProcess, _on_all_gpus, hire_processes


@pytest.fixture(scope="module")
def two(tiny_config: EngineConfig, tmp_path_factory: pytest.TempPathFactory, desk: Any) -> Iterator[Engine]:
    """An engine with two workers; tests leave nothing running."""
    with Engine(replace(tiny_config, out=tmp_path_factory.mktemp("two"), workers=2)) as engine:
        desk.until(lambda: all(worker.is_ready for worker in engine.status().workshop.workers))
        yield engine


def test_two_jobs_are_made_at_the_same_time(two: Engine, desk: Any) -> None:
    before = [worker.works for worker in two.status().workshop.workers]
    first = desk.running(two, desk.long_wanted(guidance=2.0))
    second = desk.running(two, desk.long_wanted(guidance=3.0))
    assert not two.job(first.id, desk.OWNER).is_ended and two.status().running == 2
    fractions = [two.job(job.id, desk.OWNER).fraction for job in (first, second)]
    desk.until(lambda: two.job(first.id, desk.OWNER).fraction > fractions[0])
    desk.until(lambda: two.job(second.id, desk.OWNER).fraction > fractions[1])
    workers = two.status().workshop.workers
    assert all(worker.is_busy for worker in workers) and len({worker.pid for worker in workers}) == 2
    assert [worker.works - count for worker, count in zip(workers, before, strict=True)] == [1, 1]
    for job in (first, second):
        two.cancel(job.id, desk.OWNER)


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="priorities are those of POSIX")
def test_workers_stand_back_behind_the_server(two: Engine) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for worker in two.status().workshop.workers:
        assert worker.pid is not None
        assert os.getpriority(os.PRIO_PROCESS, worker.pid) == min(own + 5, 19)


def test_a_killed_worker_is_nothing_to_the_other_and_the_queue_is_kept(two: Engine, desk: Any) -> None:
    desk.until(lambda: not any(worker.is_busy for worker in two.status().workshop.workers))
    jobs = [desk.running(two, desk.wanted(steps=300, guidance=guidance)) for guidance in (2.0, 3.0)]
    waits = [two.submit(desk.wanted(steps=2, seed=seed), desk.OWNER) for seed in (1, 2, 3)]
    [lost_pid, other_pid] = [worker.pid for worker in two.status().workshop.workers]
    starts = [worker.starts for worker in two.status().workshop.workers]
    assert lost_pid is not None
    os.kill(lost_pid, signal.SIGKILL)
    ends = [desk.finished(two, job) for job in jobs]
    assert sorted((str(job.state), job.reason) for job in ends) == [("done", None), ("failed", "lost")]
    for job in waits:  # what agrees still goes together
        assert desk.finished(two, job).state == "done"
        assert read_recipe(two.picture_file(job.id, desk.OWNER, 0)).batch_rows == 3
    workers = two.status().workshop.workers
    assert (workers[1].pid, [worker.starts for worker in workers]) == (other_pid, [starts[0] + 1, starts[1]])


def test_a_job_of_many_pictures_is_divided(two: Engine, desk: Any) -> None:
    desk.until(lambda: all(worker.is_ready and not worker.is_busy for worker in two.status().workshop.workers))
    before = [worker.works for worker in two.status().workshop.workers]
    job = desk.finished(two, two.submit(desk.wanted(steps=40, num_images=48), desk.OWNER))
    assert [picture.seed for picture in job.pictures] == list(range(1, 49))
    workers = two.status().workshop.workers
    assert all(worker.works > count for worker, count in zip(workers, before, strict=True))


def test_devices_are_taken_in_turn_and_threads_are_shared_out(tiny_config: EngineConfig) -> None:
    def threads(**settings: Any) -> list[int | None]:
        workers = hire_processes(replace(tiny_config, **settings), "")
        assert all(isinstance(worker, WorkerProcess) for worker in workers)
        return [worker.config.threads for worker in workers if isinstance(worker, WorkerProcess)]

    before = torch.get_num_threads()
    torch.set_num_threads(7)
    try:
        assert threads(threads=None) == [None]
        assert threads(threads=None, workers=3) == [2, 2, 2]
        assert threads(threads=None, devices=("cpu", "cpu")) == [3, 3]
        assert threads(threads=None, workers=9) == [1] * 9
        assert threads(threads=4, workers=2) == [4, 4]
    finally:
        torch.set_num_threads(before)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert list(_on_all_gpus([cuda], 2)) == [cuda]
    assert [str(device) for device in _on_all_gpus([cuda, cuda, cuda], 2)] == ["cuda:0", "cuda:1", "cuda:0"]
    named = [torch.device("cuda", 1), cpu, torch.device("cuda", 1)]
    assert list(_on_all_gpus(named, 2)) == named
    with pytest.raises(ToileError, match="workers is 1 for 2 devices"):
        replace(tiny_config, devices=("cpu", "cpu"), workers=1)
    with pytest.raises(ToileError, match="workers is 0"):
        replace(tiny_config, workers=0)


def test_an_engine_whose_second_worker_cannot_be_started_leaves_no_first_one(
    tiny_config: EngineConfig, tmp_path: Path
) -> None:
    class Hired(EngineWorker):
        is_running = False

        def kill(self) -> None: ...

        def _begin(self) -> Connection:
            if any(worker.is_running for worker in hired):
                raise ToileError("no room for another one")
            self.is_running = True
            return Pipe()[0]

        def _end_of_dead(self) -> str:
            return ""

        def _end(self) -> None:
            self.is_running = False

    hired = [Hired(), Hired()]
    engine = Engine(replace(tiny_config, out=tmp_path), lambda config, source: hired)
    with pytest.raises(ToileError, match="no room"), engine:
        pytest.fail("it was started")
    assert hired[0].starts == 1 and not any(worker.is_running for worker in hired)
    assert not engine.room.is_open
