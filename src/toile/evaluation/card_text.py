"""Texts from anywhere, made fit for a line of Markdown."""

from __future__ import annotations

import re

LONGEST = 400


def plain(text: object) -> str:
    """A text from anywhere as one line that Markdown shows as it is."""
    shown = str(text)
    shown = shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."
    shown = "".join(sign if sign.isprintable() else " " for sign in shown)
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", shown)
