"""What a trainer and the process that trains tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toile.training.recipes import Recipe


@dataclass(frozen=True)
class Order:
    """A training to be planned and done.

    Attributes:
        recipe: what is trained.
        folder: of the run; nothing is written there before `Go`.
        resume: go on from its latest state, without waiting for `Go`.
        minutes: after which it stops, resumable; None for no end but its own.
        publish_as: name under which a finished LoRA is put among the user's LoRAs; None for not at all.
        threads: of the CPU; None leaves PyTorch's choice.
        niceness: how far it stands back behind other processes, as `nice` counts.
    """

    recipe: Recipe
    folder: Path
    resume: bool = False
    minutes: float | None = None
    publish_as: str | None = None
    threads: int | None = None
    niceness: int = 10


@dataclass(frozen=True)
class Go:
    """The plan is as wanted: begin."""


@dataclass(frozen=True)
class Stop:
    """Save after this step, and end."""


@dataclass(frozen=True)
class Plan:
    """What a training will take.

    Attributes:
        summary: what was read, and what was left out and why.
        num_train, num_held_out: pictures to learn from and to measure on.
        captions: words of the first ones, as the model is told.
        sheet: these pictures as the model sees them, a PNG file.
        steps: of the whole run.
        seconds, seconds_per_step: of steps alone.
        examples_at_once: that pass the networks together.
        num_weights: numbers that learn.
        peak_bytes, disk_bytes: of memory, and of states on disk.
    """

    summary: str
    num_train: int
    num_held_out: int
    captions: tuple[str, ...]
    sheet: bytes
    steps: int
    seconds: float
    seconds_per_step: float
    examples_at_once: int
    num_weights: int
    peak_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Passed:
    """So many steps are done; `seconds_left` by how long they took, None before that is known."""

    step: int
    loss: float
    seconds_left: float | None


@dataclass(frozen=True)
class Over:
    """The run has ended.

    Attributes:
        reason: "done", "time" or "stopped".
        lora: name under which its LoRA can be used; None if there is none.
        note: why there is none, if there should be.
    """

    reason: str
    step: int
    lora: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Failed:
    """It came to nothing, for a reason that people can read."""

    error: str


ToProcess = Go | Stop
FromProcess = Plan | Passed | Over | Failed
