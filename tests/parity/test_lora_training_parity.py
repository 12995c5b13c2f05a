"""A LoRA trained here makes, in diffusers' pipeline, the picture that it makes here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from toile.diffusion.noise import ImageNoise
from toile.generation.pictures import GenerateStep, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.text.lora_tags import LoRAUse
from toile.training.recipes import load_recipe
from toile.training.run import run_recipe
from toile.training.run_folder import MODEL_FOLDER
from toile.user_folders import CACHE_VARIABLE

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT, SEED, STEPS = "red belt", 7, 20
RECIPE = """
task = "lora"
base = "{base}"
[data]
path = "{data}"
width = 16
height = 16
[lora]
rank = 4
alpha = 2
targets = {targets}
[loop]
steps = 20
batch_size = 4
learning_rate = 3e-2
warmup_steps = 1
precision = "float32"
ema_widths = []
validate_every = 0
"""


def our_latents(model: LatentDiffusion, loras: tuple[LoRAUse, ...]) -> Tensor:
    request = GenerateRequest((PROMPT,), SEED, loras=loras, steps=STEPS, guidance=3.0, sampler="ddim")
    steps = [event for event in generate(model, request) if isinstance(event, GenerateStep)]
    return steps[-1].denoised


def their_latents(pipeline: StableDiffusionPipeline, model: LatentDiffusion) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    shape = model.latent_shape(model.defaults.width, model.defaults.height)
    return pipeline(
        PROMPT,
        width=model.defaults.width,
        height=model.defaults.height,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=ImageNoise([SEED], shape).draw(0),
        output_type="latent",
    ).images


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets",
    [
        '["attention"]',
        '["attention", "feed_forward", "projections", "text_attention", "text_feed_forward"]',
        '["attention", "convolutions", "time"]',
    ],
)
def test_what_was_trained_here_makes_the_same_picture_there(
    targets: str,
    tiny_folder: Path,
    picture_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    recipe = tmp_path / "lora.toml"
    recipe.write_text(RECIPE.format(base=tiny_folder, data=picture_folder, targets=targets), encoding="utf-8")
    list(run_recipe(load_recipe(recipe), tmp_path / "run"))
    file = tmp_path / "run" / MODEL_FOLDER / "lora.safetensors"
    model = LatentDiffusion.load(tiny_folder, "cpu", "float32")
    plain, ours = our_latents(model, ()), our_latents(model, (LoRAUse(str(file)),))
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32, safety_checker=None)
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    theirs = their_latents(pipeline, model)
    assert float((ours - plain).abs().max()) > 0.1
    assert float((ours - theirs).abs().max()) < 1e-3
