"""Replicas of Ray Serve: classes whose instances a cluster keeps alive on its machines, and calls to them.

Serve is imported here alone, and only when it is asked for. It takes no requests from outside: replicas are called
through handles.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from toile.cluster.joining import WorkerLostError
from toile.cluster.places import Place
from toile.errors import ToileError

_SECONDS_BETWEEN_HEALTH_CHECKS = 2.0
_SECONDS_TO_STOP = 5.0
_CALLS_AT_ONCE = 8
_TRIES = 10  # to describe a deployment


class Replica:
    """One replica of a class, which Serve starts again, on any machine with room, when it has died.

    Args:
        name: under which Serve knows it.
        handle: of Serve.
    """

    def __init__(self, name: str, handle: Any) -> None:
        self.name, self._handle = name, handle

    def ask(self, method: str, *arguments: Any, seconds: float) -> Any:
        """What a method returns.

        Raises:
            WorkerLostError: no replica is there now, or it does not answer within so many seconds.
        """
        try:
            answers = self._handle.broadcast(method, *arguments).results(timeout_s=seconds)
        except Exception as error:  # Serve lets through what it was at
            raise WorkerLostError(_reason(error)) from error
        if not answers:
            raise WorkerLostError("it is not there")
        return answers[0]

    def stream(self, method: str, *arguments: Any) -> Iterator[Any]:
        """What a generator yields.

        Raises:
            WorkerLostError: the replica has died meanwhile.
        """
        try:
            yield from self._handle.options(stream=True, method_name=method).remote(*arguments)
        except GeneratorExit:
            raise
        except Exception as error:  # Serve lets through what it was at
            raise WorkerLostError(_reason(error)) from error

    def check_start(self) -> None:
        """Passes while it is not known that it will never start.

        Raises:
            WorkerLostError: Serve has given up, because its constructor failed again and again; it says how.
        """
        import ray
        from ray import serve

        if not ray.is_initialized():  # Serve would start a cluster of its own
            raise WorkerLostError("the cluster was left")
        application = serve.status().applications.get(self.name)
        if application is None or application.status != "DEPLOY_FAILED":
            return
        messages = [deployment.message for deployment in application.deployments.values()]
        raise WorkerLostError(_reason_of("\n".join([application.message, *messages])))

    def remove(self) -> None:
        """Ends it for good."""
        from ray import serve

        serve.delete(self.name, _blocking=False)


@contextmanager
def serving() -> Iterator[None]:
    """Makes Ray Serve run on the cluster that was joined, see `joined`.

    Raises:
        ToileError: it is not installed, or cannot be started.
    """
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    try:
        from ray import serve
    except ImportError as error:
        raise ToileError(f"serving on a cluster needs Ray Serve: pip install 'toile[cluster]' ({error})") from error
    for name in ("ray.serve", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    except Exception as error:  # whatever keeps its controller from starting
        raise ToileError(f"Ray Serve cannot be started on the cluster: {_reason(error)}") from error
    yield


def remove_all(prefix: str) -> None:
    """Ends all replicas whose names begin so, and waits until they are gone."""
    from ray import serve

    for name in serve.status().applications:
        if name.startswith(prefix):
            serve.delete(name)


def deploy(kind: type, name: str, place: Place, *arguments: Any) -> Replica:
    """Has a cluster keep one replica of a class.

    Args:
        kind: a class, of a module that the machines of the cluster have too.
        name: under which Serve knows it; nothing else on the cluster has it.
        place: which processors and GPUs it needs; on which machine it is is up to Serve.
        arguments: of its constructor.
    """
    from ray import serve

    # `serve.run` would wait for the replica: loading a model takes long, and the others are to begin meanwhile.
    target = serve.RunTarget(_described(kind, place).bind(*arguments), name=name, route_prefix=None)
    [handle] = serve.run_many([target], wait_for_applications_running=False)
    return Replica(name, handle)


def _described(kind: type, place: Place) -> Any:
    """Serve's description of one replica of a class.

    While it is made, Serve registers one of its modules and takes that back; threads of its own, for the handles of
    replicas that run already, do the same at times, and whoever is second to take it back gets a ValueError (Ray 2.60).
    """
    from ray import serve

    def describe() -> Any:
        return serve.deployment(
            name=kind.__name__,
            num_replicas=1,
            max_ongoing_requests=_CALLS_AT_ONCE,
            ray_actor_options={"num_cpus": place.cpus, "num_gpus": place.gpus},
            health_check_period_s=_SECONDS_BETWEEN_HEALTH_CHECKS,
            graceful_shutdown_timeout_s=_SECONDS_TO_STOP,
            graceful_shutdown_wait_loop_s=0.2,
        )(kind)

    for _ in range(_TRIES - 1):
        with suppress(ValueError):
            return describe()
    return describe()


def _reason(error: BaseException) -> str:
    return _reason_of(str(error)) or type(error).__name__


def _reason_of(text: str) -> str:
    """The line of a message of Ray's that says what it is about."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ours = next((line for line in reversed(lines) if "ToileError: " in line), None)
    if ours is not None:
        return ours.partition("ToileError: ")[2]
    return lines[0] if lines else ""
