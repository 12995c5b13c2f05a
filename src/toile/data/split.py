"""A split into train, validation and test that never puts the same picture or the same title on two sides."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toile.errors import ToileError

SIDES = ("train", "validation", "test")
FORMAT = "toile-split/1"
_NOT_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Split:
    """Positions (int64) of each side, and the picture hash at every position."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    hashes: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Writes the split as JSON, by picture content, so that it holds whatever the order of the data."""
        sides = {side: sorted({self.hashes[position] for position in getattr(self, side)}) for side in SIDES}
        aside = path.with_name(path.name + ".partial")
        aside.write_text(json.dumps({"format": FORMAT, **sides}), encoding="utf-8")
        os.replace(aside, path)

    @staticmethod
    def load(path: Path) -> Split:
        """Reads a saved split; its positions count the stored hashes, so call apply with those of your data."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ToileError(f"{path} cannot be read as a split ({error})") from error
        if not isinstance(stored, dict) or stored.get("format") != FORMAT or not set(SIDES) <= set(stored):
            raise ToileError(f"{path} is not a split of the format {FORMAT}")
        hashes = tuple(name for side in SIDES for name in stored[side])
        if len(set(hashes)) != len(hashes):
            raise ToileError(f"{path} has a picture on two sides; make the split anew")
        return _arrange(hashes, {name: side for side in SIDES for name in stored[side]})

    def apply(self, hashes: Sequence[str]) -> Split:
        """The same sides for pictures in another order or number.

        Raises ToileError for pictures the split does not know: their side would have to be guessed.
        """
        side_of = {self.hashes[position]: side for side in SIDES for position in getattr(self, side)}
        unknown = sum(name not in side_of for name in hashes)
        if unknown:
            raise ToileError(f"{unknown:,} of {len(hashes):,} pictures are not in this split; make the split anew")
        return _arrange(hashes, side_of)


def split_by_content(
    hashes: Sequence[str],
    titles: Sequence[str],
    fractions: tuple[float, float, float] = (0.90, 0.05, 0.05),
    seed: int = 0,
) -> Split:
    """Splits pictures by connected components of (picture hash, title); a component always stays whole.

    hashes: picture hashes. titles: one for each; compared without case and punctuation, blank ones connect nothing.
    fractions: expected shares of train, validation and test, sum 1. The side of a component is a function of the
    seed and its smallest picture hash only, so more data does not reshuffle the components it does not touch.
    """
    if len(hashes) != len(titles):
        raise ToileError(f"got {len(hashes)} hashes and {len(titles)} titles; give one title for each, '' if blank")
    if len(fractions) != len(SIDES) or min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise ToileError(f"fractions {fractions} must be three numbers >= 0 with sum 1")
    smallest: dict[int, str] = {}
    components = _components(hashes, titles)
    for name, component in zip(hashes, components, strict=True):
        smallest[component] = min(smallest.get(component, name), name)
    sides = {component: _side(name, fractions, seed) for component, name in smallest.items()}
    return _arrange(hashes, {name: sides[component] for name, component in zip(hashes, components, strict=True)})


def normalise_title(title: str) -> str:
    """A title without case, punctuation and extra spaces."""
    return _NOT_WORDS.sub(" ", title.casefold()).strip()


def _components(hashes: Sequence[str], titles: Sequence[str]) -> list[int]:
    """The component of each position, by union-find over positions that share a hash or a title."""
    parent = list(range(len(hashes)))

    def find(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    first: dict[tuple[str, str], int] = {}
    for position, (name, title) in enumerate(zip(hashes, titles, strict=True)):
        words = normalise_title(title)
        for link in (("hash", name), ("title", words)):
            if link[1]:
                parent[find(position)] = find(first.setdefault(link, position))
    return [find(position) for position in range(len(hashes))]


def _side(name: str, fractions: tuple[float, float, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < fractions[0]:
        return SIDES[0]
    # A share of 0 stays empty even at the rounding edge of the sum.
    return SIDES[1] if place < fractions[0] + fractions[1] or fractions[2] == 0 else SIDES[2]


def first_seed_with_held_out(hashes: Sequence[str], titles: Sequence[str], num_seeds: int = 64) -> int:
    """The first seed whose split has pictures to learn from and held-out ones to validate on, which few pictures lack
    under many seeds; 0 if none has. The arguments are those of `split_by_content`.
    """
    for seed in range(num_seeds):
        split = split_by_content(hashes, titles, seed=seed)
        if len(split.train) and len(split.validation):
            return seed
    return 0


def _arrange(hashes: Sequence[str], side_of: dict[str, str]) -> Split:
    positions: dict[str, list[int]] = {side: [] for side in SIDES}
    for position, name in enumerate(hashes):
        positions[side_of[name]].append(position)
    arrays = [np.array(positions[side], dtype=np.int64) for side in SIDES]
    return Split(arrays[0], arrays[1], arrays[2], tuple(hashes))
