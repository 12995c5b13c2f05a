"""The picture that image-to-image and repainting begin with, brought to the size of the result, and its latents.

Shapes: H x W picture, h x w latents, C latent channels.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from toile.data.images import images_from_pixels, open_image, pad_to, pixels_of
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.picture_recipe import SourceFacts, read_texts

FITS = ("pad", "crop", "stretch")
_GREY = 128
# Names of the texts in which a picture carries what it began with.
IMAGE_TEXT, MASK_TEXT = "toile-image", "toile-mask"


@dataclass(frozen=True, eq=False)
class SourceImage:
    """A picture to begin with.

    Attributes:
        pixels: (H, W, 3) uint8, of the size of the result; without a mask it may be that before it is enlarged.
        mask: (H, W) uint8, 255 where it is repainted and 0 where it is kept; None for image-to-image.

    Raises:
        ToileError: wrong types, or sizes that differ.
    """

    pixels: np.ndarray
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ToileError(f"source pixels must be uint8 (H, W, 3); got {self.pixels.dtype} {self.pixels.shape}")
        if self.mask is not None and (self.mask.dtype != np.uint8 or self.mask.shape != self.pixels.shape[:2]):
            raise ToileError(
                f"the mask must be uint8 of the picture's size {self.pixels.shape[:2]}; "
                f"got {self.mask.dtype} {self.mask.shape}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def as_texts(self) -> dict[str, str]:
        """What a picture that began with this carries, so that it can be made again from its file alone."""
        texts = {IMAGE_TEXT: _as_text(Image.fromarray(self.pixels))}
        if self.mask is not None:
            texts[MASK_TEXT] = _as_text(Image.fromarray(self.mask))
        return texts

    @property
    def facts(self) -> SourceFacts:
        """What a recipe says of it."""
        image = hashlib.sha256(self.pixels.tobytes()).hexdigest()
        return SourceFacts(image, None if self.mask is None else hashlib.sha256(self.mask.tobytes()).hexdigest())


def fit_source(
    image: Image.Image, mask: Image.Image | None, width: int, height: int, *, fit: str = "pad", mask_blur: float = 0.0
) -> SourceImage:
    """Brings a picture and its mask to the size of the result.

    Args:
        image: any size.
        mask: bright where to repaint, dark where to keep; of the picture's size, or scaled to it.
        width, height: of the result.
        fit: "pad" (white around it; with a mask, kept), "crop" (fill the size and cut what is over) or "stretch".
        mask_blur: standard deviation in pixels by which the mask's edge is softened.

    Raises:
        ToileError: an unknown fit.
    """
    if fit not in FITS:
        raise ToileError(f"fit is {fit!r}; allowed: {', '.join(FITS)}")
    pixels = pixels_of(_fitted(image.convert("RGB"), width, height, fit))
    if mask is None:
        return SourceImage(pixels)
    grey = mask.convert("L").resize(image.size, Image.Resampling.NEAREST)
    # White outside a mask would mean "repaint", so the mask is padded by its negative.
    fitted = _fitted(Image.eval(grey, lambda value: 255 - value).convert("RGB"), width, height, fit)
    hard = Image.eval(fitted.convert("L"), lambda value: 255 if value < _GREY else 0)
    soft = hard.filter(ImageFilter.GaussianBlur(mask_blur)) if mask_blur > 0 else hard
    return SourceImage(pixels, np.array(soft, dtype=np.uint8))


def read_source(path: Path) -> SourceImage | None:
    """What the picture in a file began with, from the file itself; None if it began with noise alone.

    Raises:
        ToileError: no such file, no picture, or what it carries is damaged.
    """
    texts = read_texts(path)
    if IMAGE_TEXT not in texts:
        return None
    try:
        image = open_image(base64.b64decode(texts[IMAGE_TEXT], validate=True))
        mask = Image.open(io.BytesIO(base64.b64decode(texts[MASK_TEXT], validate=True))) if MASK_TEXT in texts else None
        return SourceImage(pixels_of(image), None if mask is None else np.array(mask, dtype=np.uint8))
    except (ValueError, OSError) as error:
        raise ToileError(f"the picture that {path} began with is damaged: {error}") from error


def extend_canvas(image: Image.Image, left: int, top: int, right: int, bottom: int) -> tuple[Image.Image, Image.Image]:
    """A larger canvas around a picture and the mask of what is new, for outpainting; the edges are drawn out.

    Raises:
        ToileError: a margin below 0, or none above it.
    """
    margins = (left, top, right, bottom)
    if min(margins) < 0 or max(margins) == 0:
        raise ToileError(f"extend is {margins}; give pixels to add left, top, right and bottom, 0 or more, not all 0")
    around = ((top, bottom), (left, right))
    pixels = np.pad(pixels_of(image), (*around, (0, 0)), mode="edge")
    mask = np.pad(np.zeros((image.height, image.width), np.uint8), around, constant_values=255)
    return Image.fromarray(pixels), Image.fromarray(mask)


@dataclass(frozen=True, eq=False)
class EncodedSource:
    """A source as the networks need it, on the model's device.

    If the result is enlarged, latents are those of the reduced picture.

    Attributes:
        images: (1, 3, H, W) float32 in [-1, 1].
        latents: (1, C, h, w) float32.
        picture_mask: (1, 1, H, W) float32, 1 = repaint; None for image-to-image.
        latent_mask: (1, 1, h, w) float32, 1 wherever a part of what it covers is repainted.
        kept: (1, C, h, w) float32, latents of the picture with the masked part grey, for inpainting networks.
        grey_mask: (1, 1, h, w), 1 wherever a part of what it covers is grey there, else 0.
    """

    images: Tensor
    latents: Tensor
    picture_mask: Tensor | None = None
    latent_mask: Tensor | None = None
    kept: Tensor | None = None
    grey_mask: Tensor | None = None

    def pasted(self, decoded: Tensor) -> Tensor:
        """Decoded images (B, 3, H, W) with the kept part exactly as it was."""
        if self.picture_mask is None:
            return decoded
        return decoded * self.picture_mask + self.images * (1 - self.picture_mask)


def encode_source(
    model: LatentDiffusion, source: SourceImage, in_bands: bool = False, is_enlarged: bool = False
) -> EncodedSource:
    """Encodes a source with a model's autoencoder; what is kept is encoded alone only for inpainting networks.

    Three things are otherwise than in diffusers' pipelines. The latents are the mean of the autoencoder's Gaussian, not
    drawn from it: the same picture always begins the same. A latent position is repainted if any pixel in it is, not if
    its first one is: no thin part of a mask is lost, and no edge of what is under it stays. A soft mask stays soft, and
    is not cut at one half: its edge is blended.
    """
    images = small = images_from_pixels(torch.from_numpy(source.pixels)[None]).to(model.device)
    upscaler = model.upscaler if is_enlarged else None
    if upscaler is not None and source.size == upscaler.config.size:
        small = upscaler.reduce_images(images)
    latents = model.encode_images(small, in_bands)
    if source.mask is None:
        return EncodedSource(images, latents)
    mask = small_mask = torch.from_numpy(source.mask)[None, None].to(model.device, torch.float32) / 255
    if upscaler is not None:
        small_mask = upscaler.reduce_mask(mask)
    covered = model.vae.config.downsampling
    latent_mask = F.max_pool2d(small_mask, covered)
    if not model.repaints:
        return EncodedSource(images, latents, mask, latent_mask)
    is_grey = (small_mask >= 0.5).float()
    kept = model.encode_images(small * (1 - is_grey), in_bands)
    return EncodedSource(images, latents, mask, latent_mask, kept, F.max_pool2d(is_grey, covered))


def blank_source(width: int, height: int) -> SourceImage:
    """What an inpainting network is told when there is no picture: grey, and all of it is to be painted."""
    pixels = np.full((height, width, 3), _GREY, np.uint8)
    return SourceImage(pixels, np.full((height, width), 255, np.uint8))


def steps_of_strength(sigmas: Tensor, strength: float) -> Tensor:
    """The last noise levels, as many as the share `strength` of the steps, rounded, at least one.

    diffusers rounds down instead: then 0.29 of 100 steps are 28, as 0.29 * 100 is a little below 29 in binary, and a
    strength below one step is an error.

    Args:
        sigmas: (N + 1,) decreasing, last 0.
        strength: above 0, to 1 = all.
    """
    steps = len(sigmas) - 1
    return sigmas[steps - min(steps, max(1, math.floor(steps * strength + 0.5))) :]


def _as_text(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _fitted(image: Image.Image, width: int, height: int, fit: str) -> Image.Image:
    if image.size == (width, height):
        return image
    if fit == "pad":
        return pad_to(image, width, height, enlarge=True)
    if fit == "crop":
        ratio = max(width / image.width, height / image.height)
        wide, high = (max(1, round(side * ratio)) for side in image.size)
        wide, high = max(wide, width), max(high, height)
        left, top = (wide - width) // 2, (high - height) // 2
        return image.resize((wide, high), Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    return image.resize((width, height), Image.Resampling.LANCZOS)
