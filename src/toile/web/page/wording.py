"""The words of a prompt one by one, each with its weight, and the prompt that says them with other weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from toile.errors import ToileError
from toile.text.lora_tags import lora_tags
from toile.text.prompt import MAX_WEIGHT, Piece, parse_prompt, unparse_prompt

MOST_WORDS = 400
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class Word:
    """A stretch of a prompt.

    Attributes:
        text: as it stands there.
        weight: how much it counts.
        kind: "word", "small" for words of grammar, "gap" for what stands between, "break" for a new row.
    """

    text: str
    weight: float = 1.0
    kind: str = "word"


def split_words(prompt: str, small: Collection[str] = ()) -> list[Word]:
    """A prompt's words and what stands between them, in order; tags of LoRAs are left out.

    Args:
        prompt: see `toile.text.prompt`.
        small: words that seldom need a weight, in lower case.

    Raises:
        ToileError: the grammar refuses it.
    """
    words: list[Word] = []
    for number, part in enumerate(parse_prompt(prompt)):
        if number:
            words.append(Word("", 1.0, "break"))
        for piece in part:
            end = 0
            for match in _WORD.finditer(piece.text):
                if match.start() > end:
                    words.append(Word(piece.text[end : match.start()], piece.weight, "gap"))
                kind = "small" if match.group().lower() in small else "word"
                words.append(Word(match.group(), piece.weight, kind))
                end = match.end()
            if end < len(piece.text):
                words.append(Word(piece.text[end:], piece.weight, "gap"))
    return words


def join_words(words: Sequence[Word], prompt: str = "") -> str:
    """The prompt that says these words with their weights; between equal weights one pair of brackets holds all.

    Args:
        words: as `split_words` gave them, with other weights.
        prompt: where they came from; its tags of LoRAs are kept.

    Raises:
        ToileError: a weight beyond what the grammar allows.
    """
    for word in words:
        if not -MAX_WEIGHT <= word.weight <= MAX_WEIGHT:
            raise ToileError(f"weight is {word.weight:g}; allowed: {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
    parts: list[list[Piece]] = [[]]
    for index, word in enumerate(words):
        if word.kind == "break":
            parts.append([])
            continue
        weight = _gap_weight(words, index) if word.kind == "gap" else word.weight
        if parts[-1] and parts[-1][-1].weight == weight:
            parts[-1][-1] = Piece(parts[-1][-1].text + word.text, weight)
        else:
            parts[-1].append(Piece(word.text, weight))
    tags = "".join(f" {use.tag}" for use in lora_tags(prompt))
    return unparse_prompt(parts) + tags


def _gap_weight(words: Sequence[Word], index: int) -> float:
    """What stands between two words weighs as they do, if both weigh the same."""
    before = words[index - 1].weight if index else 1.0
    after = words[index + 1].weight if index + 1 < len(words) else 1.0
    return before if before == after else 1.0
