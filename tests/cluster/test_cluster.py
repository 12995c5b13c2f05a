"""Dividing machines among workers, what workers take on, and clusters that cannot be joined."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toile.cli.main import run
from toile.cluster.crew import SPARE_LOSSES, Crew
from toile.cluster.joining import SETTINGS, Worker, WorkerLostError, joined
from toile.cluster.places import Place, divide
from toile.cluster.surroundings import Surroundings
from toile.errors import ToileError, WorkFailedError

Output = pytest.CaptureFixture[str]


def node(name: str, cpus: float, gpus: float = 0.0) -> dict[str, Any]:
    resources = {"CPU": cpus, "GPU": gpus, "memory": 1e9}
    return {"NodeID": f"id-{name}", "NodeManagerHostname": name, "Resources": resources}


# -------------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (None, [("a", 4), ("b", 2)]),
        (1, [("a", 4)]),
        (2, [("a", 4), ("b", 2)]),
        (3, [("a", 2), ("a", 2), ("b", 2)]),
        (6, [("a", 1)] * 4 + [("b", 1)] * 2),
    ],
)
def test_workers_share_all_processors_evenly(workers: int | None, expected: list[tuple[str, int]]) -> None:
    places = divide([node("b", 2), node("a", 4), node("head", 0)], workers, with_gpus=True)
    assert [(place.host, place.cpus) for place in places] == expected
    assert all(place.node == f"id-{place.host}" and place.gpus == 0 for place in places)


def test_where_there_are_gpus_each_has_a_worker() -> None:
    nodes = [node("a", 8, 2), node("b", 16), node("c", 4, 1)]
    assert [(p.host, p.cpus, p.gpus) for p in divide(nodes, None, with_gpus=True)] == [
        ("a", 4, 1),
        ("a", 4, 1),
        ("c", 4, 1),
    ]
    assert [(p.host, p.cpus, p.gpus) for p in divide(nodes, None, with_gpus=False)] == [
        ("a", 8, 0),
        ("b", 16, 0),
        ("c", 4, 0),
    ]
    with pytest.raises(ToileError, match="GPUs for 1 to 3"):
        divide(nodes, 4, with_gpus=True)


@pytest.mark.parametrize("workers", [0, -1, 7])
def test_more_workers_than_processors_are_refused(workers: int) -> None:
    with pytest.raises(ToileError, match=f"workers is {workers}; the cluster has processors for 1 to 6"):
        divide([node("a", 4), node("b", 2)], workers, with_gpus=False)


def test_a_cluster_without_processors_is_refused() -> None:
    with pytest.raises(ToileError, match="no processors"):
        divide([node("a", 0)], None, with_gpus=False)


# -------------------------------------------------------------------------------------------------- surroundings


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOILE_ONLY_HERE", "1")
    return tmp_path


def test_a_worker_computes_reads_and_finds_as_where_it_was_started(elsewhere: Path) -> None:
    there = elsewhere / "there"
    there.mkdir()
    given = replace(Surroundings.here(), folder=there, variables={"TOILE_CACHE": "elsewhere"})
    before, threads = dict(os.environ), torch.get_num_threads()
    try:
        given.take_on(threads=2, needs_folder=True)
        assert Path.cwd() == there and torch.get_num_threads() == 2
        assert os.environ["TOILE_CACHE"] == "elsewhere" and "TOILE_ONLY_HERE" not in os.environ
    finally:
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads(threads)


def test_other_versions_and_missing_folders_are_refused(elsewhere: Path) -> None:
    here = Surroundings.here()
    assert here.variables["TOILE_ONLY_HERE"] == "1"
    with pytest.raises(ToileError, match="torch .* is installed here, 1.0 where the work was started"):
        replace(here, versions={**here.versions, "torch": "1.0"}).take_on(1, needs_folder=False)
    absent = replace(here, folder=elsewhere / "absent")
    with pytest.raises(ToileError, match="all machines need the same folder"):
        absent.take_on(1, needs_folder=True)
    absent.take_on(1, needs_folder=False)
    assert Path.cwd() == elsewhere


# ---------------------------------------------------------------------------------------------------------- crew


class Machines:
    """Stands in for a cluster."""

    def __init__(self) -> None:
        self.up = {"a", "b"}
        self.killed: list[Worker] = []

    def is_up(self, place: Place) -> bool:
        return place.node in self.up

    def start(self, kind: type, place: Place, calls_at_once: int) -> Worker:
        return Worker(place, None)

    def kill(self, worker: Worker) -> None:
        self.killed.append(worker)


PLACES = (Place("a", "a", 1), Place("b", "b", 1))


def test_workers_that_die_again_and_again_end_the_work() -> None:
    crew = Crew(Machines(), PLACES)  # type: ignore[arg-type]
    for _ in range(2):
        for _ in range(SPARE_LOSSES + len(PLACES)):
            assert "died" in str(crew.lost(crew.start(object), WorkerLostError("gone")))
        crew.progressed()
    for _ in range(SPARE_LOSSES + len(PLACES)):
        crew.lost(crew.start(object), WorkerLostError("gone"))
    with pytest.raises(WorkFailedError, match="6 workers died in a row, the last one on .*: gone"):
        crew.lost(crew.start(object), WorkerLostError("gone"))


def test_a_machine_that_is_gone_is_no_place_any_more() -> None:
    machines = Machines()
    crew = Crew(machines, PLACES)  # type: ignore[arg-type]
    first, second = crew.start(object), crew.start(object)
    machines.up.remove("a")
    crew.lost(first, WorkerLostError("gone"))
    assert not crew.free and crew.workers == [second]
    machines.up.remove("b")
    with pytest.raises(WorkFailedError, match="no machine of the cluster is left"):
        crew.lost(second, WorkerLostError("gone"))


def test_it_is_said_once_that_no_place_is_free_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(Machines(), PLACES)  # type: ignore[arg-type]
    crew.start(object)
    assert not list(crew.waiting())
    monkeypatch.setattr("toile.cluster.crew._PATIENCE_SECONDS", -1.0)
    assert [str(record) for record in crew.waiting()] == [
        "worker on a with 1 processor: waiting until that is free in the cluster"
    ]
    assert not list(crew.waiting())
    crew = Crew(Machines(), PLACES)  # type: ignore[arg-type]
    crew.start(object)
    crew.begun()
    assert not list(crew.waiting())


def test_dismissed_workers_are_ended() -> None:
    machines = Machines()
    crew = Crew(machines, PLACES)  # type: ignore[arg-type]
    workers = [crew.start(object), crew.start(object)]
    crew.finished(workers[0])
    assert [place.node for place in crew.free] == ["a"]
    crew.dismiss()
    assert machines.killed == workers and not crew.workers


# ------------------------------------------------------------------------------------------------------- joining


@pytest.fixture
def web_server() -> Iterator[str]:
    """Something that listens and is no Ray."""

    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_what_is_no_cluster_is_refused_at_once(web_server: str) -> None:
    with pytest.raises(ToileError, match="is no head of a Ray cluster"), joined(web_server):
        pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ToileError, match=f"no Ray cluster answers at 127.0.0.1:{port}"), joined(f"127.0.0.1:{port}"):
        pass
    for wrong in ("ray://127.0.0.1:10001", "somewhere", "host:", "127.0.0.1:99999999"):
        with pytest.raises(ToileError, match=r"HOST:PORT|no Ray cluster answers"), joined(wrong):
            pass


@pytest.mark.slow
def test_joining_changes_no_signals_and_says_nothing_to_anyone(address: str, capfd: Output) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with joined(address) as cluster:
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == [signal.SIGTERM]
            assert [place.cpus for place in cluster.places()] == [1, 1]
            assert len({place.node for place in cluster.places()}) == 2 and len(cluster.addresses) == 1
            assert all(os.environ[name] == value for name, value in SETTINGS.items())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("command", [["generate", "a red belt"], ["sweep", "sweep.toml"]])
def test_flags_of_clusters_are_checked(
    tmp_path: Path, command: list[str], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*command, "--workers", "2"]) == 2
    assert "add --ray auto" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ToileError, match=r"pip install 'toile\[cluster\]'"), joined("local"):
        pass
