"""Reading prompts: what people write, in the words that a model learnt.

A prompt whose words the model all knows stays as it is, to the letter. Any other is taken apart into what captions say
(colour, article, for whom, ...) and written anew in the order of captions; what the model does not know is left out and
told. Weights, breaks and tags of LoRAs stay with the words they stood at.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from toile.errors import ToileError
from toile.text.likely_articles import draw_article, likeliest_article
from toile.text.lora_tags import lora_tags
from toile.text.phrases import JOINS, Phrases, forms_of
from toile.text.prompt import Parts, Piece, parse_prompt, unparse_prompt
from toile.text.slips import meant_words
from toile.text.word_tables import SLOTS, WordTables

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?'?|[^\w\s!-/:-@\[-`{-~]")
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u2032": "'", "\u0060": "'", "\u00b4": "'"})
_NEGATIONS = frozenset({"not", "no", "without", "never", "non", "isn't", "don't", "dont"})
_NEGATION_REACH = 3
_DIVIDES = re.compile("[,.;:!?]")
_MOST = {"pattern": 3, "detail": 2}
DEFAULT_GROUP = "Apparel"


class Correction(NamedTuple):
    """A slip of the pen: the word as typed, as it was read, and what else it may have been."""

    typed: str
    read: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """A prompt as a model reads it.

    Attributes:
        typed: the prompt.
        text: what the text encoder is given; the prompt itself if the model knows all its words, or none.
        fields: slot of a caption -> its words, as far as the prompt says them.
        unknown: words that the model does not know, in the prompt's order; they are not in `text`, unless it is the
            prompt itself or they were to be kept.
        left_out: words that it knows, but for which a caption has no place, such as a second article.
        corrections: slips of the pen.
        drawn: the article that the prompt does not name and that was drawn; "" if none was.
    """

    typed: str
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    corrections: tuple[Correction, ...] = ()
    drawn: str = ""

    @property
    def is_changed(self) -> bool:
        """Whether the model is given other words than were typed."""
        return self.text != self.typed

    def told(self) -> str:
        """One line for people: "read as: maroon dress for women (unknown: comfy)"; "" if there is nothing to tell."""
        notes = []
        if self.drawn:
            notes.append(f"no article that the model knows was named, drawn: {self.drawn}")
        for slip in self.corrections:
            others = f", which may also be {' or '.join(slip.others)}" if slip.others else ""
            notes.append(f"{slip.typed} read as {slip.read}{others}")
        if self.unknown:
            notes.append(f"unknown: {', '.join(self.unknown)}")
        if self.left_out:
            notes.append(f"left out: {', '.join(self.left_out)}")
        if not self.is_changed and not notes:
            return ""
        what = f"read as: {self.text}" if self.is_changed else "read as typed"
        return what + (f" ({'; '.join(notes)})" if notes else "")


@dataclass(frozen=True)
class _Token:
    """A word of the prompt: as typed, in the table's spelling, its weight, the number of its part, whether it stays as
    it is, and whether a comma or the like stands before it."""

    typed: str
    word: str
    weight: float
    part: int
    is_kept: bool = False
    is_apart: bool = False


@dataclass(frozen=True)
class _Found:
    """What some words in a row say: a slot, its possible words, weight, part, the places of the first and the last, the
    words as typed, whether they stand so in the tables, and the word before them."""

    slot: str
    meant: tuple[str, ...]
    weight: float
    part: int
    first: int
    last: int
    typed: str
    is_exact: bool
    before: str = ""


class PromptReader:
    """Reads prompts by the tables of one model; equal prompts and seeds give equal readings."""

    def __init__(self, tables: WordTables) -> None:
        self.tables = tables
        self._phrases = Phrases(tables)
        self._silent = frozenset(tables.silent)
        self._not_slips = frozenset(tables.no_slips)

    @property
    def num_phrases(self) -> int:
        """How many words and phrases it understands."""
        return self._phrases.num_exact

    def read(self, prompt: str, seed: int = 0, own_words: Collection[str] = (), keep_unknown: bool = False) -> Reading:
        """The reading of a prompt; it never fails, and reading it again changes nothing.

        Args:
            prompt: any text. One that the grammar of prompts refuses is left to it, as typed.
            seed: of the picture; decides which article is drawn where none is named.
            own_words: learned words of embeddings, which stay as they are.
            keep_unknown: leave in what the model does not know, because a LoRA may have taught it.
        """
        try:
            parts = parse_prompt(prompt)
        except ToileError:
            return Reading(prompt, prompt)  # whoever encodes it says what is wrong
        tokens, corrections = self._corrected(_tokens(parts, own_words), keep_unknown)
        found, unknown, left_out = self._match(tokens)
        is_known = all(token.is_kept or self._is_known(token) for token in tokens)
        is_known = is_known and all(item.is_exact for item in found)
        fields, places, more = self._chosen(found)
        if is_known or not found:
            return Reading(prompt, prompt, fields, () if is_known else tuple(unknown))
        kept = [token for token in tokens if token.is_kept or (keep_unknown and token.typed in unknown)]
        drawn = ""
        if "article" not in fields and not kept:
            group = next((item.meant[0] for item in found if item.slot == "group"), DEFAULT_GROUP)
            drawn = draw_article(self.tables.articles, fields, group, random.Random(f"article {seed}"))
            if drawn:
                fields, part = {**fields, "article": drawn}, found[0].part
                places = [*places, ("article", _Found("article", (drawn,), 1.0, part, -1, -1, "", True))]
        text = unparse_prompt(_written(places, kept, len(parts)))
        text += "".join(f" {use.tag}" for use in lora_tags(prompt))
        return Reading(
            prompt, text, fields, tuple(unknown), tuple(dict.fromkeys([*left_out, *more])), corrections, drawn
        )

    def unlearnt(self, prompt: str, own_words: Collection[str] = ()) -> tuple[str, ...]:
        """The words of a prompt that no caption had, whatever they mean, but for those of grammar and courtesy."""
        try:
            tokens = _tokens(parse_prompt(prompt), own_words)
        except ToileError:
            return ()  # whoever encodes it says what is wrong
        strange = [token for token in tokens if not token.is_kept and not self._is_known(token)]
        return tuple(dict.fromkeys(token.typed for token in strange if token.word not in self._silent))

    def _is_known(self, token: _Token) -> bool:
        return token.typed.lower() in self.tables.known

    def _corrected(self, tokens: Sequence[_Token], keep_unknown: bool) -> tuple[list[_Token], tuple[Correction, ...]]:
        """Words in the spelling of the tables: without possessive and plural endings and slips of the pen."""
        result: list[_Token] = []
        corrections: dict[str, Correction] = {}
        for token in tokens:
            word = token.word
            if not token.is_kept and not self._phrases.is_spelt(word):
                word = next((form for form in forms_of(word) if self._phrases.is_spelt(form)), word)
                if not self._phrases.is_spelt(word) and word not in self._not_slips and not keep_unknown:
                    meant = meant_words(word, self._phrases.meant_by_slips)
                    if meant:
                        corrections[token.typed] = Correction(
                            token.typed, self._phrases.apart(meant[0]), self._others(meant)
                        )
                        word = meant[0]
            result.append(token if token.is_kept else replace(token, word=self._phrases.apart(word)))
        return result, tuple(corrections.values())

    def _others(self, meant: Sequence[str]) -> tuple[str, ...]:
        """Of words that a slip may be, those that would say something else than the first."""
        first, *others = [self._phrases.apart(word) for word in meant[:3]]
        said = self._phrases.said_by([first])
        return tuple(word for word in others if self._phrases.said_by([word]) != said or said is None)

    def _match(self, tokens: Sequence[_Token]) -> tuple[list[_Found], list[str], list[str]]:
        """What the words say, longest phrases first; words without a meaning; words that are denied."""
        found: list[_Found] = []
        unknown: dict[str, None] = {}
        denied: list[str] = []
        place, denied_until = 0, -1
        while place < len(tokens):
            token = tokens[place]
            item = None if token.is_kept else self._phrase_at(tokens, place)
            if item is not None:
                if place <= denied_until:
                    denied.append(f"not {item.typed}")
                    denied_until = -1
                else:
                    found.append(item)
                place = item.last + 1
                continue
            if token.word in _NEGATIONS:
                denied_until = place + _NEGATION_REACH
            elif not token.is_kept and token.word not in self._silent and token.word not in JOINS:
                unknown[token.typed] = None
            place += 1
        return found, list(unknown), denied

    def _phrase_at(self, tokens: Sequence[_Token], place: int) -> _Found | None:
        for length in range(min(self._phrases.longest, len(tokens) - place), 0, -1):
            here = tokens[place : place + length]
            if any(token.is_apart for token in here[1:]):
                continue
            words = [token.word for token in here]
            entry = self._phrases.said_by(words)
            is_exact = self._phrases.is_exact(words)
            if (
                entry is not None
                and not is_exact
                and self._phrases.goes_on(words, [t.word for t in tokens[place + length :]])
            ):
                continue
            if entry is not None and not any(token.is_kept or token.part != here[0].part for token in here):
                weight = max((token.weight for token in here), key=lambda weight: abs(weight - 1))
                typed = " ".join(token.typed for token in here)
                before = tokens[place - 1].word if place else ""
                return _Found(*entry, weight, here[0].part, place, place + length - 1, typed, is_exact, before)
        return None

    def _chosen(self, found: Sequence[_Found]) -> tuple[dict[str, str], list[tuple[str, _Found]], list[str]]:
        """What a caption has a place for: fields, what stands for each, and the typed words that are left over."""
        left_out: list[str] = []
        chosen: list[tuple[str, _Found]] = []
        for part in dict.fromkeys(item.part for item in found):
            here = [item for item in found if item.part == part]
            articles = [item for item in here if item.slot == "article"]
            head = _head(articles)
            for item in articles:
                if item is not head and (head is None or item.meant != head.meant):
                    left_out.append(item.typed)
            counts: dict[str, int] = {}
            for item in here:
                if item.slot in ("group", "article"):
                    continue
                said = [other for slot, other in chosen if slot == item.slot and other.part == part]
                if any(other.meant == item.meant for other in said):
                    continue
                most = _MOST.get(item.slot, 1)
                pair = item.slot == "colour" and len(said) == 1 and _are_joined(said[0], item)
                if counts.get(item.slot, 0) < most or pair:
                    counts[item.slot] = counts.get(item.slot, 0) + 1
                    chosen.append((item.slot, item))
                else:
                    left_out.append(item.typed)
            if head is not None:
                fields = _fields([(slot, item) for slot, item in chosen if item.part == part])
                best = likeliest_article(self.tables.articles, head.meant, fields)
                chosen.append(("article", replace(head, meant=(best,))))
        return _fields(chosen), chosen, left_out


def _tokens(parts: Parts, own_words: Collection[str]) -> list[_Token]:
    """The words of a prompt, with `&`, `/` and `+` for words that join; learned words in one piece."""
    own = sorted((re.escape(word) for word in own_words), key=len, reverse=True)
    pattern = re.compile("|".join([*(f"(?<!\\w){word}(?!\\w)" for word in own), _WORD.pattern, "[&/+]"]), re.IGNORECASE)
    kept = {word.casefold() for word in own_words}
    tokens: list[_Token] = []
    for number, part in enumerate(parts):
        between = ""
        for piece in part:
            text, end = unicodedata.normalize("NFC", piece.text).translate(_QUOTES), 0
            for match in pattern.finditer(text):
                typed, word = match.group(), match.group().lower()
                is_apart = _DIVIDES.search(between + text[end : match.start()]) is not None
                between, end = "", match.end()
                if typed.casefold() in kept:
                    tokens.append(_Token(typed, typed, piece.weight, number, is_kept=True, is_apart=is_apart))
                elif word not in JOINS:
                    tokens.append(_Token(typed, word, piece.weight, number, is_apart=is_apart))
                elif is_apart:
                    between = ","
            between += text[end:]
    return tokens


def _head(articles: Sequence[_Found]) -> _Found | None:
    """The article that is meant: of several in a row the last (kurta dress), of those apart the first."""
    head = None
    for item in articles:
        if head is not None and item.first != head.last + 1:
            break
        head = item
    return head


def _are_joined(first: _Found, second: _Found) -> bool:
    """Whether two stand beside each other, or with a word between that is not "or", of which the first is taken."""
    return 0 < second.first - first.last <= 2 and second.before != "or"


def _fields(chosen: Sequence[tuple[str, _Found]]) -> dict[str, str]:
    """Slot -> words, of several parts the first one's article."""
    fields: dict[str, str] = {}
    for slot, item in chosen:
        words = item.meant[0]
        if slot in fields and slot in ("pattern", "detail"):
            fields[slot] += f" {words}"
        elif slot in fields and slot == "colour":
            fields[slot] += f" and {words}" if " and " not in fields[slot] else ""
        else:
            fields.setdefault(slot, words)
    return fields


def _written(chosen: Sequence[tuple[str, _Found]], kept: Sequence[_Token], num_parts: int) -> list[list[Piece]]:
    """The parts of the prompt that says what was chosen, in the order of captions."""
    parts = []
    for part in range(num_parts):
        here = [(slot, item) for slot, item in chosen if item.part == part]
        article = next((item.meant[0] for slot, item in here if slot == "article"), "")
        said = set(article.split())
        words: list[tuple[str, float]] = []
        for slot in SLOTS:
            if slot == "article":
                words += [(token.typed, token.weight) for token in kept if token.part == part]
            of_slot = [item for other, item in here if other == slot]
            for number, item in enumerate(of_slot):
                text = item.meant[0]
                if slot in ("usage", "pattern") and not said.isdisjoint(text.split()):
                    continue
                joined = "and " if slot == "colour" and number else ""
                words.append((f"for {text}" if slot == "people" and article else joined + text, item.weight))
        if words:
            pieces = [piece for text, weight in words for piece in (Piece(text, weight), Piece(" "))]
            parts.append(pieces[:-1])
    return parts
