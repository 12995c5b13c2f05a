"""What one request may ask for at most, and which files it may bring: known before anything waits or is made."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from PIL import Image

from toile.data.images import ImageError, open_image
from toile.errors import ToileError
from toile.web.jobs.learned_words import LearnedWords
from toile.web.jobs.request import JobRequest
from toile.web.jobs.shelf import ServedModel

# Others that Pillow knows run programs (EPS), hold other formats, or are seldom what a person wants to send.
FILE_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class Limits:
    """Of one request.

    Attributes:
        pictures: how many.
        pixels: of one picture, after all passes.
        steps: of the sampler.
        prompt_characters: of each prompt.
        image_pixels: of a picture to begin with.
    """

    pictures: int = 64
    pixels: int = 1024 * 1024
    steps: int = 200
    prompt_characters: int = 10_000
    image_pixels: int = 16_000_000

    def check(
        self,
        request: JobRequest,
        model: ServedModel,
        known_loras: Iterable[str],
        known_words: Mapping[str, LearnedWords],
    ) -> None:
        """Refuses what is too much, or cannot be made by this model.

        Raises:
            ToileError: with the name of what is wrong, and what is allowed.
        """
        wanted = request.wanted
        self._check_texts(request)
        if request.num_pictures > self.pictures:
            raise ToileError(f"number of pictures is {request.num_pictures}; allowed here: up to {self.pictures}")
        known = set(known_loras)
        for use in request.loras:
            if use.source not in known:
                raise ToileError(f"loras: {use.source!r} is none that is served; served are: {_told(known)}")
        for name in request.embeddings:
            if name not in known_words:
                raise ToileError(f"embeddings: {name!r} is none that is served; served are: {_told(known_words)}")
            if known_words[name].width != model.text_width:
                raise ToileError(
                    f"embeddings: {name!r} has vectors of {known_words[name].width} numbers; allowed for this model: "
                    f"{model.text_width}"
                )
        settings = wanted.settings_over(model.settings.of_quality(wanted.quality))
        if settings.steps > self.steps:
            raise ToileError(f"steps is {settings.steps}; allowed here: up to {self.steps}")
        width, height = model.final_size(settings)
        if width * height > self.pixels:
            raise ToileError(
                f"width x height is {width}x{height}; allowed here: up to {self.pixels:,} pixels after all passes"
            )
        for name, file in (("image", request.image), ("mask", request.mask)):
            if file is not None:
                self.check_file(name, file)

    def _check_texts(self, request: JobRequest) -> None:
        wanted = request.wanted
        texts = [("prompt", prompt) for prompt in wanted.prompts]
        texts += [("negative", wanted.negative or ""), ("original", wanted.original or "")]
        texts += [("toward", "" if wanted.toward is None else wanted.toward.prompt)]
        for name, text in texts:
            if len(text) > self.prompt_characters:
                raise ToileError(f"{name} has {len(text):,} characters; allowed here: up to {self.prompt_characters:,}")

    def check_file(self, name: str, content: bytes) -> None:
        """Refuses what is no picture of an allowed kind and size; all of it is read, as decoders find faults late.

        Raises:
            ToileError: with the name it goes by.
        """
        try:
            with Image.open(io.BytesIO(content), formats=FILE_FORMATS) as image:
                width, height = image.size
        except Exception as error:  # decoders raise all kinds on files made to hurt them
            raise ToileError(f"{name} is no picture that can be read; allowed: PNG, JPEG and WebP files") from error
        if width * height > self.image_pixels:
            raise ToileError(f"{name} is {width}x{height}; allowed here: up to {self.image_pixels:,} pixels")
        try:
            open_image(content)
        except ImageError as error:
            raise ToileError(f"{name}: {error}") from error


def _told(names: Iterable[str]) -> str:
    listed = sorted(names)
    return (", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "")) or "none"
