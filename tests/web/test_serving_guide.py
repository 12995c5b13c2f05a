"""What the guide to serving says to type works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toile.web.jobs.config import EngineConfig

GUIDE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def server(run_server: Any, tiny_config: EngineConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with run_server(replace(tiny_config, out=tmp_path_factory.mktemp("served"))) as running:
        yield running


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_line_of_curl_works(server: Any, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
    script = "\n".join(block for block in blocks if "curl" in block)
    assert script.count("curl -s") >= 30
    # A status of 400 and more ends the script.
    lines = ["set -euo pipefail", 'curl() { command curl --fail --max-time 60 "$@"; }']
    text = "\n".join([*lines, script.replace(ADDRESS, server.url)])
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout[-500:], done.stderr[-500:])
    assert (tmp_path / "dress.png").read_bytes().startswith(b"\x89PNG")


def test_every_address_has_a_line(server: Any) -> None:
    with server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    typed = {address.replace("$JOB", "{job_id}") for address in re.findall(re.escape(ADDRESS) + r"(/[\w/.$-]+)", GUIDE)}
    typed = {re.sub(r"/pictures/\d+", "/pictures/{number}", address) for address in typed}
    # Of the A1111 web UI's those that have an answer of their own are told; /v1/models/NAME goes with its list.
    wanted = {path for path in paths if not path.startswith("/sdapi/")} - {"/v1/models/{name}"}
    assert wanted <= typed, wanted - typed
