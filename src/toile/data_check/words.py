"""What can be told wrong with captions by reading them: nothing said, articles, length, several things at once.

The rules of articles are for English and rather miss a fault than report a right caption.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from toile.data.products import BLANKS
from toile.data.vocabulary import PLURAL_ONLY, TITLE_COLOURS
from toile.text.tokenizer import Tokenizer

_CAPTIONS_AT_ONCE = 1024
_PLACEHOLDER = re.compile(r"(?<![\w'-])(?:None|NaN|nan|NULL|null|N/A|n/a|undefined|TODO)(?![\w'-])")
_ARTICLE = re.compile(r"(?<![\w'-])([Aa]n?) ([\w'-]+)")
# Words that follow the letter a, not the article ("vitamin a and b").
_NOT_NOUNS = frozenset("and are as at if in is it of off on or to under up us".split())
# Written with a vowel and spoken with a consonant, or the other way round.
_SPOKEN_CONSONANT = re.compile(r"uni(?![nm])|us[aeiu]|ut[eio]|ubi|ur[aiou]|eu|ew|one(?![a-z])|once|ouija|u(?:-|$)")
_SPOKEN_VOWEL = re.compile(r"h(?:our|eir|onest|onou?r|erb|istor|otel|omage)|[fhlmnrsx](?:-|$)|led$")
_PLURALS = PLURAL_ONLY | frozenset(
    "bags belts boots bottoms bracelets caps clothes coats dresses garments glasses hats jackets jewels kurtas "
    "necklaces rings scarves shirts skirts slippers sneakers sweaters t-shirts ties tops trainers tunics wallets "
    "watches".split()
)
_DESCRIBING = "|".join(
    (
        *(word for colour in TITLE_COLOURS for word in (colour, colour.replace(" ", "-"))),
        "light", "dark", "bright", "pale", "big", "small", "long", "short", "new", "old", "casual", "formal", "sports",
        "ethnic", "party", "smart", "leather", "denim", "cotton", "silk", "wool", "printed", "striped", "checked",
        "solid", "floral", "plain", "high", "flat", "flip", "running", "walking", "dress", "and",
    )
)  # fmt: skip
# A plural is the head of its phrase only where the phrase ends: "a shoes rack" is no fault.
_PLURAL = re.compile(
    rf"(?<![\w'-])[Aa]n? (?:(?:{_DESCRIBING}) ){{0,4}}(?:{'|'.join(sorted(map(re.escape, _PLURALS)))})"
    r"(?=\s*(?:$|[,.;:!?)])| (?:for|with|in|on|of|by|from|to|that|which|worn|made)\b)",
    re.IGNORECASE,
)
_NUMBER = r"(?:[2-9]|[1-9]\d|two|three|four|five|six)"
_SEVERAL = re.compile(
    rf"\b(?:(?:pack|set|combo|pairs?) of {_NUMBER}|{_NUMBER}[- ]?(?:pack|pcs|pieces?)|combo(?: pack| set)?|gift set)"
    r"(?![\w-])",
    re.IGNORECASE,
)


def is_blank(caption: str) -> bool:
    """Whether a caption says nothing: empty, signs only, or a word such as None or nan."""
    return caption.strip().lower() in BLANKS or not any(sign.isalnum() for sign in caption)


def placeholder(caption: str) -> str:
    """A word in a caption that a program wrote for a missing value; "" if there is none.

    "none" in small letters is an English word and is not meant.
    """
    found = _PLACEHOLDER.search(caption)
    return found[0] if found else ""


def wrong_article(caption: str) -> str:
    """The first "a" that should be "an", "an" that should be "a", or either before a plural; "" if there is none."""
    plural = _PLURAL.search(caption)
    if plural:
        return plural[0]
    for match in _ARTICLE.finditer(caption):
        article, word = match[1].lower(), match[2]
        # How abbreviations, numbers and other alphabets sound is another question.
        abbreviation = word.isupper() or not set(word.lower()) & set("aeiouy")
        if abbreviation or word.lower() in _NOT_NOUNS or not re.match(r"[A-Za-z]\D*$", word):
            continue
        if word[0].lower() in "aeiou":
            needed = {"a" if _SPOKEN_CONSONANT.match(word.lower()) else "an"}
        else:  # of an historic novel and a historic novel neither is wrong
            needed = {"a", "an"} if _SPOKEN_VOWEL.match(word.lower()) else {"a"}
        if article not in needed:
            return match[0]
    return ""


def several_things(text: str) -> str:
    """Words that say there is more than one article: "pack of 3", "combo", "gift set"; "" if there are none."""
    found = _SEVERAL.search(text)
    return found[0] if found else ""


@dataclass(frozen=True)
class TooLong:
    """A caption with more tokens than one row of the text encoder: how many it has, and the end that is not read."""

    num_tokens: int
    cut: str


def too_long(captions: Sequence[str], tokenizer: Tokenizer) -> dict[int, TooLong]:
    """Which captions do not fit into the one row that training reads, by position."""
    found: dict[int, TooLong] = {}
    for first in range(0, len(captions), _CAPTIONS_AT_ONCE):
        some = captions[first : first + _CAPTIONS_AT_ONCE]
        for number, cut in enumerate(tokenizer.batch(some)[1]):
            if cut:
                found[first + number] = TooLong(len(tokenizer.tokens(some[number])), cut)
    return found
