"""Prompts in people's words become what the bundled model learnt, and those in its words stay as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toile.errors import ToileError
from toile.model_folder import find_model, load_reader
from toile.text.prompt import parse_prompt
from toile.text.reader import Reading
from toile.text.word_tables import WordTables

LOADED = load_reader(find_model("fashion"))
assert LOADED is not None
READER = LOADED
PROMPTS = Path(__file__).parents[1] / "data"
WRITTEN_PROMPTS = [
    entry
    for name in ("people_prompts.json", "people_prompts_development.json")
    for entry in json.loads((PROMPTS / name).read_text(encoding="utf-8"))
]
GENDERS = {"men": {"Men"}, "women": {"Women"}, "boys": {"Boys"}, "girls": {"Girls"}, "kids": {"Boys", "Girls"}}
COLOURS = {"multicoloured": "Multi", "skin-coloured": "Skin", "off-white": "Off White"}
WORDS = st.sampled_from(
    "red burgundy frock comfy sneekers men's for my wife navy blue, hoodies T-Shirt! something a party & gold watch "
    "sks not ladys (red:1.3) [frock] BREAK <lora:monet:0.8> 9 \u65e5\u672c shirt dress 2012 without print or".split()
)
SENTENCES = st.lists(WORDS, max_size=9).map(" ".join)


def read(prompt: str, **more: Any) -> Reading:
    return READER.read(prompt, **more)


@pytest.mark.parametrize(
    ("prompt", "text", "unknown"),
    [
        ("a comfy burgundy frock for my wife", "maroon dress for women", ("comfy",)),
        ("sneekers, please", "casual shoes", ()),
        ("trainers for the gym, please", "sports shoes", ()),
        ("my son's hoodies in crimson", "red sweatshirt for boys", ()),
        ("gent's blazer", "jacket for men", ()),
        ("the purse of my husband", "wallet for men", ()),
        ("the purse of my wife", "handbag for women", ()),
        ("stripey jumper, wool", "striped knitted sweater", ()),
        ("my red/white polo", "red and white polo t-shirt", ()),
        ("please a kurta dress", "dress", ()),
        ("3/4 pants", "capris", ()),
        ("the 2012 jeans", "2012 jeans", ()),
        ("my backpack for men and women", "backpack for men and women", ()),
    ],
)
def test_peoples_words_become_the_models(prompt: str, text: str, unknown: tuple[str, ...]) -> None:
    reading = read(prompt)
    assert reading.text == text
    assert reading.unknown == unknown


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a running shoe, red", "red sports shoes"),
        ("wrist watches for him", "watch for men"),
        ("flipflops", "flip flops"),
        ("blue flipflop", "blue flip flops"),
        ("trackpants", "track pants"),
        ("back pack", "backpack"),
        ("a gold ear ring", "gold earrings"),
        ("sun glass", "sunglasses"),
    ],
)
def test_phrases_are_known_in_either_number_joined_or_apart(prompt: str, text: str) -> None:
    reading = read(prompt)
    assert reading.text == text
    assert reading.unknown == reading.corrections == ()


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a strong brown belt", "brown belt"),  # no sarong
        ("higher heels, red", "red heels"),  # no "him her"
        ("brand new shirt", "shirt"),  # no wedding band
        ("BACKPACK FOR MEN AND WOMEN, please", "backpack for men and women"),
        ("comfy running tight trousers", "slim fit sports trousers"),
        ("comfy blue denim jean jacket", "blue denim jacket"),
        ("gift for my boyfriend, jeans", "jeans for men"),
        ("boyfriend jeans for my wife", "jeans for women"),
        ("any one red dress, comfy", "red dress"),
        ("red tops, comfy", "red top"),
        ("polka dot print dress, comfy", "polka dot dress"),
    ],
)
def test_words_that_only_look_like_a_phrase_are_left_alone(prompt: str, text: str) -> None:
    assert read(prompt).text == text


def test_a_slip_in_words_written_as_one_is_understood_and_told() -> None:
    assert read("black trakpants").told() == "read as: black track pants (trakpants read as track pants)"


def test_every_phrase_means_the_same_written_as_one_word() -> None:
    phrases = [phrase for phrase in READER.tables.meanings["article"] if " " in phrase]
    assert len(phrases) > 100
    for phrase in phrases:
        joined = phrase.replace(" and ", "").replace(" ", "")
        if joined not in READER.tables.known:
            assert read(joined).fields == read(phrase).fields, joined


@pytest.mark.parametrize("prompt", ["red dress", "RED Dress!!", "Navy blue,  shirt", "", "(red:1.3) [tee]", "\n"])
def test_what_the_model_knows_stays_to_the_letter(prompt: str) -> None:
    reading = read(prompt)
    assert reading.text == prompt
    assert reading.told() == ""


@pytest.mark.parametrize("prompt", ["xylophone", "\u65e5\u672c", "\U0001f457"])
def test_where_nothing_is_known_the_prompt_stays_and_that_is_told(prompt: str) -> None:
    reading = read(prompt)
    assert (reading.text, reading.unknown) == (prompt, (prompt,))
    assert reading.told() == f"read as typed (unknown: {prompt})"


def test_what_was_done_is_told_in_one_line() -> None:
    assert read("a comfy burgundy frock for my wife").told() == "read as: maroon dress for women (unknown: comfy)"
    slip = read("the blcak jeens")
    assert slip.told() == "read as: black jeans (blcak read as black; jeens read as jeans)"
    assert "left out: tie, black" in read("please a white shirt with black tie").told()
    assert "left out: not tight" in read("my blue jeans, not too tight").told()


def test_an_english_word_is_no_slip() -> None:
    reading = read("a red shift dress with a scene")
    assert reading.corrections == ()
    assert reading.unknown == ("scene",)


def test_a_slip_that_may_be_two_words_names_both() -> None:
    [slip] = read("my bleck jeans, pinl").corrections[:1]
    assert slip.read == "black"
    [shrt] = read("a blue shrt please").corrections
    assert {shrt.read, *shrt.others} >= {"shirt", "short"}
    assert f"which may also be {' or '.join(shrt.others)}" in read("a blue shrt please").told()


def test_weights_stay_with_their_words() -> None:
    text = read("my (burgundy:1.3) [frock] for my (wife:0.5)").text
    pieces = {piece.text.strip(): piece.weight for part in parse_prompt(text) for piece in part if piece.text.strip()}
    assert pieces == pytest.approx({"maroon": 1.3, "dress": 1 / 1.1, "for women": 0.5})


def test_breaks_and_tags_stay() -> None:
    assert read("my burgundy frock BREAK my crimson jumper <lora:monet:0.8>").text.split() == (
        "maroon dress BREAK red sweater <lora:monet:0.8>".split()
    )


def test_learned_words_stay_where_the_article_is() -> None:
    reading = read("a comfy burgundy My-Frock please", own_words=("my-frock",))
    assert reading.text == "maroon My-Frock"
    assert reading.drawn == ""
    assert read("red my-frock", own_words=("my-frock",)).text == "red my-frock"


def test_what_a_lora_may_have_taught_stays() -> None:
    assert read("a sks burgundy frock <lora:x>", keep_unknown=True).text == "maroon sks dress <lora:x:1>"


def test_a_missing_article_is_drawn_by_the_seed() -> None:
    drawn = [read("something red for a party", seed=seed) for seed in range(20)]
    assert all(reading.text == f"red party {reading.drawn}" for reading in drawn)
    assert {"dress"} <= {reading.drawn for reading in drawn}
    assert {READER.tables.articles[reading.drawn].group for reading in drawn} == {"Apparel"}
    assert len({read("something blue", seed=seed).drawn for seed in range(20)}) > 3
    assert "drawn: " in drawn[0].told()


@settings(deadline=None)
@given(SENTENCES, st.integers(0, 3))
def test_reading_again_changes_nothing(prompt: str, seed: int) -> None:
    once = read(prompt, seed=seed)
    assert read(once.text, seed=seed).text == once.text


@settings(deadline=None)
@given(SENTENCES)
def test_capitals_do_not_matter(prompt: str) -> None:
    small = re.sub(r"\w+", lambda word: word[0] if word[0] == "BREAK" else word[0].lower(), prompt)
    large = prompt.upper()
    if "<lora" in prompt:  # names of files
        large = re.sub(r"<LORA:MONET", "<lora:monet", large)
    assert dict(read(large).fields) == dict(read(small).fields)


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_no_text_makes_it_fail(prompt: str) -> None:
    reading = read(prompt)
    assert reading.typed == prompt
    assert reading.is_changed or reading.text == prompt


@settings(deadline=None)
@given(st.lists(st.sampled_from("comfy posh weird red frock".split()), min_size=1, max_size=6))
def test_every_word_is_read_or_reported(words: list[str]) -> None:
    reading = read(" ".join(words))
    assert set(reading.unknown) == set(words) & {"comfy", "posh", "weird"}


@pytest.mark.parametrize("entry", WRITTEN_PROMPTS, ids=lambda entry: entry["prompt"])
def test_prompts_of_people_are_read_as_meant(entry: dict[str, Any]) -> None:
    fields = read(entry["prompt"]).fields
    judged = json.loads((find_model("fashion").parent / "judges/attributes/config.json").read_text())["labels"]
    kind = READER.tables.articles[fields["article"]].kind
    assert (kind if kind in judged["article_type"] else "other") in entry["article"]
    colours = {COLOURS.get(word, word.title()) for word in fields.get("colour", "").split(" and ")}
    assert "colour" not in entry or colours & set(entry["colour"])
    assert "gender" not in entry or GENDERS[fields["people"]] & set(entry["gender"])


def test_damaged_tables_are_refused() -> None:
    with pytest.raises(ToileError, match="slots"):
        WordTables({}, {"colours": {}}, {}, (), ())
    with pytest.raises(ToileError, match="frock"):
        WordTables({}, {"article": {"frock": ("dress",)}}, {}, (), ())
    with pytest.raises(ToileError, match="version 2"):
        WordTables({}, {}, {}, (), (), version=2)
