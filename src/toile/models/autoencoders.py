"""What may stand between pictures and the U-Net, by the name that is in its config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toile.models.pixel_space import PixelSpace, PixelSpaceConfig
from toile.models.vae import VAE, VAEConfig

Autoencoder = VAE | PixelSpace
AutoencoderConfig = VAEConfig | PixelSpaceConfig

KL_AUTOENCODER = "AutoencoderKL"  # diffusers' name for it
AUTOENCODERS: Mapping[str, tuple[Callable[[Any], Autoencoder], type[AutoencoderConfig]]] = {
    KL_AUTOENCODER: (VAE, VAEConfig),
    "PixelSpace": (PixelSpace, PixelSpaceConfig),
}


def build_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """A fresh network of this config's kind."""
    return PixelSpace(config) if isinstance(config, PixelSpaceConfig) else VAE(config)
