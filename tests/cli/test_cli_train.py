"""toile train: a tiny recipe from start to end, stopped and resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toile.cli.main import run
from toile.training.pictures import DataConfig, PictureSet

Output = pytest.CaptureFixture[str]
RECIPE = """
task = "vae"
[data]
path = "data"
width = 16
height = 16
split_seed = 1
[model]
latent_channels = 4
block_out_channels = [8, 8]
layers_per_block = 1
norm_num_groups = 4
mid_block_add_attention = false
[loop]
steps = 6
batch_size = 2
learning_rate = 1e-3
precision = "float32"
warmup_steps = 2
validate_every = 0
save_every = 1000
"""


@pytest.fixture(autouse=True)
def in_a_folder_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(f"data/{number}.png")
        Path(f"data/{number}.txt").write_text(f"pattern {number}")
    Path("tiny.toml").write_text(RECIPE)


def test_a_recipe_is_followed_to_its_end(capsys: Output) -> None:
    assert run(["train", "tiny.toml"]) == 0
    assert "done; the run is in runs/tiny" in capsys.readouterr().out
    lines = Path("runs/tiny/log.jsonl").read_text().splitlines()
    assert sum('"kind": "step"' in line for line in lines) == 6


def test_overrides_and_out(capsys: Output) -> None:
    assert run(["train", "tiny.toml", "loop.steps=2", "loop.batch_size=4", "--out", "elsewhere"]) == 0
    lines = Path("elsewhere/log.jsonl").read_text().splitlines()
    assert sum('"kind": "step"' in line for line in lines) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["absent.toml"], "absent.toml"),
        (["tiny.toml", "loop.stepz=3"], "steps"),
        (["tiny.toml", "loop.steps"], "key=value"),
        (["tiny.toml", "loop.steps=many"], "loop"),
        (["tiny.toml", "--resume"], "nothing to resume"),
        (["tiny.toml", "--minutes", "0"], "minutes"),
        (["tiny.toml", "data.path=nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_refused_in_one_line(capsys: Output, arguments: list[str], named: str) -> None:
    assert run(["train", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("toile: ") and named in line


def test_a_run_that_diverges_is_a_failure_and_no_wrong_input(capsys: Output) -> None:
    assert run(["train", "tiny.toml", "loop.learning_rate=1e30", "loop.warmup_steps=0", "loop.clip_norm=1e30"]) == 1
    [line] = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("toile: the loss was not finite 3 times in a row")


def test_a_finished_run_is_not_overwritten(capsys: Output) -> None:
    assert run(["train", "tiny.toml"]) == 0
    assert run(["train", "tiny.toml"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_stopped_by_time_it_says_how_to_go_on(capsys: Output) -> None:
    assert run(["train", "tiny.toml", "loop.steps=100000", "--minutes", "0.005"]) == 0
    text = capsys.readouterr().out
    assert "time is over" in text
    assert "toile train tiny.toml loop.steps=100000 --resume --out runs/tiny" in text


@pytest.fixture
def signal_after_steps() -> Iterator[list[threading.Thread]]:
    threads: list[threading.Thread] = []
    yield threads
    for thread in threads:
        thread.join(timeout=60)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_can_be_resumed(
    capsys: Output, signal_after_steps: list[threading.Thread], number: int, code: int
) -> None:
    handlers = [signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM)]
    log = Path("runs/tiny/log.jsonl")

    def send_when_running() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if log.exists() and log.read_text().count('"kind": "step"') >= 3:
                os.kill(os.getpid(), number)
                return
            time.sleep(0.01)

    signal_after_steps.append(threading.Thread(target=send_when_running))
    signal_after_steps[0].start()
    assert run(["train", "tiny.toml", "loop.steps=100000"]) == code
    captured = capsys.readouterr()
    assert signal.Signals(number).name in captured.out
    assert "Traceback" not in captured.err
    assert [signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM)] == handlers
    stopped_at = int(captured.out.split("stopped at step ")[1].split()[0])
    arguments = ["train", "tiny.toml", "loop.steps=100000", "--resume", "--minutes", "0.002"]
    assert run(arguments) == 0
    assert f"step {stopped_at} saved" in capsys.readouterr().err


def test_a_signal_while_the_data_is_read_leaves_a_run_that_can_be_resumed(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InterruptedPictures(PictureSet):
        def __init__(self, config: DataConfig) -> None:
            super().__init__(config)
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("toile.training.run.PictureSet", InterruptedPictures)
        assert run(["train", "tiny.toml"]) == 143
    assert "state saved" in capsys.readouterr().out
    assert run(["train", "tiny.toml", "--resume"]) == 0
