"""Who may ask, from where, how much and how slowly: faults S1 to S9 as a client meets them."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import httpx
import pytest

JSON = {"Content-Type": "application/json"}
UNKNOWN = "0" * 24


def raw(url: str, request: bytes, wait: float = 10.0) -> bytes:
    """Sends bytes as they are, which no client library would; returns the answer until the connection is closed."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), wait) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
            if b"\r\n\r\n" in answer and b"Connection: close" not in request:
                break
        return answer


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/jobs/../../../etc/passwd",
        "/api/jobs/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/api/jobs/..%5c..%5cwindows",
        "/api/jobs/%2fetc%2fpasswd",
        "/api/jobs/%00",
        f"/api/jobs/{UNKNOWN}",
        f"/api/jobs/{UNKNOWN}/pictures/0",
        f"/api/jobs/{UNKNOWN}/pictures/..%2f..%2fstudio.sqlite3",
        f"/api/jobs/{UNKNOWN}/pictures/-1",
        "/studio.sqlite3",
        "/v1/models/..%2f..%2fetc%2fpasswd",
    ],
)
def test_paths_lead_nowhere_else(server: Any, path: str, method: str) -> None:
    request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    head, _, body = raw(server.url, request).partition(b"\r\n\r\n")
    assert head.split()[1] in (b"404", b"405", b"422"), head
    assert b"root:" not in body and b"SQLite" not in body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "192.168.7.7"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:99"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_foreign_hosts_and_origins_are_refused(server: Any, headers: dict[str, str], status: int) -> None:
    with server.client() as client:
        assert client.get("/v1/models", headers=headers).status_code == status
        assert client.get("/v1/models", headers={"Origin": server.url}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_forms_of_pages_elsewhere_make_nothing(server: Any, kind: str) -> None:
    before = server.engine.status().workshop.works
    with server.client() as client:
        for path in ("/api/jobs", "/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/options"):
            answer = client.post(path, content=b'{"prompt": "x"}', headers={"Content-Type": kind})
            assert answer.status_code == 415
        assert client.post("/v1/images/edits", content=b"{}", headers=JSON).status_code == 415
        assert client.post("/sdapi/v1/interrupt").status_code == 200  # which has no body
    assert server.engine.status().workshop.works == before


def test_tokens_are_needed_and_tell_owners_apart(guarded: Any, ada: dict[str, str], bob: dict[str, str]) -> None:
    with guarded.client() as client:
        for path in ("/v1/models", "/api/jobs", "/metrics", "/openapi.json"):
            answer = client.get(path)
            assert answer.status_code == 401 and "Basic" in answer.headers["www-authenticate"]
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        for wrong in ("Bearer nonsense", "Basic !!!", "Basic bm9uc2Vuc2U=", "Digest x", "Bearer"):
            assert client.get("/v1/models", headers={"Authorization": wrong}).status_code == 401
        token = ada["Authorization"].removeprefix("Bearer ")
        assert client.get("/v1/models", auth=("anybody", token)).status_code == 200
        job = client.post("/api/jobs", json={"prompt": "dress", "steps": 2}, headers=ada).json()["id"]
        for answer in (
            client.get(f"/api/jobs/{job}", headers=bob),
            client.get(f"/api/jobs/{job}/events", headers=bob),
            client.post(f"/api/jobs/{job}/cancel", headers=bob),
            client.delete(f"/api/jobs/{job}", headers=bob),
            client.get(f"/api/jobs/{job}/pictures/0", headers=bob),
        ):
            assert answer.status_code == 404
        assert client.get("/api/jobs", headers=bob).json() == {"jobs": []}
        assert client.get(f"/api/jobs/{job}", headers=ada).status_code == 200


def test_large_bodies_are_refused_and_others_are_served(guarded: Any, ada: dict[str, str]) -> None:
    token = ada["Authorization"].encode()
    head = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + token + b"\r\n"
    head += b"Content-Type: application/json\r\n"
    told = raw(guarded.url, head + b"Content-Length: 104857600\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 413") and b"connection: close" in told.lower()
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    untold = raw(guarded.url, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 8)
    assert untold.startswith(b"HTTP/1.1 413")
    with guarded.client(headers=ada) as client:
        assert client.post("/api/jobs", json={"prompt": "x" * 150_000}).status_code == 400
        assert client.get("/v1/models").status_code == 200


def test_slow_bodies_are_refused_and_others_are_served(guarded: Any, ada: dict[str, str]) -> None:
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as slow:
        head = f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: {ada['Authorization']}\r\n"
        slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n".encode())
        begun = time.monotonic()
        with guarded.client(headers=ada) as client:
            assert client.get("/v1/models").status_code == 200
        slow.sendall(b'{"prompt"')
        assert slow.recv(65536).startswith(b"HTTP/1.1 408")
        assert 0.4 < time.monotonic() - begun < 3


def test_200_at_once_with_a_queue_of_16(guarded: Any, ada: dict[str, str], desk: Any) -> None:
    """The first is being made, sixteen wait, and all others know at once when to come back. None is lost."""
    long = {"prompt": "dress", "steps": desk.LONG_STEPS}

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/v1/images/generations", json={"prompt": "dress", "steps": 1})

    async def ask_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=guarded.url, headers=ada, timeout=60, limits=limits) as client:
            first = (await client.post("/api/jobs", json=long)).json()["id"]
            rest = [asyncio.create_task(ask(client)) for _ in range(199)]
            while sum(task.done() for task in rest) < 183:
                await asyncio.sleep(0.01)
            assert (await client.get(f"/api/jobs/{first}")).json()["state"] == "running"
            assert guarded.engine.status().queued == 16
            await client.post(f"/api/jobs/{first}/cancel")
            return await asyncio.gather(*rest)

    def number(name: str) -> float:
        with guarded.client(headers=ada) as client:
            lines = client.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), 0.0)

    def within_50_ms() -> float:
        return number('toile_http_seconds_bucket{dialect="openai",le="0.05"}')

    def all_answers() -> float:
        return number('toile_http_seconds_count{dialect="openai"}')

    desk.until(lambda: guarded.engine.status().queued + guarded.engine.status().running == 0)
    quick, others = within_50_ms(), all_answers()
    answers = asyncio.run(ask_all())
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 183 and all(1 <= int(answer.headers["retry-after"]) <= 120 for answer in refused)
    served = [answer for answer in answers if answer.status_code == 200]
    assert len(served) == 16 and all(len(answer.json()["data"]) == 1 for answer in served)
    assert all_answers() - others == 199
    assert within_50_ms() - quick == 183  # from when the server had read a request's head


def test_a_client_that_leaves_stops_its_work(server: Any, desk: Any) -> None:
    long = {"prompt": "dress", "steps": desk.LONG_STEPS, "sampler_name": "ddim"}
    for path in ("/v1/images/generations", "/sdapi/v1/txt2img"):
        body = {name: value for name, value in long.items() if not (name == "sampler_name" and "v1/images" in path)}
        with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=server.url, timeout=0.5) as client:
            client.post(path, json=body)
        desk.until(lambda: server.engine.history("local", 1)[0].state == "cancelled")
        desk.until(lambda: not server.engine.status().workshop.workers[0].is_busy)


def test_no_websockets(server: Any) -> None:
    head = b"GET /queue HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    answer = raw(server.url, head + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
    assert answer.split()[1] == b"404"
