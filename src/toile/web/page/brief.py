"""The brief builder: a garment in a designer's terms, and the sentence that says it as captions do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from toile.data.templates import Template
from toile.data.vocabulary import ARTICLE_SYNONYMS, COLOUR_SYNONYMS, FULL_TEMPLATE, PEOPLE, TITLE_WORDS, USAGE_SYNONYMS
from toile.text.word_tables import WordTables

NO_ARTICLE = "garment"
# With a season or a year captions begin with it.
_DATED_TEMPLATE = "{season} {year} {colour} {pattern} {usage} {article}[ for {people}]"
_PLAIN, _DATED = Template(FULL_TEMPLATE), Template(_DATED_TEMPLATE)
_SEASONS = ("spring", "summer", "fall", "winter")
_FEWEST = 20  # pictures of an article that a model has seen, to be offered
_NOT_OFFERED = ("Free Items",)

# Title of a group -> its choices; "" where there are no groups.
Choices = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Brief:
    """What a garment should be; "" leaves a part open."""

    article: str = ""
    colour: str = ""
    pattern: str = ""
    people: str = ""
    season: str = ""
    usage: str = ""
    year: str = ""

    def sentence(self) -> str:
        """ "navy blue checked casual shirt for men"; "" if nothing was chosen."""
        words = {name: " ".join(word.split()) for name, word in asdict(self).items()}
        if not any(words.values()):
            return ""
        words["article"] = words["article"] or NO_ARTICLE
        said = set(words["article"].split())
        for slot in ("usage", "pattern"):  # no casual casual shoes
            if not said.isdisjoint(words[slot].split()):
                words[slot] = ""
        return (_DATED if words["season"] or words["year"] else _PLAIN).fill(words)


def brief_choices(tables: WordTables | None) -> dict[str, Choices]:
    """What each part of a brief may be, the most frequent articles first.

    Args:
        tables: of the model; None offers the words of the product catalogue.
    """
    if tables is None:
        articles: dict[str, list[str]] = {"": sorted(ARTICLE_SYNONYMS)}
        colours: Iterable[str] = COLOUR_SYNONYMS
        patterns: Iterable[str] = [word.word for word in TITLE_WORDS if word.role == "pattern"]
        people: Iterable[str] = [person.name for person in PEOPLE.values()]
        usages: Iterable[str] = USAGE_SYNONYMS
        years: Iterable[str] = ()
    else:
        articles = {}
        for name, counts in sorted(tables.articles.items(), key=lambda item: -item[1].count):
            if counts.count >= _FEWEST and counts.group not in _NOT_OFFERED:
                articles.setdefault(counts.group, []).append(name)
        colours, patterns, people, usages, years = (
            _meant(tables, slot) for slot in ("colour", "pattern", "people", "usage", "year")
        )
    return {
        "article": {group: tuple(names) for group, names in articles.items()},
        "colour": {"": tuple(sorted(colours))},
        "pattern": {"": tuple(sorted(patterns))},
        "people": {"": tuple(people)},
        "season": {"": _SEASONS},
        "usage": {"": tuple(sorted(usages))},
        "year": {"": tuple(sorted(years, reverse=True))},
    }


def _meant(tables: WordTables, slot: str) -> tuple[str, ...]:
    meanings = tables.meanings.get(slot, {})
    return tuple(dict.fromkeys(word for meant in meanings.values() for word in meant))
