"""What became of training runs, read from their folders alone: how far, how good, how fast, and what differs."""

from __future__ import annotations

import datetime
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toile.errors import ToileError
from toile.training.loop import changed_keys
from toile.weights.files import WeightsError, read_json

RECIPE_NAME, LOG_NAME, _LOCK = "recipe.json", "log.jsonl", "trainer.lock"
# Settings that change how a run learns, in sections whose other settings change what the held-out loss measures.
_ONLY_LEARNING = {
    "objective.uncond_share",
    "objective.uniform_share",
    "objective.logit_mean",
    "objective.logit_std",
    "objective.train_text_encoder",
    "objective.max_shift",
    "objective.sample_prompts",
    "objective.sample_guidance",
    "objective.sample_steps",
    "objective.compile",
}
_MEASURED = ("task", "base", "vae", "clip", "vocab_size", "data", "schedule", "objective")


@dataclass(frozen=True)
class HeldOutLoss:
    """The lowest loss of one validation: after `step` updates, of the weights "live" or "ema WIDTH"."""

    step: int
    weights: str
    loss: float


@dataclass(frozen=True)
class RunSummary:
    """One folder of runs/.

    Attributes:
        name, folder: of the run.
        task: of its recipe; `None` where there is none.
        state: "done"; "running" (a trainer holds the folder); "stopped, resumable"; "stopped, nothing saved";
            "damaged"; "no run".
        steps_done, steps_asked: updates; `None` where the recipe does not say.
        last, best: held-out losses of the last validation and of the best one; `None` where none is finite.
        examples_per_second: median over the steps.
        skipped_steps: those whose loss or gradient was not finite.
        when: the last entry of the log, local time in ISO format.
        note: what is damaged or missing.
    """

    name: str
    folder: str
    task: str | None = None
    state: str = "no run"
    steps_done: int = 0
    steps_asked: int | None = None
    last: HeldOutLoss | None = None
    best: HeldOutLoss | None = None
    examples_per_second: float | None = None
    skipped_steps: int = 0
    when: str | None = None
    note: str = ""


@dataclass(frozen=True)
class RunComparison:
    """Several runs side by side.

    Attributes:
        differences: dotted key of a recipe -> its value in each run, where they are not all equal; a key that a recipe
            lacks is "(absent)".
        not_comparable: those of the keys that change what a held-out loss measures, so that the losses say nothing
            about which run is better.
    """

    runs: tuple[RunSummary, ...]
    differences: Mapping[str, tuple[Any, ...]]
    not_comparable: tuple[str, ...]


def is_run(folder: Path) -> bool:
    """Whether a folder holds a recipe or a log of a run."""
    return (folder / RECIPE_NAME).is_file() or (folder / LOG_NAME).is_file()


def summarize_runs(folder: Path) -> list[RunSummary]:
    """The run that a folder holds, or one summary for each folder in it, by name.

    Raises:
        ToileError: there is no such folder.
    """
    if not folder.is_dir():
        raise ToileError(f"{folder} is no folder; give a folder of runs, or run folders to compare")
    if is_run(folder):
        return [summarize_run(folder)]
    return [summarize_run(path) for path in sorted(folder.iterdir()) if path.is_dir()]


def summarize_run(folder: Path) -> RunSummary:
    """Reads one run; what is damaged is said in the summary and raises nothing."""
    name = folder.resolve().name
    if not is_run(folder):
        return RunSummary(name, str(folder), note=_why_no_run(folder))
    try:
        recipe = read_json(folder / RECIPE_NAME)
    except WeightsError as error:
        return RunSummary(name, str(folder), state="damaged", note=str(error))
    loop, task = recipe.get("loop"), recipe.get("task")
    asked = loop.get("steps") if isinstance(loop, Mapping) else None
    known = RunSummary(
        name,
        str(folder),
        task=task if isinstance(task, str) else None,
        steps_asked=asked if isinstance(asked, int) else None,
    )
    try:
        return _with_log(known, folder)
    except (ToileError, OSError) as error:
        return RunSummary(**{**vars(known), "state": "damaged", "note": str(error)})


def compare_runs(folders: Sequence[Path]) -> RunComparison:
    """What differs between the recipes of runs, and what became of each.

    Raises:
        ToileError: a folder holds no run, or its recipe cannot be read.
    """
    for folder in folders:
        if not is_run(folder):
            raise ToileError(f"{folder} holds no run ({_why_no_run(folder)}); give run folders to compare")
    recipes = [read_json(folder / RECIPE_NAME) for folder in folders]
    keys = sorted({key for recipe in recipes[1:] for key in changed_keys(recipes[0], recipe)})
    differences = {key: tuple(_value_at(recipe, key) for recipe in recipes) for key in keys}
    not_comparable = tuple(key for key in keys if changes_what_is_measured(key))
    return RunComparison(tuple(map(summarize_run, folders)), differences, not_comparable)


