"""An engine with the tiny model, a server before one, and what tests ask of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from toile.generation.request import GenerateRequest
from toile.web.api.app import build_app
from toile.web.api.config import ServerConfig
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine import Engine
from toile.web.jobs.job import Job
from toile.web.jobs.request import JobRequest
from toile.web.server import build_server


class Desk:
    """Asks an engine for pictures of the tiny model."""

    OWNER = "ada"
    # Long enough to be seen at work: some seconds with the tiny model.
    LONG_STEPS = 1000

    @staticmethod
    def wanted(prompt: str = "red dress", *, model: str = "tiny", **settings: Any) -> JobRequest:
        """A request for a picture."""
        files = {name: settings.pop(name) for name in ("image", "mask", "fit", "mask_blur") if name in settings}
        return JobRequest(model, GenerateRequest((prompt,), **({"seed": 1, "steps": 2} | settings)), **files)

    def long_wanted(self, prompt: str = "black belt", **settings: Any) -> JobRequest:
        """A request whose picture takes long."""
        return self.wanted(prompt, steps=self.LONG_STEPS, **settings)

    @staticmethod
    def until(condition: Callable[[], bool], seconds: float = 180.0) -> None:
        """Waits for something that happens in another thread or process."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.005)

    def finished(self, engine: Engine, job: Job, owner: str = OWNER) -> Job:
        """The job when it has ended."""
        for _ in engine.events(job.id, owner):
            pass
        return engine.job(job.id, owner)

    def running(self, engine: Engine, request: JobRequest, owner: str = OWNER) -> Job:
        """A job that is being made."""
        job = engine.submit(request, owner)
        self.until(lambda: engine.job(job.id, owner).fraction > 0)
        return job


@dataclass(frozen=True)
class Running:
    """A server: its address, and the engine behind it."""

    url: str
    engine: Engine

    def client(self, **more: Any) -> httpx.Client:
        """For requests."""
        return httpx.Client(base_url=self.url, timeout=60, **more)


@contextmanager
def running_server(engine_config: EngineConfig, **server: Any) -> Iterator[Running]:
    """A server on a free port of this machine, in a thread of the tests' process."""
    config = ServerConfig(**({"port": 0, "drain_seconds": 2} | server))
    engine = Engine(engine_config)
    addresses: list[str] = []
    started = threading.Event()

    def say(address: str) -> None:
        addresses.append(address)
        started.set()

    built, listening = build_server(build_app(engine, config), engine, config, say)
    thread = threading.Thread(target=built.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert started.wait(60)
        Desk.until(lambda: engine.status().workshop.is_ready, 120)
        yield Running(addresses[0], engine)
    finally:
        built.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def run_server() -> Callable[..., Any]:
    return running_server


@pytest.fixture(scope="session")
def desk() -> Desk:
    return Desk()


@pytest.fixture(scope="session")
def tiny_config(tiny_folder: Path) -> EngineConfig:
    """For engines of the tiny model; `out` is to be replaced."""
    config = EngineConfig(Path("unset"), (str(tiny_folder),), ("cpu",), "float32", threads=1)
    return replace(config, limits=replace(config.limits, steps=1000))


@pytest.fixture(scope="module")
def engine(tiny_config: EngineConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One for all tests of a file, which leave nothing running."""
    with Engine(replace(tiny_config, out=tmp_path_factory.mktemp("studio"))) as started:
        yield started
