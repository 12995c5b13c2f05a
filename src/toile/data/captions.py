"""Captions from fields: the words of a product, some of them left out or said differently, in one of many orders."""

from __future__ import annotations

import random
import re
import unicodedata
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from toile.data.records import Record
from toile.data.templates import Template
from toile.data.vocabulary import (
    ARTICLE_NAMES,
    BRAND_PHRASES,
    COLOUR_NAMES,
    COLOURED_PARTS,
    FULL_TEMPLATE,
    GENERAL_NAMES,
    LEAST_TELLING,
    NAMELESS,
    PATTERNS,
    PEOPLE,
    PLURAL_ONLY,
    SYNONYMS,
    TEMPLATES,
    TITLE_COLOURS,
    TITLE_WORDS,
    TitleWord,
)
from toile.errors import ToileError

_MASK64 = (1 << 64) - 1
_QUOTES = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201b": "'", "\u02bc": "'", "\u2032": "'", "\u0060": "'", "\u00b4": "'",
    "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"', "\u2033": '"',
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2026": "...",
})  # fmt: skip
_COLOUR = "|".join(TITLE_COLOURS)
_COLOUR_PAIR = re.compile(rf"\b({_COLOUR}) (?:&|and|/|\+) ({_COLOUR})\b")
_COLOURED_PART = re.compile(rf"\b({_COLOUR}) ({'|'.join(COLOURED_PARTS)})\b")


@dataclass(frozen=True)
class CaptionConfig:
    """How often a caption keeps or changes a field; all are probabilities in [0, 1].

    keep_*: a known field is mentioned. second_colour: "red and white" instead of "red" when the title says so.
    synonym: a word is replaced by another that people use. unisex is what keep_gender becomes for unisex articles.
    """

    keep_article: float = 0.98
    keep_colour: float = 0.9
    keep_gender: float = 0.75
    keep_unisex: float = 0.1
    keep_usage: float = 0.5
    keep_season: float = 0.3
    keep_year: float = 0.25
    keep_pattern: float = 0.75
    keep_detail: float = 0.6
    second_colour: float = 0.4
    synonym: float = 0.2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value <= 1.0:
                raise ToileError(f"caption {field.name} is {value}; allowed are probabilities from 0 to 1")


@dataclass(frozen=True)
class ProductWords:
    """Everything a caption can say of one record, in canonical words; empty where unknown."""

    article: str
    special_article: str
    general_article: str
    colour: str
    both_colours: str
    gender: str
    usage: str
    season: str
    year: str
    patterns: tuple[str, ...]
    details: tuple[str, ...]


class CaptionWriter:
    """Writes captions for records; equal records and draws give equal captions."""

    def __init__(self, config: CaptionConfig | None = None) -> None:
        self.config = config or CaptionConfig()
        self._templates = [(Template(source), weight) for source, weight in TEMPLATES]
        self._deck = [template for template, weight in self._templates for _ in range(weight)]
        self._full = Template(FULL_TEMPLATE)
        self._seen: dict[int, tuple[Record, ProductWords]] = {}

    def write(self, record: Record, *draw: int) -> str:
        """One caption in lower case, a pure function of the record and the draw.

        draw: whole numbers such as seed, epoch and position. A source's own captions are used as they are.
        """
        rng = random.Random(_mix(zlib.crc32(record.key.encode()), *draw))
        if record.captions:
            return record.captions[int(rng.random() * len(record.captions))]
        known, config = self._words(record), self.config
        gender_kept = config.keep_unisex if known.gender == "unisex" else config.keep_gender
        people, owner = self._people(known.gender, rng) if rng.random() < gender_kept else ("", "")
        article = self._article(known, rng)
        words = {
            "article": article,
            "colour": self._colour(known, rng),
            "people": people,
            "owner": owner,
            "usage": self._maybe("usage", known.usage, config.keep_usage, rng),
            "season": self._maybe("season", known.season, config.keep_season, rng),
            "year": known.year if rng.random() < config.keep_year else "",
            "pattern": " ".join(word for word in known.patterns if rng.random() < config.keep_pattern),
            "detail": " ".join(word for word in known.details if rng.random() < config.keep_detail),
        }
        words = _without_repeats(words)
        template = self._deck[int(rng.random() * len(self._deck))]
        return template.fill(words, "a pair of" if rng.random() < 0.3 else "") or article

    def full(self, record: Record) -> str:
        """The caption with everything visible and nothing varied, for evaluation and for reading.

        "navy blue checked casual shirt for men": colour, title words, usage, article, people (unisex unsaid).
        """
        if record.captions:
            return record.captions[0]
        known = self._words(record)
        words = {
            "article": known.special_article or known.article,
            "colour": known.colour,
            "people": "" if known.gender in ("", "unisex") else PEOPLE[known.gender].name,
            "usage": known.usage,
            "pattern": " ".join(known.patterns),
            "detail": " ".join(known.details),
        }
        return self._full.fill(_without_repeats(words))

    def _words(self, record: Record) -> ProductWords:
        # Records live as long as their source; the record itself is kept so that its id cannot be given away.
        found = self._seen.get(id(record))
        if found is None or found[0] is not record:
            found = self._seen[id(record)] = (record, product_words(record))
        return found[1]

    def _article(self, known: ProductWords, rng: random.Random) -> str:
        if rng.random() >= self.config.keep_article:
            return known.general_article
        if known.special_article and rng.random() < self.config.keep_pattern:
            return known.special_article
        return self._vary("article", known.article, rng)

    def _colour(self, known: ProductWords, rng: random.Random) -> str:
        if rng.random() >= self.config.keep_colour:
            return ""
        if known.both_colours and rng.random() < self.config.second_colour:
            return known.both_colours
        return self._vary("colour", known.colour, rng)

    def _people(self, gender: str, rng: random.Random) -> tuple[str, str]:
        if gender not in PEOPLE:
            return "", ""
        people = PEOPLE[gender]
        if rng.random() >= self.config.synonym:
            return people.name, people.owner
        return rng.choice(people.other_names), rng.choice(people.other_owners)

    def _maybe(self, field: str, word: str, probability: float, rng: random.Random) -> str:
        return self._vary(field, word, rng) if rng.random() < probability else ""

    def _vary(self, field: str, word: str, rng: random.Random) -> str:
        others = SYNONYMS[field].get(word)
        if others and rng.random() < self.config.synonym:
            return others[int(rng.random() * len(others))]
        return word


