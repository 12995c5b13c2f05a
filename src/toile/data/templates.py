"""The small template language of captions: `{slot}`, `[group]`, and an article that agrees with the next word."""

from __future__ import annotations

import re
from collections.abc import Mapping

from toile.errors import ToileError

SLOTS = frozenset({"a", "article", "colour", "pattern", "detail", "people", "owner", "usage", "season", "year"})
_TOKEN = re.compile(r"\{(\w+)\}|\[([^\[\]]*)\]|([^\[\]{}]+)|(.)", re.DOTALL)
_ARTICLE_MARK = "\1"
# Written with a vowel, spoken with a consonant.
_SPOKEN_CONSONANT = ("uni", "use", "eu", "one", "ut")


class Template:
    """A compiled caption template.

    source: text with `{slot}` and `[group]`. A slot without a word vanishes, and so does a group all of whose slots
    are without one. `{a}` becomes a or an, and nothing (or `a pair of`) before a plural.
    Raises ToileError for an unknown slot or unpaired brackets.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._pieces = tuple(_parse(source, source))

    def fill(self, words: Mapping[str, str], plural_article: str = "") -> str:
        """The caption for these words by slot; missing or empty ones vanish.

        plural_article: what `{a}` becomes before a plural article name: "" or "a pair of".
        """
        caption = " ".join(self._render(words).split()).replace(" ,", ",").strip(", ")
        if _ARTICLE_MARK in caption:
            caption = _agree(caption, words.get("article", ""), plural_article)
        return caption

    def _render(self, words: Mapping[str, str]) -> str:
        parts: list[str] = []
        for literal, slot, group in self._pieces:
            if slot:
                parts.append(_ARTICLE_MARK if slot == "a" else words.get(slot, ""))
            elif group is None:
                parts.append(literal)
            elif any(words.get(name) for _, name, _ in group._pieces):
                parts.append(group._render(words))
        return "".join(parts)


def _parse(text: str, source: str) -> list[tuple[str, str, Template | None]]:
    pieces: list[tuple[str, str, Template | None]] = []
    for match in _TOKEN.finditer(text):
        slot, group, literal, stray = match.groups()
        if stray is not None or (slot and slot not in SLOTS):
            allowed = ", ".join(sorted(SLOTS))
            raise ToileError(f"caption template {source!r} has {stray or slot!r}; allowed are [groups] and {allowed}")
        pieces.append((literal or "", slot or "", None if group is None else Template(group)))
    return pieces


def is_plural(article: str) -> bool:
    """Whether an article's name takes no `a`: shoes, jeans, cufflinks, but not dress."""
    return article.endswith("s") and not article.endswith("ss")


def _agree(caption: str, article: str, plural_article: str) -> str:
    before, _, after = caption.partition(_ARTICLE_MARK)
    after = after.strip()
    if is_plural(article):
        chosen = plural_article
    else:
        vowel = after[:1] in tuple("aeiou") and not after.startswith(_SPOKEN_CONSONANT)
        chosen = "an" if vowel else "a"
    return " ".join(part for part in (before.strip(), chosen, after) if part)
