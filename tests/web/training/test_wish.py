"""What is asked for becomes a recipe like those in recipes/, or is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from toile.errors import ToileError
from toile.training.pictures import PictureSet
from toile.training.recipes import FineTuneRecipe, LoRARecipe
from toile.web.jobs.shelf import ServedModel, open_shelf
from toile.web.training.wish import LAYERS, Wish


@pytest.fixture
def base(tiny_folder: Path) -> ServedModel:
    return open_shelf([str(tiny_folder)])["tiny"]


def test_a_recipe_holds_what_was_asked(base: ServedModel, picture_folder: Path) -> None:
    wish = Wish(caption=" a shape ", trigger="toy", steps=80, batch=4, rate=1e-3, rank=3, layers="all", seed=5)
    recipe = wish.recipe(base, picture_folder)
    assert isinstance(recipe, LoRARecipe) and recipe.base == base.source and recipe.seed == 5
    assert (recipe.data.width, recipe.data.height) == (24, 32)  # the model's own
    assert (recipe.data.path, recipe.data.caption, recipe.data.trigger) == (picture_folder, "a shape", "toy")
    assert (recipe.lora.rank, recipe.lora.targets) == (3, LAYERS["all"])
    assert (recipe.loop.steps, recipe.loop.batch_size, recipe.loop.learning_rate) == (80, 4, 1e-3)
    assert (recipe.loop.validate_every, recipe.loop.sample_every, recipe.loop.save_every) == (10, 20, 20)
    assert isinstance(Wish(what="fine_tune").recipe(base, picture_folder), FineTuneRecipe)


def test_few_pictures_are_split_so_that_some_are_held_out(
    base: ServedModel, picture_folder: Path, tmp_path: Path
) -> None:
    for number in range(6):
        for suffix in (".bmp", ".txt"):
            shutil.copy(picture_folder / f"{number}{suffix}", tmp_path)
    recipe = Wish(width=16, height=16).recipe(base, tmp_path)
    pictures = PictureSet(recipe.data)
    assert len(pictures.validation) and len(pictures.train) >= 2


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"what": "vae"}, "what is 'vae'"),
        ({"layers": "none"}, "layers is 'none'"),
        ({"steps": 0}, "steps is 0"),
        ({"batch": 5000}, "batch is 5000"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"minutes": -1.0}, "minutes is -1.0"),
        ({"prompts": ("a",) * 17}, "prompts has 17 lines"),
        ({"trigger": "a" * 501}, "501 characters"),
        ({"width": 22}, "width is 22; allowed for tiny: multiples of 4"),
        ({"rank": 0}, "rank 0"),
    ],
)
def test_what_is_not_allowed_is_named(
    base: ServedModel, picture_folder: Path, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(ToileError, match=says):
        Wish(**values).recipe(base, picture_folder)
