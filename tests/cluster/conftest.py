"""Fixtures of the cluster tests: two Ray nodes of one processor each, on this machine."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

from toile.cluster.joining import SETTINGS

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

_STORE_BYTES = 80_000_000
_NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": _STORE_BYTES}
_SECONDS = 300


@pytest.fixture(scope="session")
def nodes() -> Iterator[Cluster]:
    """The cluster; what is started for it ends with the tests."""
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,  # sockets need a short path
        pytest.MonkeyPatch.context() as patched,
    ):
        for name, value in SETTINGS.items():
            patched.setenv(name, value)
        patched.setenv("RAY_TMPDIR", folder)  # so that another cluster of this machine stays the one of "auto"
        patched.setenv("RAY_worker_niceness", "0")  # else they wait for whatever else this machine is at
        patched.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            cluster.add_node(**_NODE, include_dashboard=False)
            cluster.add_node(**_NODE)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def third_node(nodes: Cluster) -> Iterator[Any]:
    """One that tests may take away."""
    node = nodes.add_node(**_NODE)
    yield node
    if node in nodes.worker_nodes:
        nodes.remove_node(node)
    nodes.wait_for_nodes()  # a lost one counts as up until its silence is noticed


@pytest.fixture(scope="session")
def address(nodes: Cluster) -> str:
    """Address of the cluster."""
    return str(nodes.address)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as a worker has, because it decides in which order numbers are added up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_hanging() -> Iterator[None]:
    """A test that waits for a worker in vain fails instead."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"nothing came of it in {_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
