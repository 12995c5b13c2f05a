"""A prompt's words with their weights, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toile.errors import ToileError
from toile.text.prompt import parse_prompt
from toile.web.page.wording import Word, join_words, split_words


def weigh(prompt: str, **weights: float) -> str:
    words = [Word(w.text, weights.get(w.text, w.weight), w.kind) for w in split_words(prompt)]
    return join_words(words, prompt)


def test_words_gaps_and_weights() -> None:
    words = split_words("a (navy blue:1.3) dress, t-shirt", {"a"})
    assert [word.text for word in words if word.kind == "word"] == ["navy", "blue", "dress", "t-shirt"]
    assert [word.text for word in words if word.kind == "small"] == ["a"]
    assert {word.text: word.weight for word in words if word.kind == "word"}["blue"] == 1.3


def test_a_weight_is_written_into_the_prompt_and_taken_out_again() -> None:
    assert weigh("red dress for women", red=1.4) == "(red:1.4) dress for women"
    assert weigh("(red:1.4) dress for women", red=1.0) == "red dress for women"
    assert weigh("navy blue dress", navy=0.5, blue=0.5) == "(navy blue:0.5) dress"
    below = parse_prompt(weigh("red dress", red=-1.0, dress=0.0))
    assert below == ((("red", -1.0), (" ", 1.0), ("dress", 0.0)),)


def test_signs_breaks_and_loras_stay() -> None:
    assert parse_prompt(weigh(r"red \(old\) dress BREAK belt", belt=2.0)) == (
        (("red (old) dress", 1.0),),
        (("belt", 2.0),),
    )
    assert weigh("red dress <lora:monet:0.8>", dress=1.5).endswith("(dress:1.5) <lora:monet:0.8>")


@given(st.text(alphabet="ab é'-,.()[]:\\1\n<", max_size=40))
def test_nothing_changes_unless_a_weight_does(prompt: str) -> None:
    try:
        parts = parse_prompt(prompt)
    except ToileError:
        return
    again = [[(piece.text, round(piece.weight, 9)) for piece in part] for part in parse_prompt(weigh(prompt))]
    # What stands between two words of other weights weighs nothing of its own.
    letters = [[(sign, round(p.weight, 9)) for p in part for sign in p.text if sign.isalnum()] for part in parts]
    assert [[(s, w) for text, w in part for s in text if s.isalnum()] for part in again] == letters


def test_a_weight_beyond_the_grammar_is_refused() -> None:
    with pytest.raises(ToileError, match="weight is 1000"):
        weigh("red", red=1000.0)
