"""Joining a Ray cluster, starting workers there, calling them.

Ray is imported here alone, and only when it is asked for. Nothing is uploaded to the cluster: its machines have toile
and the models installed, and what a worker needs to know is sent as values.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toile.cluster.places import Place, divide
from toile.errors import ToileError, WorkFailedError

if TYPE_CHECKING:
    from types import ModuleType

_CONNECT_SECONDS = 5.0
_HTTP2_SETTINGS = b"\x04"  # type of the frame with which a gRPC server answers a greeting
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _HTTP2_SETTINGS + bytes(5)
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # or `uv run` would upload the working folder
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Ray prints on the output that a worker died, which we say ourselves
}


class WorkerLostError(WorkFailedError):
    """A worker has died, or its machine has."""


@dataclass(frozen=True, eq=False)
class Worker:
    """A worker that was started; `handle` is Ray's."""

    place: Place
    handle: Any


class Cluster:
    """A Ray cluster that this process has joined, see `joined`."""

    def __init__(self, ray: ModuleType) -> None:
        self._ray = ray

    @property
    def addresses(self) -> set[str]:
        """Network addresses of the machines that are up."""
        return {node["NodeManagerAddress"] for node in self._nodes()}

    def places(self, workers: int | None = None, with_gpus: bool = False) -> tuple[Place, ...]:
        """Places for workers on the machines that are up, see `divide`."""
        return divide(self._nodes(), workers, with_gpus)

    def is_up(self, place: Place) -> bool:
        """Whether the machine of a place is there."""
        return any(node["NodeID"] == place.node for node in self._nodes())

    def share(self, value: Any) -> Any:
        """Puts a value where all workers can read it, once; pass what this returns as an argument."""
        return self._ray.put(value)

    def start(self, kind: type, place: Place, calls_at_once: int = 1) -> Worker:
        """Starts a worker; it begins when its processors are free.

        Args:
            kind: a class without arguments, of a module that the machines of the cluster have too.
            place: where it is to be.
            calls_at_once: how many of its methods run at a time, in threads; others wait.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = {
            "num_cpus": place.cpus,
            "num_gpus": place.gpus,
            "max_restarts": 0,
            "max_concurrency": calls_at_once,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(place.node, soft=False),
        }
        return Worker(place, self._ray.remote(kind).options(**options).remote())

    def call(self, worker: Worker, method: str, *arguments: Any) -> Any:
        """Calls a method of a worker; what this returns goes to `ready` and `result`."""
        return getattr(worker.handle, method).remote(*arguments)

    def stream(self, worker: Worker, method: str, *arguments: Any) -> Any:
        """Calls a method that is a generator; what this returns goes to `ready` and `next_of`."""
        return getattr(worker.handle, method).options(num_returns="streaming").remote(*arguments)

    def ready(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        """Those calls that have a result (or an error), after waiting for the first one at most so long."""
        if not calls:
            return []
        found, _ = self._ray.wait(list(calls), num_returns=1, timeout=seconds)
        others, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return list(dict.fromkeys([*found, *others]))

    def result(self, call: Any) -> Any:
        """What a method returned.

        Raises:
            WorkerLostError: the worker has died.
        """
        with self._told_apart():
            return self._ray.get(call)

    def next_of(self, stream: Any) -> Any:
        """What a generator yields next; StopIteration is its end.

        Raises:
            WorkerLostError: the worker has died.
        """
        with self._told_apart():
            return self._ray.get(next(stream))

    def kill(self, worker: Worker) -> None:
        """Ends a worker at once, if it is still there."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.handle)

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    @contextlib.contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Errors of a worker's own pass; that it is not there any more becomes one of ours."""
        try:
            yield
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = next((line for line in lines if "exit detail" in line or "Error:" in line), lines[0])
            raise WorkerLostError(reason.partition("Worker exit detail: ")[2] or reason) from error


@contextlib.contextmanager
def joined(address: str) -> Iterator[Cluster]:
    """Joins a Ray cluster for a while.

    Args:
        address: "auto" is the one that this machine belongs to, "local" one of this machine alone that ends with the
            work, otherwise HOST:PORT of a cluster's head.

    Raises:
        ToileError: Ray is not installed, or there is no such cluster.
    """
    os.environ.update(SETTINGS)  # Ray reads them when it is imported
    try:
        import ray
    except ImportError as error:
        raise ToileError("work on a cluster needs Ray: pip install 'toile[cluster]'") from error
    if ray.is_initialized():  # the caller's own
        yield Cluster(ray)
        return
    _check_address(address)
    handlers = _signal_handlers()
    try:
        # What belongs to a cluster of our own cannot be said of one that is there.
        own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except ConnectionError as error:
        raise ToileError(
            f"there is no Ray cluster at {address!r}: start one with ray start --head, or give HOST:PORT, or local"
        ) from error
    except (ValueError, RuntimeError, TimeoutError, OSError) as error:
        raise ToileError(f"cannot join the Ray cluster at {address!r}: {error}") from error
    try:
        for known, handler in handlers.items():  # Ray puts its own in their place
            signal.signal(known, handler)
        yield Cluster(ray)
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuses at once what Ray would try for a minute."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ToileError(
            f"the Ray cluster is {address!r}; write auto, local, or HOST:PORT, as in 10.0.0.1:6379, on a machine of "
            "the cluster"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS) as connection:
            connection.sendall(_HTTP2_GREETING)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise ToileError(f"no Ray cluster answers at {address}: {error}") from error
    encrypted = os.environ.get("RAY_USE_TLS", "0") != "0"
    if not encrypted and answer[3:4] != _HTTP2_SETTINGS:
        raise ToileError(
            f"what answers at {address} is no head of a Ray cluster; its port is 6379 unless it was changed"
        )


def _signal_handlers() -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {known: signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM)}
