"""An evaluation as one page for people: the verdict first, then pictures, scores and charts; it fetches nothing."""

from __future__ import annotations

from collections.abc import Sequence

from toile.evaluation.page_charts import NUM_COLOURS, Curve, dot_chart, scatter, step_curves
from toile.evaluation.page_pictures import (
    Pictures,
    copies,
    side_by_side,
    stage_sheets,
    stage_strips,
    variety_rows,
    worst_cases,
)
from toile.evaluation.page_style import HEAD
from toile.evaluation.page_tables import meanings_section, notes_section, protocol_section, score_table
from toile.evaluation.page_text import shown
from toile.evaluation.scores import (
    FAITHFULNESS,
    GROUPS,
    ORIGINALITY,
    REALISM,
    VARIETY,
    Entry,
    Evaluation,
    Measure,
    Verdict,
)
from toile.evaluation.standing import (
    Standing,
    headline,
    interval_text,
    leading_verdicts,
    main_measures,
    standing_in,
)

_CHARTS_OF_A_GROUP = 2
_SENTENCE = 1000


def render_page(evaluation: Evaluation, pictures: Pictures) -> str:
    """The page as HTML text; equal input gives equal bytes.

    Args:
        evaluation: all scores and verdicts.
        pictures: of its makers and controls; sections whose pictures are not given are left out.
    """
    sections = [
        ("pictures", "Side by side", _side_by_side(evaluation, pictures)),
        ("scores", "Scores", score_table(evaluation)),
        ("charts", "Charts", _charts(evaluation, pictures)),
        ("variety", "Variety", _variety(evaluation, pictures)),
        ("originality", "Originality", _originality(evaluation, pictures)),
        ("worst", "Worst cases first", _worst(evaluation, pictures)),
        ("protocol", "Protocol", _protocol(evaluation)),
    ]
    kept = [(name, title, body) for name, title, body in sections if body]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in kept)
    bodies = "".join(f'<section id="{name}"><h2>{title}</h2>{body}</section>' for name, title, body in kept)
    head = HEAD.replace("TITLE", shown(evaluation.protocol.id))
    return f"{head}{_headline(evaluation, pictures, links)}{bodies}</body></html>\n"


def _headline(evaluation: Evaluation, pictures: Pictures, links: str) -> str:
    title, *sentences = headline(evaluation)
    alarms = _copy_alarms(evaluation, pictures)
    if alarms:
        sentences.append(f"Copy alarm: {', '.join(alarms)}. See Originality.")
    lead = "".join(f'<p class="lead">{shown(sentence, _SENTENCE)}</p>' for sentence in sentences)
    lead += _left_out(evaluation)
    return (
        f"<header><h1>{shown(title, _SENTENCE)}</h1>{lead}{_chips(evaluation)}{_cards(evaluation, pictures)}"
        f"{_verdicts(evaluation)}<nav>{links}</nav></header>"
    )


def _left_out(evaluation: Evaluation) -> str:
    """What was not measured, and why."""
    items = "".join(f"<li>{shown(sentence, _SENTENCE)}</li>" for sentence in evaluation.left_out)
    return f'<div class="leftout"><p>Not measured:</p><ul>{items}</ul></div>' if items else ""


def _chips(evaluation: Evaluation) -> str:
    protocol = evaluation.protocol
    words = [
        f"protocol <code>{shown(protocol.id)}</code>",
        f"{protocol.num_pictures:,} pictures of each maker, in {protocol.num_sets} disjoint sets",
        f"{protocol.num_reference:,} real pictures to measure to",
        f"{evaluation.minutes:.1f} machine minutes",
    ]
    return f'<div class="chips">{"".join(f"<span>{word}</span>" for word in words)}</div>'


def _copy_alarms(evaluation: Evaluation, pictures: Pictures) -> list[str]:
    """Makers that the audit for copies raised an alarm about."""
    audits = ((entry.name, pictures.nearest.get(entry.name)) for entry in evaluation.entries)
    return [name for name, found in audits if found and found.is_alarm]