def changes_what_is_measured(key: str) -> bool:
    """Whether runs that differ in this dotted key of a recipe have held-out losses that cannot be compared."""
    return key.split(".")[0] in _MEASURED and key not in _ONLY_LEARNING


def _why_no_run(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    if (folder / "sweep.json").is_file():
        return f"a sweep; its runs are in {folder / 'trials'}"
    inside = sum(map(is_run, folder.iterdir()))
    if inside:
        return f"runs in it: {inside}, see toile runs {folder}"
    return "it has no recipe and no log" if any(folder.iterdir()) else "it is empty"


def _value_at(recipe: Mapping[str, Any], key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return "(absent)"
        value = value[part]
    return value


# ---------------------------------------------------------------------------------------------------- the log


def _with_log(known: RunSummary, folder: Path) -> RunSummary:
    log = folder / LOG_NAME
    lines = course_of(log) if log.is_file() else []
    steps = [line for line in lines if line["kind"] == "step"]
    validations = [_lowest(line, log) for line in lines if line["kind"] == "validation"]
    losses = [loss for loss in validations if loss is not None]
    speeds = [_number(line, "examples_per_second", log) for line in steps]
    done = max((line["step"] for line in lines), default=0)
    finished = bool(lines) and lines[-1]["kind"] == "end" and lines[-1].get("reason") == "done"
    states = (folder / "state").is_dir() and any((folder / "state").glob("step-*.safetensors"))
    if _is_held(folder / _LOCK):
        state = "running"
    elif finished and (known.steps_asked is None or done >= known.steps_asked):
        state = "done"
    else:
        state = "stopped, resumable" if states else "stopped, nothing saved"
    facts = {
        "state": state,
        "steps_done": done,
        "last": losses[-1] if losses else None,
        "best": min(losses, key=lambda loss: loss.loss, default=None),
        "examples_per_second": statistics.median(speeds) if speeds else None,
        "skipped_steps": sum(line.get("skipped") is True for line in steps),
        "when": _time_of(log) if log.is_file() else None,
        "note": "" if log.is_file() else "it has no log",
    }
    return RunSummary(**{**vars(known), **facts})


def course_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a log that still count, in the order of their steps.

    Where a run was resumed from an earlier state, a line "saved" with that step says so, and what was logged after it
    does not count any more. A line that a crash cut short is passed over.
    """
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for number, text in enumerate(path.read_bytes().decode("utf-8", errors="replace").splitlines(), start=1):
        try:
            line = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            continue
        if not isinstance(line, dict) or not isinstance(line.get("kind"), str) or type(line.get("step")) is not int:
            raise ToileError(f"{path}:{number} is not a line of a training log")
        if line["kind"] == "saved":
            lines = {key: kept for key, kept in lines.items() if kept["step"] <= line["step"] and key[0] != "end"}
        lines.pop((line["kind"], line["step"]), None)  # so that what is written anew comes last among its equals
        lines[line["kind"], line["step"]] = line
    if not lines and path.stat().st_size:
        raise ToileError(f"{path} has no line of a training log")
    return sorted(lines.values(), key=lambda line: line["step"])


def _lowest(line: Mapping[str, Any], log: Path) -> HeldOutLoss | None:
    """The weights with the lowest held-out loss; those whose loss is not finite do not count."""
    try:
        losses = {str(who): float(parts["loss"]) for who, parts in line["losses"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ToileError(f"{log}: the validation at step {line['step']} has no losses that can be read") from error
    finite = {who: loss for who, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        return None
    best = min(finite, key=lambda who: finite[who])
    return HeldOutLoss(line["step"], best, finite[best])


def _number(line: Mapping[str, Any], key: str, log: Path) -> float:
    value = line.get(key)
    if not isinstance(value, int | float):
        raise ToileError(f"{log}: step {line['step']} has no {key}")
    return float(value)


def _time_of(path: Path) -> str:
    return datetime.datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "seconds")


# --------------------------------------------------------------------------------------------------- the lock

if sys.platform == "win32":
    from toile.weights.snapshot import RunLock

    def _is_held(path: Path) -> bool:
        if not path.is_file():
            return False
        try:
            with RunLock(path.parent):
                return False
        except ToileError:
            return True

else:
    import fcntl

    def _is_held(path: Path) -> bool:
        """Whether a trainer holds the lock of its folder; nothing is written, and no other reader is in the way."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False
