"""A server on a free port of this machine, in a thread of the tests' process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from toile.web.api.app import build_app
from toile.web.api.config import ServerConfig
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine import Engine
from toile.web.server import build_server

ADA, BOB = "token-of-ada-0123456789", "token-of-bob-0123456789"


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
        yield Running(addresses[0], engine)
    finally:
        built.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def server(tiny_config: EngineConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for everybody, without tokens; tests leave nothing running."""
    with running_server(replace(tiny_config, out=tmp_path_factory.mktemp("served"))) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tiny_config: EngineConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One with tokens, which is impatient and takes little."""
    config = replace(tiny_config, out=tmp_path_factory.mktemp("guarded"), queue=16, max_batch=1)
    tokens = {ADA: "ada", BOB: "bob"}
    with running_server(config, tokens=tokens, max_body_bytes=200_000, body_seconds=0.5) as running:
        yield running


@pytest.fixture
def start_server(tiny_config: EngineConfig, tmp_path: Path) -> Callable[..., Any]:
    """Starts one of its own."""
    return lambda **more: running_server(replace(tiny_config, out=tmp_path / "own", **more))


@pytest.fixture
def ada() -> dict[str, str]:
    return {"Authorization": f"Bearer {ADA}"}


@pytest.fixture
def bob() -> dict[str, str]:
    return {"Authorization": f"Bearer {BOB}"}
