"""From a request to pictures: a generator of progress and of finished pictures.

What makes two runs give the same bytes: an image's noise is a function of its seed alone, and everything after it is
deterministic on one machine with one number of threads, for one number of rows in the batch. With another number of
rows, kernels may add in another order: in float32 that moves a pixel by at most one level, in bfloat16 by a few.

Shapes: C x h x w latents, H x W pictures, L tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toile import __version__
from toile.add_ons import whereabouts
from toile.device import dtype_name
from toile.diffusion.samplers import find_sampler
from toile.embeddings import with_embeddings
from toile.errors import ToileError, WorkFailedError
from toile.generation.batch import Batch, GenerateStep, Made, NoiseChosen
from toile.generation.memory import check_memory, needs_bands
from toile.generation.prompt_forms import of_one_form
from toile.generation.reading import read_images
from toile.generation.request import GenerateRequest, ImageRequest
from toile.generation.source import SourceImage, blank_source
from toile.generation_settings import EVERYWHERE, GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.lora import LoRA, load_lora
from toile.models.safety_checker import SafetyScores
from toile.picture_recipe import EmbeddingFacts, LoRAFacts, Machine, PictureRecipe, write_png
from toile.ranker import Ranker
from toile.text.lora_tags import LoRAUse
from toile.text.rows import tokenize_prompt


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture.

    Attributes:
        index: number in the request, from 0.
        pixels: (H, W, 3) uint8.
        recipe: how to make it again.
        source: what it began with, if not with noise alone.
        safety: what the model's safety checker says of it, if there is one and it was asked.
        maps: (L, h, w) float32, how much each position looked at each token of the prompt, if that was asked for.
        warnings: what a person should know, for example which part of the prompt was cut.
    """

    index: int
    pixels: np.ndarray
    recipe: PictureRecipe
    source: SourceImage | None = None
    safety: SafetyScores | None = None
    maps: Tensor | None = None
    warnings: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Writes a PNG with the recipe, and what the picture began with, inside."""
        write_png(path, self.pixels, self.recipe, None if self.source is None else self.source.as_texts())


Event = NoiseChosen | GenerateStep | Picture


def generate(model: LatentDiffusion, request: GenerateRequest) -> Generator[Event, None, None]:
    """Makes pictures, in batches; closing the generator stops the work.

    Args:
        model: as `LatentDiffusion.load` gives it.
        request: what to make.

    Returns:
        A generator, batch by batch: of a `NoiseChosen` for each choice among noises, if there are several to choose
        from, a `GenerateStep` after each sampler step, then the `Picture`s, in order.

    Raises:
        ToileError: the model cannot make what is asked for, or not with the memory there is: at once, before any
            allocation.
        WorkFailedError: later, if pictures are not finite or all black even in float32, or refused for safety.
    """
    plan = plan_pictures(model, request)
    return plan.make(range(len(plan.images)))


@dataclass(frozen=True, eq=False)
class PicturePlan:
    """A request that was checked against a model, whose pictures can be made in parts.

    Attributes:
        model: that makes them.
        images: all of the request.
        settings: with names resolved.
        source: what they begin with.
        loras: those that they use, by their sources.
        ranker: that chooses among noises or leads the sampler, where there is need of one and the model has it.
        with_maps: whether attention to words is collected.
        notes: what people should know of all the pictures.
    """

    model: LatentDiffusion
    images: Sequence[ImageRequest]
    settings: GenerationSettings
    source: SourceImage | None
    loras: Mapping[str, LoRA]
    ranker: Ranker | None
    with_maps: bool = False
    notes: tuple[str, ...] = ()

    def batches(self) -> Iterator[range]:
        """The numbers of the pictures that pass the networks together: of one form, up to the batch size."""
        first = 0
        while first < len(self.images):
            waiting = self.images[first : first + self.settings.batch_size]
            yield range(first, first := first + len(of_one_form(waiting, self.model, self.settings)))

    def make(self, part: range) -> Generator[Event, None, None]:
        """Makes the pictures with these numbers; if they are whole `batches`, to the same bytes as in the whole."""
        return _all_batches(self, part)


def plan_pictures(
    model: LatentDiffusion,
    request: GenerateRequest,
    loras: Mapping[str, LoRA] | None = None,
    images: Sequence[ImageRequest] | None = None,
) -> PicturePlan:
    """What `generate` does before it makes anything.

    Args:
        model, request: as `generate`.
        loras: those that the pictures use, by their sources; by default they are read.
        images: the pictures to make, as typed, perhaps of several requests that differ in nothing but prompts, seeds
            and numbers; by default those of this one.

    Raises:
        ToileError: as `generate`.
    """
    settings, notes = _led_if_possible(_resolved(request.settings_for(model), model), model)
    source = _checked_source(request.source, model, settings)
    if request.source is None and source is not None:
        settings = replace(settings, strength=1.0)
    check_memory(model, settings)
    images = request.images() if images is None else images
    images = images if request.as_written else read_images(model, images)
    loras = load_loras(model, images) if loras is None else loras
    return PicturePlan(model, images, settings, source, loras, _ranker_of(model, settings, images), request.maps, notes)


def _ranker_of(model: LatentDiffusion, settings: GenerationSettings, images: Sequence[ImageRequest]) -> Ranker | None:
    """The model's ranker, if noises are to be chosen or the sampler to be led."""
    chooses = settings.noise_candidates > 1 and not all(image.chosen_noises for image in images)
    return model.ranker if chooses or settings.classifier_guidance > 0 else None


