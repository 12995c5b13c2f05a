"""An evaluation in a terminal: a line a maker, and the verdict in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from toile.evaluation.page_text import printable
from toile.evaluation.scores import GROUPS, Entry, Evaluation, Measure, Score
from toile.evaluation.standing import headline, leading_verdicts, standing_in

WIDTH = 100
_LONGEST_NAME, _GAP = 24, 2


def table_of(evaluation: Evaluation) -> list[Table]:
    """Tables of at most 100 columns, a row for each maker and then for each control.

    There is one for each group of measures, and a further one where a group has more measures than fit. A value that
    is told apart from every other maker's carries a star; those that cannot be told apart from the best value carry
    "=". Intervals are shown as the larger of their two sides.
    """
    tables = []
    for group, question in GROUPS.items():
        columns = [_column(evaluation, m) for m in evaluation.measures.values() if m.group == group]
        for those in _in_pages(evaluation, columns):
            tables.append(_table(evaluation, those, question.partition(":")[0]))
    return tables


def verdict_lines(evaluation: Evaluation) -> list[str]:
    """The headline, the best maker's verdicts in the main measures, what was not measured, what all this holds for."""
    leading, others = leading_verdicts(evaluation)
    lines = [*headline(evaluation), *(verdict.sentence for verdict in leading)]
    lines += [f"Not measured: {sentence}" for sentence in evaluation.left_out]
    protocol = evaluation.protocol
    more = f"; {len(others):,} more comparisons are on the page" if others else ""
    of_each = f"{protocol.num_pictures:,} pictures of each maker"
    lines.append(f"Protocol {protocol.id}: {of_each}, {evaluation.minutes:.1f} minutes{more}.")
    return [printable(line, 1000) for line in lines]


def _table(evaluation: Evaluation, columns: Sequence[Sequence[str]], title: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    table.add_column(title, vertical="bottom")
    for column in columns:
        table.add_column(Text(column[0]), justify="right", vertical="bottom", overflow="fold")
    for row, entry in enumerate((*evaluation.entries, *evaluation.controls), start=1):
        cells = [Text(column[row], style="bold" if column[row].startswith("*") else "") for column in columns]
        table.add_row(Text(_name(entry)), *cells, style="dim" if entry.is_control else "")
    return table


def _in_pages(evaluation: Evaluation, columns: Sequence[list[str]]) -> list[list[list[str]]]:
    """The columns in groups that fit the width beside the names."""
    names = max((len(_name(entry)) for entry in (*evaluation.entries, *evaluation.controls)), default=0)
    pages: list[list[list[str]]] = []
    left = 0
    for column in columns:
        width = _GAP + max(*map(len, column[1:]), *map(len, column[0].split()), 0)
        if not pages or width > left:
            pages.append([])
            left = WIDTH - names - _GAP
        pages[-1].append(column)
        left -= width
    return pages


def _column(evaluation: Evaluation, measure: Measure) -> list[str]:
    """The head of a measure's column and its cells."""
    standing = standing_in(evaluation, measure)
    cells = [f"{printable(measure.title, 60)} {measure.arrow}".rstrip()]
    for entry in evaluation.entries:
        mark = ""
        if standing and entry.name == standing.best and standing.is_alone:
            mark = "* "
        elif standing and standing.tied and entry.name in (standing.best, *standing.tied):
            mark = "= "
        cells.append(mark + _cell(measure, entry.scores.get(measure.key)))
    return [*cells, *(_cell(measure, entry.scores.get(measure.key)) for entry in evaluation.controls)]


def _cell(measure: Measure, score: Score | None) -> str:
    if score is None or math.isnan(score.value):
        return "-"
    half = max(score.high - score.value, score.value - score.low)
    said = measure.worded(score.value)
    if math.isnan(half):
        return said
    if measure.is_share:
        return f"{said.removesuffix(' %')} \N{PLUS-MINUS SIGN}{100 * half:.1f} %"
    return f"{said} \N{PLUS-MINUS SIGN}{half:.2g}"


def _name(entry: Entry) -> str:
    return printable(entry.name, _LONGEST_NAME)
