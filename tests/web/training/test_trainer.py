"""A training on the page: nothing before its plan is accepted, one at a time, stopped with its state saved, resumed."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from toile.errors import ToileError
from toile.lora import LORAS
from toile.training.run_folder import read_log
from toile.web.jobs.shelf import open_shelf
from toile.web.training.desk import Desk
from toile.web.training.messages import Go, Order, Passed, Plan
from toile.web.training.process import run_training
from toile.web.training.trainer import BusyError

pytestmark = pytest.mark.slow
LONG = 100_000


def test_a_plan_writes_nothing_and_what_is_started_ends_as_a_lora(atelier: Any) -> None:
    atelier.plan("first")
    with pytest.raises(BusyError, match="first is being trained"):
        atelier.plan()
    first = atelier.until(lambda now: now.state == "planned")
    training = atelier.planned()  # in the place of the first
    with pytest.raises(ToileError, match="no such training"):
        atelier.desk.trainer.start(first.run)
    plan = training.plan
    assert plan.summary == "90 read, 90 kept, 0 dropped."  # both readings say the same
    assert plan.num_held_out > 0 and plan.num_train + plan.num_held_out < 90
    assert plan.captions[0] == "red bar" and len(plan.captions) == 12
    assert plan.num_weights > 1000 and plan.seconds > 0 and plan.peak_bytes > 10**7 and plan.steps == 16
    assert Image.open(io.BytesIO(plan.sheet)).format == "PNG"
    assert not atelier.desk.config.out.exists() and LORAS.names() == ()
    atelier.desk.trainer.start(training.run)
    training = atelier.until(lambda now: now.state == "done")
    assert training.step == 16 and training.lora == "linen" and LORAS.names() == ("linen",)
    exported = atelier.run_folder() / "model" / "lora.safetensors"
    assert (LORAS.folder / "linen.safetensors").read_bytes() == exported.read_bytes()
    [run] = atelier.desk.runs.all()
    assert run.id == training.run and run.summary.state == "done" and not run.can_resume
    assert list(atelier.desk.runs.sheets(run.id)) == [0, 4, 8, 12, 16]
    for name in ("linen", "LINEN"):
        with pytest.raises(ToileError, match=f"there is a (run|LoRA) '{name}' already"):
            atelier.plan(name)


def test_when_the_studio_ends_the_state_is_saved_and_the_next_one_goes_on(atelier: Any) -> None:
    training = atelier.running(wish=replace(atelier.WISH, steps=LONG))
    atelier.desk.close()
    stopped = atelier.desk.trainer.now()
    assert stopped.state == "stopped" and stopped.step >= training.step
    lines = read_log(atelier.run_folder() / "log.jsonl")
    assert lines[-1]["reason"] == "stopped" and max(line["step"] for line in lines) == stopped.step
    assert (atelier.run_folder() / "state" / f"step-{stopped.step:08d}.safetensors").is_file()
    with pytest.raises(BusyError, match="being closed"):
        atelier.plan("another")
    atelier = replace(atelier, desk=Desk(atelier.desk.config))
    [run] = atelier.desk.runs.all()
    assert run.can_resume and LORAS.names() == ()
    atelier.desk.resume(run.id)
    assert atelier.until(lambda now: now.step > stopped.step).is_resumed
    os.kill(atelier.desk.trainer._process.pid, signal.SIGKILL)
    killed = atelier.until(lambda now: now.state == "failed")
    assert "signal 9" in killed.error
    [run] = atelier.desk.runs.all()
    assert run.can_resume


def test_time_that_is_over_leaves_a_lora_whose_name_says_so(atelier: Any) -> None:
    wish = replace(atelier.WISH, steps=LONG, minutes=0.01)
    atelier.desk.trainer.start(atelier.planned(wish=wish).run)
    training = atelier.until(lambda now: now.state == "time")
    assert training.lora == f"linen-step-{training.step}" and LORAS.names() == (training.lora,)
    [run] = atelier.desk.runs.all()
    assert run.can_resume


def test_without_a_studio_the_process_saves_and_ends(atelier: Any, tmp_path: Path) -> None:
    [pictures] = atelier.desk.pictures.all().values()
    recipe = replace(atelier.WISH, steps=LONG).recipe(open_shelf([str(atelier.tiny)])["tiny"], pictures.path)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    order = Order(recipe, tmp_path / "run", threads=1, niceness=0)
    process = context.Process(target=run_training, args=(theirs, order))
    process.start()
    theirs.close()
    assert isinstance(ours.recv(), Plan)
    ours.send(Go())
    assert isinstance(ours.recv(), Passed)
    ours.close()
    process.join(60)
    assert process.exitcode == 0
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["reason"] == "stopped"


def test_what_cannot_be_trained_is_told(atelier: Any) -> None:
    for picture in (atelier.desk.config.pictures[0] / "shapes").glob("*.bmp"):
        picture.write_bytes(b"no picture")
    atelier.plan()
    failed = atelier.until(lambda now: now.state == "failed")
    assert "cannot be read" in failed.error and not atelier.desk.config.out.exists()
