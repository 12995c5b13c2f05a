"""Prompts in rows of tokens: where rows end, what each token weighs, and which tokens are which word."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.errors import ToileError
from toile.text.rows import COMMA_REACH, MAX_ROWS, PromptTokens, stack_prompts, tokenize_prompt
from toile.text.tokenizer import Tokenizer

WORDS = ("red", "blue", "dress", "shirt", "for", "women", ",", "t-shirt")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([" ".join(WORDS)] * 30, vocab_size=600, max_length=32)


def rows_of(tokenizer: Tokenizer, prompt: PromptTokens) -> list[list[int]]:
    """Ids of every row up to its end token, which must begin and fill it up as the tokenizer says."""
    rows = []
    for row in prompt.ids.tolist():
        assert row[0] == tokenizer.start_id
        ids = row[1 : row.index(tokenizer.end_id)]
        assert row == tokenizer.row(ids)
        rows.append(ids)
    return rows


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, truncate=False).ids)


@settings(max_examples=50, deadline=None)
@given(text=st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join))
def test_a_short_prompt_without_signs_is_the_row_it_always_was(tokenizer: Tokenizer, text: str) -> None:
    prompt = tokenize_prompt(tokenizer, text)
    ids, (cut,) = tokenizer.batch([text])
    if not cut:
        assert torch.equal(prompt.ids, ids)
        assert not prompt.is_weighted
        assert prompt.count == len(ids_of(tokenizer, text))


@settings(max_examples=50, deadline=None)
@given(text=st.lists(st.sampled_from((*WORDS, "(", ")", "]", "👗", "BREAK ")), max_size=200).map(" ".join))
def test_no_token_is_lost_or_doubled(tokenizer: Tokenizer, text: str) -> None:
    prompt = tokenize_prompt(tokenizer, text, max_rows=500)
    flat = [id_ for row in rows_of(tokenizer, prompt) for id_ in row]
    assert len(flat) == prompt.count
    positions = [place for word in prompt.words for place in word.positions]
    assert len(positions) == len(set(positions)) == prompt.count
    assert [int(prompt.ids.flatten()[place]) for place in sorted(positions)] == flat
    assert prompt.cut == ""


def test_a_full_row_goes_on_in_the_next(tokenizer: Tokenizer) -> None:
    prompt = tokenize_prompt(tokenizer, "red " * 30 + "blue " * 31)
    red, blue = ids_of(tokenizer, "red blue")
    assert rows_of(tokenizer, prompt) == [[red] * 30, [blue] * 30, [blue]]
    assert tokenize_prompt(tokenizer, "red " * 30).num_rows == 1


def test_words_after_a_near_comma_move_to_the_next_row(tokenizer: Tokenizer) -> None:
    red, comma, blue = ids_of(tokenizer, "red , blue")
    for after in (1, COMMA_REACH - 1, COMMA_REACH):
        before = 30 - 1 - after
        prompt = tokenize_prompt(tokenizer, "red " * before + ", " + "blue " * (after + 1))
        if after < COMMA_REACH:
            assert rows_of(tokenizer, prompt) == [[red] * before + [comma], [blue] * (after + 1)]
        else:  # too far back
            assert rows_of(tokenizer, prompt) == [[red] * before + [comma] + [blue] * after, [blue]]


def test_the_last_comma_counts_and_one_at_the_limit_goes_on(tokenizer: Tokenizer) -> None:
    red, comma, blue = ids_of(tokenizer, "red , blue")
    prompt = tokenize_prompt(tokenizer, "red, " * 14 + "blue blue blue")
    assert rows_of(tokenizer, prompt) == [[red, comma] * 14, [blue] * 3]
    prompt = tokenize_prompt(tokenizer, "red " * 30 + ", blue")
    assert rows_of(tokenizer, prompt) == [[red] * 30, [comma, blue]]
    prompt = tokenize_prompt(tokenizer, "red " * 29 + ", blue")
    assert rows_of(tokenizer, prompt) == [[red] * 29 + [comma], [blue]]


def test_break_begins_a_row(tokenizer: Tokenizer) -> None:
    red, blue = ids_of(tokenizer, "red blue")
    assert rows_of(tokenizer, tokenize_prompt(tokenizer, "red BREAK blue")) == [[red], [blue]]
    assert rows_of(tokenizer, tokenize_prompt(tokenizer, "BREAK red BREAK BREAK blue")) == [[], [red], [], [blue]]
    assert rows_of(tokenizer, tokenize_prompt(tokenizer, "red BREAK")) == [[red]]
    assert rows_of(tokenizer, tokenize_prompt(tokenizer, "BREAK")) == [[]]
    assert rows_of(tokenizer, tokenize_prompt(tokenizer, "")) == [[]]


def test_every_token_has_the_weight_of_its_piece(tokenizer: Tokenizer) -> None:
    prompt = tokenize_prompt(tokenizer, "red (t-shirt:1.5) [blue]")
    assert prompt.weights.tolist()[0][:6] == pytest.approx([1, 1, 1.5, 1.5, 1.5, 1 / 1.1])
    assert prompt.weights[0, 6:].unique().tolist() == [1]
    assert prompt.is_weighted
    assert not tokenize_prompt(tokenizer, "red (blue:1)").is_weighted


def test_words_know_their_places(tokenizer: Tokenizer) -> None:
    text = "red t-shirt, " + "(for women:1.2) " * 14 + "Red Dress"
    prompt = tokenize_prompt(tokenizer, text)
    assert prompt.num_rows == 2
    assert prompt.positions_of("t-shirt") == (2, 3, 4)
    assert prompt.positions_of("shirt") == (4,)
    first, second = prompt.positions_of("red")
    assert (first, second) == (1, prompt.positions_of("red dress")[0])
    assert second > 32
    assert len(prompt.positions_of("women")) == 14
    assert prompt.words[-1].text == "Dress"
    assert {word.weight for word in prompt.words if word.text == "women"} == {1.2}
    for missing in ("dres", "", "shirt dress"):
        with pytest.raises(ToileError, match="is not in the prompt; its words: red t - shirt"):
            prompt.positions_of(missing)


def test_a_word_of_many_tokens_is_one_word(tokenizer: Tokenizer) -> None:
    prompt = tokenize_prompt(tokenizer, "red שמלה 👗")
    assert [word.text for word in prompt.words] == ["red", "שמלה", "👗"]
    assert len(prompt.positions_of("שמלה")) == 8
    assert len(prompt.positions_of("👗")) == 4


def test_what_needs_too_many_rows_is_cut_and_told(tokenizer: Tokenizer) -> None:
    prompt = tokenize_prompt(tokenizer, "red " * 300 + "(blue dress)")
    assert (prompt.num_rows, prompt.count) == (MAX_ROWS, 30 * MAX_ROWS)
    assert prompt.cut == "red " * 60 + "(blue dress:1.1)"
    assert {word.text for word in prompt.words} == {"red"}
    assert tokenize_prompt(tokenizer, "red " * 240).cut == ""
    assert tokenize_prompt(tokenizer, "red " * 241 + "BREAK x").cut == "red BREAK x"
    assert tokenize_prompt(tokenizer, "BREAK " * 8 + "blue").cut == "blue"
    assert tokenize_prompt(tokenizer, "red BREAK blue", max_rows=1).cut == "blue"


def test_words_moved_behind_the_last_row_are_cut(tokenizer: Tokenizer) -> None:
    prompt = tokenize_prompt(tokenizer, "red " * 20 + ", " + "blue " * 10, max_rows=1)
    assert prompt.cut == "blue " * 10
    assert prompt.count == 21


def test_stacked_prompts_are_padded_with_the_empty_prompt(tokenizer: Tokenizer) -> None:
    short, long = tokenize_prompt(tokenizer, "(red:2)"), tokenize_prompt(tokenizer, "red BREAK blue")
    ids, weights = stack_prompts(tokenizer, [short, long], 3)
    assert ids.shape == weights.shape == (2, 3, 32)
    empty = tokenizer.batch([""])[0][0]
    assert torch.equal(ids[0], torch.stack([short.ids[0], empty, empty]))
    assert torch.equal(ids[1], torch.cat([long.ids, empty[None]]))
    assert weights[0, 0, 1] == 2
    assert weights.sum() == 2 * 3 * 32 + 1
