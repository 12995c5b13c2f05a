"""Slips of the pen: which known words a word may have been meant to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

MIN_LENGTH = 4
# Few people miss the first letter of a short word; most pairs of short words that differ there are words of their own.
_FIRST_LETTER_FROM = 6
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def one_edit_away(word: str) -> Iterator[str]:
    """All words at Damerau-Levenshtein distance 1 (Damerau 1964): a letter more, less or other, or two neighbours
    swapped; some more than once."""
    halves = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    for before, after in halves:
        if after:
            yield before + after[1:]
            yield from (before + letter + after[1:] for letter in _LETTERS if letter != after[0])
        if len(after) > 1 and after[0] != after[1]:
            yield before + after[1] + after[0] + after[2:]
        yield from (before + letter + after for letter in _LETTERS)


def meant_words(word: str, known: Mapping[str, int]) -> tuple[str, ...]:
    """The known words that a word is one slip away from, the most frequent first; of equally frequent, by the alphabet.

    Args:
        word: in lower case; words of fewer than four letters are no slips, and none is meant by one.
        known: words with how frequent they are.

    Returns:
        None or more; of words under six letters only those that begin alike, or with the first two swapped.
    """
    if len(word) < MIN_LENGTH or not word.isalpha():
        return ()
    near = {other for other in one_edit_away(word) if other in known and len(other) >= MIN_LENGTH}
    if len(word) < _FIRST_LETTER_FROM:
        near = {other for other in near if other[0] == word[0] or other[:2] == word[1::-1]}
    return tuple(sorted(near, key=lambda other: (-known[other], other)))
