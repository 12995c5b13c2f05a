r"""The grammar of prompts: which words weigh more or less than others, and where a new row of tokens begins.

It is that of the A1111 web UI's `parse_prompt_attention`:

- `(words)` weigh 1.1 times as much, `[words]` 1 / 1.1 times, `(words:1.3)` 1.3 times. Brackets nest, and their weights
  multiply, inner ones first. The two kinds are matched apart from each other, so they may also cross.
- A number is digits with at most one point and a sign, and only directly before `)` does it count as a weight. 0 and
  negative ones are allowed. In square brackets, and where no `(` is open, it is text.
- `\(`, `\)`, `\[`, `\]` and `\\` are the signs themselves. A backslash before anything else is left out.
- `BREAK` as a word of its own ends a row of tokens; white space around it is left out.
- Neighbours of equal weight become one piece.
- `<lora:name:0.8>` is no text: see `toile.text.lora_tags`.

Four things are other than there:

- An opening bracket that is never closed is text, as a closing one is that was never opened; there, it weighs
  everything up to the end.
- `BREAK` breaks inside brackets too, and is a word when written `\BREAK`.
- A number with several points is text, where A1111 fails.
- Weights beyond 100, infinite ones and those that are no number are refused, and so are brackets more than 100 deep.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from toile.errors import ToileError
from toile.text.lora_tags import without_lora_tags

MAX_WEIGHT = 100.0
MAX_DEPTH = 100
BREAK = "BREAK"

_ROUND, _SQUARE = 1.1, 1 / 1.1
_BREAK = re.compile(r"\bBREAK\b")
# Possessive (`+` after a quantifier), so that a long row of digits or spaces is not tried in every division.
_SIGNS = re.compile(
    r"""
    \\(?P<literal>BREAK\b|[()\[\]\\]|)
    |(?P<bracket>[()\[\]])
    |:\s*+(?P<number>[+-]?(?:\d++(?:\.\d*+)?|\.\d++|(?i:nan|inf|infinity)))\s*+\)
    |[^\\()\[\]:]++|:
    """,
    re.VERBOSE,
)


class Piece(NamedTuple):
    """A stretch of text, without the grammar's signs, and how much it weighs."""

    text: str
    weight: float = 1.0


# What stands between breaks, in order; a part may be empty.
Parts = tuple[tuple[Piece, ...], ...]


def parse_prompt(text: str) -> Parts:
    r"""Reads a prompt as this file's grammar says.

    Args:
        text: anything; without `\ ( ) [ ]`, `<lora:...>` and the word BREAK it is one part of one piece of weight 1,
            itself.

    Returns:
        The parts between breaks, at least one; each a tuple of pieces with text in them, neighbours of different
        weight. The prompt "" is one part without pieces.

    Raises:
        ToileError: a weight that is no number or beyond ±100, brackets more than 100 deep.
    """
    found = _Found()
    for match in _SIGNS.finditer(without_lora_tags(text)):
        literal, bracket, number = match.group("literal", "bracket", "number")
        if literal is not None:
            found.add(literal)
        elif bracket in ("(", "["):
            found.open(bracket)
        elif (bracket == ")" or number is not None) and found.open_round:
            found.close(found.open_round, _ROUND if number is None else _checked_weight(float(number), number))
        elif bracket == "]" and found.open_square:
            found.close(found.open_square, _SQUARE)
        else:
            first, *others = _BREAK.split(match.group())
            found.add(first)
            for other in others:
                found.add_break()
                found.add(other)
    return found.parts()


def unparse_prompt(parts: Sequence[Sequence[Piece]]) -> str:
    """A prompt that `parse_prompt` reads as these parts: `unparse_prompt(parse_prompt(text))` means what text does."""
    return f" {BREAK} ".join("".join(_written(piece) for piece in part) for part in parts)


def escape_prompt(text: str) -> str:
    """A prompt that means this text, whatever signs are in it, with weight 1."""
    text = re.sub(r"([\\()\[\]])", r"\\\1", text)
    return _BREAK.sub(rf"\\{BREAK}", text)


class _Found:
    """What has been read so far: texts with their weights, and which of them are brackets that are still open."""

    def __init__(self) -> None:
        self.texts: list[str | None] = []  # None is a break
        self.weights: list[float] = []
        self.depths: list[int] = []
        self.open_round: list[int] = []
        self.open_square: list[int] = []

    def add(self, text: str | None) -> None:
        self.texts.append(text)
        self.weights.append(1.0)
        self.depths.append(0)

    def add_break(self) -> None:
        self.add(None)

    def open(self, bracket: str) -> None:
        (self.open_round if bracket == "(" else self.open_square).append(len(self.texts))
        self.add(bracket)  # text for as long as nothing closes it

    def close(self, opened: list[int], factor: float) -> None:
        first = opened.pop()
        self.texts[first] = ""
        for index in range(first, len(self.texts)):
            self.weights[index] *= factor
            self.depths[index] += 1
        if max(self.depths[first:]) > MAX_DEPTH:
            raise ToileError(
                f"brackets in the prompt are more than {MAX_DEPTH} deep; write the weight, as in (word:1.3)"
            )

    def parts(self) -> Parts:
        parts: list[list[Piece]] = [[]]
        for text, weight in zip(self.texts, self.weights, strict=True):
            pieces = parts[-1]
            if text is None:
                _strip_end(pieces)
                parts.append([])
                continue
            text = text.lstrip() if len(parts) > 1 and not pieces else text
            if not text:
                continue
            if pieces and pieces[-1].weight == weight:
                pieces[-1] = Piece(pieces[-1].text + text, weight)
            else:
                pieces.append(Piece(text, _checked_weight(weight, f"{weight:g}")))
        return tuple(tuple(pieces) for pieces in parts)


def _strip_end(pieces: list[Piece]) -> None:
    while pieces:
        text, weight = pieces.pop()
        if text.rstrip():
            pieces.append(Piece(text.rstrip(), weight))
            return


def _checked_weight(weight: float, written: str) -> float:
    if not abs(weight) <= MAX_WEIGHT:  # also for NaN
        shown = written if len(written) <= 20 else f"{written[:20]}..."
        raise ToileError(
            f"a weight in the prompt is {shown}; allowed: numbers from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}, "
            r"and \( and \) where brackets are meant as text"
        )
    return weight


def _written(piece: Piece) -> str:
    text = escape_prompt(piece.text)
    # All digits that tell this number from its neighbours, and no exponent, which the grammar does not know.
    return text if piece.weight == 1 else f"({text}:{Decimal(repr(float(piece.weight))):f})"
