"""How the server is reached, and by whom."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from toile.errors import ToileError

LOCAL_OWNER = "local"
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class ServerConfig:
    """Of a server.

    Attributes:
        host: address to listen on; another than this machine's own needs a token.
        port: 0 takes a free one.
        tokens: who may come in, by the token they show; with none everybody on this machine may, as one owner.
        allowed_hosts: names, besides addresses, under which browsers and programs may reach the server.
        max_body_bytes: of a request.
        body_seconds: within which a request has to arrive.
        drain_seconds: how long jobs may go on after the server is told to stop.

    Raises:
        ToileError: no token where one is needed, or one that can be guessed.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 1024 * 1024
    body_seconds: float = 20.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ToileError(f"port is {self.port}; allowed: 0 to 65535")
        if not self.tokens and not is_loopback(self.host):
            raise ToileError(
                f"host {self.host} can be reached from other machines: add --token, or listen on 127.0.0.1"
            )
        if any(len(token) < _SHORTEST_TOKEN for token in self.tokens):
            raise ToileError(f"a token is shorter than {_SHORTEST_TOKEN} characters, so it could be guessed")
        for name, value in (("max_body_bytes", self.max_body_bytes), ("body_seconds", self.body_seconds)):
            if not value > 0:
                raise ToileError(f"{name} is {value}; allowed: above 0")

    def allows_host(self, header: str) -> bool:
        """Whether a Host header names this server: else a page elsewhere could have its own name point here."""
        name = host_name(header)
        if name in self.allowed_hosts or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """ "[::1]:7860" -> "::1"."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()
