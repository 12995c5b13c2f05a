"""Recipes inside pictures survive every prompt, and damaged ones are refused in one line."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from toile.errors import ToileError
from toile.generation_settings import GenerationSettings
from toile.model_folder import ComponentHashes, ModelFacts
from toile.picture_recipe import Machine, PictureRecipe, encode_png, read_recipe, write_png

FACTS = ModelFacts("models/tiny", "tiny", "0123456789abcdef", ComponentHashes("a", "b", "c", "d", "e"))
MACHINE = Machine("0.1.0", "2.13.0", "cpu", "bfloat16", 2)
SETTINGS = GenerationSettings(
    width=64, height=80, steps=20, guidance=4.5, guidance_interval=(0.3, 5.0), spacing="trailing", negative="belt"
)
RECIPE = PictureRecipe("navy blue checked shirt", 7, SETTINGS, FACTS, MACHINE, batch_rows=4, batch_row=2)
PIXELS = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)


def write_chunk(path: Path, text: str) -> Path:
    chunks = PngInfo()
    chunks.add_text("toile", text)
    Image.new("RGB", (2, 2)).save(path, pnginfo=chunks)
    return path


def test_pixels_and_recipe_come_back(tmp_path: Path) -> None:
    write_png(tmp_path / "picture.png", PIXELS, RECIPE)
    assert read_recipe(tmp_path / "picture.png") == RECIPE
    with Image.open(tmp_path / "picture.png") as image:
        assert np.array_equal(np.array(image), PIXELS)


@given(prompt=st.text(max_size=200), negative=st.text(max_size=50), seed=st.integers(0, 2**64 - 1))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, prompt: str, negative: str, seed: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    recipe = replace(RECIPE, prompt=prompt, seed=seed, settings=replace(SETTINGS, negative=negative))
    write_png(path, PIXELS, recipe)
    assert read_recipe(path) == recipe


@pytest.mark.parametrize("prompt", ["\udcff half", "👗" * 90_000, "a\0b\nc"])
def test_extreme_texts_come_back(tmp_path: Path, prompt: str) -> None:
    recipe = replace(RECIPE, prompt=prompt)
    write_png(tmp_path / "picture.png", PIXELS, recipe)
    assert read_recipe(tmp_path / "picture.png").prompt == prompt


def test_equal_pictures_are_equal_files() -> None:
    assert encode_png(PIXELS, RECIPE) == encode_png(PIXELS.copy(), replace(RECIPE))


def test_other_programs_find_the_words_they_know(tmp_path: Path) -> None:
    write_png(tmp_path / "picture.png", PIXELS, RECIPE)
    with Image.open(tmp_path / "picture.png") as image:
        text = image.info["parameters"]
    assert text.split("\n") == [
        "navy blue checked shirt",
        "Negative prompt: belt",
        "Steps: 20, Sampler: DPM++ 2M, CFG scale: 4.5, Seed: 7, Size: 64x80, Model hash: 0123456789, Model: tiny, "
        "Schedule type: Trailing, Version: toile 0.1.0",
    ]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 99}, "format 99"),
        ({"seed": "7"}, "seed"),
        ({"surprise": 1}, "surprise"),
        ({"batch_row": 9}, "batch_row"),
        ({"settings": {"steps": 0}}, "steps"),
        ({"machine": None}, "machine"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path: Path, change: dict[str, object], named: str) -> None:
    path = write_chunk(tmp_path / "picture.png", json.dumps({**asdict(RECIPE), **change}))
    with pytest.raises(ToileError, match=named):
        read_recipe(path)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "null"])
def test_a_damaged_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = write_chunk(tmp_path / "picture.png", text)
    with pytest.raises(ToileError, match="damaged"):
        read_recipe(path)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(ToileError, match="no picture"):
        read_recipe(tmp_path / "page.png")
    with pytest.raises(ToileError, match="cannot read"):
        read_recipe(tmp_path / "absent.png")
    with pytest.raises(ToileError, match="cannot read"):
        read_recipe(tmp_path)
