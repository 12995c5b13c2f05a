"""Latents of a picture set, computed once and kept on disk under the content they come from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toile.device import choose_dtype
from toile.errors import ToileError
from toile.models.vae import VAE
from toile.training.pictures import PictureSet
from toile.weights.files import load_tensors, save_tensors

CACHE_VARIABLE = "TOILE_CACHE"
_PIXELS_TOGETHER = 64 * 64 * 80


def cache_folder() -> Path:
    """The folder that TOILE_CACHE names, else ~/.cache/toile."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "toile")


def load_latents(vae: VAE, pictures: PictureSet) -> Tensor:
    """Scaled latents (N, C, h, w) float16 of every picture, from the cache if they are there.

    The name in the cache is a hash of the autoencoder's weights and the pictures' identity, so it cannot be stale.
    """
    path = cache_folder() / f"latents-{_content_hash(vae, pictures)}.safetensors"
    if path.exists():
        return load_tensors(path)["latents"]
    latents = encode_pictures(vae, pictures, np.arange(len(pictures.records)))
    if not torch.isfinite(latents).all():
        raise ToileError("the autoencoder gives latents that are not finite in float16; train it anew")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {"latents": latents}, {"pictures": pictures.identity})
    return latents


@torch.no_grad()
def encode_pictures(vae: VAE, pictures: PictureSet, positions: np.ndarray) -> Tensor:
    """Scaled latents (len(positions), C, h, w) float16."""
    height, width = pictures.pixels.shape[1:3]
    batch_size = min(64, max(1, _PIXELS_TOGETHER // (height * width)))
    dtype = choose_dtype("auto", torch.device("cpu"))
    rows = []
    for first in range(0, len(positions), batch_size):
        images = pictures.images(positions[first : first + batch_size])
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            rows.append(vae.encode_images(images).to(torch.float16))
    return torch.cat(rows).contiguous()


def _content_hash(vae: VAE, pictures: PictureSet) -> str:
    digest = hashlib.sha256(f"{pictures.identity}:{vae.config}".encode())
    for name, weight in sorted(vae.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(weight.float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
