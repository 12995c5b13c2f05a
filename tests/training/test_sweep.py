"""Sweeps on the tiny model: the whole grid, stopped and gone on with, shared, failing, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from toile.errors import ToileError
from toile.training.records import StepRecord
from toile.training.sweep import RunRecord, SweepEndRecord, SweepRecord, TrialRecord, run_folder, run_sweep
from toile.training.sweep_page import report_facts
from toile.training.sweep_ranking import DONE, FAILED, STOPPED_EARLY, UNFINISHED, WORSE
from toile.training.sweep_recipe import SweepRecipe, grid_settings, is_sweep, load_sweep
from toile.training.sweep_study import SweepStudy
from toile.user_folders import CACHE_VARIABLE

pytestmark = pytest.mark.slow

RECIPE = """
task = "lora"
base = "{base}"
[data]
path = "{data}"
width = 16
height = 16
[lora]
rank = 2
[objective]
sample_prompts = ["red belt"]
sample_steps = 1
[loop]
steps = 4
batch_size = 4
learning_rate = 1e-2
warmup_steps = 1
precision = "float32"
ema_widths = []
validate_every = 1
sample_every = 4
save_every = 0
"""
GRID = """
recipe = "lora.toml"
[space]
lora.rank = [1, 2]
loop.learning_rate = [1e-3, 3e-2]
[search]
seeds = [0, 1]
"""


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "lora.toml").write_text(RECIPE.format(base=tiny_folder, data=picture_folder), encoding="utf-8")
    (folder / "grid.toml").write_text(GRID, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[SweepRecipe, Path, list[SweepRecord]]:
    """A grid of 2 x 2 x 2 seeds that nobody stopped."""
    sweep = load_sweep(folder / "grid.toml")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(CACHE_VARIABLE, str(folder / "cache"))
        return sweep, folder / "whole", list(run_sweep(sweep, folder / "whole"))


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "cache"))


def sweep_of(folder: Path, text: str) -> SweepRecipe:
    (folder / "other.toml").write_text(text, encoding="utf-8")
    return load_sweep(folder / "other.toml")


def end_of(records: Sequence[SweepRecord]) -> SweepEndRecord:
    end = records[-1]
    assert isinstance(end, SweepEndRecord)
    return end


def steps_in(log: Path) -> list[int]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [line["step"] for line in lines if line["kind"] == "step"]


# ------------------------------------------------------------------------------------------------------ sweeping


def test_a_grid_is_swept(whole: tuple[SweepRecipe, Path, list[SweepRecord]]) -> None:
    sweep, folder, records = whole
    end = end_of(records)
    assert end.reason == "done"
    trials = sorted((row.trial for row in end.ranking.rows), key=lambda trial: trial.number)
    assert [trial.setting for trial in trials] == [
        {"lora.rank": rank, "loop.learning_rate": rate} for rank in (1, 2) for rate in (1e-3, 3e-2)
    ]
    assert all(trial.state == DONE and set(trial.losses) == {0, 1} for trial in trials)
    assert len({loss for trial in trials for loss in trial.losses.values()}) == 8
    for trial in trials:
        for seed in (0, 1):
            run = run_folder(folder, trial.number, seed)
            recipe = json.loads((run / "recipe.json").read_text())
            assert (recipe["lora"]["rank"], recipe["seed"]) == (trial.setting["lora.rank"], seed)
            assert recipe["loop"]["learning_rate"] == trial.setting["loop.learning_rate"]
            assert steps_in(run / "log.jsonl") == [1, 2, 3, 4]
            last = [line for line in map(json.loads, (run / "log.jsonl").open()) if line["kind"] == "validation"][-1]
            assert trial.losses[seed] == last["losses"]["live"]["loss"]
    assert json.loads((folder / "sweep.json").read_text()) == report_facts(sweep, end.ranking)


def test_the_page_says_it_all_and_fetches_nothing(whole: tuple[SweepRecipe, Path, list[SweepRecord]]) -> None:
    _, folder, records = whole
    page = (folder / "sweep" / "index.html").read_text(encoding="utf-8")
    for row in end_of(records).ranking.rows:
        assert row.verdict in page and row.interval is not None
        assert f"{row.interval.mean:.4f} ({row.interval.low:.4f} to {row.interval.high:.4f})" in page
        assert all(f'<td class="number">{loss:.4f}</td>' in page for loss in row.trial.losses.values())
    assert page.count("data:image/png;base64,") == 8
    assert "default-src 'none'" in page and not re.search(r"https?:|<script|<link|src=\"(?!data:)", page)


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 7, 30])
def test_stopped_anywhere_and_resumed_it_is_the_same_table(
    whole: tuple[SweepRecipe, Path, list[SweepRecord]], folder: Path, stop_at: int
) -> None:
    sweep, _, unbroken = whole
    directory = folder / f"stopped-{stop_at}"
    records = run_sweep(sweep, directory)
    for _ in range(stop_at):
        next(records)
    records.close()
    rest = list(run_sweep(sweep, directory, resume=True))
    assert end_of(rest) == end_of(unbroken)
    assert {record.result.number for record in rest if isinstance(record, TrialRecord)} >= {1, 2, 3}
    steps = [record for record in rest if isinstance(record, RunRecord) and isinstance(record.record, StepRecord)]
    done = sum(isinstance(record, RunRecord) and isinstance(record.record, StepRecord) for record in unbroken)
    assert len(steps) < done or stop_at == 1  # it went on inside the run, nothing was done again


@pytest.mark.slow
def test_workers_share_the_trials(whole: tuple[SweepRecipe, Path, list[SweepRecord]], folder: Path) -> None:
    sweep, _, unbroken = whole
    directory = folder / "shared"
    first = run_sweep(sweep, directory)
    seen: list[list[SweepRecord]] = [[next(first)], []]
    workers = [first, run_sweep(sweep, directory, resume=True)]
    running = [0, 1]
    while running:
        for worker in list(running):
            record = next(workers[worker], None)
            if record is None:
                running.remove(worker)
            else:
                seen[worker].append(record)
    numbers = [{record.trial for record in each if isinstance(record, RunRecord)} for each in seen]
    assert numbers[0] | numbers[1] == {0, 1, 2, 3} and not numbers[0] & numbers[1] and all(numbers)
    for log in sorted((directory / "trials").glob("*/log.jsonl")):
        assert steps_in(log) == [1, 2, 3, 4], log
    assert end_of(seen[0]).ranking == end_of(unbroken).ranking or end_of(seen[1]).ranking == end_of(unbroken).ranking
    report = json.loads((directory / "sweep.json").read_text())
    assert report == json.loads((folder / "whole" / "sweep.json").read_text())


def test_a_trial_that_fails_is_recorded_and_the_next_begins(folder: Path) -> None:
    text = GRID.replace("[1e-3, 3e-2]", "[1e30, 3e-2]").replace("[1, 2]", "[1]") + "\n"
    sweep = sweep_of(folder, text.replace("[space]", "[space]\nloop.clip_norm = [1e30]\nloop.warmup_steps = [0]"))
    records = list(run_sweep(sweep, folder / "failing"))
    assert end_of(records).reason == "done"
    good, bad = end_of(records).ranking.rows
    assert (good.trial.number, good.trial.state) == (1, DONE)
    assert (bad.trial.number, bad.verdict) == (0, FAILED)
    assert bad.trial.note.startswith("seed 0: ") and "not finite" in bad.trial.note
    assert "not finite" in (folder / "failing" / "sweep" / "index.html").read_text(encoding="utf-8")
    again = list(run_sweep(sweep, folder / "failing", resume=True))
    assert again == [end_of(records)]


def test_a_worker_that_dies_while_it_takes_a_trial_loses_none(folder: Path) -> None:
    sweep = sweep_of(folder, GRID.replace("[1, 2]", "[2]").replace("[1e-3, 3e-2]", "[1e-3]"))
    study = SweepStudy(sweep, folder / "taken", resume=False)._study
    study.ask()  # no lock, no setting yet
    study.ask()  # one too many, as where workers share a database but no disk
    records = list(run_sweep(sweep, folder / "taken", resume=True))
    assert end_of(records).reason == "done"
    [row] = end_of(records).ranking.rows
    assert row.trial.setting == {"lora.rank": 2, "loop.learning_rate": 1e-3} and set(row.trial.losses) == {0, 1}


def test_halving_stops_the_worse_half_early(folder: Path) -> None:
    text = GRID.replace("[1, 2]", "[2]").replace("[1e-3, 3e-2]", "[3e-2, 1e-9]")
    sweep = sweep_of(folder, text + 'pruner = "halving"\n')
    rows = {row.trial.number: row for row in end_of(list(run_sweep(sweep, folder / "halved"))).ranking.rows}
    assert rows[0].trial.state == DONE and rows[1].verdict == STOPPED_EARLY
    assert not rows[1].trial.losses and "seed 0, step" in rows[1].trial.note
    assert max(steps_in(run_folder(folder / "halved", 1, 0) / "log.jsonl")) < 4


def test_a_real_difference_is_found_where_nothing_is_learnt(folder: Path) -> None:
    text = GRID.replace("[1, 2]", "[2]").replace("[1e-3, 3e-2]", "[3e-2, 1e-9]").replace("[0, 1]", "[0, 1, 2]")
    best, other = end_of(list(run_sweep(sweep_of(folder, text), folder / "three"))).ranking.rows
    assert best.trial.number == 0 and other.verdict == WORSE
    assert other.difference is not None and other.difference.low > 0


@pytest.mark.slow
def test_tpe_draws_by_number_and_goes_on_where_it_was(folder: Path) -> None:
    text = """
