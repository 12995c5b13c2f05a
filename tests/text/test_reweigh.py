"""The same prompt with another weight for one word."""

from __future__ import annotations

import pytest

from toile.errors import ToileError
from toile.text.prompt import parse_prompt
from toile.text.reweigh import with_weight


@pytest.mark.parametrize(
    ("prompt", "phrase", "weight", "expected"),
    [
        ("a red dress", "red", 1.5, "a (red:1.5) dress"),
        ("a red dress", "red", 1.0, "a red dress"),
        ("a red dress", "RED  dress", -0.5, "a (red dress:-0.5)"),
        ("red, redder, red", "red", 2.0, "(red:2.0), redder, (red:2.0)"),
        ("a (red:1.3) dress", "red", 0.0, "a (red:0.0) dress"),
        ("a (red dress:1.3)", "red", 0.5, "a (red:0.5)( dress:1.3)"),
        (r"a red \(small\) dress", "small", 2.0, r"a red \((small:2.0)\) dress"),
        ("red BREAK blue", "blue", 2.0, "red BREAK (blue:2.0)"),
    ],
)
def test_only_the_word_changes(prompt: str, phrase: str, weight: float, expected: str) -> None:
    assert with_weight(prompt, phrase, weight) == expected


def test_weight_one_is_the_prompt_without_weight() -> None:
    assert parse_prompt(with_weight("a (red:1.7) dress", "red", 1.0)) == parse_prompt("a red dress")


@pytest.mark.parametrize("phrase", ["blue", "re", "", "red belt"])
def test_words_that_are_not_there_are_refused(phrase: str) -> None:
    with pytest.raises(ToileError, match="is not in the prompt"):
        with_weight("a red dress", phrase, 2.0)


def test_weights_that_the_grammar_refuses() -> None:
    with pytest.raises(ToileError, match="a weight in the prompt"):
        with_weight("a red dress", "red", 1000.0)