def _cards(evaluation: Evaluation, pictures: Pictures) -> str:
    """The first measure of each group: who is first in it, and from whom it is told apart."""
    if len(evaluation.entries) < 2:
        return ""
    standings = [standing for measure in main_measures(evaluation) if (standing := standing_in(evaluation, measure))]
    audit = _audit_card(evaluation, pictures)
    return f'<div class="cards">{"".join(_card(evaluation, standing) for standing in standings)}{audit}</div>'


def _audit_card(evaluation: Evaluation, pictures: Pictures) -> str:
    """Whether anyone copies: of originality this is what matters, not who is furthest from what was learnt from."""
    if not any(entry.name in pictures.nearest for entry in evaluation.entries):
        return ""
    alarms = _copy_alarms(evaluation, pictures)
    checked = sum(entry.name in pictures.nearest for entry in evaluation.entries)
    who = f"Copy alarm: {', '.join(alarms)}" if alarms else "No copy alarm"
    kind = "who bad" if alarms else "who"
    line = f"{checked} {'maker' if checked == 1 else 'makers'} compared with what was learnt from"
    return (
        f'<div class="card"><span class="small">{shown(GROUPS[ORIGINALITY])}</span>'
        f'<p class="{kind}">{shown(who)}</p><p>{line}</p></div>'
    )


def _card(evaluation: Evaluation, standing: Standing) -> str:
    measure = standing.measure
    best = next(entry for entry in evaluation.entries if entry.name == standing.best)
    score = best.scores[measure.key]
    interval = interval_text(measure, score)
    value = f"{measure.title} {measure.worded(score.value)}" + (f" ({interval})" if interval else "")
    others = standing.num_makers - 1
    if standing.is_alone:
        said = f"told apart from {'the other' if others == 1 else f'all {others} others'}"
        who, line = f"{shown(standing.best)}", f'<p class="told">{said}</p>'
    elif standing.tied:
        who = shown(f"{standing.best} = {', '.join(standing.tied)}")
        beaten = others - len(standing.tied)
        line = f"<p>cannot be told apart{f'; {beaten} of the others are worse' if beaten else ''}</p>"
    else:
        who, line = shown(standing.best), "<p>no other maker has a value</p>"
    return (
        f'<div class="card"><span class="small">{shown(GROUPS[measure.group])}</span><p class="who">{who}</p>'
        f'{line}<p class="faint">{shown(value)}</p></div>'
    )


def _verdicts(evaluation: Evaluation) -> str:
    leading, others = leading_verdicts(evaluation)
    parts = [_verdict_list(evaluation, leading)] if leading else []
    if others:
        count = f"{len(others):,} other comparison{'' if len(others) == 1 else 's'}"
        parts.append(f"<details><summary>{count}</summary>{_verdict_list(evaluation, others)}</details>")
    return "".join(parts)


def _verdict_list(evaluation: Evaluation, verdicts: Sequence[Verdict]) -> str:
    """Sentences of verdicts by measure."""
    by_measure: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_measure.setdefault(verdict.measure, []).append(verdict)
    parts = []
    for key, those in by_measure.items():
        items = "".join(map(_item, those))
        title = evaluation.measures[key].title
        parts.append(f'<div><h4>{shown(title)}</h4><ul class="verdicts">{items}</ul></div>')
    return f'<div class="compared">{"".join(parts)}</div>'


def _item(verdict: Verdict) -> str:
    kind = "told" if verdict.is_told else "untold"
    return f'<li class="{kind}">{shown(verdict.sentence, _SENTENCE)}</li>'


def _side_by_side(evaluation: Evaluation, pictures: Pictures) -> str:
    if not evaluation.captions:
        return ""
    return (
        "<p>The same prompts for all, evenly spaced among all prompts; nobody chose them.</p>"
        f"{side_by_side(evaluation, pictures)}"
    )


