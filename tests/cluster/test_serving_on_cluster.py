"""`toile serve` on nodes of a cluster: one queue, pictures made on all, and the same as those of one machine."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from toile.cluster.joining import WorkerLostError, joined
from toile.cluster.places import Place
from toile.cluster.serving import _described, _reason_of, serving
from toile.cluster.surroundings import Surroundings
from toile.errors import ToileError
from toile.generation.request import GenerateRequest
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine import Engine
from toile.web.jobs.events import Progress
from toile.web.jobs.job import Job
from toile.web.jobs.limits import Limits
from toile.web.jobs.replicas import PictureReplica, ReplicaWorker, hire_replicas
from toile.web.jobs.request import JobRequest
from toile.web.jobs.worker import WorkerConfig

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")]
LONG = 1000
GUIDANCES = (2.0, 3.0, 4.0)  # jobs that differ in it are not made together


def config_of(folder: Path, model: Path, **more: Any) -> EngineConfig:
    return EngineConfig(folder, (str(model),), ("cpu",), "float32", limits=Limits(steps=LONG), **more)


def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def wanted(steps: int = 2, guidance: float = 2.0, **settings: Any) -> JobRequest:
    return JobRequest("tiny", GenerateRequest(("red dress",), steps=steps, guidance=guidance, **settings))


def finished(engine: Engine, job: Job) -> Job:
    for _ in engine.events(job.id, "ada"):
        pass
    return engine.job(job.id, "ada")


def running(engine: Engine, request: JobRequest) -> Job:
    job = engine.submit(request, "ada")
    until(lambda: engine.job(job.id, "ada").fraction > 0)
    return job


def files(engine: Engine, job: Job) -> list[bytes]:
    return [engine.picture_file(job.id, "ada", picture.number).read_bytes() for picture in job.pictures]


def parent_of(pid: int | None) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("PPid:"))


@pytest.fixture(scope="module")
def engine(
    address: str, third_node: Any, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An engine with a worker on each of three nodes; tests leave nothing running."""
    config = config_of(tmp_path_factory.mktemp("served"), tiny_folder)
    with joined(address) as cluster, serving(), Engine(config, partial(hire_replicas, cluster)) as engine:
        until(lambda: all(worker.is_ready for worker in engine.status().workshop.workers))
        yield engine


def test_pictures_are_made_on_all_nodes_and_are_those_of_a_worker_here(
    engine: Engine, tiny_folder: Path, tmp_path: Path
) -> None:
    workers = engine.status().workshop.workers
    assert [(worker.device, bool(worker.host)) for worker in workers] == [("cpu", True)] * 3
    assert len({parent_of(worker.pid) for worker in workers}) == 3  # the node's own process starts it
    jobs = [engine.submit(wanted(60, guidance, seed=7, num_images=2), "ada") for guidance in GUIDANCES]
    until(lambda: all(worker.is_busy for worker in engine.status().workshop.workers))
    there = [files(engine, finished(engine, job)) for job in jobs]
    with Engine(config_of(tmp_path, tiny_folder, threads=1)) as local:
        here = [local.submit(wanted(60, guidance, seed=7, num_images=2), "ada") for guidance in GUIDANCES]
        assert there == [files(local, finished(local, job)) for job in here]


def test_what_is_looked_at_is_shown_and_what_nobody_wants_is_stopped(engine: Engine) -> None:
    job = running(engine, wanted(LONG))
    for event in engine.events(job.id, "ada", previews=True):
        if isinstance(event, Progress) and event.preview is not None:
            break
    assert engine.cancel(job.id, "ada").state == "cancelled"
    until(lambda: not any(worker.is_busy for worker in engine.status().workshop.workers), 5.0)


def test_a_replica_that_dies_is_replaced_and_the_others_go_on(engine: Engine) -> None:
    jobs = [running(engine, wanted(400, guidance)) for guidance in GUIDANCES]
    waits = [engine.submit(wanted(2, seed=seed), "ada") for seed in (1, 2, 3)]
    killed = engine.status().workshop.workers[0].pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    ends = [finished(engine, job) for job in jobs]
    assert sorted((str(job.state), job.reason) for job in ends) == [("done", None), ("done", None), ("failed", "lost")]
    assert [finished(engine, job).state for job in waits] == ["done"] * 3
    until(lambda: all(worker.is_ready for worker in engine.status().workshop.workers))
    first = engine.status().workshop.workers[0]
    assert first.pid != killed and first.starts == 2


