"""toile runs: what became of training runs, and what differs between them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from toile.training.run_summary import HeldOutLoss, RunComparison, RunSummary

_LONGEST_VALUE = 60


def runs(*folder: Path, json_output: Annotated[bool, Parameter(name="--json")] = False) -> int:
    """List training runs: how far, how good, how fast. Several run folders are compared: what differs in their recipes.

    Args:
        folder: a folder of runs, by default runs/; or a run folder; or several run folders to compare.
        json_output: print the result as JSON.
    """
    from toile.training.run_summary import compare_runs, summarize_runs

    if len(folder) > 1:
        comparison = compare_runs(folder)
        if json_output:
            print(json.dumps(asdict(comparison), indent=2))
        else:
            _print_comparison(comparison)
        return 0
    where = folder[0] if folder else Path("runs")
    found = summarize_runs(where)
    if json_output:
        print(json.dumps([asdict(run) for run in found], indent=2))
    elif found:
        _print(_table(found))
    else:
        print(f"no runs in {where}")
    return 0


def _print(table: Table) -> None:
    from rich.console import Console

    # A pipe has no width of its own: lines are never broken there, so that they can be searched.
    width = None if sys.stdout.isatty() else 1000
    Console(highlight=False, markup=False, width=width).print(table)


def _table(found: Sequence[RunSummary]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("run", "task", "state"):
        table.add_column(name)
    for name in ("steps", "last held out", "best held out", "pictures/s", "skipped"):
        table.add_column(name, justify="right")
    table.add_column("when")
    for run in found:
        steps = f"{run.steps_done:,}" + ("" if run.steps_asked is None else f" of {run.steps_asked:,}")
        speed = "" if run.examples_per_second is None else f"{run.examples_per_second:.3g}"
        state = f"{run.state}: {run.note}" if run.note else run.state
        numbers = (steps, _loss(run.last, ""), _loss(run.best, ", step"), speed, f"{run.skipped_steps:,}")
        if run.task is None:
            numbers = ("",) * 5
        table.add_row(
            *map(Text, (_shown(run.name), run.task or "", _shown(state, 200), *numbers, (run.when or "")[:16]))
        )
    return table


def _loss(held_out: HeldOutLoss | None, step: str) -> str:
    """The loss and whose it is; with a word for it, the step too."""
    if held_out is None:
        return ""
    return f"{held_out.loss:.4f} ({held_out.weights}{f'{step} {held_out.step:,}' if step else ''})"


def _print_comparison(comparison: RunComparison) -> None:
    from rich.table import Table
    from rich.text import Text

    if comparison.differences:
        table = Table("recipe", box=None, pad_edge=False)
        for run in comparison.runs:
            table.add_column(Text(_shown(run.name)))
        for key, values in comparison.differences.items():
            table.add_row(*map(Text, (_shown(key), *map(_value, values))))
        _print(table)
    else:
        print("the recipes are the same")
    print()
    _print(_table(comparison.runs))
    if comparison.not_comparable:
        print()
        print(
            f"the held-out losses cannot be compared: {', '.join(map(_shown, comparison.not_comparable))} "
            "changes what they measure"
        )


def _value(value: Any) -> str:
    return _shown(value if isinstance(value, str) else json.dumps(value))


def _shown(text: str, longest: int = _LONGEST_VALUE) -> str:
    """A text of a file or a name, fit for a terminal: no control signs, not endless."""
    text = text if len(text) <= longest else text[: longest - 3] + "..."
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
