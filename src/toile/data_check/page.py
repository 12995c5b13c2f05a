"""The report as one page: every finding with its first cases in pictures, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable

from PIL import Image

from toile.data.captions import CaptionWriter
from toile.data.images import open_image
from toile.data.records import Source
from toile.data_check.findings import Case, Diagnosis, Finding, printable
from toile.errors import ToileError

CASES_SHOWN = 12
PICTURES_IN_A_CASE = 6
_THUMB_SIDE = 112
_LONGEST_MEANING, _LONGEST_WORDS = 2000, 120
# The policy forbids the page to run or fetch anything, whatever a caption may hold.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Data check</title><style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
td.count { text-align: right; font-variant-numeric: tabular-nums; } .none { color: #888; } p { margin: .3rem 0; }
.cases { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: .8rem; }
.case { border: 1px solid #ddd; border-radius: 6px; padding: .5rem; max-width: 24rem; overflow-wrap: anywhere; }
.case p { font-size: .85rem; } .name { color: #666; }
figure { display: inline-block; vertical-align: top; margin: .3rem; }
figcaption { font-size: .75rem; max-width: 7rem; } figure img { background: #eee; }
</style></head><body>
"""


def render_page(diagnosis: Diagnosis, source: Source, name: str) -> str:
    """The page as HTML text.

    Args:
        diagnosis: the result of a check of the source.
        source: pictures of the cases that are shown are read from it once more.
        name: what the data is called.
    """
    found = [(number, finding) for number, finding in enumerate(diagnosis.findings) if finding.count]
    figure = _figures(source)
    sections = "".join(_section(number, finding, figure) for number, finding in found)
    not_checked = "".join(f"<li>{_text(line, _LONGEST_MEANING)}</li>" for line in diagnosis.not_checked)
    return (
        f"{_HEAD}<h1>Check of {_text(name)}</h1>"
        f"<p>{diagnosis.num_checked:,} of {diagnosis.num_records:,} records were looked at; {len(diagnosis.kept):,} "
        f"would stay in a cleaned list. The data itself is never changed.</p>{_overview(diagnosis)}"
        f"<h2>Not looked for</h2><ul>{not_checked}</ul>{sections}</body></html>\n"
    )


def _overview(diagnosis: Diagnosis) -> str:
    """What was found as a table, and what was not found in a line."""
    rows = "".join(_row(number, finding) for number, finding in enumerate(diagnosis.findings) if finding.count)
    table = f"<table><tr><th>count</th><th>finding</th><th>with --fix</th></tr>{rows}</table>"
    clean = "; ".join(_text(finding.title) for finding in diagnosis.findings if not finding.count)
    return (table if rows else "<p>Nothing was found.</p>") + (
        f'<p class="none">Looked for and not found: {clean}.</p>' if clean else ""
    )


def _row(number: int, finding: Finding) -> str:
    title = f'<a href="#finding-{number}">{_text(finding.title)}</a>'
    return (
        f'<tr><td class="count">{finding.count:,}</td><td>{title}</td><td>{_text(finding.remedy or "stays")}</td></tr>'
    )


def _section(number: int, finding: Finding, figure: Callable[[int], str]) -> str:
    shown = finding.cases[:CASES_SHOWN]
    cases = "".join(_case(case, figure) for case in shown)
    if finding.count <= len(shown):
        more = ""
    else:
        rest = "; findings.json has all" if len(finding.cases) == finding.count else ""
        more = f" The first {len(shown)} are shown{rest}."
    return (
        f'<h2 id="finding-{number}">{_text(finding.title)}: {finding.count:,}</h2>'
        f'<p>{_text(finding.meaning, _LONGEST_MEANING)}{more}</p><div class="cases">{cases}</div>'
    )


def _case(case: Case, figure: Callable[[int], str]) -> str:
    """A case with its pictures, each with its name and words; names alone where the source made no record of them."""
    note = f"<p>{_text(case.note, 400)}</p>" if case.note else ""
    if case.records:
        body = "".join(figure(index) for index in case.records[:PICTURES_IN_A_CASE])
    else:
        body = f'<p class="name">{_text(", ".join(case.names[:PICTURES_IN_A_CASE]), 400)}</p>'
    left = len(case.names) - PICTURES_IN_A_CASE
    more = f'<p class="name">and {left:,} more</p>' if left > 0 else ""
    return f'<div class="case">{note}{body}{more}</div>'


def _text(text: str, longest: int = 200) -> str:
    return html.escape(printable(text, longest))


def _figures(source: Source) -> Callable[[int], str]:
    """A record as an element of the page; one that is in several cases is read once."""
    made: dict[int, str] = {}
    writer = CaptionWriter()

    def figure(index: int) -> str:
        if index not in made:
            record = source.records[index]
            words = _text(writer.full(record), _LONGEST_WORDS)
            lines = f'<span class="name">{_text(record.key)}</span>' + (f"<br>{words}" if words else "")
            made[index] = f"<figure>{_picture(source, index, words)}<figcaption>{lines}</figcaption></figure>"
        return made[index]

    return figure


def _picture(source: Source, index: int, words: str) -> str:
    try:
        image = open_image(source.read_picture(index))
    except ToileError:
        return ""  # its note says why it cannot be read
    image.thumbnail((_THUMB_SIDE, _THUMB_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img alt="{words}" {size} src="data:image/jpeg;base64,{data}">'
