"""Styles: named texts to go with prompts, in the file that the A1111 web UI keeps them in.

The file is CSV with a header and the columns name, prompt (in old files: text) and negative_prompt; further columns are
not looked at. `{prompt}` stands for what a person typed; without it a style is put behind that, after a comma.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from toile.errors import ToileError

PLACE = "{prompt}"


@dataclass(frozen=True)
class Style:
    """Texts to go with a prompt and with a negative prompt; either may be ""."""

    name: str
    prompt: str = ""
    negative: str = ""


def load_styles(path: Path) -> dict[str, Style]:
    """The styles of a file, by name, in its order.

    Args:
        path: a CSV file in UTF-8; rows without a name are skipped.

    Raises:
        ToileError: the file cannot be read, is no CSV with these columns, or gives one name to two styles.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ToileError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ToileError(f"{path} is no UTF-8 text (byte {error.start})") from error
    rows = csv.DictReader(io.StringIO(text), strict=True)
    styles: dict[str, Style] = {}
    try:
        columns = set(rows.fieldnames or ())
        if "name" not in columns or not columns & {"prompt", "text"}:
            raise ToileError(f"{path} needs a first line with the columns name,prompt,negative_prompt")
        for row in rows:
            name = (row["name"] or "").strip()
            prompt = row["prompt"] if "prompt" in columns else row["text"]
            style = Style(name, prompt or "", row.get("negative_prompt") or "")
            if name and styles.setdefault(name, style) != style:
                raise ToileError(f"{path}, line {rows.line_num}: there is another style {name!r} before; rename one")
    except csv.Error as error:
        raise ToileError(
            f"{path}, after line {rows.line_num}: {error}; quote texts with commas or line breaks"
        ) from error
    return styles


def find_styles(styles: Mapping[str, Style], names: Sequence[str]) -> tuple[Style, ...]:
    """The styles of these names, in this order.

    Raises:
        ToileError: there is no such style.
    """
    for name in names:
        if name not in styles:
            near = difflib.get_close_matches(name, styles, 3, cutoff=0.4)
            raise ToileError(f"there is no style {name!r}; near it: {', '.join(near or list(styles)[:10]) or 'none'}")
    return tuple(styles[name] for name in names)


def apply_style(text: str, style: str) -> str:
    """A prompt in a style.

    Args:
        text: what a person typed.
        style: the style's text for it; "" changes nothing.
    """
    if PLACE in style:
        return style.replace(PLACE, text)
    return ", ".join(part for part in (text.strip(), style.strip()) if part) if style.strip() else text
