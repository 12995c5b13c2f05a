"""Our tokenizer against transformers' CLIPTokenizer reading the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.text.tokenizer import END, START, Tokenizer

CAPTIONS = [
    "navy blue checked shirt for men",
    "an image of a 2011 fall navy blue men's shirt",
    "women's red t-shirt, printed",
    "black leather shoes with laces!",
    "café crème scarf",
] * 25
PIECES = [
    "shirt",
    "Men's ",
    "NAVY",
    " ",
    "\t\n",
    "2011",
    "!",
    "'ll",
    "é",
    "e\u0301",
    "İ",
    "ß",
    "\0",
    "👗",
    "שמלה",
    START,
    END,
]
texts = st.one_of(st.text(), st.lists(st.sampled_from([*PIECES, START.upper(), END.upper()]), max_size=30).map("".join))
Pair = tuple[Tokenizer, transformers.CLIPTokenizer]


def added_token(content: str) -> dict[str, object]:
    """How the folders of Stable Diffusion 1.x write a special token."""
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"__type": "AddedToken", "content": content, **flags}


SPECIAL = {
    "ours": {},
    "sd1": {
        "bos_token": added_token(START),
        "eos_token": added_token(END),
        "unk_token": added_token(END),
        "pad_token": END,
    },
    "sd2": {
        "bos_token": added_token(START),
        "eos_token": added_token(END),
        "unk_token": added_token(END),
        "pad_token": "!",
    },
}


@pytest.fixture(scope="module", params=list(SPECIAL))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train(CAPTIONS, vocab_size=700, max_length=16).save(folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        content = json.loads((folder / name).read_text()) | SPECIAL[request.param]
        (folder / name).write_text(json.dumps(content))
    return Tokenizer.load(folder), transformers.CLIPTokenizer.from_pretrained(folder)


@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_same_ids(pair: Pair, text: str) -> None:
    ours, theirs = pair
    assert list(ours.encode(text, truncate=False).ids) == theirs(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(texts, min_size=1, max_size=4))
def test_same_rows(pair: Pair, batch: list[str]) -> None:
    ours, theirs = pair
    ids, _ = ours.batch(batch)
    assert ids.tolist() == theirs(batch, padding="max_length", truncation=True)["input_ids"]


def test_same_special_ids_after_our_save(pair: Pair, tmp_path: Path) -> None:
    ours, _ = pair
    ours.save(tmp_path)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    assert (ours.start_id, ours.end_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert theirs.model_max_length == ours.max_length == 16
    assert len(theirs) == ours.vocab_size
    text = "Navy <|ENDOFTEXT|> shirt!"
    assert ours.batch([text])[0][0].tolist() == theirs(text, padding="max_length", truncation=True)["input_ids"]
