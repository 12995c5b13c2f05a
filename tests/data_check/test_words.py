"""Rules for captions: what is wrong is found, what is right is left in peace."""

from __future__ import annotations

import pytest

from toile.data_check.words import is_blank, placeholder, several_things, too_long, wrong_article
from toile.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a orange dress", "a orange"),
        ("an blue shirt", "an blue"),
        ("A elegant dress", "A elegant"),
        ("photo of a a-line skirt", "a a-line"),
        ("a unlined jacket", "a unlined"),
        ("an uniform", "an uniform"),
        ("a hat and an hat", "an hat"),
        ("a shoes", "a shoes"),
        ("a red sports shoes for men", "a red sports shoes"),
        ("a blue and white sneakers", "a blue and white sneakers"),
        ("an orange jeans, folded", "an orange jeans"),
    ],
)
def test_wrong_articles_are_found(caption: str, found: str) -> None:
    assert wrong_article(caption) == found


@pytest.mark.parametrize(
    "caption",
    [
        "an orange dress", "a blue shirt", "a uniform", "a European suit", "a one-piece swimsuit", "a useful bag",
        "an hour by the sea", "an umbrella", "a u-neck top", "an x-ray print", "an MVP jersey", "an lcd watch",
        "a shoe rack", "a shoes rack", "a pair of shoes", "a woman wearing jeans", "a man in blue jeans", "a dress",
        "a man's shoes", "a sports bag", "a black sports watch", "vitamin a and b", "grade A on top", "a 80s jacket",
        "an 80s jacket", "shoes", "", "\u00e0 une robe",
    ],
)  # fmt: skip
def test_right_articles_are_left_in_peace(caption: str) -> None:
    assert wrong_article(caption) == ""


@pytest.mark.parametrize("caption", ["", "  ", "None", "nan", "N/A", "-", "...", "NULL", "\u3002"])
def test_captions_that_say_nothing(caption: str) -> None:
    assert is_blank(caption)


@pytest.mark.parametrize("caption", ["a shirt", "5", "robe \u00e9l\u00e9gante", "\u8863"])
def test_captions_that_say_something(caption: str) -> None:
    assert not is_blank(caption)


def test_what_programs_write_for_missing_values_is_found() -> None:
    assert placeholder("a None shirt for nan") == "None"
    assert placeholder("nan nan dress") == "nan"
    assert placeholder("second to none, with banana print, non-null, TODOS") == ""


@pytest.mark.parametrize(
    "text", ["Pack of 3 tees", "set of two bangles", "3-pack socks", "Combo of belts", "a gift set"]
)
def test_several_things_in_words(text: str) -> None:
    assert several_things(text)


@pytest.mark.parametrize(
    "text", ["a pair of three-quarter pants", "backpack of 30 litres", "a set of keys", "pack of 1"]
)
def test_one_thing_in_words(text: str) -> None:
    assert several_things(text) == ""


def test_captions_longer_than_a_row_are_told_with_what_is_cut() -> None:
    tokenizer = Tokenizer.train(["red dress blue shirt"] * 30, vocab_size=560, max_length=6)
    captions = ["red dress", "red dress blue shirt", "red dress blue shirt red"] * 500
    found = too_long(captions, tokenizer)
    assert set(found) == set(range(2, 1500, 3))
    assert found[2].num_tokens == 5 and found[1499].cut == "red"