def singular(article_type: str) -> str:
    """What people call one such article: Tshirts -> t-shirt, Watches -> watch, but Jeans -> jeans."""
    name = " ".join(article_type.lower().split())
    if name in ARTICLE_NAMES:
        return ARTICLE_NAMES[name]
    if not name:
        return ""
    *before, last = name.split(" ")
    return " ".join([*before, last if last in PLURAL_ONLY else _singular_word(last)])


def _singular_word(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("shes", "ches", "sses", "xes", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us")):
        return word[:-1]
    return word


def product_words(record: Record) -> ProductWords:
    """The canonical words of a record's fields and title."""
    get = record.fields.get
    kind, master = get("articleType", ""), get("masterCategory", "")
    general = GENERAL_NAMES.get(get("subCategory", "")) or GENERAL_NAMES.get(master, NAMELESS)
    colour = get("baseColour", "").lower()
    title = " ".join(get("productDisplayName", "").lower().split())
    gender = get("gender", "").lower()
    if gender == "unisex" and re.search(r"\bkid('?s)?\b", title):
        gender = "kids"
    found = title_words(title, {kind, master, get("subCategory", "")})
    special = [word.word for word in found if word.role == "name"]
    parts = [f"with {shade} {part}" for shade, part in _COLOURED_PART.findall(title) if kind in COLOURED_PARTS[part]]
    return ProductWords(
        article=singular(kind) or general,
        special_article=special[0] if special else "",
        general_article=general,
        colour=COLOUR_NAMES.get(colour, colour),
        both_colours=_both_colours(title, colour),
        gender=gender if gender in PEOPLE else "",
        usage=get("usage", "").lower(),
        season=get("season", "").lower(),
        year=get("year", ""),
        patterns=tuple(word.word for word in found if word.role == "pattern")[:3],
        details=(*parts[:1], *(word.word for word in found if word.role == "detail")),
    )


def pattern_of(fields: Mapping[str, str]) -> str:
    """The one pattern that a product's title names, such as "checked"; empty if it names none or several."""
    kinds = {fields.get(name, "") for name in ("articleType", "subCategory", "masterCategory")}
    title = " ".join(fields.get("productDisplayName", "").lower().split())
    named = {word.word for word in title_words(title, kinds)} & set(PATTERNS)
    if len(named) > 1:
        named.discard(LEAST_TELLING)
    return named.pop() if len(named) == 1 else ""


def _compile_titles() -> tuple[re.Pattern[str], dict[str, TitleWord]]:
    by_phrase = {phrase: word for word in TITLE_WORDS for phrase in word.phrases}
    longest_first = sorted([*by_phrase, *BRAND_PHRASES], key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])"), by_phrase


_TITLE_PATTERN, _BY_PHRASE = _compile_titles()


def title_words(title: str, kinds: set[str]) -> tuple[TitleWord, ...]:
    """The visible properties a lower-case title names, each once, in the order of the title.

    kinds: the article type and categories of the product; words that mean something else there are left out.
    """
    found = (_BY_PHRASE.get(phrase) for phrase in _TITLE_PATTERN.findall(title))
    return tuple(dict.fromkeys(word for word in found if word is not None and not kinds.isdisjoint(word.on)))


def normalise_prompt(text: str) -> str:
    """Maps typography only: case, typographic quotes and dashes, kinds of spaces; the words stay."""
    return " ".join(unicodedata.normalize("NFC", text.lower()).translate(_QUOTES).split())


def _both_colours(title: str, colour: str) -> str:
    """The first pair of colours in a title that contains the base colour, that one first."""
    for first, second in _COLOUR_PAIR.findall(title):
        if first != second and colour and colour in (first, second):
            return f"{colour} and {second if colour == first else first}"
    return ""


def _without_repeats(words: dict[str, str]) -> dict[str, str]:
    """Drops a usage or title word that the article's name already says: no casual casual shoes."""
    said = set(words["article"].split())
    for slot in ("usage", "pattern"):
        if words[slot] and not said.isdisjoint(words[slot].split()):
            words[slot] = " ".join(word for word in words[slot].split() if word not in said)
    return words


def _mix(*numbers: int) -> int:
    """One 64-bit number from several, by splitmix64 steps (Steele et al. 2014), so that near draws are unrelated."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state
