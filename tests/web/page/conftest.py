"""A server with the page and the tiny model, and a browser to look at it."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from toile.web.api.app import build_app
from toile.web.api.config import ServerConfig
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine import Engine
from toile.web.page.app import add_page
from toile.web.training.desk import Desk, DeskConfig

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def page_engine(tiny_config: EngineConfig, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Not started: the server of a test file starts it."""
    return Engine(replace(tiny_config, out=tmp_path_factory.mktemp("page")))


@pytest.fixture(scope="module")
def page_desk(page_engine: Engine) -> Iterator[Desk]:
    """Without pictures, runs and reports of others."""
    desk = Desk(DeskConfig(page_engine.config.out, threads=1, niceness=0))
    yield desk
    desk.close()


@pytest.fixture(scope="module")
def studio_address(page_engine: Engine, page_desk: Desk) -> Iterator[str]:
    """Of a server with the page, in a thread of the tests' process."""
    app = build_app(page_engine, ServerConfig(drain_seconds=0.0), lambda app: add_page(app, page_engine, page_desk))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", ws="none"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    end = time.monotonic() + 120
    while not (server.started and page_engine.status().workshop.is_ready):
        assert thread.is_alive() and time.monotonic() < end
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    named = os.environ.get("TOILE_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None or not Path(found).exists():
        pytest.skip("no Chromium; install it, or set TOILE_CHROMIUM to it")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install playwright")
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox asks for rights that a container's root has not.
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
