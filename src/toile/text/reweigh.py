"""The same prompt with another weight for one of its words."""

from __future__ import annotations

import re

from toile.errors import ToileError
from toile.text.lora_tags import lora_tags
from toile.text.prompt import Piece, parse_prompt, unparse_prompt


def with_weight(prompt: str, phrase: str, weight: float) -> str:
    """A prompt in which a word, or several in a row, weigh so much wherever they occur; all else keeps its weight.

    Args:
        prompt: see `toile.text.prompt`.
        phrase: as it stands in the prompt; capitals do not matter, parts of words do not count.
        weight: 1 is what words weigh without a weight.

    Raises:
        ToileError: the phrase does not occur, or the grammar refuses the weight.
    """
    words = [re.escape(word) for word in phrase.split()]
    pattern = re.compile(r"(?<!\w)" + r"\s+".join(words) + r"(?!\w)", re.IGNORECASE)
    found = False
    parts = []
    for part in parse_prompt(prompt):
        pieces: list[Piece] = []
        for piece in part:
            start = 0
            for match in pattern.finditer(piece.text) if words else ():
                found = True
                pieces += [Piece(piece.text[start : match.start()], piece.weight), Piece(match.group(), weight)]
                start = match.end()
            pieces.append(Piece(piece.text[start:], piece.weight))
        parts.append(tuple(piece for piece in pieces if piece.text))
    if not found:
        raise ToileError(f"{phrase!r} is not in the prompt {prompt!r}; give a word of it")
    result = unparse_prompt(parts) + "".join(f" {use.tag}" for use in lora_tags(prompt))
    parse_prompt(result)
    return result
