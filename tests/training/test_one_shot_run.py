"""Runs of the baselines, from a recipe to a model folder that makes the pictures the trained network makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from toile.data.images import pixels_from_images
from toile.errors import ToileError
from toile.one_shot import OneShotModel, encode_words, is_one_shot
from toile.training.pictures import PictureSet
from toile.training.recipes import CVAERecipe, load_recipe
from toile.training.records import EndRecord, SampleRecord, ValidationRecord
from toile.training.run import build_task, run_recipe
from toile.training.run_folder import MODEL_FOLDER
from toile.user_folders import CACHE_VARIABLE
from toile.weights.files import load_tensors

LOOP = """
[loop]
steps = 4
batch_size = 4
learning_rate = 1e-3
warmup_steps = 2
ema_widths = [0.1]
validate_every = 2
sample_every = 2
save_every = 2
[data]
width = 16
height = 16
"""
MODELS = {
    "cvae": 'task = "cvae"\n[model]\nsample_size = [16, 16]\nwords_dim = 16\nlatent_dim = 4\nhidden_dim = 8\n',
    "text_autoencoder": (
        'task = "text_autoencoder"\n[model]\nsample_size = [16, 16]\nwords_dim = 16\ncode_dim = 4\nhidden_dim = 8\n'
        "block_out_channels = [8]\n"
    ),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def write_recipe(task: str, words: Path, data: Path, tmp_path: Path) -> Path:
    path = tmp_path / f"{task}.toml"
    lines = MODELS[task].replace("[model]", f'words = "{words.as_posix()}"\n[model]')
    path.write_text(f'{lines}{LOOP}path = "{data.as_posix()}"\n', encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("task", MODELS)
def test_a_run_leaves_a_baseline(task: str, tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(task, tiny_folder, picture_folder, tmp_path))
    records = list(run_recipe(recipe, tmp_path / "run"))
    assert isinstance(records[-1], EndRecord) and records[-1].reason == "done"
    samples = [record for record in records if isinstance(record, SampleRecord)]
    assert [record.step for record in samples] == [0, 2, 4] and samples[0].images.shape[1:] == (3, 16, 16)
    [last] = [r for r in records if isinstance(r, ValidationRecord) and r.step == 4]
    parts = last.losses["live"]
    assert {"loss", "psnr", "kl"} <= parts.keys() if task == "cvae" else {"text", "text_spread"} <= parts.keys()
    folder = tmp_path / "run" / MODEL_FOLDER
    assert is_one_shot(folder)
    model = OneShotModel.load(folder)
    prompts = ["red bar", "belt in blue"]
    noise = torch.stack([torch.randn(model.generator.config.noise_dim, generator=seeded(7)) for _ in prompts])
    with torch.no_grad():
        images = model.generator.decode(noise, encode_words(model.text_encoder, model.tokenizer, prompts))  # type: ignore[operator]
    shown = model.pictures(prompts, [7, 7]).int() - pixels_from_images(images).int()
    assert int(shown.abs().max()) <= 1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    path = write_recipe("cvae", tiny_folder, picture_folder, tmp_path)
    list(run_recipe(load_recipe(path), tmp_path / "whole"))
    stops = iter([False, False, True])
    list(run_recipe(load_recipe(path), tmp_path / "parts", should_stop=lambda: next(stops)))
    list(run_recipe(load_recipe(path), tmp_path / "parts", resume=True))
    whole, parts = (
        load_tensors(tmp_path / name / MODEL_FOLDER / "generator" / "diffusion_pytorch_model.safetensors")
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.sample_size=[8, 16]", r"sample_size \[8, 16\] must be the pictures' height and width, \[16, 16\]"),
        ("model.words_dim=9", "words_dim 9 must be the width of the words of .*, 16"),
        ("words=nowhere", "model 'nowhere': there is no folder"),
    ],
)
def test_parts_of_a_recipe_that_do_not_fit(
    override: str, named: str, tiny_folder: Path, picture_folder: Path, pictures: PictureSet, tmp_path: Path
) -> None:
    recipe = load_recipe(write_recipe("cvae", tiny_folder, picture_folder, tmp_path), [override])
    assert isinstance(recipe, CVAERecipe)
    with pytest.raises(ToileError, match=named):
        build_task(recipe, pictures)


def test_masks_and_buckets_are_refused(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    for task in MODELS:
        recipe = load_recipe(write_recipe(task, tiny_folder, picture_folder, tmp_path), ["data.masks=masks"])
        with pytest.raises(ToileError, match="data.masks: task .* takes pictures of one shape, whole"):
            recipe.data.check_use(recipe.task, sharded=False, compiles=False)
