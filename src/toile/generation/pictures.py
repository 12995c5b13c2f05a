"""From a request to pictures: a generator of progress and of finished pictures.

What makes two runs give the same bytes: an image's noise is a function of its seed alone, and everything after it is
deterministic on one machine with one number of threads, for one number of rows in the batch. With another number of
rows, kernels may add in another order: in float32 that moves a pixel by at most one level, in bfloat16 by a few.

Shapes: B rows of a batch, C x h x w latents, H x W pictures.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toile import __version__
from toile.data.images import pixels_from_images
from toile.device import dtype_name
from toile.diffusion.denoiser import Denoiser, DenoiserLike, Network
from toile.diffusion.guidance import ClassifierFreeGuidance
from toile.diffusion.inpainting import InpaintingNetwork, KnownRegion
from toile.diffusion.noise import ImageNoise
from toile.diffusion.samplers import SamplerStep, ddim, dpmpp_2m_sde, euler_ancestral, find_sampler
from toile.diffusion.samplers.steps import Denoise, NoiseSource
from toile.diffusion.schedule import start_latents
from toile.errors import ToileError
from toile.generation.memory import check_memory
from toile.generation.request import GenerateRequest
from toile.generation.source import EncodedSource, SourceImage, blank_source, encode_source, steps_of_strength
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.picture_recipe import Machine, PictureRecipe, write_png

_SAMPLERS_WITH_ETA = {"ddim": ddim, "euler_ancestral": euler_ancestral, "dpmpp_2m_sde": dpmpp_2m_sde}


_BLACK = -1 + 1 / 255  # decoded values below it round to 0


@dataclass(frozen=True)
class GenerateStep:
    """A sampler step is done for one batch.

    Attributes:
        first_image: number of the batch's first picture, from 0.
        num_images: pictures of the whole request.
        step: steps done, 1 to num_steps.
        num_steps: steps of a batch.
        denoised: (B, C, h, w) estimate of the clean latents; `model.decode_latents(denoised)` is a preview.
    """

    first_image: int
    num_images: int
    step: int
    num_steps: int
    denoised: Tensor

    @property
    def fraction(self) -> float:
        """Share of the whole work that is done, 0 to 1."""
        return (self.first_image + len(self.denoised) * self.step / self.num_steps) / self.num_images


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture.

    Attributes:
        index: number in the request, from 0.
        pixels: (H, W, 3) uint8.
        recipe: how to make it again.
        source: what it began with, if not with noise alone.
        warnings: what a person should know, for example which part of the prompt was cut.
    """

    index: int
    pixels: np.ndarray
    recipe: PictureRecipe
    source: SourceImage | None = None
    warnings: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Writes a PNG with the recipe, and what the picture began with, inside."""
        write_png(path, self.pixels, self.recipe, None if self.source is None else self.source.as_texts())


Event = GenerateStep | Picture


def generate(model: LatentDiffusion, request: GenerateRequest) -> Generator[Event, None, None]:
    """Makes pictures, in batches; closing the generator stops the work.

    Args:
        model: as `LatentDiffusion.load` gives it.
        request: what to make.

    Returns:
        A generator of a `GenerateStep` after each sampler step of a batch, then the batch's `Picture`s, in order.

    Raises:
        ToileError: the model cannot make what is asked for, or not with the memory there is: at once, before any
            allocation. Later, if pictures are not finite or all black even in float32.
    """
    settings = _resolved(request.settings_over(model.defaults), model)
    source = _checked_source(request.source, model, settings)
    if request.source is None and source is not None:
        settings = replace(settings, strength=1.0)
    check_memory(model, settings)
    return _all_batches(model, request.images(), settings, source)


def remake(
    model: LatentDiffusion, recipe: PictureRecipe, rows: int = 1, source: SourceImage | None = None
) -> Picture:
    """Makes the picture of a recipe again.

    Args:
        model: usually the recipe's.
        recipe: read from a picture.
        rows: 1 makes it alone; `recipe.batch_rows` puts it where it was in a batch that is filled with copies of it,
            which on the same machine repeats every rounding.
        source: what the picture began with; `read_source` finds it in the same file.

    Raises:
        ToileError: as `generate`.
    """
    settings = _resolved(replace(recipe.settings, batch_size=rows), model)
    if recipe.source != (source.facts if source else None):
        raise ToileError("the picture began with another picture or mask than the one given")
    source = _checked_source(source, model, settings)
    check_memory(model, settings)
    images = [(recipe.prompt, recipe.seed)] * rows
    pictures = [event for event in _all_batches(model, images, settings, source) if isinstance(event, Picture)]
    return pictures[recipe.batch_row if rows > recipe.batch_row else 0]


def _resolved(settings: GenerationSettings, model: LatentDiffusion) -> GenerationSettings:
    """Settings in their plainest words, checked against the model."""
    model.latent_shape(settings.width, settings.height)
    spacing = settings.resolved_spacing(model.schedule.config.timestep_spacing)
    model.schedule.sampling_sigmas(settings.steps, spacing)
    return replace(settings, sampler=find_sampler(settings.sampler).name, spacing=spacing)


def _checked_source(
    source: SourceImage | None, model: LatentDiffusion, settings: GenerationSettings
) -> SourceImage | None:
    if source is not None and source.size != (settings.width, settings.height):
        raise ToileError(
            f"the picture to begin with is {source.size[0]}x{source.size[1]}, the result "
            f"{settings.width}x{settings.height}; bring it to that size with fit_source"
        )
    if model.repaints and (source is None or source.mask is None):
        if source is not None:
            raise ToileError("this model repaints a part of a picture: give a mask too")
        return blank_source(settings.width, settings.height)
    return source


@torch.inference_mode()
def _all_batches(
    model: LatentDiffusion,
    images: Sequence[tuple[str, int]],
    settings: GenerationSettings,
    source: SourceImage | None,
) -> Generator[Event, None, None]:
    in_float32: LatentDiffusion | None = None
    for first in range(0, len(images), settings.batch_size):
        batch = _Batch(first, len(images), tuple(images[first : first + settings.batch_size]), settings, source)
        user = model
        pixels = yield from batch.sample(user)
        if pixels is None and model.dtype != torch.float32:
            user = in_float32 = in_float32 or model.in_float32()
            pixels = yield from batch.sample(user)
        if pixels is None:
            raise ToileError(
                f"pictures {first + 1} to {first + len(batch.images)} came out black or not finite, also in float32; "
                "nothing of them was kept: lower the guidance, or check the model with other prompts"
            )
        yield from batch.pictures(user, pixels, retried=user is not model)


@dataclass(frozen=True)
class _Batch:
    """Pictures that pass the networks together."""

    first: int
    num_images: int
    images: tuple[tuple[str, int], ...]
    settings: GenerationSettings
    source: SourceImage | None

    def sample(self, model: LatentDiffusion) -> Generator[GenerateStep, None, Tensor | None]:
        """Yields steps; returns uint8 pixels (B, H, W, 3), or None if they are not worth keeping."""
        settings = self.settings
        noise = ImageNoise([seed for _, seed in self.images], model.latent_shape(settings.width, settings.height))
        sigmas = model.schedule.sampling_sigmas(settings.steps, settings.spacing)
        source = encode_source(model, self.source) if self.source is not None else None
        x = start_latents(noise.draw(0), sigmas[0]).to(model.device)
        if source is not None and settings.strength < 1:
            sigmas = steps_of_strength(sigmas, settings.strength)
            x = source.latents + noise.draw(0).to(model.device) * float(sigmas[0])
        for step in _run_sampler(settings, self._denoise(model, source), x, sigmas, noise.draw):
            x = step.x
            yield GenerateStep(self.first, self.num_images, step.index + 1, step.num_steps, step.denoised)
        decoded = model.decode_latents(x)
        if not bool(x.isfinite().all() and decoded.isfinite().all()):
            return None
        if bool((decoded.flatten(1).amax(1) < _BLACK).any()):
            return None
        return pixels_from_images(decoded if source is None else source.pasted(decoded)).cpu()

    def _denoise(self, model: LatentDiffusion, source: EncodedSource | None) -> Denoise:
        settings = self.settings
        cond = model.encode_prompts([prompt for prompt, _ in self.images]).states
        network: Network = model.unet
        if source is not None and source.kept is not None and source.latent_mask is not None:
            network = InpaintingNetwork(network, (source.latent_mask > 0).float(), source.kept)
        denoiser: DenoiserLike = Denoiser(network, model.schedule, model.dtype)
        if source is not None and source.latent_mask is not None:
            denoiser = KnownRegion(denoiser, source.latents, source.latent_mask)
        if settings.guidance == 1:
            return lambda x, sigma: denoiser(x, sigma, cond)
        uncond = model.encode_prompts([settings.negative]).states
        guided = ClassifierFreeGuidance(
            denoiser, uncond, settings.guidance, settings.guidance_interval, settings.guidance_rescale
        )
        return lambda x, sigma: guided(x, sigma, cond)

    def pictures(self, model: LatentDiffusion, pixels: Tensor, retried: bool) -> Generator[Picture, None, None]:
        machine = _machine(model)
        cuts = model.tokenizer.batch([prompt for prompt, _ in self.images])[1]
        _, (negative_cut,) = model.tokenizer.batch([self.settings.negative])
        for row, ((prompt, seed), cut) in enumerate(zip(self.images, cuts, strict=True)):
            facts = None if self.source is None else self.source.facts
            recipe = PictureRecipe(prompt, seed, self.settings, model.facts, machine, facts, len(self.images), row)
            warnings = [_cut_warning("prompt", cut)] if cut else []
            warnings += [_cut_warning("negative prompt", negative_cut)] if negative_cut else []
            warnings += ["was black or not finite in half precision, so it was made in float32"] if retried else []
            yield Picture(self.first + row, pixels[row].numpy(), recipe, self.source, tuple(warnings))


def _run_sampler(
    settings: GenerationSettings, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource
) -> Generator[SamplerStep, None, None]:
    if settings.eta is not None:
        yield from _SAMPLERS_WITH_ETA[settings.sampler](denoise, x, sigmas, noise, eta=settings.eta)
    else:
        yield from find_sampler(settings.sampler).function(denoise, x, sigmas, noise)


def _machine(model: LatentDiffusion) -> Machine:
    threads = torch.get_num_threads()
    return Machine(__version__, torch.__version__, model.device.type, dtype_name(model.dtype), threads)


def _cut_warning(what: str, cut: str) -> str:
    shown = cut if len(cut) <= 60 else f"{cut[:60]}... ({len(cut):,} characters)"
    return f"the end of the {what} did not fit and was left out: {shown!r}"
