"""Words of its own: found whole, whatever their capitals, each one word of several ids."""

from __future__ import annotations

import pytest

from toile.errors import ToileError
from toile.text.rows import tokenize_prompt
from toile.text.tokenizer import Tokenizer

CAPTIONS = ["navy blue checked shirt for men", "a painting of a red dress, with lace"] * 25


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, vocab_size=700, max_length=12)


@pytest.fixture(scope="module")
def tokenizer(plain: Tokenizer) -> Tokenizer:
    return plain.with_words({"<monet>": 3, "<monet-late>": 2, "lace": 1})


def test_a_learned_word_is_ids_behind_the_vocabulary(plain: Tokenizer, tokenizer: Tokenizer) -> None:
    first, size = plain.vocab_size, tokenizer.vocab_size
    assert size == first
    red = plain.encode("red").ids
    assert tokenizer.encode("red <monet>").ids == (*red, first, first + 1, first + 2)
    assert tokenizer.encode("<MONET-late> red").ids == (first + 3, first + 4, *red)
    assert tokenizer.encode("lace").ids == (first + 5,) != plain.encode("lace").ids


def test_only_whole_words_are_found(plain: Tokenizer, tokenizer: Tokenizer) -> None:
    for text in ("laces", "necklace", "monet", "<monet", "red dress"):
        assert tokenizer.encode(text, truncate=False) == plain.encode(text, truncate=False), text
    assert tokenizer.encode("lace,lace").ids[::2] == tokenizer.encode("lace lace").ids


def test_it_is_one_word_at_its_place(tokenizer: Tokenizer) -> None:
    text = "red <Monet> dress"
    tokens = tokenizer.tokens(text)
    assert [token.word for token in tokens] == [0, 1, 1, 1, 2]
    assert {(token.start, token.end) for token in tokens if token.word == 1} == {(4, 11)}
    assert text[tokens[-1].start : tokens[-1].end] == "dress"
    words = tokenize_prompt(tokenizer, "(red <monet>:1.3) dress").words
    assert [(word.text, word.weight) for word in words] == [("red", 1.3), ("<monet>", 1.3), ("dress", 1.0)]
    assert words[1].positions == (2, 3, 4)
    assert tokenizer.encode("red <monet>").unknown_words == ()


def test_its_vectors_stay_in_one_row(tokenizer: Tokenizer) -> None:
    prompt = tokenize_prompt(tokenizer, "red " * 8 + "<monet> dress")
    first = tokenizer.vocab_size
    assert prompt.num_rows == 2
    assert prompt.ids[1, 1:4].tolist() == [first, first + 1, first + 2]
    assert int((prompt.ids[0] >= first).sum()) == 0


def test_what_is_cut_begins_at_a_word(tokenizer: Tokenizer) -> None:
    assert tokenizer.batch(["red " * 10 + "<monet> dress"])[1] == ("<monet> dress",)
    assert tokenizer.encode("red " * 9 + "<monet> dress").cut == "<monet> dress"  # its last vectors do not fit


def test_words_are_replaced_not_added(plain: Tokenizer, tokenizer: Tokenizer) -> None:
    assert tokenizer.with_words({}).encode("lace <monet>") == plain.encode("lace <monet>")


@pytest.mark.parametrize(
    "words", [{"two words": 1}, {"(a)": 1}, {"a:b": 1}, {"": 1}, {"a": 0}, {"a": 11}, {"a": 1, "A": 1}]
)
def test_unfit_words_are_refused(plain: Tokenizer, words: dict[str, int]) -> None:
    with pytest.raises(ToileError):
        plain.with_words(words)