def test_what_a_cluster_cannot_do_is_refused(address: str, tiny_folder: Path, tmp_path: Path) -> None:
    with joined(address) as cluster, serving():
        for settings, what in (
            ({"workers": 99}, "workers is 99; the cluster has processors for 1 to"),
            ({"devices": ("cpu", "cuda")}, "devices are cpu, cuda; on a cluster name one"),
        ):
            config = replace(config_of(tmp_path, tiny_folder), **settings)
            for _ in range(2):  # the folder is free again
                with pytest.raises(ToileError, match=what):
                    Engine(config, partial(hire_replicas, cluster))


def test_a_node_that_is_lost_takes_its_job_with_it_and_nothing_else(
    engine: Engine, nodes: Any, third_node: Any
) -> None:
    jobs = [running(engine, wanted(LONG, guidance)) for guidance in GUIDANCES]
    nodes.remove_node(third_node, allow_graceful=False)
    until(lambda: any(engine.job(job.id, "ada").is_ended for job in jobs))
    [lost] = [job for job in (engine.job(job.id, "ada") for job in jobs) if job.is_ended]
    assert (lost.state, lost.reason) == ("failed", "lost")
    assert sum(worker.is_ready for worker in engine.status().workshop.workers) == 2
    for job in jobs:
        engine.cancel(job.id, "ada")
    assert finished(engine, engine.submit(wanted(), "ada")).state == "done"


# ------------------------------------------------------------------------------------------------ without a cluster


def test_a_machine_that_would_make_other_pictures_takes_no_part(tiny_folder: Path) -> None:
    strange = replace(Surroundings.here(), versions={"toile": "0.0.9", "torch": torch.__version__})
    with pytest.raises(ToileError, match=rf"on {socket.gethostname()}: toile .* 0\.0\.9 where the work was started"):
        PictureReplica(strange, WorkerConfig("cpu", "float32", str(tiny_folder)))
    with pytest.raises(ToileError, match=rf"on {socket.gethostname()}: model 'nowhere'"):
        PictureReplica(Surroundings.here(), WorkerConfig("cpu", "float32", "nowhere", threads=1))


def test_a_replica_that_serve_gives_up_is_deployed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed: list[Any] = []

    class NeverThere:
        def __init__(self, name: str) -> None:
            self.name, self.removed = name, False

        def ask(self, method: str, *arguments: Any, seconds: float) -> None:
            raise WorkerLostError("it is not there")

        def check_start(self) -> None:
            raise WorkerLostError("on host: its model is another one")

        def remove(self) -> None:
            self.removed = True

    def deploy(kind: type, name: str, *others: Any) -> Any:
        deployed.append(NeverThere(name))
        return deployed[-1]

    monkeypatch.setattr("toile.web.jobs.replicas.deploy", deploy)
    worker = ReplicaWorker("toile-0", Place("node", "host", 1), Surroundings.here(), WorkerConfig())
    worker.start()
    assert worker.connection is not None and worker.connection.poll(10)
    with pytest.raises(EOFError):
        worker.receive()
    assert worker.bury() == "the loss of its replica (on host: its model is another one)"
    worker.start()
    assert [(replica.name, replica.removed) for replica in deployed] == [("toile-0-0", True), ("toile-0-1", False)]
    worker.stop()
    assert deployed[-1].removed


def test_a_description_that_threads_of_serve_disturb_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import serve

    errors = [ValueError("router is not registered for pickle by value")] * 3
    made = serve.deployment

    def disturbed(**settings: Any) -> Any:
        if errors:
            raise errors.pop()
        return made(**settings)

    monkeypatch.setattr(serve, "deployment", disturbed)
    assert _described(PictureReplica, Place("node", "host", 1)).name == "PictureReplica"
    errors = [ValueError("there is no such setting")] * 1000
    with pytest.raises(ValueError, match="no such setting"):
        _described(PictureReplica, Place("node", "host", 1))


def test_what_ray_says_is_told_in_one_line() -> None:
    text = "Error:\nTraceback ...\n  raise\ntoile.errors.ToileError: on host: no room\n"
    assert (_reason_of(text), _reason_of("a\nb"), _reason_of("")) == ("on host: no room", "a", "")
