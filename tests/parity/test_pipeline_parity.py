"""diffusers loads our folders and makes our pictures from the same latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.diffusion.noise import ImageNoise
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.model_folder import BUNDLED_MODEL, find_model

SMALLEST_PSNR = 45.0
PROMPTS = ("navy blue checked shirt for men", "red floral dress for women, long sleeves", "")


def our_pictures(model: LatentDiffusion, request: GenerateRequest) -> np.ndarray:
    return np.stack([event.pixels for event in generate(model, request) if isinstance(event, Picture)])


def their_pictures(folder: Path, model: LatentDiffusion, request: GenerateRequest) -> np.ndarray:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    settings = request.settings_over(model.defaults)
    seeds = [image.seed for image in request.images()]
    return pipeline(
        list(request.prompts),
        width=settings.width,
        height=settings.height,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        guidance_rescale=settings.guidance_rescale,
        negative_prompt=[settings.negative] * len(seeds),
        latents=ImageNoise(seeds, model.latent_shape(settings.width, settings.height)).draw(0),
        output_type="np",
    ).images


def psnr(pixels: np.ndarray, values: np.ndarray) -> float:
    """Of uint8 pixels against values in [0, 1], rounded to pixels as well."""
    error = pixels.astype(float) - np.round(values * 255)
    return float(10 * np.log10(255**2 / max((error**2).mean(), 1e-9)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_diffusers_makes_the_pictures_of_a_saved_model(
    tiny_folder: Path, tiny_model: LatentDiffusion, rescale: float
) -> None:
    # diffusers cuts what does not fit into one row of tokens; we go on in a second one.
    prompts = tuple(prompt.removesuffix(", long sleeves") for prompt in PROMPTS)
    request = GenerateRequest(
        prompts, seed=11, steps=20, guidance=3.0, guidance_rescale=rescale, sampler="ddim", negative="belt"
    )
    ours = our_pictures(tiny_model, request)
    theirs = their_pictures(tiny_folder, tiny_model, request)
    assert ours.std() > 5
    assert psnr(ours, theirs) > SMALLEST_PSNR


@pytest.mark.filterwarnings("ignore")
def test_diffusers_makes_the_pictures_of_the_bundled_model() -> None:
    model = LatentDiffusion.load(BUNDLED_MODEL, device="cpu", dtype="float32")
    request = GenerateRequest(PROMPTS, seed=11, steps=20, guidance=3.0, sampler="ddim", guidance_rescale=0.0)
    # diffusers reads no words into others, takes the first noise, guides everywhere, and knows the first stage only.
    request = replace(request, as_written=True, upscale=False, noise_candidates=1, guidance_interval=(0.0, 1e6))
    request = replace(request, classifier_guidance=0.0, sharpness=0.0)
    ours = our_pictures(model, request)
    theirs = their_pictures(find_model(BUNDLED_MODEL), model, request)
    assert psnr(ours, theirs) > SMALLEST_PSNR
