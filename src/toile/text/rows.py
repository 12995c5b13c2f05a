"""Prompts as rows of tokens: as many rows as they need, each with a start and an end of its own.

A text encoder reads rows of one length. A longer prompt goes on in the next row, as in the A1111 web UI: a row ends at
BREAK, or where it is full; if a comma stands in its last 20 tokens, the words after the comma move to the next row.

Shapes: R rows, L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from toile.errors import ToileError
from toile.text.prompt import Parts, Piece, parse_prompt, unparse_prompt
from toile.text.tokenizer import WORD_END, Tokenizer

MAX_ROWS = 8
COMMA_REACH = 20


@dataclass(frozen=True)
class PromptWord:
    """A word of a prompt: a run of letters, a single digit or a run of signs.

    Attributes:
        text: as typed.
        weight: what the prompt gives it.
        positions: of its tokens among the R x L states of the prompt, ascending.
    """

    text: str
    weight: float
    positions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """A prompt as its text encoder and its U-Net read it.

    Attributes:
        ids: (R, L) int64; each row is start, tokens, end, padding.
        weights: (R, L) float32; 1 for start, end and padding.
        count: tokens of the prompt, without start, end and padding.
        words: all that are in the rows, in the prompt's order; a word typed twice is there twice.
        cut: the end of the prompt that did not fit into `MAX_ROWS` rows; "" if all of it did.
    """

    ids: Tensor
    weights: Tensor
    count: int
    words: tuple[PromptWord, ...]
    cut: str = ""

    @property
    def num_rows(self) -> int:
        """R, at least 1."""
        return len(self.ids)

    @property
    def is_weighted(self) -> bool:
        """Whether any token weighs more or less than 1."""
        return bool((self.weights != 1).any())

    def positions_of(self, phrase: str) -> tuple[int, ...]:
        """Where a word or several words in a row stand among the R x L states, at every place they occur.

        Args:
            phrase: "red", "t-shirt" or "red dress"; capitals and white space do not matter.

        Raises:
            ToileError: they do not occur.
        """
        wanted = "".join(phrase.split()).casefold()
        positions: list[int] = []
        for first in range(len(self.words)):
            joined = ""
            for last in range(first, len(self.words)):
                joined += "".join(self.words[last].text.split()).casefold()
                if joined == wanted:
                    positions += [place for word in self.words[first : last + 1] for place in word.positions]
                if not wanted.startswith(joined) or joined == wanted:
                    break
        if not wanted or not positions:
            raise ToileError(
                f"{phrase!r} is not in the prompt; its words: {' '.join(word.text for word in self.words)}"
            )
        return tuple(dict.fromkeys(positions))


def tokenize_prompt(tokenizer: Tokenizer, text: str, max_rows: int = MAX_ROWS) -> PromptTokens:
    """Reads a prompt's grammar and puts its tokens into rows.

    Every piece between signs of the grammar is split into tokens on its own. A prompt without such signs that fits into
    one row gives the row of `tokenizer.batch`.

    Args:
        tokenizer: says how long a row is.
        text: a prompt, see `toile.text.prompt`.
        max_rows: what needs more rows is cut; at least 1.

    Raises:
        ToileError: the grammar refuses a weight.
    """
    parts = parse_prompt(text)
    filler = _Filler(tokenizer, max_rows)
    for number, part in enumerate(parts):
        if number > 0:
            filler.next_row()
        for piece_number, piece in enumerate(part):
            filler.add(piece, number, piece_number)
    return filler.finish(parts)


def stack_prompts(tokenizer: Tokenizer, prompts: Sequence[PromptTokens], num_rows: int) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths as one batch, each padded with rows of the empty prompt.

    Args:
        tokenizer: the one the prompts were made with.
        prompts: B of them.
        num_rows: R, at least that of every prompt.

    Returns:
        ids (B, R, L) int64 and weights (B, R, L) float32.
    """
    empty = torch.tensor(tokenizer.row([]))
    ids = [[*prompt.ids, *[empty] * (num_rows - prompt.num_rows)] for prompt in prompts]
    weights = [[*prompt.weights, *[torch.ones(len(empty))] * (num_rows - prompt.num_rows)] for prompt in prompts]
    return torch.stack([torch.stack(rows) for rows in ids]), torch.stack([torch.stack(rows) for rows in weights])


