"""Latents of a picture set, computed once and kept on disk under the content they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from toile.errors import ToileError
from toile.model_folder import find_model
from toile.models.autoencoders import Autoencoder
from toile.models.unet import UNet
from toile.training.pictures import PictureSet
from toile.training.placing import device_of, frozen_dtype
from toile.training.run_folder import MODEL_FOLDER
from toile.weights.cache import cached, tensors_digest

_PIXELS_TOGETHER = 64 * 64 * 80


def autoencoder_folder(source: Path) -> Path:
    """Where an autoencoder lies: of a run that trained one, or of a model by name or folder.

    Raises:
        ToileError: it is neither.
    """
    of_run = source / MODEL_FOLDER / "vae"
    return of_run if of_run.is_dir() else find_model(source) / "vae"


def load_latents(vae: Autoencoder, pictures: PictureSet) -> Tensor | tuple[Tensor, ...]:
    """Scaled latents (N, C, h, w) float16 of every picture, from the cache if they are there.

    Of pictures in buckets one such tensor for each of their shapes, in the order of `pictures.sizes`.

    The name in the cache is a hash of the autoencoder's weights, the pictures' identity and how it computes, so it
    cannot be stale.
    """
    names = ["latents"]
    if pictures.places is not None:
        names = [f"latents {width}x{height}" for width, height in pictures.sizes]

    def make() -> dict[str, Tensor]:
        of_picture = np.zeros(len(pictures.records), dtype=np.int64)
        if pictures.places is not None:
            of_picture = pictures.places[:, 0]
        latents = [encode_pictures(vae, pictures, np.flatnonzero(of_picture == shape)) for shape in range(len(names))]
        if not all(torch.isfinite(of_shape).all() for of_shape in latents):
            raise ToileError("the autoencoder gives latents that are not finite in float16; train it anew")
        return dict(zip(names, latents, strict=True))

    encoder = {
        name: weight.float()
        for name, weight in vae.state_dict().items()
        if not name.startswith(("decoder.", "post_quant_conv."))
    }
    device = device_of(vae)
    named = f"{pictures.pixels_identity}:{vae.config}:{device.type}:{frozen_dtype('bf16', device)}"
    found = cached("latents", tensors_digest(named, encoder), make)
    pictures.tell(found.note)
    latents = tuple(found.tensors[name] for name in names)
    return latents[0] if pictures.places is None else latents


def latent_masks(vae: Autoencoder, pictures: PictureSet) -> tuple[Tensor, ...] | None:
    """How much each position of the latents counts: the pictures' masks averaged to their size.

    Returns:
        for each shape of the pictures (n, 1, h, w) float32 in [0, 1]; None for pictures without masks.
    """
    if pictures.masks is None:
        return None
    factor = vae.config.downsampling
    return tuple(
        torch.cat([F.avg_pool2d(rows[:, None] / 255, factor) for rows in of_shape.split(64)])
        for of_shape in pictures.masks
    )


def check_buckets(vae: Autoencoder, unet: UNet, pictures: PictureSet) -> None:
    """Refuses shapes whose sides the networks cannot halve as often as they do.

    Raises:
        ToileError: the step of the buckets is no multiple of what they shrink by.
    """
    factor = vae.config.downsampling * 2 ** (len(unet.config.block_out_channels) - 1)
    if pictures.bucket_step is not None and pictures.bucket_step % factor:
        raise ToileError(
            f"data.bucket_step {pictures.bucket_step}: the autoencoder and the U-Net of this model shrink pictures by "
            f"{factor}; give a multiple of that"
        )


@torch.no_grad()
def encode_pictures(vae: Autoencoder, pictures: PictureSet, positions: np.ndarray) -> Tensor:
    """Scaled latents (len(positions), C, h, w) float16, on the CPU, of pictures of one shape."""
    height, width = pictures.images(positions[:1]).shape[2:]
    batch_size = min(64, max(1, _PIXELS_TOGETHER // (height * width)))
    device = device_of(vae)
    dtype = frozen_dtype("bf16", device)
    rows = []
    for first in range(0, len(positions), batch_size):
        images = pictures.images(positions[first : first + batch_size]).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            rows.append(vae.encode_images(images).to("cpu", torch.float16))
    return torch.cat(rows).contiguous()
