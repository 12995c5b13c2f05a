"""`toile studio` as a process: it says where it is, opens the browser, is reached from this machine only, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from toile.cli.main import run

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


def test_no_other_machine_can_be_let_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["studio", "--host", "0.0.0.0"]) == 2
    assert "--host" in capsys.readouterr().err
