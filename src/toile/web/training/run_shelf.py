"""Runs that are shown: those that were started on the page, and those in the folders named at the start."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toile.errors import ToileError
from toile.training.curve_points import CurvePoints, read_curves
from toile.training.run_summary import (
    LOG_NAME,
    RECIPE_NAME,
    RunComparison,
    RunSummary,
    compare_runs,
    is_run,
    summarize_run,
)
from toile.web.training.places import found_in, is_within, place_id
from toile.weights.files import read_json

_SHEET = re.compile(r"step-(\d{7,})\.png")
MOST_COMPARED = 8


@dataclass(frozen=True)
class ShownRun:
    """A run and what became of it.

    Attributes:
        id: what requests call it.
        folder: where it is.
        is_own: it was started on the page, and can be resumed there.
        summary: of its folder.
    """

    id: str
    folder: Path
    is_own: bool
    summary: RunSummary

    @property
    def can_resume(self) -> bool:
        """Whether it can go on from the page."""
        return self.is_own and self.summary.state == "stopped, resumable"


class RunShelf:
    """All runs that are shown now. May be used from any thread.

    Args:
        own: folder of the runs that are started on the page.
        folders: of other runs; one of them may be a run itself.
    """

    def __init__(self, own: Path, folders: Sequence[Path]) -> None:
        self.own, self._folders = own, tuple(folders)
        self._known: dict[Path, tuple[object, RunSummary]] = {}

    def all(self) -> list[ShownRun]:
        """Those that were written to last come first."""
        runs = [
            ShownRun(run, folder, folder.parent == self.own, self._summary(folder))
            for run, folder in self._places().items()
        ]
        return sorted(runs, key=lambda run: run.summary.when or "", reverse=True)

    def one(self, run: str) -> ShownRun:
        """A run by its id.

        Raises:
            NoSuchPlaceError: there is none.
        """
        folder = self.folder(run)
        return ShownRun(run, folder, folder.parent == self.own, self._summary(folder))

    def folder(self, run: str) -> Path:
        """Where a run is.

        Raises:
            NoSuchPlaceError: there is none.
        """
        return found_in(self._places(), run, "run")

    def curves(self, run: str) -> CurvePoints:
        """Its curves as they are now.

        Raises:
            NoSuchPlaceError: there is no such run.
            ToileError: its log is damaged.
        """
        return read_curves(self.folder(run))

    def recipe(self, run: str) -> dict[str, Any]:
        """Its settings by dotted keys; none where its recipe cannot be read."""
        try:
            return dict(_flat(read_json(self.folder(run) / RECIPE_NAME)))
        except ToileError:
            return {}

    def sheets(self, run: str) -> dict[int, Path]:
        """Its sheets of samples, by the step they were drawn at."""
        folder = self.folder(run)
        found = {path: _SHEET.fullmatch(path.name) for path in sorted((folder / "samples").glob("step-*.png"))}
        return {int(match[1]): path for path, match in found.items() if match and is_within(path, folder)}

    def compare(self, runs: Sequence[str]) -> RunComparison:
        """What differs between some runs.

        Raises:
            NoSuchPlaceError: there is no such run.
            ToileError: fewer than two or too many; a recipe that cannot be read.
        """
        if not 2 <= len(set(runs)) == len(runs) <= MOST_COMPARED:
            raise ToileError(f"runs: choose 2 to {MOST_COMPARED} different ones")
        places = self._places()
        return compare_runs([found_in(places, run, "run") for run in runs])

    def _places(self) -> Mapping[str, Path]:
        found: dict[str, Path] = {}
        for root in (self.own, *self._folders):
            if not root.is_dir():
                continue
            inside = [root] if is_run(root) else sorted(path for path in root.iterdir() if is_within(path, root))
            found |= {place_id(path): path for path in inside if path.is_dir() and is_run(path)}
        return found

    def _summary(self, folder: Path) -> RunSummary:
        """Long logs are read again only when something changed."""
        marks = tuple(_mark(folder / name) for name in (LOG_NAME, RECIPE_NAME, "state"))
        known = self._known.get(folder)
        if known is not None and known[0] == marks and known[1].state != "running":
            return known[1]
        summary = summarize_run(folder)
        self._known[folder] = (marks, summary)
        return summary


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