recipe = "lora.toml"
[space]
"loop.learning_rate" = { low = 1e-4, high = 1e-1, log = true }
"lora.rank" = { low = 1, high = 4 }
"lora.targets" = [["attention"], ["attention", "feed_forward"]]
[search]
sampler = "tpe"
trials = 3
"""
    sweep = sweep_of(folder, text)
    rows = end_of(list(run_sweep(sweep, folder / "tpe"))).ranking.rows
    settings = [dict(row.trial.setting) for row in rows]
    assert all(1e-4 <= each["loop.learning_rate"] <= 1e-1 and each["lora.rank"] in range(1, 5) for each in settings)
    assert len({each["loop.learning_rate"] for each in settings}) == 3
    records = run_sweep(sweep, folder / "tpe-stopped")
    assert any(isinstance(record, TrialRecord) for record in records)
    next(records)
    records.close()
    assert end_of(list(run_sweep(sweep, folder / "tpe-stopped", resume=True))).ranking.rows == rows
    more = sweep_of(folder, text.replace("trials = 3", "trials = 4"))
    assert len(end_of(list(run_sweep(more, folder / "tpe", resume=True))).ranking.rows) == 4


def test_one_seed_is_not_ranked_and_time_stops_it(folder: Path) -> None:
    sweep = sweep_of(folder, GRID.replace("[0, 1]", "[5]").replace("[1, 2]", "[1]"))
    assert [end_of(list(run_sweep(sweep, folder / "one", minutes=1e-9))).reason] == ["time"]
    records = list(run_sweep(sweep, folder / "one", minutes=60.0, resume=True))
    assert end_of(records).reason == "done"
    assert [row.verdict for row in end_of(records).ranking.rows] == ["not ranked"] * 2
    assert "nothing is ranked" in (folder / "one" / "sweep" / "index.html").read_text(encoding="utf-8")


def test_time_inside_a_run_leaves_it_unfinished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(folder, GRID.replace("[1, 2]", "[1]").replace("[1e-3, 3e-2]", "[1e-3]"))
    directory = folder / "timed"
    records = run_sweep(sweep, directory, minutes=1.0)
    taken = [next(records), next(records)]
    monkeypatch.setattr("toile.training.loop.time.monotonic", lambda: float("inf"))
    taken += list(records)
    end = end_of(taken)
    assert end.reason == "time" and end.ranking.rows[0].verdict == UNFINISHED
    monkeypatch.undo()
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "cache"))
    rest = list(run_sweep(sweep, directory, resume=True))
    assert end_of(rest).reason == "done" and set(end_of(rest).ranking.rows[0].trial.losses) == {0, 1}


# ------------------------------------------------------------------------------------------------------ refusing


def test_folders_and_changes_are_checked(whole: tuple[SweepRecipe, Path, list[SweepRecord]], folder: Path) -> None:
    sweep, directory, _ = whole
    with pytest.raises(ToileError, match="holds a sweep: add --resume"):
        next(run_sweep(sweep, directory))
    with pytest.raises(ToileError, match="nothing to resume"):
        next(run_sweep(sweep, folder / "absent", resume=True))
    assert not (folder / "absent").exists()
    with pytest.raises(ToileError, match="holds a training run"):
        next(run_sweep(sweep, run_folder(directory, 0, 0)))
    other = sweep_of(folder, GRID.replace("[1, 2]", "[1, 3]").replace("[0, 1]", "[0, 2]"))
    with pytest.raises(ToileError, match=r"would change search\.seeds, space\.lora\.rank"):
        next(run_sweep(other, directory, resume=True))


def test_missing_data_is_no_failure_of_each_trial(folder: Path, tmp_path: Path) -> None:
    text = (folder / "lora.toml").read_text(encoding="utf-8")
    (tmp_path / "lora.toml").write_text(re.sub("(?m)^path = .*", 'path = "nowhere"', text), encoding="utf-8")
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")
    with pytest.raises(ToileError, match="nowhere"):
        next(run_sweep(load_sweep(tmp_path / "grid.toml"), tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_torchrun_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ToileError, match="without torchrun"):
        next(run_sweep(load_sweep(folder / "grid.toml"), tmp_path / "a"))


@pytest.mark.parametrize(
    ("storage", "named"),
    [
        ("no url", "no SQLAlchemy URL"),
        ("nosuchdatabase://user:secret@host/name", "storage"),
        ("sqlite:////nowhere/at/all/study.sqlite3", "unable to open"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(folder: Path, tmp_path: Path, storage: str, named: str) -> None:
    sweep = sweep_of(folder, f'storage = "{storage}"\n' + GRID)
    with pytest.raises(ToileError, match=named) as caught:
        next(run_sweep(sweep, tmp_path / "a"))
    assert "secret" not in str(caught.value)


def test_a_damaged_database_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "study.sqlite3").write_bytes(b"not a database" * 1000)
    with pytest.raises(ToileError, match="not a database"):
        next(run_sweep(load_sweep(folder / "grid.toml"), tmp_path, resume=True))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("lora.toml", "absent.toml", "absent.toml"),
        ("lora.rank", "lora.rang", "rank"),
        ("lora.rank = [1, 2]", "lora.rank = [1, 0]", "rank 0"),
        ("lora.rank = [1, 2]", 'lora.rank = ["many"]', "rank"),
        ("lora.rank = [1, 2]", "lora.rank = [1, 1]", "twice"),
        ("lora.rank = [1, 2]", "lora.rank = []", "list of values"),
        ("lora.rank = [1, 2]", "lora.rank = 3", "list of values"),
        ("lora.rank = [1, 2]", "lora.alpha = [inf]", "finite"),
        ("lora.rank = [1, 2]", "lora.rank = { low = 1, high = 4 }", "a grid needs lists"),
        ("lora.rank = [1, 2]", "lora.rank = { low = 4, high = 1 }", "low below high"),
        ("lora.rank = [1, 2]", "lora.rank = { low = 0, high = 1, log = true }", "above 0"),
        ("lora.rank = [1, 2]", "lora.rank = { low = 1, hihg = 1 }", "hihg"),
        ("lora.rank = [1, 2]", "seed = [1, 2]", r"search\.seeds"),
        ("lora.rank = [1, 2]", "objective.min_snr = [1.0, 5.0]", "changes what the held-out loss measures"),
        ("lora.rank = [1, 2]", "data.limit = [10, 20]", "changes what the held-out loss measures"),
        ("seeds = [0, 1]", "seeds = []", "seeds"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "different"),
        ("seeds = [0, 1]", 'sampler = "random"', "grid or tpe"),
        ("seeds = [0, 1]", 'sampler = "tpe"', "how many trials"),
        ("seeds = [0, 1]", 'pruner = "median"', "none or halving"),
        ("seeds = [0, 1]", "trials = 5", "4 settings"),
        ("seeds = [0, 1]", "trials = 0", "trials 0"),
        ("seeds = [0, 1]", "seedz = [0]", "seedz"),
        ("[space]", "[spaces]", "space"),
        ("recipe =", "recipe =\ntask =", "Invalid"),
        ('recipe = "lora.toml"', 'task = "lora"', "recipe for toile train"),
    ],
)
def test_wrong_sweeps_are_refused(folder: Path, old: str, new: str, named: str) -> None:
    assert old in GRID
    with pytest.raises(ToileError, match=named):
        sweep_of(folder, GRID.replace(old, new))


def test_halving_needs_equal_validations(folder: Path) -> None:
    text = GRID.replace("lora.rank = [1, 2]", "loop.steps = [4, 8]") + 'pruner = "halving"\n'
    with pytest.raises(ToileError, match=r"loop\.steps must be the same"):
        sweep_of(folder, text)


def test_a_value_that_is_allowed_beside_others_only_is_allowed(folder: Path) -> None:
    text = GRID.replace("lora.rank = [1, 2]", "loop.batch_size = [4, 6]\nloop.micro_batch_size = [4, 2, 3]")
    assert len(grid_settings(sweep_of(folder, text))) == 12  # 3 does not divide the recipe's own batch of 4
    with pytest.raises(ToileError, match="micro_batch_size 5"):
        sweep_of(folder, text.replace("[4, 2, 3]", "[4, 5]"))


def test_fewer_trials_are_drawn_from_the_grid(folder: Path) -> None:
    drawn = grid_settings(sweep_of(folder, GRID + "trials = 2\n"))
    every = grid_settings(load_sweep(folder / "grid.toml"))
    assert len(drawn) == 2 and all(setting in every for setting in drawn)
    assert drawn == grid_settings(sweep_of(folder, GRID + "trials = 2\n"))
    others = [grid_settings(sweep_of(folder, GRID + f"trials = 2\nseed = {seed}\n")) for seed in range(1, 6)]
    assert any(other != drawn for other in others)


def test_sweeps_and_recipes_are_told_apart(folder: Path) -> None:
    assert is_sweep(folder / "grid.toml")
    assert not is_sweep(folder / "lora.toml") and not is_sweep(folder / "absent.toml")
