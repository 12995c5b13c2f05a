"""What a model's words mean, as a file in its folder says it: the tables by which prompts are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toile.errors import ToileError

# The parts of a caption, in the order in which a reading says them.
SLOTS = ("season", "year", "colour", "pattern", "usage", "article", "people", "detail", "group")
VERSION = 1


@dataclass(frozen=True)
class ArticleCounts:
    """How often an article occurs in the pictures a model learnt from, and with what.

    Attributes:
        kind: the type that the catalogue gives it, such as "Tshirts".
        group: the part of the catalogue it belongs to, such as "Apparel".
        count: of pictures, at least 1.
        colour, people, usage: of these pictures, by the words that captions have for it.
    """

    kind: str
    group: str
    count: int
    colour: Mapping[str, int]
    people: Mapping[str, int]
    usage: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ToileError(f"an article of type {self.kind!r} has a count of {self.count}; allowed: 1 or more")


@dataclass(frozen=True)
class WordTables:
    """The words that a model knows, and what people say instead.

    Phrases are in lower case, their words divided by one space each; hyphens count as spaces.

    Attributes:
        known: every word of the captions a model learnt from, and in about how many of them it may stand.
        meanings: slot of a caption -> phrase -> what captions say for it; several if other words of a prompt decide.
        articles: what captions call an article -> its counts.
        silent: words of grammar and courtesy, which are left out.
        no_slips: English words that are near a known one and no slip of the pen.
        version: of this layout.

    Raises:
        ToileError: an unknown slot or version, or an article that has no counts.
    """

    known: Mapping[str, int]
    meanings: Mapping[str, Mapping[str, tuple[str, ...]]]
    articles: Mapping[str, ArticleCounts]
    silent: tuple[str, ...]
    no_slips: tuple[str, ...]
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ToileError(f"word tables of version {self.version} are unknown to this one, which reads {VERSION}")
        if strange := set(self.meanings) - set(SLOTS):
            raise ToileError(f"word tables have the slots {sorted(strange)}; allowed: {', '.join(SLOTS)}")
        for phrase, meant in self.meanings.get("article", {}).items():
            if not meant or not set(meant) <= set(self.articles):
                raise ToileError(f"{phrase!r} means {', '.join(meant) or 'nothing'}; each must be among the articles")
