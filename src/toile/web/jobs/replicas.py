"""Workers on the machines of a Ray cluster, kept alive there by Ray Serve; the engine talks to them as to any other."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import torch

from toile.cluster.joining import Cluster, WorkerLostError
from toile.cluster.places import Place
from toile.cluster.serving import Replica, deploy, remove_all
from toile.cluster.surroundings import Surroundings
from toile.device import choose_dtype
from toile.errors import ToileError
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine_worker import EngineWorker
from toile.web.jobs.messages import Drop, FromWorker, Passed, Ready, Refused, ToWorker, Work
from toile.web.jobs.worker import Worker, WorkerConfig

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_BETWEEN_TRIES = 0.5  # to reach a worker that is still to come
_SECONDS_BETWEEN_SIGNS = 2.0  # of life, of a worker that has nothing to do
_SECONDS_TO_ANSWER = 10.0
_SECONDS_TO_REMARK = 20.0  # on a worker that does not come
_SECONDS_TO_END = 30.0

_log = logging.getLogger(__name__)


class PictureReplica:
    """What Ray Serve runs: a `Worker` in a thread, with the engine's messages passed on to it and its own passed back.

    Args:
        surroundings: of the engine.
        config: of the worker.

    Raises:
        ToileError: another version of toile or torch is installed here, or the model cannot be loaded.
    """

    def __init__(self, surroundings: Surroundings, config: WorkerConfig) -> None:
        host = socket.gethostname()
        try:
            surroundings.take_on(config.threads or torch.get_num_threads(), needs_folder=False)
        except ToileError as error:
            raise ToileError(f"on {host}: {error}") from None
        self._connection, theirs = Pipe()
        self._said: asyncio.Queue[FromWorker] = asyncio.Queue()
        threading.Thread(target=_work, args=(theirs, config), name="toile-worker", daemon=True).start()
        ready = self._connection.recv()
        assert isinstance(ready, Ready)
        if ready.trouble:
            raise ToileError(f"on {host}: {ready.trouble}")
        self._ready = replace(ready, host=host)
        self._listener: threading.Thread | None = None

    async def ready(self) -> Ready:
        """What the worker said when it could begin."""
        return self._ready

    async def hear(self, message: ToWorker) -> None:
        """Passes something on that is about the work at hand."""
        self._connection.send(message)

    async def make(self, work: Work) -> AsyncGenerator[FromWorker, None]:
        """Makes a work; yields what the worker says of it."""
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = threading.Thread(target=self._listen, args=(loop,), daemon=True)
            self._listener.start()
        self._connection.send(work)
        is_over = False
        try:
            while not is_over:
                message = await self._said.get()
                assert not isinstance(message, Ready)
                if message.work == work.number:  # else of one before it, which its engine left
                    is_over = isinstance(message, Refused) or (isinstance(message, Passed) and message.is_last)
                    yield message
        finally:
            if not is_over:
                for share in work.shares:
                    self._connection.send(Drop(share.job))

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            loop.call_soon_threadsafe(self._said.put_nowait, self._connection.recv())


def _work(connection: Connection, config: WorkerConfig) -> None:
    with contextlib.suppress(EOFError):  # the replica is given up
        Worker(connection, config).run()


class ReplicaWorker(EngineWorker):
    """A replica on some machine of the cluster.

    Args:
        name: under which Serve knows it.
        place: what it needs.
        surroundings: of the engine.
        config: how it is set up.
    """

    def __init__(self, name: str, place: Place, surroundings: Surroundings, config: WorkerConfig) -> None:
        super().__init__()
        self._name, self._place, self._surroundings, self._config = name, place, surroundings, config
        self._replica: Replica | None = None
        self._conversation: _Conversation | None = None

    def kill(self) -> None:
        """Has the cluster end it."""
        self._dismiss()
        if self._conversation is not None:
            self._conversation.lost = "it did not answer"

    def _begin(self) -> Connection:
        if self._replica is None:
            name = f"{self._name}-{self.starts}"  # another one each time, as the last one may not be gone yet
            self._replica = deploy(PictureReplica, name, self._place, self._surroundings, self._config)
        ours, theirs = Pipe()
        self._conversation = _Conversation(self._replica, theirs)
        self._conversation.start()
        return ours

    def _end_of_dead(self) -> str:
        assert self._conversation is not None
        self._conversation.join()
        if self.ready is None:  # Serve has given up
            self._dismiss()
        return f"the loss of its replica ({self._conversation.lost})"

    def _end(self) -> None:
        self._dismiss()
        if self._conversation is not None:
            self._conversation.join(_SECONDS_TO_END)

    def _dismiss(self) -> None:
        if self._replica is not None:
            self._replica.remove()
            self._replica = None


class _Conversation(threading.Thread):
    """Passes on what the engine and a replica say, until the engine closes its end or the replica is lost.

    Args:
        replica: perhaps still to come.
        connection: to the engine; closed at the end.

    Attributes:
        lost: why the replica is lost; "" while it is not.
    """

    def __init__(self, replica: Replica, connection: Connection) -> None:
        super().__init__(name=f"conversation with {replica.name}", daemon=True)
        self._replica, self._connection = replica, connection
        self._making: threading.Thread | None = None
        self.lost = ""

    def run(self) -> None:
        try:
            self._wait_until_ready()
            self._talk()
        except (EOFError, OSError):
            pass  # the engine ended it
        except WorkerLostError as error:
            self.lost = str(error)
        finally:
            self._connection.close()

    def _wait_until_ready(self) -> None:
        remark_at = time.monotonic() + _SECONDS_TO_REMARK
        while not self.lost:
            try:
                self._connection.send(self._replica.ask("ready", seconds=_SECONDS_TO_ANSWER))
                return
            except WorkerLostError:  # it is not there yet
                self._replica.check_start()
            if self._connection.poll(_SECONDS_BETWEEN_TRIES):
                self._connection.recv()  # raises EOFError: nothing is said before it is ready
            if time.monotonic() > remark_at:
                remark_at = float("inf")
                _log.warning("%s is not there yet; serve status says more", self._replica.name)

    def _talk(self) -> None:
        next_sign = time.monotonic() + _SECONDS_BETWEEN_SIGNS
        while not self.lost:
            if self._connection.poll(_SECONDS_BETWEEN_LOOKS):
                message = self._connection.recv()
                if isinstance(message, Work):
                    self._making = threading.Thread(target=self._pass_back, args=(message,), daemon=True)
                    self._making.start()
                else:
                    self._replica.ask("hear", message, seconds=_SECONDS_TO_ANSWER)
            elif time.monotonic() > next_sign and (self._making is None or not self._making.is_alive()):
                self._replica.ask("ready", seconds=_SECONDS_TO_ANSWER)
                next_sign = time.monotonic() + _SECONDS_BETWEEN_SIGNS

    def _pass_back(self, work: Work) -> None:
        try:
            for message in self._replica.stream("make", work):
                self._connection.send(message)
        except WorkerLostError as error:
            self.lost = str(error)
        except OSError:
            pass  # the engine ended it


def hire_replicas(cluster: Cluster, config: EngineConfig, warm: str) -> list[EngineWorker]:
    """Workers on the machines of a cluster; none is started yet.

    Args:
        cluster: that was joined, with `serving`.
        config: how many; by default one on each machine, or for each GPU.
        warm: what `load` opens before the first work, at the same path on all machines.

    Raises:
        ToileError: more workers than processors or GPUs, several devices, or an unknown precision.
    """
    if len(config.devices) != 1:
        raise ToileError(f"devices are {', '.join(config.devices)}; on a cluster name one, for all its machines")
    [device] = config.devices
    choose_dtype(config.dtype, torch.device("cpu"))
    places = cluster.places(config.workers, with_gpus=device.partition(":")[0] in ("auto", "cuda"))
    surroundings = Surroundings.here()
    # Only one engine at a time is on a folder, so what is there under its name was left behind by one that was killed.
    studio = "toile-" + hashlib.sha256(f"{socket.gethostname()} {config.out.resolve()}".encode()).hexdigest()[:8]
    remove_all(studio)
    workers: list[EngineWorker] = []
    for number, place in enumerate(places):
        threads = config.threads or place.cpus
        wanted = WorkerConfig("cuda" if place.gpus else device, config.dtype, warm, config.kept_models, threads)
        workers.append(ReplicaWorker(f"{studio}-{number}", place, surroundings, wanted))
    return workers
