"""Recipes: the ones that come with the project load and fit together; mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toile.errors import ToileError
from toile.schema import build_config
from toile.training.recipes import RECIPES, CLIPRecipe, DenoisingRecipe, VAERecipe, load_recipe, recipe_facts
from toile.training.sweep_recipe import is_sweep

FOLDER = Path(__file__).parents[2] / "recipes"
PATHS = [path for path in sorted(FOLDER.rglob("*.toml")) if not is_sweep(path)]
SMALL = """
task = "vae"
[data]
path = "data"
width = 16
height = 16
[model]
block_out_channels = [8, 8]
norm_num_groups = 4
[loop]
steps = 6
batch_size = 2
learning_rate = 1e-3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_recipe_loads_says_its_command_and_can_be_written_down(path: Path) -> None:
    recipe = load_recipe(path)
    assert type(recipe) is RECIPES[recipe.task]
    assert path.read_text(encoding="utf-8").startswith(f"# toile train {path.relative_to(FOLDER.parent).as_posix()}")
    written = json.loads(json.dumps(recipe_facts(recipe)))
    assert build_config(type(recipe), written, "written") == recipe


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_recipe_that_a_run_leaves_is_the_same_recipe(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    left = tmp_path / "recipe.json"
    left.write_text(json.dumps(recipe_facts(recipe)))
    assert load_recipe(left) == recipe
    for damaged in ("{", "[]"):
        left.write_text(damaged)
        with pytest.raises(ToileError, match="recipe.json"):
            load_recipe(left)


def test_there_is_a_recipe_for_every_task() -> None:
    assert {load_recipe(path).task for path in PATHS} == set(RECIPES)


def test_the_parts_of_the_bundled_model_fit_together() -> None:
    vae, clip, denoising = (load_recipe(FOLDER / f"fashion-{name}.toml") for name in ("vae", "clip", "64x80"))
    assert isinstance(vae, VAERecipe) and isinstance(clip, CLIPRecipe) and isinstance(denoising, DenoisingRecipe)
    width, height = denoising.data.width, denoising.data.height
    assert (vae.data.width, vae.data.height, clip.data.width, clip.data.height) == (width, height) * 2
    assert clip.model.vision_config.height_width == (height, width)
    assert denoising.model.in_channels == denoising.model.out_channels == vae.model.latent_channels
    assert denoising.model.cross_attention_dim == clip.model.text_config.hidden_size
    factor = vae.model.downsampling
    assert denoising.model.sample_size == (height / factor, width / factor)
    assert (denoising.defaults.width, denoising.defaults.height) == (width, height)
    assert (denoising.vae.name, denoising.clip.name) == ("fashion-vae", "fashion-clip")


def test_overrides_are_toml_values_or_bare_words(recipe: Path) -> None:
    changes = ["loop.steps=9", "loop.ema_widths=[0.1]", "data.source=fashion-mnist", "seed = 3", "start=some/where"]
    loaded = load_recipe(recipe, [*changes, "objective.kl_weight=1", "model.mid_block_add_attention=false"])
    assert isinstance(loaded, VAERecipe)
    assert (loaded.loop.steps, loaded.loop.ema_widths, loaded.data.source) == (9, (0.1,), "fashion-mnist")
    assert (loaded.seed, loaded.objective.kl_weight, loaded.start) == (3, 1.0, Path("some/where"))
    assert loaded.model.mid_block_add_attention is False
    assert load_recipe(recipe).loop.steps == 6


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("loop.stepz=3", "loop: unknown key 'stepz'; did you mean 'steps'"),
        ("lop.steps=3", "unknown key 'lop'; did you mean 'loop'"),
        ("loop.steps=many", "loop: steps: expected int, got 'many'"),
        ("loop.steps=1.5", "loop: steps: expected int, got 1.5"),
        ("loop.compile=true", "unknown key 'compile'"),
        ("loop", "write key=value"),
        ("seed.x=3", "'seed' is not a section"),
        ("task=vea", "task 'vea'; known tasks: vae, clip, denoising, classifier"),
        ("task=[1]", "known tasks"),
        ("data.width=0", "width 0"),
        ("data.limit=0", "limit 0"),
        ("loop.batch_size=0", "batch_size"),
        ("model.block_out_channels=[8, 9]", "multiple of norm_num_groups"),
    ],
)
def test_mistakes_are_named(recipe: Path, override: str, named: str) -> None:
    with pytest.raises(ToileError) as error:
        load_recipe(recipe, ["seed=1", override])
    assert named in str(error.value)


@pytest.mark.parametrize("content", [b"task = ", b"\xff\xfe", b"task = 'vae'\n[data]\nwidth = 3\n"])
def test_files_that_are_no_recipes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ToileError, match="broken.toml"):
        load_recipe(path)
    with pytest.raises(ToileError, match="absent.toml"):
        load_recipe(tmp_path / "absent.toml")
