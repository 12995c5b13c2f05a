"""The flags that name a picture to begin with, read and brought to the size of the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from toile.data.images import open_image
from toile.errors import ToileError
from toile.generation.pictures import final_size
from toile.generation.request import GenerateRequest
from toile.generation.source import extend_canvas, fit_source
from toile.latent_diffusion import LatentDiffusion


def open_source(
    image: Path | None, mask: Path | None, extend: tuple[int, int, int, int] | None, strength: float | None
) -> tuple[Image.Image, Image.Image | None, bool] | None:
    """The picture and the mask that the flags name, and whether the canvas was extended; None without a picture.

    Raises:
        ToileError: flags that need --image without it, --mask together with --extend, or files that cannot be read.
    """
    if image is None:
        for flag, value in (("--mask", mask), ("--extend", extend), ("--strength", strength)):
            if value is not None:
                raise ToileError(f"{flag} needs a picture to begin with: add --image FILE")
        return None
    opened = open_image(image)
    if extend is None:
        return opened, None if mask is None else open_image(mask), False
    if mask is not None:
        raise ToileError("give either --mask or --extend: the mask of an extended picture is its margin")
    return *extend_canvas(opened, *extend), True


def begin_with(
    image: Image.Image,
    mask: Image.Image | None,
    extended: bool,
    request: GenerateRequest,
    model: LatentDiffusion,
    fit: str,
    mask_blur: float,
) -> GenerateRequest:
    """The request with its picture: at the size asked for, or the extended canvas's, or the model's default.

    What a mask covers is painted from nothing unless a strength is given.
    """
    factor = model.vae.config.downsampling
    own = tuple(max(factor, side // factor * factor) for side in image.size) if extended else (None, None)
    strength = 1.0 if request.strength is None and mask is not None else request.strength
    width = request.width or own[0] or model.defaults.width
    height = request.height or own[1] or model.defaults.height
    request = replace(request, width=width, height=height, strength=strength)
    size = final_size(replace(request, hires_scale=None), model)
    return replace(request, source=fit_source(image, mask, *size, fit=fit, mask_blur=mask_blur))
