"""Several processes that train together are one: same losses, same weights, one log; stopped and resumed alike."""

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

from toile.errors import ToileError
from toile.training.loop import LoopConfig
from toile.training.processes import Processes
from toile.training.run_folder import MODEL_FOLDER
from toile.user_folders import CACHE_VARIABLE
from toile.weights.files import load_tensors

RECIPE = """
task = "lora"
base = "{base}"
[data]
path = "{data}"
width = 16
height = 16
[lora]
rank = 2
targets = ["attention", "text_attention"]
[loop]
steps = {steps}
batch_size = 8
learning_rate = 1e-2
warmup_steps = 1
precision = "float32"
ema_widths = [0.1]
validate_every = 10
save_every = 10
"""


def write_recipe(folder: Path, base: Path, data: Path, steps: int) -> Path:
    path = folder / "lora.toml"
    path.write_text(RECIPE.format(base=base, data=data, steps=steps), encoding="utf-8")
    return path


def command(recipe: Path, out: Path, count: int, *more: str) -> list[str]:
    toile = [str(Path(sys.executable).with_name("toile")), "train", str(recipe), "--out", str(out), *more]
    if count == 1:
        return toile
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return [*launcher, "--no-python", *toile]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, CACHE_VARIABLE: str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def train(recipe: Path, out: Path, count: int, *more: str) -> str:
    done = subprocess.run(
        command(recipe, out, count, *more), env=environment(recipe.parent), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "step"}


@pytest.mark.slow
def test_two_processes_equal_one(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_folder, picture_folder, 20)
    train(recipe, tmp_path / "one", 1)
    told = train(recipe, tmp_path / "two", 2)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two) == list(range(1, 21))
    assert max(abs(one[step] - two[step]) for step in one) < 1e-5
    assert told.count("done; the run is in") == 1, "only the first process speaks"
    weights, others = (load_tensors(tmp_path / n / MODEL_FOLDER / "lora.safetensors") for n in ("one", "two"))
    for name, value in weights.items():
        torch.testing.assert_close(others[name].float(), value.float(), rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_accelerate_starts_them_as_well(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_folder, picture_folder, 3)
    train(recipe, tmp_path / "torchrun", 2)
    launcher = [str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu", "--num_processes", "2"]
    settled = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*launcher, *settled, "--no_python", *command(recipe, tmp_path / "accelerate", 1)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("done; the run is in") == 1, "two processes, of which the first speaks"
    assert losses(tmp_path / "accelerate") == losses(tmp_path / "torchrun")


@pytest.mark.slow
def test_one_that_is_told_to_stop_stops_all_and_the_run_goes_on(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_folder, picture_folder, 5000)
    running = subprocess.Popen(
        command(recipe, tmp_path / "run", 2),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(losses(tmp_path / "run")) > 5):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.2)
    worker = next(pid for pid in children_of(running.pid) if "RANK=1" in environment_of(pid))
    os.kill(worker, signal.SIGTERM)
    told, complaint = running.communicate(timeout=60)
    # The first process is stopped by what the other told it, or by torchrun, whichever is quicker.
    assert "state saved" in told, complaint[-2000:]
    [*_, state] = sorted((tmp_path / "run" / "state").glob("step-*.safetensors"))
    saved = int(state.stem.removeprefix("step-"))
    assert saved == max(losses(tmp_path / "run"))
    train(recipe, tmp_path / "run", 2, f"loop.steps={saved + 3}", "--resume", "--accept-changes")
    assert max(losses(tmp_path / "run")) == saved + 3


def children_of(pid: int) -> list[int]:
    """All processes below one."""
    direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*direct, *(grandchild for child in direct for grandchild in children_of(child))]


def environment_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")


@pytest.mark.parametrize(
    ("batch", "micro", "count", "expected"),
    [(8, None, 1, (8, [0])), (8, 2, 1, (2, [0, 1, 2, 3])), (8, None, 2, (4, [1])), (8, 2, 2, (2, [1, 3]))],
)
def test_parts_of_a_batch(batch: int, micro: int | None, count: int, expected: tuple[int, list[int]]) -> None:
    config = LoopConfig(1, batch, 1e-3, micro_batch_size=micro)
    size, parts = config.parts_of(Processes(count - 1, count))
    assert (size, list(parts)) == expected


def test_batches_that_cannot_be_divided_are_refused() -> None:
    for batch, micro, count in ((8, None, 3), (8, 4, 4), (2, None, 4)):
        with pytest.raises(ToileError, match="cannot be divided among"):
            LoopConfig(1, batch, 1e-3, micro_batch_size=micro).parts_of(Processes(0, count))
