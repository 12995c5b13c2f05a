"""Where a server may listen, and for whom."""

from __future__ import annotations

from typing import Any

import pytest

from toile.errors import ToileError
from toile.web.api.config import ServerConfig

TOKENS = {"long-enough-to-be-a-token": "ada"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "studio.example", ""])
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(ToileError, match="add --token"):
        ServerConfig(host)
    assert ServerConfig(host, tokens=TOKENS).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_needs_none(host: str) -> None:
    assert ServerConfig(host).tokens == {}


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"tokens": {"short": "ada"}}, "shorter than 16"),
        ({"port": 70_000}, "port is 70000"),
        ({"max_body_bytes": 0}, "max_body_bytes is 0"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ToileError, match=what):
        ServerConfig(**settings)


def test_hosts_by_name_are_named_first() -> None:
    open_to_all = ServerConfig("0.0.0.0", tokens=TOKENS, allowed_hosts=("studio.example",))
    assert open_to_all.allows_host("studio.example:7860") and open_to_all.allows_host("192.168.1.5:7860")
    assert not open_to_all.allows_host("evil.example") and not open_to_all.allows_host("")
    assert "long-enough" not in repr(open_to_all)
