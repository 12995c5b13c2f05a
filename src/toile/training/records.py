"""What a run says while it goes on: one record for each thing that happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

PLUS_MINUS = "plus_minus"


@dataclass(frozen=True)
class DataRecord:
    """The first record of a run: what there is to learn from.

    Attributes:
        step: 0.
        summary: what was read, and what was left out and why, for people.
        num_train, num_held_out: pictures that are learnt, repeats counted, and pictures that losses are measured on.
        captions: words of the first pictures that are learnt, with the trigger before them.
        images: these pictures, each (3, H, W) in [-1, 1].
    """

    step: int
    summary: str
    num_train: int
    num_held_out: int
    captions: tuple[str, ...]
    images: tuple[Tensor, ...]


@dataclass(frozen=True)
class StepRecord:
    """One update: `step` updates are done. A skipped one (loss or gradient not finite) changed nothing."""

    step: int
    loss: float
    parts: Mapping[str, float]
    learning_rate: float
    grad_norm: float
    examples_per_second: float
    skipped: bool


@dataclass(frozen=True)
class ValidationRecord:
    """Held-out losses by weights: "live" and one "ema WIDTH" each.

    Where the objective tells the losses of single examples, `PLUS_MINUS` is half the width of the mean's 95 % interval:
    how far it may be from that of all held-out pictures. Between steps of one run the same pictures, noise and
    timesteps are compared, so differences are much more certain than that.
    """

    step: int
    losses: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class SampleRecord:
    """Images (B, 3, H, W) made with the first average (or the live weights when none is kept)."""

    step: int
    images: Tensor


@dataclass(frozen=True)
class SavedRecord:
    """A complete state is on disk; `warnings` name newer ones that were damaged, when it is the one resumed from."""

    step: int
    path: Path
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class EndRecord:
    """The last record: `reason` is "done", "time" or "stopped"; `exported` names the weights with the lowest held-out
    loss, "" if there was no export.
    """

    step: int
    reason: str
    exported: str


@dataclass(frozen=True)
class PlanRecord:
    """What the whole run will take, told before it begins.

    Attributes:
        step: 0.
        micro_batch_size: examples that pass the network at once.
        seconds_per_step: of an update, without validation, samples and saving.
        seconds: of all steps.
        peak_bytes: of memory, with the optimizer's moments.
        disk_bytes: of the states.
        num_weights: numbers that learn.
        device: where.
    """

    step: int
    micro_batch_size: int
    seconds_per_step: float
    seconds: float
    peak_bytes: int
    disk_bytes: int
    num_weights: int
    device: str = "cpu"


Record = DataRecord | PlanRecord | StepRecord | ValidationRecord | SampleRecord | SavedRecord | EndRecord
