"""The terminal table fits a terminal and shows every number."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import pytest
from rich.console import Console

from toile.evaluation.scores import Evaluation, Score
from toile.evaluation.standing import headline
from toile.evaluation.terminal_table import WIDTH, table_of, verdict_lines


def printed(evaluation: Evaluation) -> str:
    console = Console(width=WIDTH, record=True, file=io.StringIO(), color_system=None)
    for table in table_of(evaluation):
        console.print(table)
    return console.export_text()


@pytest.mark.parametrize("num_makers", [1, 2, 7])
def test_the_terminal_table_fits_and_cuts_no_number(plausible: Any, num_makers: int) -> None:
    evaluation = plausible.evaluation(names=(*plausible.names, "a maker whose name goes on and on and on")[:num_makers])
    text = printed(evaluation)
    assert max(map(len, text.splitlines())) <= WIDTH
    for entry in (*evaluation.entries, *evaluation.controls):
        lines = [line for line in text.splitlines() if line.startswith(entry.name[:20])]
        assert len(lines) >= 4
        for measure in plausible.measures.values():
            assert any(measure.worded(entry.scores[measure.key].value).removesuffix(" %") in line for line in lines)
    assert ("*" in text) == ("=" in text) == (num_makers > 1)


def test_terminal_lines_start_with_the_headline_and_end_with_the_protocol(plausible: Any) -> None:
    evaluation = plausible.evaluation()
    lines = verdict_lines(dataclasses.replace(evaluation, notes=("\x1b[31m",)))
    assert lines[0] == headline(evaluation)[0] and evaluation.protocol.id in lines[-1]
    assert len(lines) == 1 + 15 + 1 and "105 more comparisons" in lines[-1]
    bad = dataclasses.replace(evaluation.verdicts[0], sentence="\x1b[31mred\n")
    lines = verdict_lines(dataclasses.replace(evaluation, verdicts=(bad, *evaluation.verdicts[1:])))
    assert not any("\x1b" in line or "\n" in line for line in lines)


def test_a_value_that_is_not_there_is_a_dash(plausible: Any) -> None:
    plain = plausible.evaluation(names=("a", "b"))
    nothing = Score(math.nan, math.nan, math.nan, 2000)
    scores = {key: nothing for key in plausible.measures if key != "type"}
    empty = dataclasses.replace(plain.entries[1], scores=scores)
    text = printed(dataclasses.replace(plain, entries=(plain.entries[0], empty)))
    lines = [line.split() for line in text.splitlines() if line.startswith("b ")]
    assert "nan" not in text and [line.count("-") for line in lines] == [len(line) - 1 for line in lines]
    assert sum(line.count("-") for line in lines) == len(plausible.measures)
