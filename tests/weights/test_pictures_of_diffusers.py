"""Models that diffusers wrote and we converted: it loads them again, and makes our latents from the same noise."""

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
from toile.model_conversion import convert_model

LARGEST_DIFFERENCE = 1e-3
PROMPTS = ("red floral dress for women", "black leather belt", "", "women for dress floral")


def request_of(num_images: int, rescale: float) -> GenerateRequest:
    return GenerateRequest(
        PROMPTS[:num_images],
        seed=11,
        width=16,
        height=16,
        steps=20,
        guidance=7.5,
        guidance_rescale=rescale,
        sampler="ddim",
        negative="belt",
        batch_size=num_images,
    )


def our_latents(model: LatentDiffusion, request: GenerateRequest) -> Tensor:
    return [event for event in generate(model, request) if isinstance(event, GenerateStep)][-1].denoised


def their_latents(pipeline: StableDiffusionPipeline, request: GenerateRequest) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    seeds = [image.seed for image in request.images()]
    return pipeline(
        list(request.prompts),
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        guidance_rescale=request.guidance_rescale,
        negative_prompt=[request.negative] * len(seeds),
        latents=ImageNoise(seeds, (4, 8, 8)).draw(0),
        output_type="latent",
    ).images


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_diffusers_makes_our_latents_from_our_single_file_and_folder(tmp_path: Path, their_folder: Path) -> None:
    file, folder = tmp_path / "x.safetensors", tmp_path / "back"
    convert_model(their_folder, file)
    convert_model(file, folder)
    pipelines = [
        StableDiffusionPipeline.from_single_file(file, config=str(their_folder), local_files_only=True),
        StableDiffusionPipeline.from_pretrained(folder, local_files_only=True),
    ]
    model = LatentDiffusion.load(file, "cpu", "float32")
    for num_images, rescale in ((1, 0.0), (4, 0.0), (4, 0.7)):
        request = request_of(num_images, rescale)
        ours = our_latents(model, request)
        assert float(ours.std()) > 0.1
        for pipeline in pipelines:
            theirs = their_latents(pipeline, request)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=LARGEST_DIFFERENCE)
