"""Many clients at once over bare sockets: one loop that does next to nothing, so that it measures the server alone.

A client library's own work for an answer, some milliseconds of Python, would be counted as the server's.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_PIECE = 1 << 18


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP.
        headers: as they came, in lower case.
        sent: when its client began to send, and before that to connect if it was its first request.
        came: when the last byte of the answer was there. Both are seconds of `time.perf_counter`.
    """

    status: int
    headers: bytes
    sent: float
    came: float

    @property
    def seconds(self) -> float:
        """That the client waited."""
        return self.came - self.sent


def post(path: str, content: dict[str, Any]) -> bytes:
    """A request with JSON, as it goes over the wire."""
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@dataclass(eq=False)
class _Client:
    connection: socket.socket
    sent: float
    received: bytearray = field(default_factory=bytearray)

    def answer(self) -> Answer | None:
        """The answer, if all of it is there."""
        head, separator, body = bytes(self.received[:4096]).partition(b"\r\n\r\n")
        if not separator:
            return None
        headers = head.lower()
        length = int(headers.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self.received) < len(head) + len(separator) + length:
            return None
        self.received.clear()
        return Answer(int(head.split(b" ", 2)[1]), headers, self.sent, time.perf_counter())


def ask_all(address: str, requests: Iterator[bytes], clients: int) -> list[Answer]:
    """Sends requests from so many clients at once, each of which asks again when it has its answer, until none is left.

    Args:
        address: of the server.
        requests: as `post` makes them.
        clients: each has one connection, opened when it first asks.

    Raises:
        ConnectionError: the server hung up.
    """
    place = urlsplit(address)
    answers: list[Answer] = []
    with selectors.DefaultSelector() as selector:
        for _, request in zip(range(clients), requests, strict=False):
            sent = time.perf_counter()
            connection = socket.create_connection((place.hostname, place.port), 300)
            connection.sendall(request)
            selector.register(connection, selectors.EVENT_READ, _Client(connection, sent))
        while selector.get_map():
            for key, _ in selector.select():
                client: _Client = key.data
                piece = client.connection.recv(_PIECE)
                if not piece:
                    raise ConnectionError("the server hung up before it had answered")
                client.received += piece
                answer = client.answer()
                if answer is None:
                    continue
                answers.append(answer)
                if (request := next(requests, None)) is None:
                    selector.unregister(client.connection)
                    client.connection.close()
                else:
                    client.sent = time.perf_counter()
                    client.connection.sendall(request)
    return answers