def _led_if_possible(
    settings: GenerationSettings, model: LatentDiffusion
) -> tuple[GenerationSettings, tuple[str, ...]]:
    """Settings without classifier guidance if the model has no ranker, and what to say of it: the wish may come from a
    picture that another model made.
    """
    if settings.classifier_guidance == 0 or model.ranker is not None:
        return settings, ()
    return replace(settings, classifier_guidance=0.0), (
        f"was made without classifier guidance ({settings.classifier_guidance:g}): this model has no ranker to lead it",
    )


def load_loras(model: LatentDiffusion, images: Sequence[ImageRequest]) -> dict[str, LoRA]:
    """All LoRAs that these images use, by the sources they are named by.

    Raises:
        ToileError: one is not there, is damaged, or does not fit the model.
    """
    return {source: load_lora(source, model) for source in dict.fromkeys(use.source for i in images for use in i.loras)}


def remake(model: LatentDiffusion, recipe: PictureRecipe, rows: int = 1, source: SourceImage | None = None) -> Picture:
    """Makes the picture of a recipe again.

    Args:
        model: usually the recipe's; it is given the learned words that the recipe names.
        recipe: read from a picture.
        rows: 1 makes it alone; `recipe.batch_rows` puts it where it was in a batch that is filled with copies of it,
            which on the same machine repeats every rounding.
        source: what the picture began with; `read_source` finds it in the same file.

    Raises:
        ToileError: as `generate`.
    """
    model = with_embeddings(model, [whereabouts(file) for file in recipe.embeddings])
    upscale = recipe.settings.upscale is True  # recipes from before there were upscalers do not say
    settings, notes = _led_if_possible(
        _resolved(replace(recipe.settings, batch_size=rows, upscale=upscale), model), model
    )
    if recipe.source != (source.facts if source else None):
        raise ToileError("the picture began with another picture or mask than the one given")
    source = _checked_source(source, model, settings)
    check_memory(model, settings)
    uses = tuple(LoRAUse(whereabouts(lora), lora.strength) for lora in recipe.loras)
    typed = None if recipe.reading is None else recipe.prompt
    image = ImageRequest(recipe.text, recipe.seed, recipe.original, recipe.toward, uses, typed, recipe.chosen_noises)
    images = [image] * rows
    ranker = _ranker_of(model, settings, images)
    plan = PicturePlan(model, images, settings, source, load_loras(model, images), ranker, notes=notes)
    events = plan.make(range(rows))
    pictures = [event for event in events if isinstance(event, Picture)]
    return pictures[recipe.batch_row if rows > recipe.batch_row else 0]


def _resolved(settings: GenerationSettings, model: LatentDiffusion) -> GenerationSettings:
    """Settings in their plainest words, checked against the model."""
    settings = _with_upscaler(settings, model)
    if settings.guidance_interval == EVERYWHERE:
        settings = replace(settings, guidance_interval=None)
    model.latent_shape(settings.width, settings.height)
    spacing = settings.resolved_spacing(model.schedule.config.timestep_spacing)
    model.schedule.sampling_sigmas(settings.steps, spacing)
    model.latent_shape(*settings.final_size(model.vae.config.downsampling))
    vae_bands = needs_bands(model, settings) if settings.vae_bands is None else settings.vae_bands
    return replace(settings, sampler=find_sampler(settings.sampler).name, spacing=spacing, vae_bands=vae_bands)


def _with_upscaler(settings: GenerationSettings, model: LatentDiffusion) -> GenerationSettings:
    """Settings that say whether the upscaler works, and the size of what it gets if they named the size it makes."""
    if settings.upscale is False:
        return settings
    if model.upscaler is None:
        if settings.upscale:
            raise ToileError("upscale: this model has no upscaler; enlarge with hires_scale, or leave it out")
        return replace(settings, upscale=False)
    config = model.upscaler.config
    if (settings.width, settings.height) == config.size:
        settings = replace(settings, width=config.small_width, height=config.small_height)
    fits = (settings.width, settings.height) == config.small_size and settings.hires_scale is None
    if settings.upscale and not fits:
        raise ToileError(
            f"upscale: this model's upscaler makes {config.width}x{config.height} of {config.small_width}x"
            f"{config.small_height}, in one pass: leave out other sizes and hires_scale"
        )
    return replace(settings, upscale=fits)


def final_size(request: GenerateRequest, model: LatentDiffusion) -> tuple[int, int]:
    """(width, height) of the pictures that a request makes.

    Raises:
        ToileError: the model cannot make that size.
    """
    return _final_size(_resolved(request.settings_for(model), model), model)


