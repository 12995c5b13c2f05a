"""The page's tables: scores of every measure, and everything that they depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from toile.evaluation.page_text import shown, shown_value
from toile.evaluation.scores import GROUPS, Entry, Evaluation, Measure, Score
from toile.evaluation.standing import Standing, interval_text, standing_in

_SENTENCE = 2000


def score_table(evaluation: Evaluation) -> str:
    """A row for each measure in its group, a column for each maker and then for each control."""
    columns = (*evaluation.entries, *evaluation.controls)
    heads = "".join(_column_head(entry) for entry in columns)
    ids = "".join(f"<td><code>{shown(entry.protocol_id)}</code></td>" for entry in columns)
    bodies = []
    for group, question in GROUPS.items():
        of_group = [measure for measure in evaluation.measures.values() if measure.group == group]
        if of_group:
            wide = f'scope="rowgroup" colspan="{len(columns) + 1}"'
            title = f'<tr class="group"><th {wide}><span>{shown(question)}</span></th></tr>'
            rows = "".join(_measure_row(evaluation, measure, columns) for measure in of_group)
            bodies.append(f"<tbody>{title}{rows}</tbody>")
    return (
        f'<div class="wide"><table class="scores"><thead><tr><th></th>{heads}</tr>'
        f'<tr class="ids"><th scope="row">protocol</th>{ids}</tr></thead>{"".join(bodies)}</table></div>'
        '<p class="small"><span class="best key">Bold</span> is told apart from every other maker. '
        '<span class="tied key">Tinted</span> share the first place: they cannot be told apart from the best value. '
        "Small numbers are 95 % intervals. Grey columns are controls: what the same measures say of pictures that are "
        "known.</p>"
    )


def protocol_section(evaluation: Evaluation) -> str:
    """Everything that the scores depend on, by name."""
    protocol = asdict(evaluation.protocol)
    networks = protocol.pop("networks")
    rows = [("id", evaluation.protocol.id), *((name.replace("_", " "), value) for name, value in protocol.items())]
    table = "".join(_fact_row(name, shown_value(value)) for name, value in rows)
    judges = "".join(
        f"<tr><td>{shown(name)}</td><td><code>{shown(digest)}</code></td><td>{shown(how, _SENTENCE)}</td></tr>"
        for name, (digest, how) in networks.items()
    )
    if judges:
        judges = (
            '<h3>Networks that look at the pictures</h3><div class="wide"><table class="facts"><thead><tr><th>name</th>'
            f"<th>SHA-256 of its weights</th><th>how it is shown pictures</th></tr></thead>{judges}</table></div>"
        )
    return f'<div class="wide"><table class="facts">{table}</table></div>{judges}{_makers(evaluation)}'


def notes_section(evaluation: Evaluation) -> str:
    """What a reader must know, of the whole and of each maker; "" where there is nothing."""
    lines = [shown(note, _SENTENCE) for note in evaluation.notes]
    for entry in (*evaluation.entries, *evaluation.controls):
        lines += [f"<b>{shown(entry.name)}:</b> {shown(note, _SENTENCE)}" for note in entry.notes]
    return f"<h3>Notes</h3><ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" if lines else ""


def meanings_section(evaluation: Evaluation) -> str:
    """How to read each measure."""
    items = "".join(
        f"<dt>{shown(measure.title)} <code>{shown(measure.key)}</code></dt>"
        f"<dd>{shown(measure.meaning, _SENTENCE)} {_direction(measure)}</dd>"
        for measure in evaluation.measures.values()
    )
    return f"<h3>How to read each measure</h3><dl>{items}</dl>"


def _column_head(entry: Entry) -> str:
    kind = ' class="control"' if entry.is_control else ""
    meaning = f'<span class="small">{shown(entry.meaning, _SENTENCE)}</span>' if entry.meaning else ""
    return f'<th scope="col"{kind}>{shown(entry.name)}{meaning}</th>'


def _measure_row(evaluation: Evaluation, measure: Measure, columns: Sequence[Entry]) -> str:
    standing = standing_in(evaluation, measure)
    cells = "".join(_cell(evaluation, measure, entry, standing) for entry in columns)
    meaning = f'<span class="small meaning">{shown(measure.meaning, _SENTENCE)}</span>'
    title = f'{shown(measure.title)} <span class="small">{_arrow(measure)}</span>{meaning}'
    return f'<tr><th scope="row">{title}</th>{cells}</tr>'


def _cell(evaluation: Evaluation, measure: Measure, entry: Entry, standing: Standing | None) -> str:
    kinds = ["control"] if entry.is_control else []
    score = entry.scores.get(measure.key)
    if score is None:
        return f'<td class="{" ".join([*kinds, "number"])}">-</td>'
    if standing and not entry.is_control:
        kinds += _place(entry.name, standing)
    value = f'<span class="value">{shown(measure.worded(score.value))}</span>'
    small = [interval_text(measure, score), _count(evaluation, score)]
    lines = "".join(f'<span class="small">{shown(line)}</span>' for line in small if line)
    return f'<td class="{" ".join([*kinds, "number"])}" title="of {score.n:,}">{value}{lines}</td>'


def _place(name: str, standing: Standing) -> list[str]:
    if name == standing.best and standing.is_alone:
        return ["best"]
    return ["tied"] if standing.tied and name in (standing.best, *standing.tied) else []


def _count(evaluation: Evaluation, score: Score) -> str:
    """How many a value is of, where that is not the number of pictures of the protocol."""
    return "" if score.n == evaluation.protocol.num_pictures else f"n = {score.n:,}"


def _arrow(measure: Measure) -> str:
    return f'<span title="{measure.direction}">{measure.arrow}</span>'


def _direction(measure: Measure) -> str:
    return f"{measure.direction.capitalize()}."


def _makers(evaluation: Evaluation) -> str:
    """Settings and facts of every maker and control."""
    rows = "".join(
        f"<tr><td>{shown(entry.name)}</td><td><code>{shown(entry.protocol_id)}</code></td>"
        f"<td>{_pairs(entry.settings)}</td><td>{_pairs(entry.facts)}</td></tr>"
        for entry in (*evaluation.entries, *evaluation.controls)
    )
    return (
        '<h3>Makers and controls</h3><div class="wide"><table class="facts"><thead><tr><th>name</th><th>protocol</th>'
        f"<th>used with</th><th>what is known of it</th></tr></thead>{rows}</table></div>"
    )


def _pairs(facts: Mapping[str, Any]) -> str:
    return "<br>".join(f"{shown(str(name))}: {shown_value(value)}" for name, value in facts.items())


def _fact_row(name: str, value: str) -> str:
    return f'<tr><th scope="row">{shown(name)}</th><td>{value}</td></tr>'
