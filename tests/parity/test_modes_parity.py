"""Image-to-image and repainting: diffusers makes the same latents from the same picture, mask and noise.

Its pipelines draw from the autoencoder's Gaussian where we take the mean; here its spread is next to nothing. Masks
follow the edges of latent positions: inside one, the two scale a mask down differently, see `encode_source`.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image
from torch import Tensor, nn

from toile.diffusion.denoiser import Denoiser
from toile.diffusion.guidance import ClassifierFreeGuidance
from toile.diffusion.inpainting import InpaintingNetwork
from toile.diffusion.noise import ImageNoise
from toile.diffusion.samplers import ddim
from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig, start_latents
from toile.generation.pictures import GenerateStep, generate
from toile.generation.request import GenerateRequest
from toile.generation.source import SourceImage, encode_source, steps_of_strength
from toile.latent_diffusion import LatentDiffusion
from toile.models.unet import UNet

pytestmark = pytest.mark.filterwarnings("ignore")

LARGEST_DIFFERENCE = 1e-3
WIDTH, HEIGHT = 24, 32
SCHEDULES = {
    "epsilon": ScheduleConfig(steps_offset=1),
    "v": ScheduleConfig(steps_offset=1, prediction_type="v_prediction"),
    "v-zero_snr": ScheduleConfig(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
}
REQUEST = GenerateRequest(
    ("red dress", "black belt"), seed=5, steps=20, guidance=3.0, sampler="ddim", negative="belt", batch_size=2
)
Randomize = Callable[[nn.Module], None]


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> ScheduleConfig:
    return SCHEDULES[request.param]


def saved_model(
    model: LatentDiffusion, schedule: ScheduleConfig, in_channels: int, randomize: Randomize, folder: Path
) -> LatentDiffusion:
    """A model like this one with another U-Net and schedule, and an autoencoder that is certain; from its folder."""
    torch.manual_seed(2)
    unet = UNet(replace(model.unet.config, in_channels=in_channels, sample_size=8))  # diffusers compares it to 64
    vae = copy.deepcopy(model.vae)
    randomize(unet)
    log_variance = slice(model.vae.config.latent_channels, None)
    with torch.no_grad():
        vae.quant_conv.weight[log_variance] = 0
        vae.quant_conv.bias[log_variance] = -30  # type: ignore[index]
    replace(model, unet=unet, vae=vae, schedule=NoiseSchedule(schedule)).save(folder, torch.float32)
    return LatentDiffusion.load(folder, "cpu", "float32")


def half_source() -> SourceImage:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[: HEIGHT // 2, 4:] = 255
    return SourceImage(pixels, mask)


def noise_of(model: LatentDiffusion, request: GenerateRequest) -> Tensor:
    return ImageNoise([image.seed for image in request.images()], model.latent_shape(WIDTH, HEIGHT)).draw(0)


def our_latents(model: LatentDiffusion, request: GenerateRequest) -> Tensor:
    return [event for event in generate(model, request) if isinstance(event, GenerateStep)][-1].denoised


def their_latents(
    pipeline_class: Any, model: LatentDiffusion, request: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> Tensor:
    noise, source = noise_of(model, request), request.source
    monkeypatch.setattr(importlib.import_module(pipeline_class.__module__), "randn_tensor", lambda *_, **__: noise)
    pipeline = pipeline_class.from_pretrained(model.origin, torch_dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    assert source is not None
    image = Image.fromarray(source.pixels)
    given = {"image": [image] * len(noise)}
    if source.mask is not None:
        given = {"image": image, "mask_image": Image.fromarray(source.mask), "width": WIDTH, "height": HEIGHT}
    return pipeline(
        list(request.prompts),
        strength=request.strength,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        negative_prompt=[request.negative] * len(noise),
        output_type="latent",
        **given,
    ).images


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert float(ours.std()) > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=LARGEST_DIFFERENCE)


@pytest.mark.parametrize("strength", [0.3, 0.7, 0.95])
def test_image_to_image(
    tiny_model: LatentDiffusion,
    randomize: Randomize,
    schedule: ScheduleConfig,
    strength: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = saved_model(tiny_model, schedule, 4, randomize, tmp_path)
    request = replace(REQUEST, source=SourceImage(half_source().pixels), strength=strength)
    ours = our_latents(model, request)
    assert_same(ours, their_latents(StableDiffusionImg2ImgPipeline, model, request, monkeypatch))


@pytest.mark.parametrize("strength", [0.3, 0.95])
def test_repainting_with_any_network(
    tiny_model: LatentDiffusion,
    randomize: Randomize,
    schedule: ScheduleConfig,
    strength: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = saved_model(tiny_model, schedule, 4, randomize, tmp_path)
    request = replace(REQUEST, source=half_source(), strength=strength)
    ours = our_latents(model, request)
    assert_same(ours, their_latents(StableDiffusionInpaintPipeline, model, request, monkeypatch))


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_repainting_with_an_inpainting_network(
    tiny_model: LatentDiffusion,
    randomize: Randomize,
    schedule: ScheduleConfig,
    strength: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network alone: what `generate` adds, the known region, diffusers leaves out."""
    model = saved_model(tiny_model, schedule, 9, randomize, tmp_path)
    request = replace(REQUEST, source=half_source(), strength=strength)
    encoded = encode_source(model, half_source())
    assert encoded.grey_mask is not None and encoded.kept is not None
    sigmas = steps_of_strength(model.schedule.sampling_sigmas(20), strength)
    noise = noise_of(model, request)
    start = start_latents(noise, sigmas[0]) if strength == 1 else encoded.latents + noise * float(sigmas[0])
    with torch.inference_mode():
        cond, uncond = (model.encode_prompts(texts).states for texts in (REQUEST.prompts, ["belt"]))
        network = InpaintingNetwork(model.unet, encoded.grey_mask, encoded.kept)
        guided = ClassifierFreeGuidance(Denoiser(network, model.schedule), uncond, 3.0)
        *_, last = ddim(lambda x, sigma: guided(x, sigma, cond), start, sigmas, lambda _: noise)
    assert_same(last.x, their_latents(StableDiffusionInpaintPipeline, model, request, monkeypatch))


def test_repainting_all_of_a_picture_with_an_inpainting_network(
    tiny_model: LatentDiffusion, randomize: Randomize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved_model(tiny_model, SCHEDULES["epsilon"], 9, randomize, tmp_path)
    everything = SourceImage(half_source().pixels, np.full((HEIGHT, WIDTH), 255, np.uint8))
    request = replace(REQUEST, source=everything, strength=1.0)
    ours = our_latents(model, request)
    assert_same(ours, their_latents(StableDiffusionInpaintPipeline, model, request, monkeypatch))


def test_repainting_from_pure_noise(
    tiny_model: LatentDiffusion, randomize: Randomize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With zero terminal SNR; with the other schedules what is kept begins otherwise, see `KnownRegion`."""
    model = saved_model(tiny_model, SCHEDULES["v-zero_snr"], 4, randomize, tmp_path)
    request = replace(REQUEST, source=half_source(), strength=1.0)
    ours = our_latents(model, request)
    assert_same(ours, their_latents(StableDiffusionInpaintPipeline, model, request, monkeypatch))