def _charts(evaluation: Evaluation, pictures: Pictures) -> str:
    parts = []
    charted = main_measures(evaluation, _CHARTS_OF_A_GROUP)
    if charted:
        dots = "".join(_chart(measure, dot_chart(evaluation, measure)) for measure in charted)
        lines = "Dots are values, whiskers 95 % intervals" + (
            "; the line is the best control, the dashed line the worst." if evaluation.controls else "."
        )
        parts.append(f'<p class="faint">{lines}</p><div class="charts">{dots}</div>')
    across, up = _fidelity(evaluation), _variety_measure(evaluation)
    if across and up:
        parts.append(
            "<h3>Fidelity against variety</h3><p>A maker that shows little gains fidelity and loses variety; a good "
            f'one has both. Rings are controls.</p><div class="chart">{scatter(evaluation, across, up)}</div>'
        )
    stages = [entry for entry in evaluation.entries if entry.step is not None]
    if len(stages) > 1:
        parts.append(_stage_charts(evaluation, pictures, charted, stages))
    sheets = stage_sheets(evaluation, pictures)
    if sheets:
        parts.append(f"<h3>Sheets made during training</h3>{sheets}")
    return "".join(parts)


def _stage_charts(
    evaluation: Evaluation, pictures: Pictures, charted: Sequence[Measure], stages: Sequence[Entry]
) -> str:
    """Scores against the step, a curve for each run, then the same prompts after each stage."""
    runs: dict[str, list[Entry]] = {}
    for stage in sorted(stages, key=lambda stage: stage.step or 0):
        runs.setdefault(str(stage.facts.get("run", "")), []).append(stage)
    legend = "".join(
        f'<span><i class="c{number % NUM_COLOURS}"></i>{shown(name)}</span>' for number, name in enumerate(runs) if name
    )
    curves = []
    for measure in charted:
        lines = [
            Curve(name, tuple((stage.step or 0, stage.scores[measure.key]) for stage in run), number)
            for number, (name, run) in enumerate(
                (name, [stage for stage in run if measure.key in stage.scores]) for name, run in runs.items()
            )
        ]
        curves.append(_chart(measure, step_curves(evaluation, measure, [line for line in lines if line.points])))
    strips = "".join(
        (f"<h4>{shown(name)}</h4>" if name else "") + stage_strips(evaluation, pictures, run)
        for name, run in runs.items()
    )
    return (
        f'<h3>Along the training</h3><p class="legend faint">{legend}</p><div class="charts">{"".join(curves)}</div>'
        f"{strips}"
    )


def _chart(measure: Measure, drawing: str) -> str:
    return (
        f'<div class="chart"><h4>{shown(measure.title)} <span class="faint">({measure.direction})</span></h4>'
        f"{drawing}</div>"
    )


def _fidelity(evaluation: Evaluation) -> Measure | None:
    """Precision where there is one, else the first measure of faithfulness, else of realism."""
    return _named(evaluation, REALISM, "precision") or _first(evaluation, FAITHFULNESS) or _first(evaluation, REALISM)


def _variety_measure(evaluation: Evaluation) -> Measure | None:
    """Recall where there is one, else coverage, else the first measure of variety."""
    recall, coverage = _named(evaluation, VARIETY, "recall"), _named(evaluation, VARIETY, "coverage")
    return recall or coverage or _first(evaluation, VARIETY)


def _named(evaluation: Evaluation, group: str, word: str) -> Measure | None:
    found = (measure for measure in evaluation.measures.values() if measure.group == group and word in measure.key)
    return next(found, None)


def _first(evaluation: Evaluation, group: str) -> Measure | None:
    return next((measure for measure in main_measures(evaluation) if measure.group == group), None)


def _variety(evaluation: Evaluation, pictures: Pictures) -> str:
    rows = variety_rows(evaluation, pictures)
    return f"<p>Several pictures of one prompt, with different seeds.</p>{rows}" if rows else ""


def _originality(evaluation: Evaluation, pictures: Pictures) -> str:
    rows = copies(evaluation, pictures)
    if not rows:
        return ""
    return f"<p>The pictures most like something that was learnt from, each beside it.</p>{rows}"


def _worst(evaluation: Evaluation, pictures: Pictures) -> str:
    rows = worst_cases(evaluation, pictures)
    return f"<p>What each maker did worst, worst first. No picture was chosen by hand.</p>{rows}" if rows else ""


def _protocol(evaluation: Evaluation) -> str:
    return (
        "<p>Scores can be compared only where the protocol's id is the same.</p>"
        f"{protocol_section(evaluation)}{notes_section(evaluation)}{meanings_section(evaluation)}"
    )
