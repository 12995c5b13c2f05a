"""What a run's folder says about it: the course of its log, its state, and what is damaged, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toile.errors import ToileError
from toile.training.records import EndRecord, Record, SavedRecord, StepRecord, ValidationRecord
from toile.training.run_folder import RunFolder
from toile.training.run_summary import (
    HeldOutLoss,
    changes_what_is_measured,
    compare_runs,
    summarize_run,
    summarize_runs,
)
from toile.weights.snapshot import RunLock

RECIPE = {"task": "vae", "seed": 0, "loop": {"steps": 4, "batch_size": 2}, "data": {"width": 16, "path": None}}


def step(number: int, speed: float = 40.0, skipped: bool = False) -> StepRecord:
    return StepRecord(number, 0.5, {}, 1e-3, 1.0, speed, skipped)


def validation(number: int, live: float, average: float) -> ValidationRecord:
    return ValidationRecord(number, {"live": {"loss": live, "l1": 9.0}, "ema 0.1": {"loss": average, "l1": 9.0}})


def write(folder: Path, *records: Record, recipe: dict[str, Any] = RECIPE) -> Path:
    run = RunFolder(folder, recipe)
    for record in records:
        run.write(record)
    return folder


def write_state(folder: Path) -> None:
    (folder / "state").mkdir()
    (folder / "state" / "step-00000002.safetensors").write_bytes(b"")


def test_a_finished_run_is_told(tmp_path: Path) -> None:
    course: Iterator[Record] = iter(
        [
            *(step(1, 5.0), step(2, 40.0, skipped=True), validation(2, 0.30, 0.25), step(3, 41.0), step(4, 90.0)),
            *(SavedRecord(4, Path("state")), validation(4, 0.28, 0.29), EndRecord(4, "done", "live")),
        ]
    )
    summary = summarize_run(write(tmp_path / "a", *course))
    assert (summary.name, summary.task, summary.state, summary.note) == ("a", "vae", "done", "")
    assert (summary.steps_done, summary.steps_asked, summary.skipped_steps) == (4, 4, 1)
    assert summary.last == HeldOutLoss(4, "live", 0.28) and summary.best == HeldOutLoss(2, "ema 0.1", 0.25)
    assert summary.examples_per_second == 40.5  # the median: neither the slow first step nor a fast one counts much


def test_what_a_resumed_run_left_behind_does_not_count(tmp_path: Path) -> None:
    before = [step(1), step(2), SavedRecord(2, Path("state")), step(3, skipped=True), validation(3, 0.1, 0.1), step(4)]
    folder = write(tmp_path / "a", *before, SavedRecord(2, Path("state")))
    summary = summarize_run(folder)
    assert (summary.steps_done, summary.skipped_steps, summary.best) == (2, 0, None)
    assert summarize_run(write(folder, step(3), validation(3, 0.4, 0.5))).best == HeldOutLoss(3, "live", 0.4)


def test_a_run_that_goes_on_after_its_end_is_not_done(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", step(4), EndRecord(4, "done", "live"))
    assert summarize_run(folder).state == "done"
    longer = {**RECIPE, "loop": {"steps": 6, "batch_size": 2}}
    assert summarize_run(write(folder, SavedRecord(4, Path("state")), step(5), recipe=longer)).state != "done"


def test_states_of_a_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", step(1))
    assert summarize_run(folder).state == "stopped, nothing saved"
    write_state(folder)
    assert summarize_run(folder).state == "stopped, resumable"
    with RunLock(folder):
        assert summarize_run(folder).state == "running"
        held = (folder / "trainer.lock").read_bytes()
    assert summarize_run(folder).state == "stopped, resumable"
    assert (folder / "trainer.lock").read_bytes() == held
    write(folder, EndRecord(1, "time", "live"))
    assert summarize_run(folder).state == "stopped, resumable"


def test_losses_that_are_not_finite_are_never_the_best(tmp_path: Path) -> None:
    nan = float("nan")
    folder = write(tmp_path / "a", step(1), validation(1, nan, 0.5), step(2), validation(2, nan, nan))
    summary = summarize_run(folder)
    assert summary.last == summary.best == HeldOutLoss(1, "ema 0.1", 0.5)


def damage(folder: Path, name: str, content: bytes) -> None:
    write(folder, step(1))
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("recipe.json", b'{"task": "v', "recipe.json"),
        ("recipe.json", b"\xff\xfe", "UTF-8"),
        ("recipe.json", b"[]", "object"),
        ("log.jsonl", b"\x00\xff\x00", "no line of a training log"),
        ("log.jsonl", b"[1, 2]\n", "log.jsonl:1"),
        ("log.jsonl", b'{"kind": "step", "step": "one"}\n', "log.jsonl:1"),
        ("log.jsonl", b'{"kind": "step", "step": 1}\n', "examples_per_second"),
        ("log.jsonl", b'{"kind": "validation", "step": 1, "losses": {"live": 3}}\n', "no losses"),
    ],
)
def test_damage_is_said_and_raises_nothing(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    damage(tmp_path / "bad", name, content)
    write(tmp_path / "good", step(1))
    bad, good = summarize_runs(tmp_path)
    assert bad.state == "damaged" and named in bad.note
    assert good.state == "stopped, nothing saved" and good.steps_done == 1


def test_a_line_that_a_crash_cut_short_is_no_damage(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", step(1), step(2))
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"kind": "step", "st')
    assert (summarize_run(folder).state, summarize_run(folder).steps_done) == ("stopped, nothing saved", 2)


def test_recipes_with_odd_values_are_told_as_far_as_they_go(tmp_path: Path) -> None:
    summary = summarize_run(write(tmp_path / "a", step(1), recipe={"task": 3, "loop": "long"}))
    assert (summary.task, summary.steps_asked, summary.steps_done) == (None, None, 1)


def test_folders_without_a_run_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("a")
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "sweep.json").write_text("{}")
    (tmp_path / "file").write_text("a")
    write(tmp_path / "study" / "seed-0", step(1))
    empty, other, study, swept = summarize_runs(tmp_path)
    assert {run.state for run in (empty, other, study, swept)} == {"no run"}
    assert study.note.startswith("runs in it: 1, see toile runs ")
    assert empty.note == "it is empty" and other.note == "it has no recipe and no log" and "trials" in swept.note
    with pytest.raises(ToileError, match="absent is no folder"):
        summarize_runs(tmp_path / "absent")


def test_a_run_folder_is_one_run(tmp_path: Path) -> None:
    assert [run.name for run in summarize_runs(write(tmp_path / "a", step(1)))] == ["a"]


def test_comparing_names_what_differs(tmp_path: Path) -> None:
    other = {"task": "vae", "seed": 1, "loop": {"steps": 4, "batch_size": 8}, "data": {"width": 16}}
    folders = [write(tmp_path / "a", step(1)), write(tmp_path / "b", step(1)), tmp_path / "c"]
    write(tmp_path / "c", step(2), recipe=other)
    comparison = compare_runs(folders)
    assert comparison.differences == {"loop.batch_size": (2, 2, 8), "seed": (0, 0, 1)}
    assert comparison.not_comparable == ()
    assert [run.steps_done for run in comparison.runs] == [1, 1, 2]
    write(tmp_path / "d", recipe={**RECIPE, "data": {"width": 32, "path": None}, "start": "x"})
    comparison = compare_runs([tmp_path / "a", tmp_path / "d"])
    assert comparison.differences == {"data.width": (16, 32), "start": ("(absent)", "x")}
    assert comparison.not_comparable == ("data.width",)
    json.dumps(comparison.differences)


def test_comparing_needs_runs(tmp_path: Path) -> None:
    write(tmp_path / "a", step(1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ToileError, match="empty holds no run"):
        compare_runs([tmp_path / "a", tmp_path / "empty"])


def test_what_changes_the_measure() -> None:
    assert all(map(changes_what_is_measured, ("task", "data.limit", "objective.min_snr", "base")))
    assert not any(map(changes_what_is_measured, ("loop.steps", "lora.rank", "objective.uniform_share", "seed")))
