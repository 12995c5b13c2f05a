"""Files of learned words (textual inversion) in their folder, as far as requests need to know them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from toile.embeddings import EMBEDDINGS
from toile.errors import ToileError
from toile.weights.embedding_file import read_embedding


@dataclass(frozen=True)
class LearnedWords:
    """A file of learned words.

    Attributes:
        name: what requests call it.
        words: how many vectors stand for each.
        width: of the vectors, which must be that of a model's text encoder.
    """

    name: str
    words: Mapping[str, int]
    width: int

    def are_in(self, texts: Iterable[str]) -> bool:
        """Whether one of these prompts holds one of its words."""
        folded = [text.casefold() for text in texts]
        patterns = [re.compile(rf"(?<!\w){re.escape(word.casefold())}(?!\w)") for word in self.words]
        return any(pattern.search(text) for pattern in patterns for text in folded)


class WordFolder:
    """The folder of learned words; a file is read once for as long as it does not change."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[float, LearnedWords | str]] = {}

    def files(self) -> dict[str, LearnedWords]:
        """Those that can be read, by name."""
        return {name: found for name, found in self._look_up().items() if isinstance(found, LearnedWords)}

    def refused(self) -> dict[str, str]:
        """Why others cannot, by name."""
        return {name: found for name, found in self._look_up().items() if isinstance(found, str)}

    def _look_up(self) -> dict[str, LearnedWords | str]:
        known: dict[Path, tuple[float, LearnedWords | str]] = {}
        found = {}
        for name in EMBEDDINGS.names():
            try:
                path = EMBEDDINGS.find(name)
                changed = path.stat().st_mtime
            except (ToileError, OSError):  # it was taken away this moment
                continue
            before = self._read.get(path)
            known[path] = before if before is not None and before[0] == changed else (changed, _read(name, path))
            found[name] = known[path][1]
        self._read = known
        return found


def _read(name: str, path: Path) -> LearnedWords | str:
    try:
        words = read_embedding(path).words
    except ToileError as error:
        return str(error)
    widths = [vectors.shape[1] for vectors in words.values()]
    return LearnedWords(name, {word: len(vectors) for word, vectors in words.items()}, widths[0])
