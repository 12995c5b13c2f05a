"""The report as one page: every finding with its first cases in pictures, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable

from PIL import Image

from toile.data.images import open_image
from toile.data.records import Source
from toile.data_check.findings import Case, Diagnosis, Finding, printable
from toile.errors import ToileError

CASES_SHOWN = 12
PICTURES_IN_A_CASE = 6
_THUMB_SIDE = 112
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
.case img { margin-right: 4px; vertical-align: top; background: #eee; } .name { font-size: .8rem; color: #666; }
</style></head><body>
"""


def render_page(diagnosis: Diagnosis, source: Source, name: str) -> str:
    """The page as HTML text.

    Args:
        diagnosis: the result of a check of the source.
        source: pictures of the cases that are shown are read from it once more.
        name: what the data is called.
    """
    rows = "".join(_row(number, finding) for number, finding in enumerate(diagnosis.findings))
    thumb = _thumbs(source)
    sections = [_section(number, finding, thumb) for number, finding in enumerate(diagnosis.findings) if finding.count]
    not_checked = "".join(f"<li>{_text(line)}</li>" for line in diagnosis.not_checked)
    return (
        f"{_HEAD}<h1>Check of {_text(name)}</h1>"
        f"<p>{diagnosis.num_checked:,} of {diagnosis.num_records:,} records were looked at; {len(diagnosis.kept):,} "
        "would stay in a cleaned list. The data itself is never changed.</p>"
        f"<table><tr><th>count</th><th>finding</th><th>with --fix</th></tr>{rows}</table>"
        f"<h2>Not looked for</h2><ul>{not_checked}</ul>{''.join(sections)}</body></html>\n"
    )


def _row(number: int, finding: Finding) -> str:
    title = f'<a href="#finding-{number}">{_text(finding.title)}</a>' if finding.count else _text(finding.title)
    empty = "" if finding.count else ' class="none"'
    remedy = _text(finding.remedy) if finding.remedy else "stays"
    return f'<tr{empty}><td class="count">{finding.count:,}</td><td>{title}</td><td>{remedy}</td></tr>'


def _section(number: int, finding: Finding, thumb: Callable[[int], str]) -> str:
    shown = finding.cases[:CASES_SHOWN]
    cases = "".join(_case(case, thumb) for case in shown)
    more = f" The first {len(shown)} are shown; findings.json has more." if finding.count > len(shown) else ""
    return (
        f'<h2 id="finding-{number}">{_text(finding.title)}: {finding.count:,}</h2>'
        f'<p>{_text(finding.meaning)}{more}</p><div class="cases">{cases}</div>'
    )


def _case(case: Case, thumb: Callable[[int], str]) -> str:
    pictures = "".join(thumb(index) for index in case.records[:PICTURES_IN_A_CASE])
    names = ", ".join(case.names[:PICTURES_IN_A_CASE])
    if len(case.names) > PICTURES_IN_A_CASE:
        names += f" and {len(case.names) - PICTURES_IN_A_CASE:,} more"
    note = f"<p>{_text(case.note, 400)}</p>" if case.note else ""
    return f'<div class="case">{pictures}{note}<p class="name">{_text(names, 400)}</p></div>'


def _text(text: str, longest: int = 200) -> str:
    return html.escape(printable(text, longest))


def _thumbs(source: Source) -> Callable[[int], str]:
    """The picture of a record as an element of the page; one that is in several cases is read once."""
    made: dict[int, str] = {}

    def thumb(index: int) -> str:
        if index not in made:
            made[index] = _element(source, index)
        return made[index]

    return thumb


def _element(source: Source, index: int) -> str:
    try:
        image = open_image(source.read_picture(index))
    except ToileError:
        return ""  # its note says why it cannot be read
    image.thumbnail((_THUMB_SIDE, _THUMB_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img alt="" width="{image.width}" height="{image.height}" src="data:image/jpeg;base64,{data}">'
