"""What a run leaves for people: a log that survives a crash, curves, sheets of samples."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from toile.errors import ToileError
from toile.training.records import EndRecord, SampleRecord, SavedRecord, StepRecord, ValidationRecord
from toile.training.run_folder import RunFolder, describe, read_log


def step(number: int, loss: float = 0.5, skipped: bool = False) -> StepRecord:
    return StepRecord(number, loss, {"psnr": 20.0}, 1e-3, 1.0, 40.0, skipped)


def test_the_log_holds_every_record(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {"task": "vae", "seed": 0})
    assert json.loads((tmp_path / "run" / "recipe.json").read_text()) == {"task": "vae", "seed": 0}
    records = [step(1), step(2, math.nan, True), ValidationRecord(2, {"live": {"loss": 0.4}}), step(3, 0.3)]
    for record in [*records, SavedRecord(3, Path("state")), EndRecord(3, "done", "live")]:
        folder.write(record)
    lines = read_log(folder.log)
    assert [(line["kind"], line["step"]) for line in lines] == [
        *(("step", 1), ("step", 2), ("validation", 2), ("step", 3)),
        *(("saved", 3), ("end", 3)),
    ]
    assert lines[0]["loss"] == 0.5 and math.isnan(lines[1]["loss"]) and lines[2]["losses"] == {"live": {"loss": 0.4}}
    with Image.open(tmp_path / "run" / "curves.png") as curves:
        assert curves.size[0] > 300


def test_a_line_that_a_crash_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    RunFolder(tmp_path, {}).write(step(1))
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + '{"kind": "step", "st')
    resumed = RunFolder(tmp_path, {})
    resumed.write(step(2, 0.25))
    assert [(line["step"], line["loss"]) for line in read_log(log)] == [(1, 0.5), (2, 0.25)]


def test_steps_done_again_replace_the_earlier_ones(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    for record in (step(1, 0.5), step(2, 0.4), step(3, 0.3), step(2, 0.41)):
        folder.write(record)
    assert [line["loss"] for line in read_log(folder.log)] == [0.5, 0.41, 0.3]


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ToileError, match="log.jsonl:1"):
        read_log(tmp_path / "log.jsonl")


def test_samples_become_a_sheet(tmp_path: Path) -> None:
    RunFolder(tmp_path, {}).write(SampleRecord(40, torch.zeros(10, 3, 6, 4)))
    with Image.open(tmp_path / "samples" / "step-0000040.png") as sheet:
        assert sheet.width > 8 * 2 * 4 > 2 * 2 * 6 < sheet.height + 1


def test_lines_for_people_say_what_went_wrong() -> None:
    assert "SKIPPED" in describe(step(2, math.nan, True)) and "SKIPPED" not in describe(step(2))
    saved = SavedRecord(3, Path("state"), ("step 4 is damaged",))
    assert describe(saved) == "step 3 saved state; step 4 is damaged"
