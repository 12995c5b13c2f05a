"""`toile serve` as a process: where it listens, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from toile.cli.main import run

Output = pytest.CaptureFixture[str]


@pytest.fixture
def serve(tiny_folder: Path, tmp_path: Path) -> Iterator[Any]:
    """Starts the command; gives the process, and its address."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "toile.cli.main"]
        code = "import sys; from toile.cli.main import main; sys.argv[0] = 'toile'; main()"
        command = [sys.executable, "-c", code, "serve", "--port", "0", "--model", str(tiny_folder)]
        command += ["--out", str(tmp_path / "studio"), "--device", "cpu", "--dtype", "float32", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("toile serves tiny on http://127.0.0.1:"), (line, process.stderr and process.poll())
        return process, line.split(" on ")[1].split(";")[0]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_server_that_is_told_to_stop_finishes_what_it_has(serve: Any, desk: Any) -> None:
    process, url = serve("--max-steps", "1000")
    with httpx.Client(base_url=url, timeout=60) as client:
        desk.until(lambda: client.get("/readyz").status_code == 200, 60)
        jobs = [client.post("/api/jobs", json={"prompt": "dress", "steps": steps}).json()["id"] for steps in (60, 61)]
        desk.until(lambda: client.get(f"/api/jobs/{jobs[0]}").json()["state"] == "running")
        with client.stream("GET", f"/api/jobs/{jobs[1]}/events") as events:
            os.kill(process.pid, signal.SIGTERM)
            told = "".join(events.iter_text())
    assert '"state": "done"' in told  # who watches sees the end
    assert process.wait(30) == 0
    _, said = process.communicate()
    assert "Traceback" not in said
    again, url = serve()
    with httpx.Client(base_url=url) as client:
        states = [client.get(f"/api/jobs/{job}").json()["state"] for job in jobs]
        assert states == ["done", "done"]
        assert client.get(f"/api/jobs/{jobs[1]}/pictures/0").status_code == 200
    again.send_signal(signal.SIGINT)
    assert again.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--host", "0.0.0.0"], "add --token"),
        (["--host", "0.0.0.0", "--token", "short"], "shorter than 16"),
        (["--tokens-file", "none.txt"], "cannot read none.txt"),
        (["--model", "nowhere"], "nowhere"),
        (["--device", "quantum"], "quantum"),
        (["--queue", "0"], "queue is 0"),
        (["--port", "-1"], "port is -1"),
        (["--workers", "0"], "workers is 0"),
        (["--device", "cpu", "--device", "cpu", "--workers", "1"], "workers is 1 for 2 devices"),
        (["--ray", "nowhere"], "write auto, local, or HOST:PORT"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    arguments: list[str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["serve", *arguments]) == 2
    said = capsys.readouterr().err
    assert what in said and said.count("\n") == 1


def test_tokens_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tokens").write_text("ada token-of-ada-0123456789\n# nobody\n\nbob token-of-ada-0123456789\n")
    assert run(["serve", "--tokens-file", "tokens"]) == 2
    assert "line 4: this token stands for ada already" in capsys.readouterr().err
    Path("tokens").write_text("ada\n")
    assert run(["serve", "--tokens-file", "tokens"]) == 2
    assert "line 1: write a name and a token" in capsys.readouterr().err
