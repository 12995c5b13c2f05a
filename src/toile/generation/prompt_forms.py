"""Which pictures can pass the networks together: those whose prompts have one form, and that use the same LoRAs."""

from __future__ import annotations

from collections.abc import Sequence

from toile.generation.request import ImageRequest
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.text.encoded_prompts import PromptForm


def form_of(images: Sequence[ImageRequest], model: LatentDiffusion, settings: GenerationSettings) -> PromptForm:
    """The form that all prompts of these images have together, with the negative one if there is guidance."""
    texts = [text for image in images for text in image.texts]
    return model.prompt_form(texts if settings.guidance == 1 else [*texts, settings.negative], settings.word_weights)


def of_one_form(
    images: Sequence[ImageRequest], model: LatentDiffusion, settings: GenerationSettings
) -> tuple[ImageRequest, ...]:
    """The images up to the first with other LoRAs, or whose prompt has another form: padding it would change it, or
    the others.
    """
    forms: dict[tuple[str, ...], PromptForm] = {}
    for number, image in enumerate(images):
        if image.texts not in forms:
            forms[image.texts] = form_of([image], model, settings)
        if forms[image.texts] != forms[images[0].texts] or image.loras != images[0].loras:
            return tuple(images[:number])
    return tuple(images)
