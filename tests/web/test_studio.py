"""`toile studio` as a process: it says where it is, opens the browser, is reached from this machine only, and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from toile.cli.main import run
from toile.lora import LORAS
from toile.user_folders import CACHE_VARIABLE

CODE = "import sys; from toile.cli.main import main; sys.argv[0] = 'toile'; main()"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for a browser is a shell script")
def test_the_page_is_opened_and_ends_with_ctrl_c(tiny_folder: Path, tmp_path: Path, desk: Any) -> None:
    told, browser = tmp_path / "told", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {told}\n')
    browser.chmod(0o755)
    arguments = ["--port", "0", "--model", str(tiny_folder), "--out", str(tmp_path / "studio"), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, "studio", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BROWSER": str(browser)},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("toile studio is on http://127.0.0.1:")
        address = line.split(" on ")[1].split()[0]
        desk.until(lambda: told.exists() and told.read_text().strip() == address)
        assert "<title>toile studio</title>" in httpx.get(address).text
        assert httpx.get(address, headers={"Host": "elsewhere.example"}).status_code == 403
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "Traceback" not in process.communicate()[1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_stops_a_training_with_its_state_saved(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path, desk: Any
) -> None:
    arguments = ["--port", "0", "--no-browser", "--model", str(tiny_folder), "--out", str(tmp_path / "studio")]
    arguments += ["--pictures", str(picture_folder), "--device", "cpu", "--threads", "1"]
    folders = {LORAS.variable: str(tmp_path / "loras"), CACHE_VARIABLE: str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, "studio", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **folders},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split(" on ")[1].split()[0]
        with httpx.Client(base_url=f"{address}/studio", timeout=60) as client:
            client.post("/session")

            def state() -> str:
                return str(client.get("/training").json()["training"]["state"])

            [pictures] = client.get("/picture-sets").json()["sets"]
            body = {"name": "long", "pictures": pictures["id"], "steps": 100_000, "batch": 2, "rank": 2}
            training = client.post("/training", json=body).json()
            desk.until(lambda: state() == "planned")
            client.post(f"/training/{training['run']}/start")
            log = tmp_path / "studio" / "training" / "runs" / "long" / "log.jsonl"
            desk.until(lambda: log.is_file() and '"step"' in log.read_text())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes
        said, complaints = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in complaints
        assert "long is being trained: it stops after this step, its state is saved" in said
        end = json.loads(log.read_text().splitlines()[-1])
        assert end["kind"] == "end" and end["reason"] == "stopped"
        assert (log.parent / "state" / f"step-{end['step']:08d}.safetensors").is_file()
    finally:
        process.kill()
        process.communicate()


def test_folders_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--pictures", "--runs", "--reports"):
        assert run(["studio", flag, str(tmp_path / "none"), "--out", str(tmp_path / "studio")]) == 2
        assert f"{flag} {tmp_path / 'none'} is no folder" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "studio").exists()


def test_no_other_machine_can_be_let_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["studio", "--host", "0.0.0.0"]) == 2
    assert "--host" in capsys.readouterr().err
