"""What a run leaves on disk for people: recipe, log, curves, sample sheets. The state is the loop's business."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toile.data.images import contact_sheet, pixels_from_images
from toile.errors import ToileError
from toile.training.curves import draw_curves
from toile.training.records import (
    PLUS_MINUS,
    DataRecord,
    EndRecord,
    PlanRecord,
    Record,
    SampleRecord,
    SavedRecord,
    StepRecord,
    ValidationRecord,
)
from toile.weights.files import write_json_atomically

MODEL_FOLDER = "model"  # of what was trained


class RunFolder:
    """Writes the records of one run.

    Args:
        directory: `recipe.json`, `log.jsonl`, `curves.png`, `samples/` and `stages.png` go there.
        facts: the full recipe.
    """

    def __init__(self, directory: Path, facts: Mapping[str, Any]) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        write_json_atomically(directory / "recipe.json", dict(facts))
        self.log = directory / "log.jsonl"
        if self.log.exists() and not self.log.read_bytes().endswith(b"\n"):
            with self.log.open("a", encoding="utf-8") as file:
                file.write("\n")  # ends a line that a crash cut short

    def write(self, record: Record) -> None:
        """Logs one record; also draws curves at validations and sheets of samples."""
        if isinstance(record, SampleRecord):
            self._write_sheet(record)
            return
        line: dict[str, Any] = {"kind": type(record).__name__.removesuffix("Record").lower()}
        line |= dataclasses.asdict(record)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")
        if isinstance(record, ValidationRecord | EndRecord):
            draw_curves(read_log(self.log), self.directory / "curves.png")
        if isinstance(record, EndRecord):
            self._write_stages()

    def _write_sheet(self, record: SampleRecord) -> None:
        from PIL import Image

        folder = self.directory / "samples"
        folder.mkdir(exist_ok=True)
        pictures = [Image.fromarray(pixels.numpy()) for pixels in pixels_from_images(record.images)]
        contact_sheet(pictures, columns=8, scale=2).save(folder / f"step-{record.step:07d}.png")

    def _write_stages(self) -> None:
        """The same prompts and noise before, in the middle of and after the run, one above the other."""
        from PIL import Image

        sheets = sorted((self.directory / "samples").glob("step-*.png"))
        if len(sheets) < 2:
            return
        stages = list(dict.fromkeys([sheets[0], sheets[len(sheets) // 2], sheets[-1]]))
        pictures = []
        for path in stages:
            with Image.open(path) as sheet:
                pictures.append(sheet.copy())
        captions = [f"step {int(path.stem.removeprefix('step-'))}" for path in stages]
        contact_sheet(pictures, columns=1, captions=captions).save(self.directory / "stages.png")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without a last one that a crash cut short; later lines of a step replace earlier ones."""
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if "kind" not in line or "step" not in line:
            raise ToileError(f"{path}:{number + 1} is not a line of a training log")
        lines[line["kind"], line["step"]] = line
    return sorted(lines.values(), key=lambda line: line["step"])


def describe(record: Record) -> str:
    """One line for a terminal or a log."""
    if isinstance(record, DataRecord):
        return record.summary
    if isinstance(record, PlanRecord):
        hours, minutes = divmod(round(record.seconds / 60), 60)
        each = f"{record.seconds_per_step:.2f} s each, {record.micro_batch_size} examples at once"
        space = f"{record.peak_bytes / 1e9:.1f} GB of memory, {record.disk_bytes / 1e9:.2f} GB of states"
        learns = f"{record.num_weights:,} weights learn"
        return f"plan: {hours} h {minutes:02} min of steps on {record.device} ({each}), {space}; {learns}"
    if isinstance(record, StepRecord):
        parts = " ".join(f"{name} {value:.4g}" for name, value in record.parts.items())
        skipped = " SKIPPED (not finite)" if record.skipped else ""
        return f"step {record.step} loss {record.loss:.4f} {parts} {record.examples_per_second:.0f}/s{skipped}"
    if isinstance(record, ValidationRecord):
        return f"step {record.step} held out: " + ", ".join(
            f"{who}: " + " ".join(_worded(name, value) for name, value in parts.items())
            for who, parts in record.losses.items()
        )
    if isinstance(record, SavedRecord):
        return "; ".join([f"step {record.step} saved {record.path}", *record.warnings])
    if isinstance(record, EndRecord):
        return f"step {record.step} ended: {record.reason}"
    return f"step {record.step} samples drawn"


def _worded(name: str, value: float) -> str:
    return f"(loss ± {value:.4f})" if name == PLUS_MINUS else f"{name} {value:.4f}"
