"""Prompts of a request as the model reads them, picture by picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from toile.generation.request import GenerateRequest, ImageRequest
from toile.latent_diffusion import LatentDiffusion
from toile.text.lora_tags import lora_tags
from toile.text.reader import Reading


def read_images(model: LatentDiffusion, images: Sequence[ImageRequest]) -> list[ImageRequest]:
    """Pictures with their prompts in the words that the model knows.

    All prompts of a picture are read: also that of the picture whose layout it takes, and that of the other end it lies
    towards. The negative prompt stays as it is.

    Args:
        model: one without tables of words reads prompts as they are typed.
        images: as typed.
    """
    return [_read_image(model, image) for image in images]


def told_readings(model: LatentDiffusion, request: GenerateRequest) -> Iterator[str]:
    """What a person should know of how the prompts are read, each line once: see `Reading.told`."""
    lines: dict[str, None] = {}
    for image in request.images():
        reading = _reading(model, image, image.prompt)
        if reading is None:
            return
        if not request.as_written:
            lines[reading.told()] = None
        else:
            lines[_told_as_written("as written", model, image.prompt)] = None
    lines[_told_as_written("negative prompt, as written", model, request.settings_for(model).negative)] = None
    yield from (line for line in lines if line)


def _told_as_written(what: str, model: LatentDiffusion, prompt: str) -> str:
    unknown = () if model.reader is None else model.reader.unlearnt(prompt, model.own_words)
    return f"{what} (unknown: {', '.join(unknown)})" if unknown else ""


def _read_image(model: LatentDiffusion, image: ImageRequest) -> ImageRequest:
    reading = _reading(model, image, image.prompt)
    if reading is None:
        return image
    original, toward = image.original, image.toward
    if original is not None and (read := _reading(model, image, original)) is not None:
        original = read.text
    if toward is not None and (read := _reading(model, image, toward.prompt)) is not None:
        toward = replace(toward, prompt=read.text)
    typed = image.prompt if reading.is_changed else None
    return replace(image, prompt=reading.text, typed=typed, original=original, toward=toward)


def _reading(model: LatentDiffusion, image: ImageRequest, prompt: str) -> Reading | None:
    """All prompts of one picture are read with its seed, so that equal ones stay equal."""
    if model.reader is None:
        return None
    keep = bool(image.loras or lora_tags(prompt))
    return model.reader.read(prompt, image.seed, model.own_words, keep_unknown=keep)
