"""What words say together: the phrases of a model's tables, and the other ways in which people write them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from toile.text.word_tables import SLOTS, WordTables

JOINS = frozenset({"and", "&", "/", "+"})
"""What joins words, and is no word of a prompt itself."""

_SHORT = 2  # letters: words so short are seldom the half of another
_LONG = 8  # letters: shorter ones that are two in the tables are too near to other words to be meant by a slip

Meaning = tuple[str, tuple[str, ...]]
"""A slot of captions, and what captions may say there."""


class Phrases:
    """The phrases of tables, of articles in the singular and in the plural, and in one word or two.

    Attributes:
        num_exact: how many stand in the tables.
        longest: number of words of the longest of them.
        meant_by_slips: the words that a slip of the pen may stand for, and about how frequent they are.
    """

    def __init__(self, tables: WordTables) -> None:
        self._meanings: dict[str, Meaning] = {
            _unjoined(phrase): (slot, meant)
            for slot in reversed(SLOTS)
            for phrase, meant in tables.meanings.get(slot, {}).items()
        }
        self._exact = frozenset(self._meanings)
        self.num_exact = len(self._exact)
        self.longest = max((phrase.count(" ") + 1 for phrase in self._exact), default=1)
        self._silent = frozenset(tables.silent)
        frequent: dict[str, int] = dict.fromkeys(self._silent, 0)
        for phrase in self._exact:
            frequent.update({word: max(1, tables.known.get(word, 1)) for word in phrase.split()})
        self._add_other_numbers()
        joinable = [phrase for phrase, (slot, _) in self._meanings.items() if " " in phrase and slot != "people"]
        self._joined = {phrase.replace(" ", ""): phrase for phrase in joinable}
        self._words = {**frequent, **tables.known}
        alone = {word: many for word, many in frequent.items() if word in self._meanings or word in self._silent}
        long = (word for word in self._joined if len(word) >= _LONG)
        self.meant_by_slips: Mapping[str, int] = {**dict.fromkeys(long, 1), **alone, **tables.known}

    def _add_other_numbers(self) -> None:
        for phrase in [phrase for phrase, (slot, _) in self._meanings.items() if slot == "article" and " " in phrase]:
            other = _in_other_number(phrase)
            slot, _ = self._meanings.get(other.rpartition(" ")[2], ("article", ()))
            if slot == "article":  # not of running tights, as tight is something else
                self._meanings.setdefault(other, self._meanings[phrase])

    def is_spelt(self, word: str) -> bool:
        """Whether a word stands in the tables, alone, in a phrase, or as two."""
        return word in self._words or word in self._joined

    def apart(self, word: str) -> str:
        """The phrase that was written as one word (flipflops); any other word as it is."""
        return word if word in self._words else self._joined.get(word, word)

    def is_exact(self, words: Sequence[str]) -> bool:
        """Whether words in a row stand so in the tables."""
        return " ".join(words) in self._exact

    def said_by(self, words: Sequence[str]) -> Meaning | None:
        """What words in a row say together, also two that are one word in the tables (back pack)."""
        entry = self._meanings.get(" ".join(words))
        if entry is None and len(words) == 1:
            entry = next((self._meanings[form] for form in forms_of(words[0]) if form in self._meanings), None)
        if entry is None and len(words) == 2 and min(map(len, words)) > _SHORT and not self._silent.issuperset(words):
            entry = self._meanings.get("".join(words))
        return entry

    def goes_on(self, words: Sequence[str], after: Sequence[str]) -> bool:
        """Whether a phrase of the tables begins within some words and ends after them: denim [jean jacket]."""
        return any(
            self.is_exact([*words[first:], *after[:more]])
            for first in range(1, len(words))
            for more in range(1, min(len(after), self.longest) + 1)
        )


def forms_of(word: str) -> list[str]:
    """A word without possessive ending, in the singular, in the plural."""
    bare = word.removesuffix("'").removesuffix("'s")
    forms = [bare, bare.replace("'", "")]
    if len(bare) > 3:
        forms += [bare[:-1]] if bare.endswith("s") else []
        forms += [bare[:-2]] if bare.endswith("es") else []
        forms += [f"{bare[:-3]}y"] if bare.endswith("ies") else []
        forms += [f"{bare[:-1]}ies"] if bare.endswith("ys") else []
        forms += [f"{bare}s"]
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", bare) if not unicodedata.combining(sign))
    return [*forms, plain]


def _unjoined(phrase: str) -> str:
    return " ".join(word for word in phrase.split() if word not in JOINS)


def _in_other_number(phrase: str) -> str:
    """A phrase in the singular if it is in the plural, else in the plural."""
    if phrase.endswith(("ches", "shes", "sses", "xes")):
        return phrase[:-2]
    if phrase.endswith("s") and not phrase.endswith("ss"):
        return phrase[:-1]
    return f"{phrase}es" if phrase.endswith(("ch", "sh", "ss", "x")) else f"{phrase}s"