def _final_size(settings: GenerationSettings, model: LatentDiffusion) -> tuple[int, int]:
    if settings.upscale and model.upscaler is not None:
        return model.upscaler.config.size
    return settings.final_size(model.vae.config.downsampling)


def _checked_source(
    source: SourceImage | None, model: LatentDiffusion, settings: GenerationSettings
) -> SourceImage | None:
    if source is not None:
        allowed = _final_size(replace(settings, hires_scale=None), model)
        small = (settings.width, settings.height)
        if source.size != allowed and (source.size != small or source.mask is not None):
            raise ToileError(
                f"the picture to begin with is {source.size[0]}x{source.size[1]}, the result "
                f"{allowed[0]}x{allowed[1]}; bring it to that size with fit_source"
            )
    if settings.hires_scale is not None and (model.repaints or (source is not None and source.mask is not None)):
        raise ToileError("a second pass at a larger size would change what the mask keeps: leave out one of the two")
    if model.repaints and (source is None or source.mask is None):
        if source is not None:
            raise ToileError("this model repaints a part of a picture: give a mask too")
        return blank_source(*_final_size(settings, model))
    return source


@torch.inference_mode()
def _all_batches(plan: PicturePlan, part: range) -> Generator[Event, None, None]:
    model, images, settings = plan.model, plan.images, plan.settings
    in_float32: LatentDiffusion | None = None
    first = part.start
    while first < part.stop:
        together = of_one_form(images[first : min(part.stop, first + settings.batch_size)], model, settings)
        batch = Batch(first, len(images), together, settings, plan.source, plan.with_maps, plan.loras, plan.ranker)
        first += len(together)
        batch = yield from batch.with_chosen_noises(model)
        user = model
        made = yield from batch.sample(user)
        if made is None and model.dtype != torch.float32:
            with torch.inference_mode(False):  # so that gradients can be taken through it
                user = in_float32 = in_float32 or model.in_float32()
                batch = replace(batch, ranker=_ranker_of(user, settings, batch.images))
            made = yield from batch.sample(user)
        if made is None:
            raise WorkFailedError(
                f"pictures {batch.first + 1} to {first} came out black or not finite, also in float32; "
                "nothing of them was kept: lower the guidance, or check the model with other prompts"
            )
        yield from _pictures(batch, made, user, plan.notes, retried=user is not model)


def _pictures(
    batch: Batch, made: Made, model: LatentDiffusion, notes: tuple[str, ...], retried: bool
) -> Generator[Picture, None, None]:
    machine = _machine(model)
    negative_cut = tokenize_prompt(model.tokenizer, batch.settings.negative).cut
    facts = None if batch.source is None else batch.source.facts
    for row, image in enumerate(batch.images):
        recipe = PictureRecipe(
            image.prompt if image.typed is None else image.typed,
            image.seed,
            batch.settings,
            model.facts,
            machine,
            facts,
            image.original,
            image.toward,
            tuple(_lora_facts(batch.loras[use.source], use.strength) for use in image.loras),
            tuple(EmbeddingFacts(file.name, file.path, file.hash) for file in model.embeddings),
            len(batch.images),
            row,
            reading=None if image.typed is None else image.prompt,
            chosen_noises=image.chosen_noises,
        )
        cut = tokenize_prompt(model.tokenizer, image.prompt).cut
        warnings = [*notes, *([_cut_warning("prompt", cut)] if cut else [])]
        warnings += [_cut_warning("negative prompt", negative_cut)] if negative_cut else []
        warnings += ["was black or not finite in half precision, so it was made in float32"] if retried else []
        safety = None if made.safety is None else made.safety[row]
        if safety is not None and safety.flagged:
            told = _safety_warning(safety, batch.settings.safety)
            if batch.settings.safety == "refuse":
                raise WorkFailedError(f"picture {batch.first + row + 1} of seed {image.seed} {told}")
            warnings.append(told)
        maps = None if made.maps is None else made.maps[row]
        pixels = made.pixels[row].numpy()
        yield Picture(batch.first + row, pixels, recipe, batch.source, safety, maps, tuple(warnings))


def _lora_facts(lora: LoRA, strength: float) -> LoRAFacts:
    return LoRAFacts(lora.name, lora.path, lora.hash, strength)


def _machine(model: LatentDiffusion) -> Machine:
    threads = torch.get_num_threads()
    return Machine(__version__, torch.__version__, model.device.type, dtype_name(model.dtype), threads)


_SAFETY_TOLD = {"blur": "it was blurred", "refuse": "it is not shown", "report": "nothing was done to it"}


def _safety_warning(safety: SafetyScores, action: str) -> str:
    number, score = safety.highest
    return (
        f"was flagged by the safety checker (concept {number}, {score:+.3f} over its threshold): {_SAFETY_TOLD[action]}"
    )


def _cut_warning(what: str, cut: str) -> str:
    shown = cut if len(cut) <= 60 else f"{cut[:60]}... ({len(cut):,} characters)"
    return f"the end of the {what} did not fit and was left out: {shown!r}"
