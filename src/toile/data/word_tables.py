"""The tables by which prompts are read, made from the pictures a model learnt from and from what people say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toile.data import people_words, vocabulary
from toile.data.captions import ProductWords, product_words
from toile.data.records import Record

VERSION = 1
# An article or a colour of fewer pictures is learnt badly: where another one is meant just as well, that one is said.
MIN_ARTICLES, MIN_COLOURS = 20, 50
_FILLERS = ("a", "an", "of", "for", "in", "with", "and", "photo", "image", "picture", "pair", "men and women")
_TRIVIAL_COUNT = 1


@dataclass
class _Counts:
    """What the captions of some records may say."""

    known: Counter[str] = field(default_factory=Counter)
    said: dict[str, Counter[str]] = field(default_factory=dict)
    articles: dict[str, dict[str, Any]] = field(default_factory=dict)

    def say(self, slot: str, phrase: str, times: int = 1) -> None:
        if phrase:
            self.said.setdefault(slot, Counter())[phrase] += times
            self.known.update({word: times for word in words_of(phrase)})


def words_of(phrase: str) -> list[str]:
    """The words of a phrase of captions, as a reader of prompts divides them."""
    return phrase.replace("-", " ").replace("/", " ").replace(",", " ").split()


def build_word_tables(records: Iterable[Record]) -> dict[str, Any]:
    """The content of a model's file of words, see `toile.text.word_tables.WordTables`.

    Args:
        records: of the pictures it learnt from; those with captions of their own say nothing here.
    """
    counts = _Counts()
    counts.known.update({word: _TRIVIAL_COUNT for filler in _FILLERS for word in words_of(filler)})
    for record in records:
        if not record.captions:
            _count(counts, product_words(record), record.fields)
    meanings: dict[str, dict[str, tuple[str, ...]]] = {
        "article": _meanings(counts, "article", vocabulary.ARTICLE_SYNONYMS, people_words.ARTICLES, MIN_ARTICLES),
        "colour": _meanings(counts, "colour", vocabulary.COLOUR_SYNONYMS, people_words.COLOURS, MIN_COLOURS),
        "people": _people(),
        "usage": _meanings(counts, "usage", vocabulary.USAGE_SYNONYMS, people_words.USAGES),
        "season": _meanings(counts, "season", vocabulary.SEASON_SYNONYMS, people_words.SEASONS),
        "year": {year: (year,) for year in counts.said.get("year", ())},
        "pattern": _meanings(counts, "pattern", {}, people_words.PATTERNS),
        "detail": _meanings(counts, "detail", {}, {}),
        "group": {phrase: (group,) for group, phrases in people_words.GROUPS.items() for phrase in phrases},
    }
    _settle(meanings, counts)
    return {
        "version": VERSION,
        "known": dict(sorted(counts.known.items())),
        "meanings": {slot: {" ".join(words_of(said)): list(meant) for said, meant in sorted(of_slot.items())}
                     for slot, of_slot in meanings.items()},
        "articles": {name: entry for name, entry in sorted(counts.articles.items())},
        "silent": sorted(set(people_words.SILENT)),
        "no_slips": sorted(set(people_words.NO_SLIPS)),
    }  # fmt: skip


def _count(counts: _Counts, words: ProductWords, fields: Mapping[str, str]) -> None:
    people = vocabulary.PEOPLE.get(words.gender)
    for slot, said in (("colour", words.colour), ("usage", words.usage), ("season", words.season)):
        counts.say(slot, said)
        for other in vocabulary.SYNONYMS[slot].get(said, ()):
            counts.known.update(words_of(other))
    counts.say("year", words.year)
    for pattern in words.patterns:
        counts.say("pattern", pattern)
    for detail in words.details:
        counts.say("detail", detail)
    counts.known.update(words_of(words.both_colours))
    counts.known.update(words_of(words.general_article))
    for other in vocabulary.ARTICLE_SYNONYMS.get(words.article, ()):
        counts.known.update(words_of(other))
    if people is not None:
        for name in (people.name, people.owner, *people.other_names, *people.other_owners):
            counts.known.update(words_of(name))
    for article in dict.fromkeys(name for name in (words.article, words.special_article) if name):
        counts.say("article", article)
        entry = counts.articles.setdefault(article, {
            "kind": fields.get("articleType", ""), "group": fields.get("masterCategory", ""), "count": 0,
            "colour": Counter(), "people": Counter(), "usage": Counter(),
        })  # fmt: skip
        entry["count"] += 1
        for slot, said in (("colour", words.colour), ("people", people.name if people else ""), ("usage", words.usage)):
            entry[slot].update([said] if said else [])


def _meanings(
    counts: _Counts,
    slot: str,
    synonyms: Mapping[str, Sequence[str]],
    people: Mapping[str, Sequence[str]],
    least: int = 1,
) -> dict[str, tuple[str, ...]]:
    """Phrase -> what captions say for it; what people say goes before synonyms, and the frequent before the rare."""
    said = counts.said.get(slot, Counter())
    meant = {**_turned(synonyms, said), **_turned(people, said)}
    result: dict[str, tuple[str, ...]] = {}
    for phrase in {**dict.fromkeys(said), **dict.fromkeys(meant)}:
        others = [canonical for canonical in dict.fromkeys(meant.get(phrase, ())) if canonical != phrase]
        frequent = [canonical for canonical in others if said[canonical] >= least]
        if said[phrase] >= least or (phrase in said and not frequent):
            result[phrase] = (phrase,)
        else:
            result[phrase] = tuple(frequent or others)
    return result


def _turned(table: Mapping[str, Sequence[str]], said: Mapping[str, int]) -> dict[str, list[str]]:
    """Phrase -> the words that it stands for, of those that captions say."""
    meant: dict[str, list[str]] = {}
    for canonical, phrases in table.items():
        for phrase in phrases if canonical in said else ():
            meant.setdefault(phrase, []).append(canonical)
    return meant


def _people() -> dict[str, tuple[str, ...]]:
    result: dict[str, tuple[str, ...]] = {}
    for people in vocabulary.PEOPLE.values():
        for phrase in (people.name, people.owner, *people_words.PERSONS.get(people.name, ())):
            result.setdefault(phrase, (people.name,))
    # "kids" are boys, girls and kids to captions, and kids to people.
    for people in sorted(vocabulary.PEOPLE.values(), key=lambda entry: entry.name != "kids"):
        for phrase in (*people.other_names, *people.other_owners):
            result.setdefault(phrase, (people.name,))
    return result


def _settle(meanings: Mapping[str, dict[str, tuple[str, ...]]], counts: _Counts) -> None:
    """A phrase means one thing: a rare article gives way to what it says of others (football, basketball)."""
    articles = meanings["article"]
    for phrase in list(articles):
        elsewhere = any(phrase in meanings[slot] for slot in ("pattern", "usage", "people"))
        if elsewhere and counts.said["article"][phrase] < MIN_ARTICLES:
            del articles[phrase]
    first = ("article", "colour", "people", "usage", "pattern", "season", "year", "detail", "group")
    taken: set[str] = set()
    for slot in first:
        for phrase in [phrase for phrase in meanings[slot] if phrase in taken]:
            del meanings[slot][phrase]
        taken |= set(meanings[slot])
