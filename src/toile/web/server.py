"""An application on a socket, until it is told to stop."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from toile.errors import ToileError
from toile.web.api.config import ServerConfig
from toile.web.jobs.engine import Engine

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048  # connections that have not been looked at yet


class Server(uvicorn.Server):
    """Ends well when it is told to: uvicorn's own would raise the signal once more when all is done."""

    def __init__(self, config: uvicorn.Config, engine: Engine, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._engine, self._on_start = engine, on_start

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._engine.stop_accepting()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()


def build_server(
    app: ASGIApp, engine: Engine, config: ServerConfig, on_start: Callable[[str], None]
) -> tuple[Server, socket.socket]:
    """A server and the socket that it is to be run on.

    Args:
        app: see `build_app`.
        engine: behind it.
        config: where to listen.
        on_start: is told the address when it can be reached.

    Raises:
        ToileError: the port is taken, or the address is none of this machine.
    """
    listening = _listen(config)
    port = listening.getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
    )
    return Server(settings, engine, lambda: on_start(f"http://{host}:{port}")), listening


def serve_app(app: ASGIApp, engine: Engine, config: ServerConfig, on_start: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, then takes no more jobs, finishes those there are, and returns.

    Raises:
        ToileError: see `build_server`, which explains the arguments too.
    """
    server, listening = build_server(app, engine, config, on_start)
    server.run(sockets=[listening])


def _listen(config: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        raise ToileError(f"cannot listen on {config.host} port {config.port}: {error.strerror or error}") from error
    return listening
