"""Words that may come from anywhere, such as captions and names of files, made fit for a page or a terminal."""

from __future__ import annotations

import html
import json
from typing import Any


def printable(text: str, longest: int = 300) -> str:
    """A text without control signs or half surrogates, and not endless."""
    if len(text) > longest:
        text = text[: longest - 3] + "..."
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def shown(text: str, longest: int = 300) -> str:
    """A printable text escaped for HTML and its attributes; a percent sign stays with its number."""
    return html.escape(printable(text, longest)).replace(" %", "&nbsp;%")


def shown_value(value: Any) -> str:
    """A JSON value for people, escaped."""
    if isinstance(value, float):
        return shown(f"{value:.6g}")
    return shown(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False), 2000)
