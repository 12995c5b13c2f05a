"""toile train: follows a recipe, step by step, and stops cleanly when it is told to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from toile.errors import ToileError

if TYPE_CHECKING:
    from toile.training.recipes import Recipe
    from toile.training.records import EndRecord

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal has asked to stop, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells count: 130 and 143; 0 if there was none."""
        return 0 if self.signal is None else 128 + self.signal


def train(
    recipe: Path,
    *overrides: str,
    resume: bool = False,
    accept_changes: bool = False,
    minutes: float | None = None,
    device: str = "cpu",
    out: Path | None = None,
) -> int:
    """Train what a recipe describes. Log, curves, samples, state and the finished model go to the run's folder.

    Interrupted by Ctrl-C or SIGTERM, the run saves its state within a step and ends with exit code 130 or 143.

    Args:
        recipe: a TOML file, see recipes/; or the recipe.json of a run.
        overrides: changes to the recipe, as key=value, for example loop.steps=100.
        resume: go on from the latest saved state in the folder.
        accept_changes: resume although the recipe or the data changed.
        minutes: stop after this time, resumable.
        device: cpu, cuda, cuda:N, mps, or auto for the first there is of cuda, mps, cpu.
        out: the run's folder; by default runs/ and the recipe's name.
    """
    if minutes is not None and not minutes > 0:
        raise ToileError(f"minutes is {minutes}; give a positive number")
    from toile.training.recipes import load_recipe

    folder = out or Path("runs") / recipe.stem
    stop = StopRequest()
    with listening(stop):
        reason = _follow(load_recipe(recipe, overrides), folder, resume, accept_changes, minutes, device, stop)
    if not is_first_process():
        return stop.exit_code
    for sentence in _told_by_log(folder / "log.jsonl"):
        print(sentence)
    print(f"{reason}; the run is in {folder}")
    if reason != "done":
        print(f"go on with: toile train {' '.join([str(recipe), *overrides])} --resume --out {folder}")
    return stop.exit_code


def _follow(
    recipe: Recipe,
    folder: Path,
    resume: bool,
    accept_changes: bool,
    minutes: float | None,
    device: str,
    stop: StopRequest,
) -> str:
    """Follows the records until the run ends or is stopped; returns why it ended."""
    from toile.cli.progress import ProgressDisplay
    from toile.device import choose_device
    from toile.training.records import EndRecord, SampleRecord, StepRecord
    from toile.training.run import run_recipe
    from toile.training.run_folder import describe

    records = run_recipe(
        recipe,
        folder,
        resume=resume,
        accept_changes=accept_changes,
        minutes=minutes,
        should_stop=lambda: stop.signal is not None,
        device=choose_device(device),
    )
    shows = is_first_process()
    with ProgressDisplay("train") if shows else nullcontext() as display:
        for record in records:
            if isinstance(record, EndRecord):
                return _why(record, stop)
            if display is None:
                continue
            if isinstance(record, StepRecord):
                display.show(record.step / recipe.loop.steps, describe(record))
            elif not isinstance(record, SampleRecord):
                display.print(describe(record))
    raise ToileError(f"the run in {folder} ended without saying why")


def _why(record: EndRecord, stop: StopRequest) -> str:
    if record.reason == "done":
        return "done"
    if record.reason == "time":
        return f"stopped at step {record.step}, time is over"
    by = "another process" if stop.signal is None else signal.Signals(stop.signal).name
    return f"stopped at step {record.step} by {by}, state saved"


def _told_by_log(log: Path) -> list[str]:
    """What the whole course of the run shows, a sentence each."""
    from toile.training.gan_health import gan_findings
    from toile.training.run_folder import read_log

    return [finding.sentence for finding in gan_findings(read_log(log))] if log.is_file() else []


def is_first_process() -> bool:
    """Whether this process speaks: all do but those that torchrun gave a rank above 0."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def listening(stop: StopRequest) -> Iterator[None]:
    """Turns the first signal into a request; the second one acts as it always does."""

    def remember(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        print("toile: stopping after this step; once more stops at once", file=sys.stderr)
        for known, handler in previous.items():
            signal.signal(known, handler)

    previous = {known: signal.signal(known, remember) for known in _SIGNALS}
    try:
        yield
    finally:
        for known, handler in previous.items():
            signal.signal(known, handler)
