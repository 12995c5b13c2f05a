"""A request with the picture that it begins with, brought to the size of the result."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from toile.generation.pictures import final_size
from toile.generation.request import GenerateRequest
from toile.generation.source import fit_source
from toile.latent_diffusion import LatentDiffusion


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