class _Placed(NamedTuple):
    """A token in a row: its word's number in the prompt, and where in the prompt's parts it begins."""

    id: int
    word: int
    part: int
    piece: int
    start: int


class _Filler:
    """Fills rows with tokens, one after the other; stops looking once there is more than may be kept."""

    def __init__(self, tokenizer: Tokenizer, max_rows: int) -> None:
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.room = tokenizer.max_length - 2
        self.comma = tokenizer.vocab.get("," + WORD_END)
        self.rows: list[list[_Placed]] = [[]]
        self.last_comma: int | None = None
        self.words: list[tuple[str, float]] = []

    def next_row(self, moved: Sequence[_Placed] = ()) -> None:
        self.rows.append(list(moved))
        self.last_comma = None

    def add(self, piece: Piece, part: int, piece_number: int) -> None:
        tokens = self.tokenizer.tokens(piece.text)
        first_word = len(self.words)
        for index, token in enumerate(tokens):
            is_first = index == 0 or token.word != tokens[index - 1].word
            if is_first:
                self.words.append((piece.text[token.start : token.end], piece.weight))
            else:
                text = piece.text[tokens[index - 1].end : token.end]
                self.words[-1] = (self.words[-1][0] + text, piece.weight)
            if len(self.rows) > self.max_rows and self.rows[-1]:
                return  # the row that holds the first token to be cut has begun
            if is_first and token.id >= self.tokenizer.vocab_size:
                self._make_room(sum(other.word == token.word for other in tokens[index:]))
            self._place(_Placed(token.id, first_word + token.word, part, piece_number, token.start))

    def _make_room(self, count: int) -> None:
        """Vectors of one learned word stay together in a row."""
        if self.rows[-1] and len(self.rows[-1]) + count > self.room:
            self.next_row()

    def _place(self, token: _Placed) -> None:
        row = self.rows[-1]
        if token.id == self.comma:
            self.last_comma = len(row)
        elif len(row) == self.room and self.last_comma is not None and len(row) - self.last_comma <= COMMA_REACH:
            moved = row[self.last_comma + 1 :]
            del row[self.last_comma + 1 :]
            self.next_row(moved)
        if len(self.rows[-1]) == self.room:
            self.next_row()
        self.rows[-1].append(token)

    def finish(self, parts: Parts) -> PromptTokens:
        if len(self.rows) > 1 and not self.rows[-1]:
            self.rows.pop()  # as a BREAK at the end asks for nothing
        kept, cut = self.rows[: self.max_rows], [token for row in self.rows[self.max_rows :] for token in row]
        length = self.tokenizer.max_length
        positions: dict[int, list[int]] = {}
        weights = torch.ones(len(kept), length)
        for number, row in enumerate(kept):
            for index, token in enumerate(row, start=1):
                positions.setdefault(token.word, []).append(number * length + index)
                weights[number, index] = self.words[token.word][1]
        return PromptTokens(
            torch.tensor([self.tokenizer.row([token.id for token in row]) for row in kept]),
            weights,
            sum(len(row) for row in kept),
            tuple(PromptWord(*self.words[word], tuple(places)) for word, places in positions.items()),
            _text_from(parts, cut[0]) if cut else "",
        )


def _text_from(parts: Parts, token: _Placed) -> str:
    text, weight = parts[token.part][token.piece]
    rest = (Piece(text[token.start :], weight), *parts[token.part][token.piece + 1 :])
    return unparse_prompt((rest, *parts[token.part + 1 :]))
