"""`toile serve` on two nodes: the engine's queue is one, pictures are made on both, and are those of one machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from toile.cluster.joining import joined
from toile.cluster.serving import serving
from toile.picture_recipe import read_recipe
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine import Engine
from toile.web.jobs.events import Progress
from toile.web.jobs.replicas import hire_replicas

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_both(address: str, tiny_config: EngineConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine whose workers are on the two nodes; tests leave nothing running."""
    config = replace(tiny_config, out=tmp_path_factory.mktemp("on-both"), threads=None)
    with joined(address) as cluster, serving(), Engine(config, partial(hire_replicas, cluster)) as engine:
        yield engine
