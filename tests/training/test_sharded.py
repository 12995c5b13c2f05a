"""Weights held in parts by several processes: the same run as one process's, in a share of the memory."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toile.training.run_folder import MODEL_FOLDER
from toile.user_folders import CACHE_VARIABLE
from toile.weights.files import load_tensors
from toile.weights.snapshot import load_latest

WORKER = Path(__file__).with_name("sharded_worker.py")
LOOP = """
[data]
path = "{data}"
width = 16
height = 16
[loop]
steps = {steps}
batch_size = 12
micro_batch_size = 2
learning_rate = 1e-3
clip_norm = 0.3
warmup_steps = 1
precision = "float32"
ema_widths = [0.1, 0.05]
validate_every = 10
sample_every = 10
save_every = 10
sharded = true
"""
FINE_TUNE = 'task = "fine_tune"\nbase = "{base}"\n' + LOOP
PRIOR = '[prior]\nprompt = "red bar"\nnum = 4\nsteps = 2\n'
WORD = FINE_TUNE.replace("fine_tune", "textual_inversion").replace("[loop]", 'trigger = "<x>"\n[loop]')
WORD += '[word]\nname = "<x>"\nstart = "red"\n'
LORA = '[lora]\nrank = 2\ntargets = ["attention", "text_attention"]\ndora = true\n'
VAE = """
[model]
latent_channels = 3
block_out_channels = [8, 8]
layers_per_block = 1
norm_num_groups = 4
"""
CLIP = """
[model]
projection_dim = 16
[model.text_config]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 10
[model.vision_config]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 2
image_size = 16
patch_size = 8
"""


def write_recipe(folder: Path, text: str, base: Path, data: Path, steps: int, name: str = "recipe") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text.format(base=base, data=data, steps=steps), encoding="utf-8")
    return path


def free_port() -> int:
    """One that nobody is given by chance until it is used, as those of connections are, or by Ray (up to 19999)."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def start(command: list[str], folder: Path, count: int) -> list[subprocess.Popen[str]]:
    """Processes that train together, started by nobody who would stop the others when one ends."""
    port = free_port()
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    shared = {**os.environ, **told, CACHE_VARIABLE: str(folder / "cache")}
    return [
        subprocess.Popen(
            command, env={**shared, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(count)
    ]


def do(jobs: list[dict[str, Any]], folder: Path, count: int, name: str = "jobs") -> list[list[dict[str, Any]]]:
    """What each of several processes says of each job."""
    path = folder / f"{name}-{count}.json"
    path.write_text(json.dumps(jobs, default=str))
    running = start([sys.executable, "-W", "error::UserWarning:torch", str(WORKER), str(path)], folder, count)
    for process in running:
        _, complaint = process.communicate(timeout=900)
        assert process.returncode == 0, complaint[-3000:]
    return [
        [json.loads(path.with_name(f"{path.name}.{number}.{rank}").read_text()) for rank in range(count)]
        for number in range(len(jobs))
    ]


def train_alone(recipe: Path, out: Path, *more: str) -> None:
    told = {CACHE_VARIABLE: str(recipe.parent / "cache"), "OMP_NUM_THREADS": "1"}
    toile = [str(Path(sys.executable).with_name("toile")), "train", str(recipe), "--out", str(out), *more]
    done = subprocess.run(toile, env={**os.environ, **told}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def steps_of(out: Path) -> dict[int, tuple[float, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["grad_norm"]) for line in lines if line["kind"] == "step"}


def held_out_of(out: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    records = [line for line in lines if line["kind"] == "validation"]
    return {f"{line['step']} {who}": parts["loss"] for line in records for who, parts in line["losses"].items()}


def final_state(out: Path) -> Mapping[str, Tensor]:
    snapshot = load_latest(out / "state")
    assert snapshot is not None
    return snapshot.tensors


def assert_same_run(one: Path, other: Path, steps: int) -> None:
    first, second = steps_of(one), steps_of(other)
    assert list(first) == list(second) == list(range(1, steps + 1))
    for step, (loss, norm) in first.items():
        assert second[step][0] == pytest.approx(loss, abs=1e-5), step
        assert second[step][1] == pytest.approx(norm, rel=1e-4), step
    assert held_out_of(other) == pytest.approx(held_out_of(one), abs=1e-5)
    expected, found = final_state(one), final_state(other)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close({name: found[name]}, {name: value}, rtol=1e-4, atol=2e-5)


def assert_same_model(one: Path, other: Path) -> None:
    """Files of half precision: equal but for its last digit."""
    files = sorted(path.relative_to(one) for path in (one / MODEL_FOLDER).rglob("*.safetensors"))
    assert files and files == sorted(path.relative_to(other) for path in (other / MODEL_FOLDER).rglob("*.safetensors"))
    for file in files:
        found = load_tensors(other / file)
        for name, value in load_tensors(one / file).items():
            torch.testing.assert_close(found[name].float(), value.float(), rtol=2e-3, atol=2e-5)


@pytest.mark.slow
def test_sharded_runs_equal_those_of_one_process_and_go_on_from_one_another(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, FINE_TUNE, tiny_folder, picture_folder, 20)
    train_alone(recipe, tmp_path / "one")
    norms = [norm for _, norm in steps_of(tmp_path / "one").values()]
    assert any(norm > 0.3 for norm in norms) and any(norm < 0.3 for norm in norms), "gradients are clipped, not all"

    # The state of step 10, as if nothing had come after it.
    shutil.copytree(tmp_path / "one", tmp_path / "from-one")
    (tmp_path / "from-one" / "state" / "step-00000020.safetensors").unlink()

    half = tmp_path / "half"
    jobs: list[dict[str, Any]] = [
        {"recipe": recipe, "out": tmp_path / "two"},
        {"recipe": recipe, "out": half, "stop_at": 7},
        {"recipe": recipe, "out": tmp_path / "by-two", "copy_of": half, "resume": True},
        {"recipe": recipe, "out": tmp_path / "from-one", "resume": True},
    ]
    ends = [(end["step"], end["reason"]) for end, _ in do(jobs, tmp_path, 2)]
    assert ends == [(20, "done"), (7, "stopped"), (20, "done"), (20, "done")]
    of_three = do([{"recipe": recipe, "out": tmp_path / "by-three", "copy_of": half, "resume": True}], tmp_path, 3)
    assert [end["step"] for end in of_three[0]] == [20, 20, 20]
    train_alone(recipe, half, "--resume", "loop.sharded=false")

    # The same number of processes goes on bit for bit, others within rounding.
    last = "state/step-00000020.safetensors"
    assert (tmp_path / "by-two" / last).read_bytes() == (tmp_path / "two" / last).read_bytes()
    for other in ("two", "by-two", "by-three", "half", "from-one"):
        assert_same_run(tmp_path / "one", tmp_path / other, 20)
        assert_same_model(tmp_path / "one", tmp_path / other)
    assert len(list((tmp_path / "two" / "samples").glob("*.png"))) == 3


TASKS = {
    "prior": FINE_TUNE + PRIOR,
    "frozen-text": FINE_TUNE + "[objective]\ntrain_text_encoder = false\n",
    "lora": FINE_TUNE.replace("fine_tune", "lora") + LORA,
    "vae": 'task = "vae"\n' + LOOP + VAE,
    "clip": 'task = "clip"\nvocab_size = 560\n' + LOOP + CLIP,
}


@pytest.mark.slow
def test_every_task_can_be_sharded(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    recipes = {name: write_recipe(tmp_path, text, tiny_folder, picture_folder, 4, name) for name, text in TASKS.items()}
    for name, recipe in recipes.items():
        train_alone(recipe, tmp_path / f"{name}-one")
    jobs = [{"recipe": recipe, "out": tmp_path / f"{name}-two"} for name, recipe in recipes.items()]
    bf16 = {"recipe": recipes["prior"], "out": tmp_path / "bf16", "overrides": ['loop.precision="bf16"']}
    *ends, of_bf16 = do([*jobs, bf16], tmp_path, 2)
    for name, (end, other) in zip(recipes, ends, strict=True):
        assert end["reason"] == other["reason"] == "done", (name, end)
        assert_same_run(tmp_path / f"{name}-one", tmp_path / f"{name}-two", 4)
        assert_same_model(tmp_path / f"{name}-one", tmp_path / f"{name}-two")
    assert of_bf16[0]["reason"] == "done"
    exact, rounded = steps_of(tmp_path / "prior-one"), steps_of(tmp_path / "bf16")
    assert all(rounded[step][0] == pytest.approx(exact[step][0], rel=0.03) for step in exact)


@pytest.mark.slow
def test_each_process_holds_its_share_and_the_plan_knows(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, FINE_TUNE, tiny_folder, picture_folder, 6)
    poison = {"recipe": recipe, "out": tmp_path / "bad", "overrides": ["loop.learning_rate=1e25", "loop.save_every=1"]}
    compiled = {"recipe": recipe, "out": tmp_path / "compiled", "overrides": ["objective.compile=true"]}
    word = write_recipe(tmp_path, WORD, tiny_folder, picture_folder, 6, "word")
    shares, plans, of_bad, of_compiled, of_word = do(
        [
            {"recipe": recipe, "what": "shares"},
            {"recipe": recipe, "what": "plans", "free_share": 0.7},
            poison,
            compiled,
            {"recipe": word, "out": tmp_path / "word"},
        ],
        tmp_path,
        2,
    )
    whole = shares[0]["whole"]
    assert whole["averages"] == whole["moments"] == 2 * whole["gradients"] == 2 * whole["weights"]
    for kind, numbers in whole.items():
        both = [share["sharded"][kind] for share in shares]
        assert sum(both) <= numbers * (1.1 if kind == "in the module" else 1), kind  # parts of one size, filled up
        assert sum(both) >= numbers
        assert max(both) < 0.6 * numbers, (kind, both)
    # Moments of all weights do not fit into what is free, half of them do; on the disk a state more is laid aside.
    for found in plans:
        assert "GB more memory" in found["whole"]
        assert float(found["sharded"]) == 4 * 4 * 5
    for found in of_bad:
        assert "WorkFailedError" in found["error"] and "3 times in a row" in found["error"]
    assert all(bool(torch.isfinite(value).all()) for value in final_state(tmp_path / "bad").values())
    for found in of_compiled:
        assert "objective.compile=false" in found["error"]
    for found in of_word:  # the frozen text encoder uses the word's vectors, not their module
        assert "vectors got no gradient; leave loop.sharded out" in found["error"]


def toile(recipe: Path, out: Path, *more: str) -> list[str]:
    return [str(Path(sys.executable).with_name("toile")), "train", str(recipe), "--out", str(out), *more]


def wait_for_steps(out: Path, running: list[subprocess.Popen[str]], count: int) -> None:
    deadline = time.monotonic() + 300
    while not ((out / "log.jsonl").exists() and len(steps_of(out)) > count):
        assert time.monotonic() < deadline and all(process.poll() is None for process in running)
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_a_stopped_one_stops_them(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    recipe, out = write_recipe(tmp_path, FINE_TUNE, tiny_folder, picture_folder, 100_000), tmp_path / "run"
    first, second = running = start(toile(recipe, out, "loop.validate_every=0", "loop.save_every=3"), tmp_path, 2)
    wait_for_steps(out, running, 5)
    second.kill()
    _, complaint = first.communicate(timeout=120)
    second.communicate()
    assert first.returncode == 1, complaint[-3000:]
    assert "another of the 2 processes has ended" in complaint and "Traceback" not in complaint
    assert all(math.isfinite(float(value.float().sum())) for value in final_state(out).values())
    saved = load_latest(out / "state")
    assert saved is not None and saved.step % 3 == 0
    assert not [path for path in (out / "state").iterdir() if path.suffix != ".safetensors"]

    more = ["loop.validate_every=0", "loop.save_every=3", "--resume"]
    first, second = running = start(toile(recipe, out, *more), tmp_path, 2)
    wait_for_steps(out, running, max(steps_of(out)) + 1)
    second.send_signal(signal.SIGTERM)
    told, complaint = first.communicate(timeout=120)
    second.communicate(timeout=120)
    assert "by another process, state saved" in told, complaint[-3000:]
    assert (first.returncode, second.returncode) == (0, 128 + signal.SIGTERM)
    stopped = load_latest(out / "state")
    assert stopped is not None and stopped.step == max(steps_of(out)) > saved.step
