"""Leaks between the sides of a split: what a model was trained on must not be what it is measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from toile.data.split import SIDES, normalise_title, split_by_content

_FOLDER_SIDES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def sides_of_training(contents: Sequence[str], titles: Sequence[str], seed: int) -> list[str]:
    """The side of every picture in the split that training makes."""
    split = split_by_content(contents, titles, seed=seed)
    sides = [""] * len(contents)
    for side in SIDES:
        for position in getattr(split, side).tolist():
            sides[position] = side
    return sides


def sides_of_folders(keys: Sequence[str]) -> list[str] | None:
    """The side of every picture as the data's own folders have it ("train/...", "test/..."); "" outside of them.

    None where the data has no such split: fewer than two sides.
    """
    sides = [_FOLDER_SIDES.get(PurePosixPath(key).parts[0].lower(), "") if "/" in key else "" for key in keys]
    return sides if len(set(sides) - {""}) > 1 else None


def shared_across(sides: Sequence[str], positions_by: Iterable[Sequence[int]]) -> list[tuple[tuple[int, ...], str]]:
    """Of groups of positions, those that lie on more than one side.

    Returns:
        For each its positions, one of every side first, and how many are on which side ("train 3, test 1").
    """
    found = []
    for group in positions_by:
        count = Counter(sides[position] for position in group if sides[position])
        if len(count) > 1:
            first = [next(position for position in group if sides[position] == side) for side in SIDES if count[side]]
            rest = [position for position in group if position not in first and sides[position]]
            told = ", ".join(f"{side} {count[side]}" for side in SIDES if count[side])
            found.append(((*first, *rest), told))
    return found


def equal_contents(contents: Sequence[str]) -> list[list[int]]:
    """Groups of two or more pictures with the same bytes."""
    return _grouped(contents, lambda content: content)


def equal_titles(titles: Sequence[str]) -> list[list[int]]:
    """Groups of two or more records whose titles differ in case and punctuation at most; blank ones are no titles."""
    return _grouped(titles, normalise_title)


def _grouped(values: Sequence[str], key: Callable[[str], str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for position, value in enumerate(values):
        if name := key(value):
            groups.setdefault(name, []).append(position)
    return [group for group in groups.values() if len(group) > 1]
