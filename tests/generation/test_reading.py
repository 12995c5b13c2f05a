"""Requests are read once, recipes hold both what was typed and what was read, and replay needs no tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toile.generation.pictures import Picture, generate
from toile.generation.reading import told_readings
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.picture_recipe import Toward, read_recipe
from toile.text.reader import PromptReader
from toile.text.word_tables import ArticleCounts, WordTables

TABLES = WordTables(
    known=Counter({"red": 9, "maroon": 9, "dress": 9, "shirt": 9, "for": 9, "women": 9}),
    meanings={
        "colour": {"red": ("red",), "maroon": ("maroon",), "burgundy": ("maroon",)},
        "article": {"dress": ("dress",), "shirt": ("shirt",), "frock": ("dress",)},
        "people": {"women": ("women",), "wife": ("women",)},
        "group": {"something": ("Apparel",)},
    },
    articles={
        "dress": ArticleCounts("Dresses", "Apparel", 10, {"red": 5}, {"women": 10}, {}),
        "shirt": ArticleCounts("Shirts", "Apparel", 10, {"red": 5}, {"women": 10}, {}),
    },
    silent=("a", "my", "for"),
    no_slips=(),
)
TYPED, READ = "a comfy burgundy frock for my wife", "maroon dress for women"


@pytest.fixture
def reading_model(tiny_model: LatentDiffusion) -> LatentDiffusion:
    return replace(tiny_model, reader=PromptReader(TABLES))


def pictures(model: LatentDiffusion, request: GenerateRequest) -> list[Picture]:
    return [event for event in generate(model, request) if isinstance(event, Picture)]


def test_a_picture_is_made_from_the_reading_and_holds_both(
    reading_model: LatentDiffusion, tiny_model: LatentDiffusion, tmp_path: Path
) -> None:
    [picture] = pictures(reading_model, GenerateRequest((TYPED,), seed=3))
    [expected] = pictures(tiny_model, GenerateRequest((READ,), seed=3))
    np.testing.assert_array_equal(picture.pixels, expected.pixels)
    picture.save(tmp_path / "a.png")
    recipe = read_recipe(tmp_path / "a.png")
    assert (recipe.prompt, recipe.reading, recipe.text) == (TYPED, READ, READ)
    # Whatever the tables say later: here there are none.
    assert replay(tmp_path / "a.png", tiny_model).identical
    again = replay(tmp_path / "a.png", tiny_model).picture.recipe
    assert (again.prompt, again.reading) == (TYPED, READ)


def test_known_words_and_prompts_as_written_stay(reading_model: LatentDiffusion, tiny_model: LatentDiffusion) -> None:
    for request in (GenerateRequest(("red dress",)), GenerateRequest((TYPED,), as_written=True)):
        [picture], [plain] = pictures(reading_model, request), pictures(tiny_model, request)
        np.testing.assert_array_equal(picture.pixels, plain.pixels)
        assert picture.recipe.reading is None


def test_every_picture_draws_its_own_article(reading_model: LatentDiffusion) -> None:
    request = GenerateRequest(("something red",), num_images=12, steps=1)
    texts = {picture.recipe.text for picture in pictures(reading_model, request)}
    assert texts == {"red dress", "red shirt"}
    assert len(list(told_readings(reading_model, request))) == 2


def test_all_prompts_of_a_picture_are_read(reading_model: LatentDiffusion) -> None:
    edit = GenerateRequest(("red frock",), original="burgundy frock", steps=1)
    [picture] = pictures(reading_model, edit)
    assert (picture.recipe.text, picture.recipe.original) == ("red dress", "maroon dress")
    blend = GenerateRequest(("red dress",), toward=Toward("something red", 5, 0.5), steps=1)
    [picture] = pictures(reading_model, blend)
    assert picture.recipe.toward is not None and picture.recipe.toward.prompt in ("red dress", "red shirt")


def test_variations_keep_the_article_that_was_drawn(reading_model: LatentDiffusion) -> None:
    request = GenerateRequest(
        ("something red",), seed=1, num_images=4, toward=Toward("something red", 50, 0.2), steps=1
    )
    made = pictures(reading_model, request)
    assert len({picture.recipe.text for picture in made}) == 1
    assert all(picture.recipe.toward and picture.recipe.toward.prompt == picture.recipe.text for picture in made)


def test_what_is_told(reading_model: LatentDiffusion, tiny_model: LatentDiffusion) -> None:
    typed = GenerateRequest((TYPED,), num_images=3)
    assert list(told_readings(reading_model, typed)) == [f"read as: {READ} (unknown: comfy)"]
    written = replace(typed, as_written=True)
    assert list(told_readings(reading_model, written)) == ["as written (unknown: comfy, burgundy, frock, wife)"]
    negative = GenerateRequest(("red dress",), negative="ugly")
    assert list(told_readings(reading_model, negative)) == ["negative prompt, as written (unknown: ugly)"]
    assert list(told_readings(tiny_model, typed)) == []
