"""Runs write down what took part, so that what took part cannot judge them."""

from __future__ import annotations

import shutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from toile import __version__
from toile.errors import ToileError
from toile.evaluation.feature_networks import open_feature_network, refuse_partial
from toile.latent_diffusion import LatentDiffusion
from toile.training.pictures import DataConfig, PictureSet
from toile.training.recipes import RECIPES, load_recipe, recipe_facts
from toile.training.run import run_recipe
from toile.training.run_folder import MODEL_FOLDER
from toile.user_folders import CACHE_VARIABLE
from toile.weights.provenance import Provenance, read_provenance, weights_sha256

LOOP = """
[loop]
steps = 2
batch_size = 2
learning_rate = 1e-3
warmup_steps = 1
precision = "float32"
validate_every = 0
sample_every = 0
save_every = 0
"""
CLIP = f"""
task = "clip"
vocab_size = 560
[model]
projection_dim = 8
[model.text_config]
hidden_size = 16
intermediate_size = 16
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 8
eos_token_id = 1
[model.vision_config]
hidden_size = 8
intermediate_size = 16
num_hidden_layers = 1
num_attention_heads = 1
image_size = 16
patch_size = 8
{LOOP}
"""
VAE = f"""
task = "vae"
[model]
latent_channels = 3
block_out_channels = [8, 16]
layers_per_block = 1
norm_num_groups = 4
mid_block_add_attention = false
sample_size = 16
{LOOP}
"""
LORA = f"""
task = "lora"
base = "RUNS/denoising/model"
[lora]
rank = 2
[objective]
uncond_share = 0.0
uniform_share = 1.0
{LOOP}
"""
WORD = f"""
task = "textual_inversion"
base = "RUNS/denoising/model"
[word]
name = "<box>"
start = "box"
num_vectors = 1
{LOOP}
"""


@pytest.fixture(scope="module")
def runs(
    denoising_recipe: Callable[[Mapping[str, Any], str], str],
    picture_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Runs of two steps, each from those before."""
    folder = tmp_path_factory.mktemp("runs")
    denoising = denoising_recipe({"vae": f"{folder}/vae", "clip": f"{folder}/clip"}, LOOP)
    texts = {"clip": CLIP, "vae": VAE, "denoising": denoising, "lora": LORA, "word": WORD}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
        for name, text in texts.items():
            path, trigger = folder / f"{name}.toml", 'trigger = "<box>"' if name == "word" else ""
            data = f'[data]\npath = "{picture_folder}"\nwidth = 16\nheight = 16\ntrain_share = 0.5\n{trigger}\n'
            path.write_text(text.replace("RUNS", str(folder)) + data, encoding="utf-8")
            list(run_recipe(load_recipe(path), folder / name))
    return folder


def known_of(runs: Path, name: str) -> Provenance:
    known = read_provenance(runs / name / MODEL_FOLDER)
    assert known is not None
    return known


@pytest.mark.slow
def test_a_run_says_what_it_did_with_which_data(runs: Path, picture_folder: Path, tmp_path: Path) -> None:
    known = known_of(runs, "clip")
    pictures = PictureSet(DataConfig(16, 16, path=picture_folder, train_share=0.5))
    assert known.toile == __version__ and known.steps == 2 and known.networks == {}
    assert known.recipe == recipe_facts(load_recipe(runs / "clip.toml"))
    assert known.pictures == pictures.identity and ":learnt " in known.pictures
    assert known.held_out == pictures.pixels_identity
    shutil.copytree(runs / "clip", tmp_path / "clip")
    more = load_recipe(runs / "clip.toml", ["loop.steps=3"])
    list(run_recipe(more, tmp_path / "clip", resume=True, accept_changes=True))
    assert known_of(tmp_path, "clip").steps == 3


@pytest.mark.slow
def test_every_network_that_took_part_is_named_to_the_end_of_the_chain(runs: Path) -> None:
    model, clip = runs / "denoising" / MODEL_FOLDER, weights_sha256(runs / "clip" / MODEL_FOLDER / "clip")
    vae = weights_sha256(runs / "vae" / MODEL_FOLDER / "vae")
    assert known_of(runs, "denoising").networks == {"clip": clip, "vae": vae}
    base = {f"base/{part}": weights_sha256(model / part) for part in ("unet", "vae", "text_encoder")}
    for name in ("lora", "word"):
        assert known_of(runs, name).networks == {**base, "base: clip": clip, "base: vae": vae}
    LatentDiffusion.load(model, "cpu", "float32")  # with a file more in its folder


@pytest.mark.slow
def test_the_clip_that_gave_the_words_may_not_judge_the_pictures(runs: Path) -> None:
    judge = open_feature_network(f"words={runs / 'clip' / MODEL_FOLDER / 'clip'}")
    held_out = known_of(runs, "clip").held_out
    for name, role in (("denoising", "clip"), ("lora", "base: clip"), ("word", "base: clip")):
        with pytest.raises(ToileError, match=f"took part in training what it is to judge .as {role}."):
            refuse_partial(judge, known_of(runs, name), held_out)
    refuse_partial(judge, known_of(runs, "vae"), held_out)
    with pytest.raises(ToileError, match="may have seen the held-out pictures"):
        refuse_partial(judge, known_of(runs, "vae"), "another split")


def test_every_recipe_says_which_weights_it_reads() -> None:
    """A new key that names weights must come into `weights_read`; what these are not is listed here."""
    weights = {"vae", "clip", "start", "base", "words", "teacher"}
    for recipe in RECIPES.values():
        hints = typing.get_type_hints(recipe)
        places = {
            field.name
            for field in fields(recipe)
            if {str, Path} & {hints[field.name], *typing.get_args(hints[field.name])}
        }
        assert places - {"task", "true_pictures"} <= weights, recipe
