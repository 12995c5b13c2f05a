"""Progress of long work: a bar with the remaining time on a terminal, a line a minute in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 60.0


class ProgressDisplay:
    """Shows on the error stream how far a piece of work is; use it as a context manager.

    Args:
        what: the work, in a word or two.
        console: where to show it; by default the error stream.
    """

    def __init__(self, what: str, console: Console | None = None) -> None:
        self._what = what
        self._console = console or Console(file=sys.stderr)
        self._on_terminal = self._console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(
            *columns, TextColumn("{task.fields[note]}"), console=self._console, disable=not self._on_terminal
        )
        self._task = self._bar.add_task(what, total=1.0, note="")
        self._last_line = time.monotonic()
        self._first: tuple[float, float] | None = None

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, fraction: float, note: str = "") -> None:
        """Tells how far the work is: a share from 0 to 1, and a few words."""
        self._bar.update(self._task, completed=fraction, note=note)
        now = time.monotonic()
        self._first = self._first or (now, fraction)
        if self._on_terminal or now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        self.print(f"{self._what}: {fraction:.1%}, {_remaining(self._first, now, fraction)} left. {note}".rstrip())

    def print(self, line: str) -> None:
        """Prints a line above the bar, as it is."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _remaining(first: tuple[float, float], now: float, fraction: float) -> str:
    """Time left at the pace since the work was first shown (a resumed run does not begin at 0)."""
    seconds_before, fraction_before = first
    if fraction <= fraction_before:
        return "unknown time"
    seconds = round((now - seconds_before) * (1 - fraction) / (fraction - fraction_before))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
