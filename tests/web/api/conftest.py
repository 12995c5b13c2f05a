"""Two servers that all tests of a process share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from toile.web.jobs.config import EngineConfig

ADA, BOB = "token-of-ada-0123456789", "token-of-bob-0123456789"


@pytest.fixture(scope="session")
def server(run_server: Any, tiny_config: EngineConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for everybody, without tokens; tests leave nothing running."""
    with run_server(replace(tiny_config, out=tmp_path_factory.mktemp("served"))) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(run_server: Any, tiny_config: EngineConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One with tokens, which is impatient and takes little."""
    config = replace(tiny_config, out=tmp_path_factory.mktemp("guarded"), queue=16, max_batch=1)
    tokens = {ADA: "ada", BOB: "bob"}
    with run_server(config, tokens=tokens, max_body_bytes=200_000, body_seconds=0.5) as running:
        yield running


@pytest.fixture
def ada() -> dict[str, str]:
    return {"Authorization": f"Bearer {ADA}"}


@pytest.fixture
def bob() -> dict[str, str]:
    return {"Authorization": f"Bearer {BOB}"}
