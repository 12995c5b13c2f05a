"""Slips of the pen: distance one, and no more."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.text.slips import meant_words, one_edit_away

WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=7)


def distance(one: str, other: str) -> int:
    """Damerau-Levenshtein distance with neighbours swapped (optimal string alignment), by its recurrence."""
    table = [[i + j if not i * j else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            changed = table[i - 1][j - 1] + (one[i - 1] != other[j - 1])
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, changed)
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


@settings(max_examples=20, deadline=None)
@given(WORDS)
def test_all_words_one_edit_away_have_distance_one(word: str) -> None:
    assert all(distance(word, other) == 1 for other in set(one_edit_away(word)) - {word})


@settings(deadline=None)
@given(WORDS, WORDS)
def test_words_at_distance_one_are_found(one: str, other: str) -> None:
    assert (other in set(one_edit_away(one)) - {one}) == (distance(one, other) == 1)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sneekers", "sneakers"),  # another letter
        ("earings", "earrings"),  # a letter less
        ("shirrt", "shirt"),  # a letter more
        ("sweatshrit", "sweatshirt"),  # two swapped
        ("neakers", "sneakers"),  # the first letter of a long word
        ("hsirt", "shirt"),  # the first two swapped
    ],
)
def test_slips_are_understood(typed: str, meant: str) -> None:
    assert meant_words(typed, {"sneakers": 1, "earrings": 1, "shirt": 1, "sweatshirt": 1}) == (meant,)


@pytest.mark.parametrize("typed", ["boat", "rde", "bleu2", "shrt2", "sneekrs", "goat"])
def test_other_words_are_left_alone(typed: str) -> None:
    assert meant_words(typed, {"coat": 1, "red": 1, "blue": 1, "shirt": 1, "sneakers": 1}) == ()


def test_of_several_the_most_frequent_comes_first() -> None:
    assert meant_words("shrt", {"shirt": 5, "short": 9}) == ("short", "shirt")
