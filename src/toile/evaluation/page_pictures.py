"""The page's pictures: makers side by side, several of a prompt, copies beside what they copy, worst cases, stages.

Shapes: N pictures, K pictures of one prompt, H x W their size.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from toile.data.images import open_image
from toile.evaluation.page_text import shown
from toile.evaluation.scores import Entry, Evaluation

PROMPTS_SHOWN = 10
WORST_SHOWN = 8
COPIES_SHOWN = 6
VARIETY_PROMPTS_SHOWN, VARIETY_PICTURES_SHOWN = 3, 6
_SIDE, _SHEET_WIDTH, _SMALL = 96, 720, 64
_LONGEST_CAPTION = 140


@dataclass(frozen=True, eq=False)
class CopyPair:
    """A picture and what it is most like of what was learnt from.

    Attributes:
        index: of the picture among its maker's.
        nearest: (H, W, 3) uint8, the nearest training picture.
        distance: to it, in the units of the audit.
    """

    index: int
    nearest: np.ndarray
    distance: float


@dataclass(frozen=True, eq=False)
class CopyPairs:
    """What the audit for copies found of one maker: the most copy-like pictures first, and its sentence."""

    pairs: Sequence[CopyPair]
    sentence: str = ""
    is_alarm: bool = False


@dataclass(frozen=True, eq=False)
class PromptRow:
    """Several pictures of one prompt: its caption and (K, H, W, 3) uint8."""

    caption: str
    pixels: Any


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a page.

    Only rows that are shown are read, so the arrays may lie in files (`numpy.memmap`).

    Attributes:
        made: (N, H, W, 3) uint8 by the name of a maker or control, in the order of the captions.
        real: (N, H, W, 3) uint8, the real pictures of the same prompts.
        nearest: by name, what the audit for copies found.
        variety: by name, rows of several pictures of one prompt; the same prompts for all.
        stages: by name, what a training's sample prompts looked like: steps with a sheet each, a PIL image or the bytes
            of a picture file.
    """

    made: Mapping[str, Any]
    real: Any = None
    nearest: Mapping[str, CopyPairs] = field(default_factory=dict)
    variety: Mapping[str, Sequence[PromptRow]] = field(default_factory=dict)
    stages: Mapping[str, Sequence[tuple[int, Image.Image | bytes]]] = field(default_factory=dict)

    def row(self, name: str, index: int) -> np.ndarray | None:
        """One picture (H, W, 3) of a maker, None where there is none."""
        return _row(self.made.get(name), index)


def prompts_shown(num_captions: int, most: int = PROMPTS_SHOWN) -> list[int]:
    """Evenly spaced positions of prompts, the first and the last among them."""
    count = min(num_captions, most)
    return [round(place) for place in np.linspace(0, num_captions - 1, count)] if count else []


def side_by_side(evaluation: Evaluation, pictures: Pictures) -> str:
    """A table with a row for the real pictures and one for each maker, a column for each of a few prompts."""
    indices = prompts_shown(len(evaluation.captions))
    captions = [_caption(evaluation, index) for index in indices]
    rows = (
        [] if pictures.real is None else [_strip("real pictures", [_row(pictures.real, i) for i in indices], captions)]
    )
    rows += [_strip(name, [pictures.row(name, i) for i in indices], captions) for name in _names(evaluation.entries)]
    return _sheet(captions, rows)


def stage_strips(evaluation: Evaluation, pictures: Pictures, stages: Sequence[Entry]) -> str:
    """The same prompts after each stage of a training: rows in the order of the steps, then sheets made on the way."""
    indices = prompts_shown(len(evaluation.captions), 8)
    captions = [_caption(evaluation, index) for index in indices]
    rows = [
        _strip(f"step {stage.step:,}", [pictures.row(stage.name, i) for i in indices], captions)
        for stage in sorted(stages, key=lambda stage: stage.step or 0)
        if stage.name in pictures.made
    ]
    return _sheet(captions, rows) if rows else ""


def stage_sheets(evaluation: Evaluation, pictures: Pictures) -> str:
    """Sheets that were made on the way of a training, by maker and step."""
    parts = []
    for name in _names((*evaluation.entries, *evaluation.controls)):
        sheets = pictures.stages.get(name, ())
        if sheets:
            figures = "".join(_stage(name, step, sheet) for step, sheet in sheets)
            parts.append(f'<h4>{shown(name)}</h4><div class="cases">{figures}</div>')
    return "".join(parts)


