"""Runs and reports: found in the folders that were named, by ids alone, damaged ones told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toile.errors import ToileError
from toile.evaluation.scores import EVALUATION_FORMAT
from toile.web.training.places import NoSuchPlaceError, place_id
from toile.web.training.report_shelf import ReportShelf
from toile.web.training.run_shelf import RunShelf


def write_run(folder: Path, rate: float = 1e-3, losses: tuple[float, ...] = (0.5, 0.4), steps: int = 2) -> Path:
    (folder / "samples").mkdir(parents=True)
    recipe = {
        "task": "lora",
        "data": {"path": "p"},
        "loop": {"steps": steps, "learning_rate": rate, "betas": [0.9, 0.99]},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    lines: list[dict[str, Any]] = []
    for step, loss in enumerate(losses, start=1):
        more = {"parts": {}, "learning_rate": rate, "grad_norm": 1.0, "examples_per_second": 9.0, "skipped": False}
        lines.append({"kind": "step", "step": step, "loss": loss, **more})
    lines.append({"kind": "validation", "step": len(losses), "losses": {"live": {"loss": losses[-1]}}})
    lines.append({"kind": "end", "step": len(losses), "reason": "done", "exported": "live"})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_of_all_folders_with_their_curves_settings_and_sheets(tmp_path: Path) -> None:
    first = write_run(tmp_path / "own" / "first")
    second = write_run(tmp_path / "others" / "second", rate=2e-3, losses=(0.5, float("nan"), 0.3))
    write_run(tmp_path / "elsewhere")
    (tmp_path / "others" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "others" / "empty").mkdir()
    (first / "samples" / "step-0000002.png").write_bytes(b"png")
    (first / "samples" / "step-0000003.png").symlink_to(tmp_path / "elsewhere" / "log.jsonl")
    shelf = RunShelf(tmp_path / "own", (tmp_path / "others", tmp_path / "none"))
    runs = {run.summary.name: run for run in shelf.all()}
    assert set(runs) == {"first", "second"} and [runs[name].is_own for name in ("first", "second")] == [True, False]
    assert shelf.curves(place_id(second)).training == ((1, 0.5), (3, 0.3))
    assert shelf.curves(place_id(second)).held_out == {"live": ((3, 0.3, 0.0),)}
    assert shelf.recipe(place_id(first))["loop.betas"] == [0.9, 0.99]
    assert list(shelf.sheets(place_id(first))) == [2]
    compared = shelf.compare([place_id(first), place_id(second)])
    assert compared.differences == {"loop.learning_rate": (1e-3, 2e-3)} and compared.not_comparable == ()
    for wrong in ([place_id(first)], [place_id(first)] * 2):
        with pytest.raises(ToileError, match="choose 2 to 8 different ones"):
            shelf.compare(wrong)
    with pytest.raises(NoSuchPlaceError):
        shelf.folder(place_id(tmp_path / "elsewhere"))
    assert [run.summary.name for run in RunShelf(tmp_path / "own", (second,)).all()].count("second") == 1


def test_a_run_that_changes_is_read_again(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "own" / "run")
    shelf = RunShelf(tmp_path / "own", ())
    assert shelf.one(place_id(folder)).summary.state == "done"
    with (folder / "log.jsonl").open("a") as log:
        log.write("[]\n")
    damaged = shelf.one(place_id(folder)).summary
    assert damaged.state == "damaged" and "log.jsonl" in damaged.note
    with pytest.raises(ToileError, match="no line of a training log|is not a line"):
        shelf.curves(place_id(folder))


def write_report(folder: Path, **more: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("<h1>page</h1>")
    facts = {
        "format": EVALUATION_FORMAT,
        "protocol": {"id": "12ab", "num_pictures": 1300},
        "entries": [{"name": "one"}, {"name": "two"}],
    }
    (folder / "evaluation.json").write_text(json.dumps({**facts, **more}))
    return folder


def test_reports_are_found_deep_with_their_headline(tmp_path: Path) -> None:
    root = tmp_path / "reports"
    new = write_report(root / "a" / "new", headline=["one is first in realism.", "In variety all are tied."])
    old = write_report(root / "old")
    write_report(new / "inside")  # pictures and the like of the one above
    broken = write_report(root / "broken", entries=None)
    write_report(root / "foreign", format="other/1")
    write_report(tmp_path / "outside")
    linked = root / "linked"
    linked.mkdir()
    for name in ("index.html", "evaluation.json"):
        (linked / name).symlink_to(tmp_path / "outside" / name)
    (root / "away").symlink_to(tmp_path / "outside")
    shelf = ReportShelf((root,))
    found = {report.name: report for report in shelf.all()}
    assert set(found) == {"new", "old", "broken", "foreign"}
    assert found["new"].headline == ("one is first in realism.", "In variety all are tied.")
    assert found["old"].headline == ("one, two: 1,300 pictures each",)
    assert found["old"].makers == ("one", "two") and found["old"].protocol == "12ab"
    assert "damaged" in found["broken"].note and "format" in found["foreign"].note
    assert shelf.page(place_id(old)) == old / "index.html" and shelf.page(place_id(broken)).is_file()
    for wrong in (place_id(tmp_path / "outside"), "../outside", ""):
        with pytest.raises(NoSuchPlaceError):
            shelf.page(wrong)
