"""toile sweep as people run it: killed and resumed, by two processes at once, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from toile.cli.main import run
from toile.user_folders import CACHE_VARIABLE

Output = pytest.CaptureFixture[str]
RECIPE = """
task = "lora"
base = "{base}"
[data]
path = "{data}"
width = 16
height = 16
[loop]
steps = 12
batch_size = 2
learning_rate = 1e-2
warmup_steps = 1
precision = "float32"
ema_widths = []
validate_every = 0
save_every = 2
"""
SWEEP = """
recipe = "lora.toml"
[space]
lora.rank = [1, 2]
loop.learning_rate = [1e-3, 3e-2]
[search]
seeds = [0, 1]
"""
COMMAND = [sys.executable, "-c", "from toile.cli.main import main; main()", "sweep", "sweep.toml"]


@pytest.fixture(autouse=True)
def in_a_folder(tiny_folder: Path, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    Path("lora.toml").write_text(RECIPE.format(base=tiny_folder, data=picture_folder), encoding="utf-8")
    Path("sweep.toml").write_text(SWEEP, encoding="utf-8")


def start(*arguments: str) -> subprocess.Popen[bytes]:
    # The same number of threads as here, because it decides in which order numbers are added up.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen([*COMMAND, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def steps_in(log: Path) -> list[int]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [line["step"] for line in lines if line["kind"] == "step"]


def wait_for(log: Path, steps: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and child.poll() is None:
        if log.exists() and log.read_bytes().count(b'"kind": "step"') >= steps:
            return
        time.sleep(0.002)


def finish(child: subprocess.Popen[bytes], code: int = 0) -> str:
    _, errors = child.communicate(timeout=300)
    assert child.returncode == code, errors.decode()
    return errors.decode()


@pytest.mark.slow
def test_killed_resumed_and_shared_it_is_the_same_table(capsys: Output) -> None:
    killed = start("--out", "killed")
    wait_for(Path("killed/trials/0001-seed-0/log.jsonl"), 5, killed)
    killed.kill()
    finish(killed, -signal.SIGKILL)
    assert not Path("killed/trials/0003-seed-1").exists()
    workers = [start("--out", "killed", "--resume") for _ in range(2)]
    for worker in workers:
        finish(worker)
    assert run(["sweep", "sweep.toml", "--out", "whole"]) == 0
    capsys.readouterr()
    assert Path("killed/sweep.json").read_bytes() == Path("whole/sweep.json").read_bytes()
    logs = sorted(Path("killed/trials").glob("*/log.jsonl"))
    assert len(logs) == 8
    begun_after = [log for log in logs if log.parts[2] > "0001-seed-0"]
    assert all(steps_in(log) == list(range(1, 13)) for log in begun_after)  # by one worker, once


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_go_on() -> None:
    child = start()
    log = Path("runs/sweep/trials/0000-seed-0/log.jsonl")
    wait_for(log, 3, child)
    child.send_signal(signal.SIGTERM)
    said = finish(child, 143)
    assert "go on with: toile sweep sweep.toml --resume --out runs/sweep" in said
    stopped_at = steps_in(log)[-1]
    finish(start("--resume"))
    assert steps_in(log) == list(range(1, 13)) and stopped_at < 12  # no step was done twice


@pytest.mark.slow
def test_the_table_names_the_best_and_json_is_the_report(capsys: Output) -> None:
    Path("sweep.toml").write_text(SWEEP.replace("[1, 2]", "[2]").replace("[0, 1]", "[0, 1, 2]"), encoding="utf-8")
    assert run(["sweep", "sweep.toml"]) == 0
    out, err = capsys.readouterr()
    heading, first, second, note, *_ = out.splitlines()
    assert heading.split()[:3] == ["trial", "lora.rank", "loop.learning_rate"] and first.rstrip().endswith("best")
    assert second.rstrip().endswith(("worse than the best", "tied with the best"))
    assert note.startswith("Trial 1 ") and "runs/sweep/sweep/index.html" in out
    assert "trial 0 (lora.rank = 2, loop.learning_rate = 0.001) done" in err
    assert run(["sweep", "sweep.toml", "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("runs/sweep/sweep.json").read_text())
    assert run(["runs", "runs"]) == 0
    assert "a sweep; its runs are in runs/sweep/trials" in capsys.readouterr().out
    assert run(["runs", "runs/sweep/trials", "--json"]) == 0
    assert [each["state"] for each in json.loads(capsys.readouterr().out)] == ["done"] * 6


def test_a_sweep_whose_trials_all_fail_is_a_failure(capsys: Output) -> None:
    text = SWEEP.replace("[1e-3, 3e-2]", "[1e30]\nloop.clip_norm = [1e30]\nloop.warmup_steps = [0]")
    Path("sweep.toml").write_text(text, encoding="utf-8")
    assert run(["sweep", "sweep.toml"]) == 1
    assert "all 2 trials failed; the first: seed 0: the loss was not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["absent.toml"], "absent.toml"),
        (["lora.toml"], "toile train"),
        (["sweep.toml", "--minutes", "-1"], "minutes"),
        (["sweep.toml", "--resume"], "nothing to resume"),
    ],
)
def test_wrong_input_is_refused_in_one_line(capsys: Output, arguments: list[str], named: str) -> None:
    assert run(["sweep", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("toile: ") and named in line


def test_without_optuna_it_says_what_to_install(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("toile.training.sweep", "toile.training.sweep_study"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert run(["sweep", "sweep.toml"]) == 2
    assert "pip install 'toile[sweep]'" in capsys.readouterr().err
