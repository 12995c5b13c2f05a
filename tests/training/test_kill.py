"""kill -9 of a process that trains: resumed, it ends with the same bytes as a run that nobody touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from toile.cli.main import run
from toile.training.run_folder import read_log

RECIPE = """
task = "vae"
[data]
path = "data"
width = 16
height = 16
[model]
latent_channels = 3
block_out_channels = [8, 8]
layers_per_block = 1
norm_num_groups = 4
mid_block_add_attention = false
[loop]
steps = 60
batch_size = 2
learning_rate = 1e-3
warmup_steps = 2
validate_every = 7
save_every = 3
"""
COMMAND = [sys.executable, "-c", "from toile.cli.main import main; main()", "train", "tiny.toml"]
KILL_AFTER = 10


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    # The same number of threads as here, because it decides in which order numbers are added up.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen([*COMMAND, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_steps(log: Path, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and child.poll() is None:
        if log.exists() and log.read_bytes().count(b'"kind": "step"') >= KILL_AFTER:
            return
        time.sleep(0.002)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_killed_run_ends_like_an_untouched_one(
    tmp_path: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(picture_folder)
    Path("tiny.toml").write_text(RECIPE, encoding="utf-8")
    child = start(["--out", "killed"])
    wait_for_steps(Path("killed/log.jsonl"), child)
    child.kill()
    _, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors.decode()
    killed_at = max(line["step"] for line in read_log(Path("killed/log.jsonl")))
    assert KILL_AFTER <= killed_at < 60 and not Path("killed/model").exists()

    child = start(["--out", "killed", "--resume"])
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors.decode()
    assert run(["train", "tiny.toml", "--out", "untouched"]) == 0

    assert content(Path("killed/model")) == content(Path("untouched/model"))
    last = "state/step-00000060.safetensors"
    assert Path("killed", last).read_bytes() == Path("untouched", last).read_bytes()
    resumed, untouched = (read_log(Path(name, "log.jsonl")) for name in ("killed", "untouched"))
    assert [line["loss"] for line in resumed if line["kind"] == "step"] == [
        line["loss"] for line in untouched if line["kind"] == "step"
    ]
