"""A web server in a thread that serves bytes by path, as a test tells it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class WebStub:
    """What is served, how, and what was asked for.

    Attributes:
        address: where the server is, without a slash at the end.
        files: content by path, which begins with a slash.
        headers: further ones by path.
        with_ranges: whether parts of files are served, as most servers do.
        breaks_after: how many bytes of a body are sent before the connection ends; None = all.
        asked: (path, Range header or "") of every request.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    with_ranges: bool = True
    breaks_after: int | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def web() -> Iterator[WebStub]:
    """A server on a free port of this machine."""
    stub = WebStub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            path, wanted = self.path.partition("?")[0], self.headers.get("Range", "")
            stub.asked.append((path, wanted))
            if path not in stub.files:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound" if path.startswith("/api/") else "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = stub.files[path]
            begins = re.fullmatch(r"bytes=(\d+)-", wanted) if stub.with_ranges else None
            start = int(begins[1]) if begins else 0
            if begins and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if begins else 200)
            if begins:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            for name, value in stub.headers.get(path, {}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                end = len(content) if stub.breaks_after is None else start + stub.breaks_after
                self.wfile.write(content[start:end])

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    stub.address = f"http://127.0.0.1:{server.server_port}"
    yield stub
    server.shutdown()
    server.server_close()
    thread.join()
