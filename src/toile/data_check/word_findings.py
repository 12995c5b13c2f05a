"""Findings in the words of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from toile.data.captions import CaptionWriter
from toile.data.records import Source
from toile.data.vocabulary import NAMELESS
from toile.data_check.findings import Case, Finding, cases_of
from toile.data_check.reader import ModelReader, training_captions
from toile.data_check.words import is_blank, placeholder, several_things, too_long, wrong_article


@dataclass(frozen=True, eq=False)
class Words:
    """The captions of records as training has them.

    Attributes:
        keys: of all records of the source.
        captions: position in the source -> captions.
        titles: position in the source -> title.
        spoken: positions of records with a caption that says something.
        silent: those whose captions are all empty: they have no words at all.
        blank: those with captions that all say nothing, such as "None".
    """

    keys: tuple[str, ...]
    captions: dict[int, tuple[str, ...]]
    titles: dict[int, str]
    spoken: frozenset[int]
    silent: frozenset[int]
    blank: frozenset[int]


def read_words(source: Source, indices: Sequence[int], writer: CaptionWriter) -> Words:
    """Collects the captions of some records."""
    captions = {index: training_captions(writer, source.records[index]) for index in indices}
    silent = frozenset(index for index, some in captions.items() if not any(map(str.strip, some)))
    blank = frozenset(index for index, some in captions.items() if all(map(is_blank, some)))
    return Words(
        keys=tuple(record.key for record in source.records),
        captions=captions,
        titles={index: source.title(index) for index in indices},
        spoken=frozenset(indices) - blank,
        silent=silent,
        blank=blank - silent,
    )


def find_in_words(words: Words, reader: ModelReader) -> Iterator[Finding]:
    """All that can be told by reading."""
    yield Finding(
        "no-words",
        "Pictures without words",
        "No caption of their own. Training leaves them out unless it is given one for all of them (data.caption).",
        len(words.silent),
        cases_of(words.keys, dict.fromkeys(words.silent, "")),
    )
    yield Finding(
        "blank-caption",
        "Captions that say nothing",
        "Empty among others that are not, signs only, or a word such as None or nan in place of a caption.",
        *_each(words, lambda caption: "says nothing" if is_blank(caption) else "", words.silent),
        "left out where all captions of a picture are so",
    )
    yield Finding(
        "placeholder",
        "Captions with None or nan in them",
        "A program wrote these words where a value was missing; a model learns them as words.",
        *_each(words, lambda caption: "" if is_blank(caption) else placeholder(caption)),
    )
    yield Finding(
        "nameless",
        "Captions without a name of the thing",
        f'The table says so little of these that their caption is no more than "{NAMELESS}".',
        *_each(words, lambda caption: "no name" if caption == NAMELESS else ""),
    )
    yield Finding(
        "wrong-article",
        "a or an in the wrong place",
        '"a" before a vowel, "an" before a consonant, or either before a plural ("a shoes"); by rules for English.',
        *_each(words, wrong_article),
    )
    yield _longer_than_read(words, reader)
    several: dict[int, str] = {}
    for index, captions in words.captions.items():
        for text in (words.titles[index], *captions):
            if index not in several and (found := several_things(text)):
                several[index] = f"{found}: {text}"
    yield Finding(
        "several-in-words",
        "Several things, as the words say",
        'Title or caption says "pack of 3", "combo", "gift set" and the like: the picture may show more than one thing '
        "where the caption names one. Told by words alone; the picture is not asked.",
        len(several),
        cases_of(words.keys, several),
    )


def _each(words: Words, fault: Callable[[str], str], but: frozenset[int] = frozenset()) -> tuple[int, tuple[Case, ...]]:
    """The records with a caption that has a fault, each with the first such caption: how many, and the cases."""
    notes: dict[int, str] = {}
    for index, captions in words.captions.items():
        for caption in captions:
            if index not in but and index not in notes and (found := fault(caption)):
                notes[index] = f"{found}: {caption!r}"
    return len(notes), cases_of(words.keys, notes)


def _longer_than_read(words: Words, reader: ModelReader) -> Finding:
    owners = [(index, caption) for index, captions in words.captions.items() for caption in captions]
    notes: dict[int, str] = {}
    for number, fault in too_long([caption for _, caption in owners], reader.tokenizer).items():
        index, caption = owners[number]
        notes.setdefault(index, f"{fault.num_tokens} tokens, not read: {fault.cut!r} of {caption!r}")
    limit = reader.tokenizer.max_length - 2
    return Finding(
        "too-long",
        f"Captions of more than {limit} tokens",
        f"Training reads the first {limit} tokens of a caption, as the tokenizer of {reader.name} counts them.",
        len(notes),
        cases_of(words.keys, notes),
    )
