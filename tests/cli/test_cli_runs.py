"""toile runs: a row a run, and what differs between several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toile.cli.main import run
from toile.training.records import EndRecord, StepRecord, ValidationRecord
from toile.training.run_folder import RunFolder

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def three_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, rate in (("first", 1e-3), ("[b]second", 1e-2)):
        recipe = {"task": "vae", "loop": {"steps": 1, "learning_rate": rate}}
        folder = RunFolder(Path("runs") / name, recipe)
        folder.write(StepRecord(1, 0.5, {}, rate, 1.0, 48.0, False))
        folder.write(ValidationRecord(1, {"live": {"loss": 10 * rate}, "ema 0.1": {"loss": 20 * rate}}))
        folder.write(EndRecord(1, "done", "live"))
    Path("runs/nothing").mkdir()


def test_every_folder_is_a_row(capsys: Output) -> None:
    assert run(["runs"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["run", "task", "state"]
    assert [row.split()[0] for row in rows] == ["[b]second", "first", "nothing"]
    assert all(text in rows[1] for text in ("vae", "done", "1 of 1", "0.0100 (live, step 1)", "48"))
    assert "no run: it is empty" in rows[2]


def test_json_holds_what_the_table_does(capsys: Output) -> None:
    assert run(["runs", "runs", "--json"]) == 0
    second, first, nothing = json.loads(capsys.readouterr().out)
    assert first["best"] == {"step": 1, "weights": "live", "loss": 0.01} and first["state"] == "done"
    assert (second["name"], nothing["state"]) == ("[b]second", "no run")


def test_several_runs_are_compared(capsys: Output) -> None:
    assert run(["runs", "runs/first", "runs/[b]second"]) == 0
    text = capsys.readouterr().out
    [line] = [line for line in text.splitlines() if line.startswith("loop.learning_rate")]
    assert line.split() == ["loop.learning_rate", "0.001", "0.01"]
    assert "0.1000 (live" in text and "cannot be compared" not in text
    assert run(["runs", "runs/first", "runs/[b]second", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == {"loop.learning_rate": [0.001, 0.01]}


def test_losses_of_different_tasks_are_not_compared(capsys: Output) -> None:
    RunFolder(Path("runs/third"), {"task": "clip", "loop": {"steps": 1, "learning_rate": 1e-3}})
    assert run(["runs", "runs/first", "runs/third"]) == 0
    assert "the held-out losses cannot be compared: task changes" in capsys.readouterr().out


def test_equal_recipes_are_said_to_be_equal(capsys: Output) -> None:
    assert run(["runs", "runs/first", "runs/first"]) == 0
    assert "the recipes are the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["absent"], "absent"), (["runs/first", "runs/nothing"], "holds no run"), (["runs/first", "absent"], "absent")],
)
def test_wrong_folders_are_refused_in_one_line(capsys: Output, arguments: list[str], named: str) -> None:
    assert run(["runs", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("toile: ") and named in line


def test_no_runs_are_no_error(capsys: Output, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert run(["runs", "none"]) == 0
    assert "no runs in none" in capsys.readouterr().out
