"""A sweep: the same training under several settings and seeds, one run after the other, each in its own folder."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from toile.data.sources import find_data
from toile.errors import ToileError
from toile.training.recipes import Recipe, load_recipe
from toile.training.records import EndRecord, Record, ValidationRecord
from toile.training.run import run_recipe
from toile.training.sweep_page import write_report
from toile.training.sweep_ranking import UNFINISHED, Ranking, TrialResult, rank_trials
from toile.training.sweep_recipe import Setting, SweepRecipe
from toile.training.sweep_study import ClaimedTrial, SweepStudy, storage_errors


@dataclass(frozen=True)
class RunRecord:
    """A record of the run that is going on.

    Attributes:
        trial, seed: whose.
        setting: what the trial tries.
        steps: of this run.
        record: of the training loop.
    """

    trial: int
    seed: int
    setting: Setting
    steps: int
    record: Record


@dataclass(frozen=True)
class TrialRecord:
    """A trial has ended: done, stopped early or failed."""

    result: TrialResult


@dataclass(frozen=True)
class SweepEndRecord:
    """The last record: `reason` is "done", "time", or "others" where other workers are at the last trials."""

    reason: str
    ranking: Ranking


SweepRecord = RunRecord | TrialRecord | SweepEndRecord


def run_folder(directory: Path, trial: int, seed: int) -> Path:
    """Where a trial's run with a training seed lies in the folder of a sweep."""
    return directory / "trials" / f"{trial:04d}-seed-{seed}"


def run_sweep(
    sweep: SweepRecipe, directory: Path, *, resume: bool = False, minutes: float | None = None
) -> Generator[SweepRecord, None, None]:
    """Trains every setting with every seed; the report is written anew after each trial.

    A sweep that was stopped or killed goes on inside the run that it was at. Several processes may work on one sweep:
    each takes trials that nobody is at. A trial that fails (`ToileError`) is recorded, and the next one begins.

    Args:
        sweep: what is tried.
        directory: the sweep's folder.
        resume: go on with the sweep that is there, or join those who are at it.
        minutes: stop, resumable, after this time.

    Raises:
        ToileError: no data, nothing to resume, something to overwrite, a changed sweep, a storage that cannot be used.
    """
    deadline = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
    study = open_study(sweep, directory, resume)
    with storage_errors():
        while time.monotonic() < deadline and (claimed := study.claim()) is not None:
            with claimed:
                yield from _follow(study, claimed, deadline)
            result = study.results()[claimed.number]
            if result.state != UNFINISHED:
                report(study)
                yield TrialRecord(result)
        yield end_of_sweep(study, time.monotonic() >= deadline)


def open_study(sweep: SweepRecipe, directory: Path, resume: bool) -> SweepStudy:
    """Begins a sweep or goes on with it, after asking what all its trials need.

    Raises:
        ToileError: as `run_sweep`.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ToileError(
            "a sweep divides trials, not batches: start toile sweep without torchrun, and join with --resume"
        )
    data = load_recipe(sweep.recipe).data
    find_data(data.source, data.path)  # what is missing for all trials is no failure of each
    return SweepStudy(sweep, directory, resume)


def end_of_sweep(study: SweepStudy, time_is_over: bool) -> SweepEndRecord:
    """The last record of a worker that finds no trial any more, or has no time for one; writes the report."""
    ranking = report(study)
    states = [row.trial.state for row in ranking.rows]
    if len(states) == study.sweep.num_trials and UNFINISHED not in states:
        return SweepEndRecord("done", ranking)
    return SweepEndRecord("time" if time_is_over else "others", ranking)


def report(study: SweepStudy) -> Ranking:
    """Writes `sweep.json` and `sweep/index.html` of what there is, and returns the ranking."""
    with study.turn():
        results, seeds = study.results(), study.sweep.search.seeds
        sheets = {
            result.number: {
                seed: sheet
                for seed in seeds
                if (sheet := run_folder(study.directory, result.number, seed) / "stages.png").is_file()
            }
            for result in results
        }
        ranking = rank_trials(results, seeds)
        write_report(study.sweep, study.directory, ranking, sheets)
    return ranking


def _follow(study: SweepStudy, claimed: ClaimedTrial, deadline: float) -> Generator[SweepRecord, None, None]:
    """The runs of one trial; returns early, with the trial unfinished, when the time is over."""
    sweep = study.sweep
    for order, seed in enumerate(sweep.search.seeds):
        if seed in claimed.losses:
            continue
        try:
            recipe = sweep.recipe_of(claimed.setting, seed)
            yield from _follow_run(study, claimed, recipe, order, deadline)
        except ToileError as error:
            claimed.fail(f"seed {seed}: {error}")
            return
        if seed not in claimed.losses:
            return
    claimed.finish()


def _follow_run(
    study: SweepStudy, claimed: ClaimedTrial, recipe: Recipe, order: int, deadline: float
) -> Generator[SweepRecord, None, None]:
    """One run; its loss is recorded if it comes to its end, and not if time or the pruner stop it."""
    folder = run_folder(study.directory, claimed.number, recipe.seed)
    begun = (folder / "state").is_dir() and any((folder / "state").glob("step-*.safetensors"))
    left = deadline - time.monotonic()
    if left <= 0:
        return
    minutes = None if math.isinf(left) else left / 60
    held_out = dict[str, float]()
    with closing(run_recipe(recipe, folder, resume=begun, minutes=minutes)) as records:
        for record in records:
            if isinstance(record, EndRecord) and record.reason == "done":
                claimed.record(recipe.seed, held_out[record.exported])
            yield RunRecord(claimed.number, recipe.seed, claimed.setting, recipe.loop.steps, record)
            if isinstance(record, ValidationRecord):
                held_out = {who: parts["loss"] for who, parts in record.losses.items()}
                if study.sweep.search.pruner != "none" and _gives_up(claimed, recipe, order, record.step, held_out):
                    claimed.stop_early(f"seed {recipe.seed}, step {record.step}: in the worse half of what was seen")
                    return


def _gives_up(claimed: ClaimedTrial, recipe: Recipe, order: int, step: int, held_out: dict[str, float]) -> bool:
    """Whether the pruner stops a trial at this validation; a run that has come to its last step is let end."""
    finite = [loss for loss in held_out.values() if math.isfinite(loss)]
    every, steps = recipe.loop.validate_every, recipe.loop.steps
    if not finite or not every or step >= steps:
        return False
    in_a_run = (steps - 1) // every  # the last step's validation is not asked about
    return claimed.should_stop(order * in_a_run + step // every, min(finite))