def variety_rows(evaluation: Evaluation, pictures: Pictures) -> str:
    """For each prompt a table with a row of its pictures for each maker and control."""
    tables: dict[str, list[str]] = {}
    for name in _names((*evaluation.entries, *evaluation.controls)):
        for row in tuple(pictures.variety.get(name, ()))[:VARIETY_PROMPTS_SHOWN]:
            count = min(len(row.pixels), VARIETY_PICTURES_SHOWN)
            shots = [_row(row.pixels, index) for index in range(count)]
            tables.setdefault(row.caption, []).append(_strip(name, shots, [row.caption] * count))
    parts = [
        f'<div class="block"><h3 class="caption">{shown(caption)}</h3>{_sheet([], rows)}</div>'
        for caption, rows in tables.items()
    ]
    return f'<div class="blocks">{"".join(parts)}</div>' if parts else ""


def copies(evaluation: Evaluation, pictures: Pictures) -> str:
    """For each maker the most copy-like pictures beside their nearest training pictures, after the audit's sentence."""
    parts = []
    for name in _names((*evaluation.entries, *evaluation.controls)):
        found = pictures.nearest.get(name)
        if found is None:
            continue
        kind = "alarm" if found.is_alarm else "calm"
        sentence = f'<p class="{kind}">{shown(found.sentence, 600)}</p>' if found.sentence else ""
        pairs = "".join(_pair(pictures.row(name, pair.index), pair) for pair in tuple(found.pairs)[:COPIES_SHOWN])
        parts.append(f'<h3>{shown(name)}</h3>{sentence}<div class="cases">{pairs}</div>')
    return "".join(parts)


def worst_cases(evaluation: Evaluation, pictures: Pictures) -> str:
    """For each maker and control its worst pictures with the reason and the caption."""
    parts = []
    for entry in (*evaluation.entries, *evaluation.controls):
        if not entry.worst:
            continue
        cases = "".join(
            f"<figure>{_image(pictures.row(entry.name, case.index), case.reason)}"
            f"<figcaption><b>{shown(case.reason)}</b>"
            f"<br>{shown(_caption(evaluation, case.index), _LONGEST_CAPTION)}"
            f'<br><span class="faint">picture {case.index:,}</span></figcaption></figure>'
            for case in entry.worst[:WORST_SHOWN]
        )
        parts.append(f'<h3>{shown(entry.name)}</h3><div class="cases">{cases}</div>')
    return "".join(parts)


def _names(entries: Iterable[Entry]) -> list[str]:
    return [entry.name for entry in entries]


def _caption(evaluation: Evaluation, index: int) -> str:
    return evaluation.captions[index] if 0 <= index < len(evaluation.captions) else ""


def _row(pixels: Any, index: int) -> np.ndarray | None:
    if pixels is None or not 0 <= index < len(pixels):
        return None
    return np.asarray(pixels[index])


def _sheet(captions: Sequence[str], rows: Sequence[str]) -> str:
    heads = "".join(f'<th class="caption">{shown(caption, _LONGEST_CAPTION)}</th>' for caption in captions)
    head = f"<thead><tr><th></th>{heads}</tr></thead>" if heads else ""
    return f'<div class="wide"><table class="sheet">{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _strip(name: str, shots: Sequence[np.ndarray | None], captions: Sequence[str]) -> str:
    cells = "".join(f"<td>{_image(shot, caption)}</td>" for shot, caption in zip(shots, captions, strict=True))
    return f'<tr><th scope="row">{shown(name)}</th>{cells}</tr>'


def _pair(made: np.ndarray | None, pair: CopyPair) -> str:
    return (
        f'<figure class="pair">{_image(made, "made picture")}{_image(pair.nearest, "nearest training picture")}'
        f'<figcaption>made, nearest learnt from<br><span class="faint">picture {pair.index:,}, distance '
        f"{pair.distance:.4g}</span></figcaption></figure>"
    )


def _stage(name: str, step: int, sheet: Image.Image | bytes) -> str:
    image = open_image(sheet) if isinstance(sheet, bytes) else sheet.convert("RGB")
    image.thumbnail((_SHEET_WIDTH, 4 * _SHEET_WIDTH), Image.Resampling.LANCZOS)
    size = f'width="{image.width}" height="{image.height}"'
    words = shown(f"{name} after {step:,} steps")
    return (
        f'<figure class="stage"><img alt="{words}" {size} src="{_data(image)}">'
        f"<figcaption>step {step:,}</figcaption></figure>"
    )


def _image(pixels: np.ndarray | None, words: str) -> str:
    """A thumbnail whose longer side is 96 pixels; of pictures far smaller each pixel is shown as a square."""
    if pixels is None:
        return '<span class="faint">no picture</span>'
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    is_coarse = max(image.size) < _SMALL
    factor = _SIDE // max(image.size) if is_coarse else _SIDE / max(image.size)
    kind = ' class="coarse"' if is_coarse else ""
    size = f'width="{round(factor * image.width)}" height="{round(factor * image.height)}"'
    return f'<img alt="{shown(words, _LONGEST_CAPTION)}"{kind} {size} src="{_data(image)}">'


def _data(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
