"""Captions say what the fields say, leave blanks out, and understand people's own words."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toile.data.captions import CaptionConfig, CaptionWriter, normalise_prompt, product_words, singular
from toile.data.records import Record
from toile.data.templates import Template, is_plural
from toile.data.vocabulary import PEOPLE, SYNONYMS, TEMPLATES, TITLE_WORDS
from toile.errors import ToileError

SHIRT = Record("1", {
    "gender": "Men", "masterCategory": "Apparel", "subCategory": "Topwear", "articleType": "Shirts",
    "baseColour": "Navy Blue", "season": "Fall", "year": "2011", "usage": "Casual",
    "productDisplayName": "Turtle Check Men Navy Blue Shirt",
})  # fmt: skip
KEEP_ALL = CaptionConfig(
    keep_article=1, keep_colour=1, keep_gender=1, keep_unisex=1, keep_usage=1, keep_season=1, keep_year=1,
    keep_pattern=1, keep_detail=1, second_colour=0, synonym=0,
)  # fmt: skip
EXPECTED_NAMES = {
    "Tshirts": "t-shirt", "Shirts": "shirt", "Casual Shoes": "casual shoes", "Watches": "watch", "Kurtas": "kurta",
    "Tops": "top", "Heels": "heels", "Sunglasses": "sunglasses", "Flip Flops": "flip flops", "Sandals": "sandals",
    "Socks": "socks", "Jeans": "jeans", "Perfume and Body Mist": "perfume", "Shorts": "shorts", "Flats": "flats",
    "Trousers": "trousers", "Dresses": "dress", "Earrings": "earrings", "Sarees": "saree", "Deodorant": "deodorant",
    "Track Pants": "track pants", "Ties": "tie", "Caps": "cap", "Clutches": "clutch", "Nail Polish": "nail polish",
    "Lipstick": "lipstick", "Kurtis": "kurti", "Tunics": "tunic", "Capris": "capris", "Leggings": "leggings",
    "Necklace and Chains": "necklace", "Scarves": "scarf", "Lip Gloss": "lip gloss", "Cufflinks": "cufflinks",
    "Accessory Gift Set": "accessory gift set", "Kurta Sets": "kurta set", "Kajal and Eyeliner": "eyeliner",
    "Sports Sandals": "sports sandals", "Mufflers": "muffler", "Suspenders": "suspenders", "Jeggings": "jeggings",
    "Tracksuits": "tracksuit", "Gloves": "gloves", "Booties": "booties", "Tights": "tights",
    "Compact": "compact powder",
    "Face Moisturisers": "face moisturiser", "Umbrellas": "umbrella", "Basketballs": "basketball", "Dupatta": "dupatta",
    "Mens Grooming Kit": "grooming kit", "Nehru Jackets": "nehru jacket", "Shoe Laces": "shoe laces",
    "Lounge Pants": "lounge pants", "Night suits": "pyjamas", "Beauty Accessory": "beauty accessory",
}  # fmt: skip


@pytest.mark.parametrize(("article_type", "name"), EXPECTED_NAMES.items())
def test_articles_are_called_what_people_call_them(article_type: str, name: str) -> None:
    assert singular(article_type) == name


@pytest.mark.parametrize(
    ("article_type", "name"),
    [("Brooches", "brooch"), ("Hairboxes", "hairbox"), ("Bodies", "body"), ("Canvas Glass", "canvas glass"), ("", "")],
)
def test_unknown_types_follow_the_rule(article_type: str, name: str) -> None:
    assert singular(article_type) == name


def test_the_full_caption_says_everything_visible() -> None:
    assert CaptionWriter().full(SHIRT) == "navy blue checked casual shirt for men"


def test_blank_fields_are_left_out_never_none() -> None:
    writer = CaptionWriter()
    for fields in ({}, {"articleType": "Dresses"}, {"masterCategory": "Footwear"}, {"baseColour": "Red"}):
        record = Record("9", fields)
        for draw in range(200):
            caption = writer.write(record, draw)
            assert caption and "none" not in caption.lower() and not re.search(r"  | ,|,$|^,|\[|\]|\{", caption)
    assert writer.full(Record("9", {"articleType": "Dresses"})) == "dress"
    assert writer.full(Record("9", {"baseColour": "Red"})) == "red product"
    assert writer.full(Record("9", {"masterCategory": "Footwear"})) == "footwear"


def test_a_caption_is_a_function_of_record_and_draw() -> None:
    first, second = CaptionWriter(), CaptionWriter()
    twin = Record(SHIRT.key, dict(reversed(SHIRT.fields.items())))
    drawn = [first.write(SHIRT, 7, draw) for draw in range(100)]
    assert [second.write(twin, 7, draw) for draw in reversed(range(100))] == drawn[::-1]
    assert len(set(drawn)) > 50
    assert drawn != [first.write(SHIRT, 8, draw) for draw in range(100)]
    other = Record("2", SHIRT.fields)
    assert drawn != [first.write(other, 7, draw) for draw in range(100)]


def test_every_template_of_the_deck_is_used_and_known_orders_occur() -> None:
    captions = {CaptionWriter(KEEP_ALL).write(SHIRT, draw) for draw in range(1000)}
    assert "an image of a 2011 fall navy blue checked men's casual shirt" in captions
    assert "men's casual shirt, navy blue, checked, fall 2011" in captions
    assert "men navy blue checked shirt" in captions
    assert "shirt" in captions
    assert len(captions) == len(TEMPLATES) >= 10


def test_each_probability_governs_its_field() -> None:
    backpack = Record("3", {"articleType": "Backpacks", "gender": "Unisex"})
    watch = Record("4", {"articleType": "Watches", "productDisplayName": "Casio Black Dial Watch"})
    shoes = Record("5", {"articleType": "Casual Shoes", "baseColour": "Red",
                         "productDisplayName": "ID Men Red & White Shoes"})  # fmt: skip
    cases = [
        ("keep_article", SHIRT, r"\bshirt\b"),
        ("keep_colour", SHIRT, r"\bnavy blue\b"), ("keep_gender", SHIRT, r"\bmen"),
        ("keep_usage", SHIRT, r"\bcasual\b"), ("keep_season", SHIRT, r"\bfall\b"), ("keep_year", SHIRT, r"\b2011\b"),
        ("keep_pattern", SHIRT, r"\bchecked\b"), ("keep_unisex", backpack, r"\bunisex\b|\bmen and women\b"),
        ("keep_detail", watch, r"\bwith black dial\b"), ("second_colour", shoes, r"\bred and white\b"),
    ]  # fmt: skip
    for name, record, words in cases:
        found = {}
        for probability in (0.0, 1.0):
            config = CaptionConfig(**{**KEEP_ALL.__dict__, name: probability})
            writer = CaptionWriter(config)
            found[probability] = sum(bool(re.search(words, writer.write(record, draw))) for draw in range(300))
        assert found[0.0] == 0 and found[1.0] > 30, name
    varied = CaptionWriter(CaptionConfig(**{**KEEP_ALL.__dict__, "synonym": 1.0}))
    assert not any("navy blue" in varied.write(SHIRT, draw) for draw in range(300))


def test_dropout_leaves_short_prompts_and_mostly_names_the_article() -> None:
    captions = [CaptionWriter().write(SHIRT, draw) for draw in range(3000)]
    share = sum("shirt" in caption for caption in captions) / len(captions)
    assert share > 0.96
    assert {"shirt", "navy blue shirt", "men's shirt"} <= set(captions)
    lengths = Counter(len(caption.split()) for caption in captions)
    assert lengths[1] > 50 and sum(count for length, count in lengths.items() if length >= 6) > 900


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"articleType": "Tshirts"}, {"tee", "t-shirt", "tshirt"}),
        ({"articleType": "Sports Shoes"}, {"sneakers", "trainers", "running shoes"}),
        ({"articleType": "Sweaters"}, {"pullover", "jumper"}),
        ({"articleType": "Handbags"}, {"purse", "bag"}),
        ({"articleType": "Sunglasses"}, {"shades", "specs"}),
        ({"articleType": "Watches"}, {"timepiece", "wristwatch"}),
        ({"articleType": "Tops", "baseColour": "Red"}, {"crimson", "scarlet", "red"}),
        ({"articleType": "Tops", "gender": "Women"}, {"ladies", "women", "woman's"}),
        ({"articleType": "Tops", "gender": "Men"}, {"guys", "men's", "male"}),
        ({"articleType": "Tops", "gender": "Girls"}, {"kids", "girls", "children"}),
        ({"articleType": "Tops", "baseColour": "Multi"}, {"multicoloured", "colorful"}),
    ],
)
def test_peoples_own_words_occur(fields: dict[str, str], words: set[str]) -> None:
    text = " | ".join(CaptionWriter().write(Record("1", fields), draw) for draw in range(1500))
    for word in words:
        assert re.search(rf"\b{re.escape(word)}\b", text), word


@pytest.mark.parametrize(
    ("kind", "master", "title", "caption"),
    [
        ("Tshirts", "Apparel", "Classic Polo Men Blue T-shirt", "t-shirt"),
        ("Tshirts", "Apparel", "U.S. Polo Assn. Men Striped Polo T-shirt", "striped polo t-shirt"),
        ("Jeans", "Apparel", "U.S. Polo Assn. Denim Co. Men Washed Jeans", "washed jeans"),
        ("Lipstick", "Personal Care", "Forever Silk Lipstick", "lipstick"),
        ("Watches", "Accessories", "Casio Men Black Dial Chronograph Watch", "chronograph watch with black dial"),
        ("Handbags", "Accessories", "Baggit Women Printed Sling Bag", "printed sling bag"),
        ("Tshirts", "Apparel", "Lee Solid Round Neck Solid T-shirt", "plain round neck t-shirt"),
        ("Casual Shoes", "Footwear", "Nike Men Air-High Shoe", "casual shoes"),
        ("Socks", "Accessories", "Nike Pack of 3 Socks", "socks in a pack of 3"),
    ],
)
def test_title_words_are_visible_properties_not_brands(kind: str, master: str, title: str, caption: str) -> None:
    record = Record("1", {"articleType": kind, "masterCategory": master, "productDisplayName": title})
    assert CaptionWriter().full(record) == caption


def test_nothing_is_said_twice() -> None:
    record = Record("1", {"articleType": "Casual Shoes", "usage": "Casual", "baseColour": "Red"})
    assert CaptionWriter().full(record) == "red casual shoes"


def test_the_second_colour_follows_the_base_colour() -> None:
    fields = {"articleType": "Tops", "baseColour": "Red", "productDisplayName": "Nike White & Red Top"}
    assert product_words(Record("1", fields)).both_colours == "red and white"
    assert product_words(Record("1", {**fields, "baseColour": "Blue"})).both_colours == ""


def test_a_kids_title_makes_an_unisex_product_one_for_kids() -> None:
    fields = {"articleType": "Tshirts", "gender": "Unisex"}
    assert CaptionWriter().full(Record("1", fields)) == "t-shirt"
    assert CaptionWriter().full(Record("1", {**fields, "productDisplayName": "Gini Kid's Tee"})) == "t-shirt for kids"


def test_ready_captions_are_used_as_they_are() -> None:
    record = Record("1", {"articleType": "Tops"}, ("A Poppy Field, 1873", "poppies"))
    writer = CaptionWriter()
    assert {writer.write(record, draw) for draw in range(50)} == set(record.captions)
    assert writer.full(record) == "A Poppy Field, 1873"


@pytest.mark.parametrize(
    ("template", "words", "caption"),
    [
        ("{a} {colour} {article}", {"article": "dress", "colour": "orange"}, "an orange dress"),
        ("{a} {colour} {article}", {"article": "dress"}, "a dress"),
        ("{a} {article}", {"article": "eye shadow"}, "an eye shadow"),
        ("{a} {owner} {article}", {"article": "bag", "owner": "unisex"}, "a unisex bag"),
        ("a photo of {a} {article}", {"article": "jeans"}, "a photo of a pair of jeans"),
        ("{article}[, {colour}][, {season} {year}]", {"article": "bag", "year": "2011"}, "bag, 2011"),
        ("{article}[ for {people}] {detail}", {"article": "bag", "detail": "with chain"}, "bag with chain"),
    ],
)
def test_template_language(template: str, words: dict[str, str], caption: str) -> None:
    assert Template(template).fill(words, "a pair of") == caption


@pytest.mark.parametrize("template", ["{a} {articel}", "{article", "[{colour}", "{article}]", "[a [b]]"])
def test_wrong_templates_are_refused(template: str) -> None:
    with pytest.raises(ToileError, match="caption template"):
        Template(template)


def test_probabilities_are_checked() -> None:
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ToileError, match="keep_colour"):
            CaptionConfig(keep_colour=wrong)


def test_plurals() -> None:
    assert is_plural("casual shoes") and is_plural("jeans")
    assert not is_plural("dress") and not is_plural("shirt")


def test_vocabulary_is_lower_case_and_free_of_contradictions() -> None:
    for table in SYNONYMS.values():
        for word, others in table.items():
            assert all(text == normalise_prompt(text) for text in (word, *others))
            assert word not in others and len(set(others)) == len(others)
    phrases = [phrase for word in TITLE_WORDS for phrase in word.phrases]
    assert len(phrases) == len(set(phrases))
    assert {"men", "women", "boys", "girls", "unisex"} <= set(PEOPLE)


@given(st.text(max_size=60))
def test_normalising_a_prompt_twice_changes_nothing(text: str) -> None:
    once = normalise_prompt(text)
    assert normalise_prompt(once) == once


def test_normalising_changes_typography_only() -> None:
    assert normalise_prompt(normalise_prompt("J\u030c")) == normalise_prompt("J\u030c")
    assert normalise_prompt("  Men\u2019s\u00a0\u201cNAVY\u201d\tt\u2011shirt\n") == 'men\'s "navy" t-shirt'
    assert normalise_prompt("crimson tee") == "crimson tee"
