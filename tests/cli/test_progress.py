"""Progress: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from toile.cli import progress
from toile.cli.progress import ProgressDisplay


def test_a_log_gets_one_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    log = io.StringIO()
    with ProgressDisplay("train", Console(file=log, force_terminal=False)) as display:
        for second in range(151):
            now = 1000.0 + second
            display.show(0.5 + second / 1000, f"step {second}")
    assert log.getvalue().splitlines() == [
        "train: 56.0%, 0:07:20 left. step 60",
        "train: 62.0%, 0:06:20 left. step 120",
    ]


def test_a_terminal_gets_a_bar_and_lines_above_it() -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=100)
    with ProgressDisplay("generate", console) as display:
        display.show(0.25, "1 of 4 pictures")
        display.print("picture 1: the end [of] the prompt was cut")
    text = terminal.getvalue()
    assert "25%" in text and "1 of 4 pictures" in text
    assert "the end [of] the prompt was cut" in text
