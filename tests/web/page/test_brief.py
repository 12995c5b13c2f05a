"""Briefs say what was chosen, as captions do."""

from __future__ import annotations

import pytest

from toile.model_folder import BUNDLED_MODEL, find_model, load_reader
from toile.web.page.brief import Brief, brief_choices


@pytest.mark.parametrize(
    ("brief", "sentence"),
    [
        (Brief(), ""),
        (Brief(colour="red"), "red garment"),
        (
            Brief(article="shirt", colour="navy blue", pattern="checked", people="men", usage="casual"),
            "navy blue checked casual shirt for men",
        ),
        (Brief(article="casual shoes", usage="casual", colour="white"), "white casual shoes"),
        (
            Brief(article="kurta", colour="green", people="women", season="summer", year="2012", usage="ethnic"),
            "summer 2012 green ethnic kurta for women",
        ),
    ],
)
def test_sentences(brief: Brief, sentence: str) -> None:
    assert brief.sentence() == sentence


def test_the_bundled_model_knows_every_choice() -> None:
    reader = load_reader(find_model(BUNDLED_MODEL))
    assert reader is not None
    choices = brief_choices(reader.tables)
    assert choices["article"]["Apparel"][0] == "t-shirt" and len(choices["article"]) > 3
    for part, groups in choices.items():
        for name in (name for names in groups.values() for name in names):
            reading = reader.read(Brief(**{part: name}).sentence())
            assert not reading.unknown and name in reading.text, (part, name)


def test_models_without_tables_get_the_words_of_the_catalogue() -> None:
    choices = brief_choices(None)
    assert "dress" in choices["article"][""] and "men" in choices["people"][""] and choices["year"][""] == ()
