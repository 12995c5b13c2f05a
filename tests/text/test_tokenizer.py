"""Text to ids: training, files, rows of fixed length, and text nobody expected."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.errors import ToileError
from toile.text.tokenizer import END, START, Tokenizer

CAPTIONS = [
    "navy blue checked shirt for men",
    "an image of a 2011 fall navy blue men's shirt",
    "women's red t-shirt",
    "black leather shoes with laces",
] * 25


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, vocab_size=700, max_length=12)


def names(tokenizer: Tokenizer, text: str) -> list[str]:
    by_id = {index: token for token, index in tokenizer.vocab.items()}
    return [by_id[index] for index in tokenizer.encode(text, truncate=False).ids]


def test_words_of_the_captions_become_single_tokens(tokenizer: Tokenizer) -> None:
    expected = ["navy</w>", "blue</w>", "men</w>", "'s</w>", "shirt</w>", "2</w>", "0</w>", "1</w>", "1</w>"]
    assert names(tokenizer, "  Navy  BLUE\n men's shirt 2011") == expected


def test_composed_and_decomposed_letters_are_the_same(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("cafe\u0301").ids == tokenizer.encode("CAF\u00c9").ids


def test_vocabulary_layout(tokenizer: Tokenizer) -> None:
    tokens = sorted(tokenizer.vocab, key=tokenizer.vocab.__getitem__)
    assert list(tokenizer.vocab.values()) == list(range(len(tokens)))
    assert all(len(token) == 1 for token in tokens[:256])
    assert tokens[256:512] == [token + "</w>" for token in tokens[:256]]
    assert tokens[-2:] == [START, END]
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id) == (
        len(tokens) - 2,
        len(tokens) - 1,
        len(tokens) - 1,
    )
    assert tokenizer.vocab_size == len(tokens) <= 700


def test_training_does_not_depend_on_the_order_of_captions(tokenizer: Tokenizer) -> None:
    for seed in range(3):
        shuffled = random.Random(seed).sample(CAPTIONS, len(CAPTIONS))
        again = Tokenizer.train(iter(shuffled), vocab_size=700, max_length=12)
        assert again.vocab == tokenizer.vocab
        assert again.merges == tokenizer.merges


def test_vocab_size_limits_the_merges() -> None:
    small = Tokenizer.train(CAPTIONS, vocab_size=520)
    assert small.vocab_size == 520
    assert len(small.merges) == 6


def test_rare_pairs_are_not_merged() -> None:
    rare = Tokenizer.train(["shirt"] * 20 + ["zyxw"] * 19, vocab_size=700)
    assert names(rare, "shirt zyxw") == ["shirt</w>", "z", "y", "x", "w</w>"]


def test_no_captions_still_give_a_working_tokenizer() -> None:
    assert names(Tokenizer.train([], vocab_size=514), "ab") == ["a", "b</w>"]


def test_rows_are_start_tokens_end_padding(tokenizer: Tokenizer) -> None:
    ids, cut = tokenizer.batch(["red shirt", ""])
    red, shirt = tokenizer.encode("red shirt").ids
    start, end = tokenizer.start_id, tokenizer.end_id
    assert ids.dtype == torch.int64
    assert ids.tolist() == [[start, red, shirt] + [end] * 9, [start] + [end] * 11]
    assert cut == ("", "")


def test_an_empty_batch_is_an_empty_tensor(tokenizer: Tokenizer) -> None:
    ids, cut = tokenizer.batch([])
    assert ids.shape == (0, 12)
    assert cut == ()


def test_what_does_not_fit_is_reported(tokenizer: Tokenizer) -> None:
    text = "shirt " * 10 + "Red  LEATHER shoes"
    ids, cut = tokenizer.batch([text])
    assert cut == ("Red  LEATHER shoes",)
    assert tokenizer.encode(text).cut == "Red  LEATHER shoes"
    assert ids[0, -1] == tokenizer.end_id
    assert tokenizer.encode("shirt " * 10).cut == ""


def test_cut_is_reported_at_the_right_letter_after_wide_characters(tokenizer: Tokenizer) -> None:
    cut = tokenizer.encode("👗" * 2 + " e\u0301" * 1 + " red shoes").cut
    assert cut == "red shoes"  # the emoji are four bytes each, one token a byte, the accent two


def test_truncate_off_keeps_everything(tokenizer: Tokenizer) -> None:
    whole = tokenizer.encode("red " * 50, truncate=False)
    assert len(whole.ids) == 50
    assert whole.cut == ""


def test_unknown_words_are_named_once_and_as_typed(tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode("red Peplum shirt, peplum 2011 !? Peplum blåhaj")
    assert encoding.unknown_words == ("Peplum", "peplum", "blåhaj")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\0",
        "\0red\0",
        "👗👠",
        "שמלה אדומה",
        "\u202eabc",
        "\udce9",
        "red " * 10_000,
        "x" * 10_000,
        f"{END}{START}",
        "\ufffe",
    ],
)
def test_unexpected_text_gives_a_row(tokenizer: Tokenizer, text: str) -> None:
    ids, (cut,) = tokenizer.batch([text])
    assert ids.shape == (1, 12)
    assert 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size
    assert bool(cut) == (len(tokenizer.encode(text, truncate=False).ids) > 10)


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(), max_size=60))
def test_rows_agree_with_encode_and_the_cut_is_the_end(tokenizer: Tokenizer, text: str) -> None:
    encoding = tokenizer.encode(text)
    ids, (cut,) = tokenizer.batch([text])
    assert ids[0, 1 : 1 + len(encoding.ids)].tolist() == list(encoding.ids)
    assert ids[0, 1 + len(encoding.ids)] == tokenizer.end_id
    assert cut == encoding.cut
    assert text.encode("utf-8", "replace").decode().endswith(cut)


def test_save_and_load_give_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "new" / "tokenizer")
    loaded = Tokenizer.load(tmp_path / "new" / "tokenizer")
    assert (loaded.vocab, loaded.merges, loaded.special) == (tokenizer.vocab, tokenizer.merges, tokenizer.special)
    assert loaded.max_length == 12
    loaded.save(tmp_path / "again")
    for path in (tmp_path / "new" / "tokenizer").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def rewrite(folder: Path, name: str, **changes: object) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


def test_pad_token_of_stable_diffusion_2(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    rewrite(tmp_path, "special_tokens_map.json", pad_token="!")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.max_length == 77
    assert loaded.pad_id == loaded.vocab["!"] == 0
    assert loaded.batch(["red"])[0][0, 2:].tolist() == [loaded.end_id] + [0] * 74


@pytest.mark.parametrize("max_length", [1e30, 10**30, float("nan"), None])
def test_missing_limit_is_that_of_clip(tokenizer: Tokenizer, tmp_path: Path, max_length: object) -> None:
    tokenizer.save(tmp_path)
    rewrite(tmp_path, "tokenizer_config.json", model_max_length=max_length)
    assert Tokenizer.load(tmp_path).max_length == 77


def test_byte_order_of_line_ends_does_not_matter(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    merges = (tmp_path / "merges.txt").read_bytes()
    (tmp_path / "merges.txt").write_bytes(merges.replace(b"\n", b"\r\n"))
    assert Tokenizer.load(tmp_path).merges == tokenizer.merges


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", None, "vocab.json is missing"),
        ("merges.txt", None, "merges.txt is missing"),
        ("vocab.json", b"{", "not JSON"),
        ("vocab.json", b"[1]", "must hold a JSON object"),
        ("vocab.json", b'{"a": "b"}', "whole number"),
        ("vocab.json", b'{"a": -1}', "whole number"),
        ("vocab.json", b"\xff\xfe", "not UTF-8"),
        ("vocab.json", b'{"a": 0}', "lacks"),
        ("merges.txt", b"#version: 0.2\na b c\n", "merge 1: 'a b c' must be two tokens"),
        ("merges.txt", b"q q\n", "lacks 1 tokens.*'qq'"),
        ("tokenizer_config.json", b'{"pad_token": "<pad>"}', "lacks 1 tokens.*'<pad>'"),
        ("tokenizer_config.json", b'{"model_max_length": 2}', "max_length 2"),
    ],
)
def test_broken_files_are_refused(
    tokenizer: Tokenizer, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(ToileError, match=message):
        Tokenizer.load(tmp_path)


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ToileError, match="513.*514"):
        Tokenizer.train(CAPTIONS, vocab_size=513)
