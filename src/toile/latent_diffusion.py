"""The assembled system: autoencoder, text encoder, tokenizer, U-Net and noise schedule, as one folder holds them.

Shapes: B batch, H x W picture, h x w latents (h = H / f), C latent channels, L tokens of a row, D width of text states.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from toile.device import choose_device, choose_dtype, keep_freed_memory
from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.errors import ToileError
from toile.generation_settings import MAX_SIDE, GenerationSettings
from toile.model_folder import (
    SCHEDULE_NAME,
    SETTINGS_NAME,
    ModelFacts,
    find_model,
    read_model_facts,
    schedule_constants,
    text_encoder_constants,
    unet_constants,
    vae_constants,
    write_model_index,
)
from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.unet import UNet, UNetConfig
from toile.models.vae import VAE, VAEConfig
from toile.nn.layers import pack_weights
from toile.schema import build_config
from toile.text.tokenizer import Tokenizer
from toile.weights.files import read_json, write_json_atomically
from toile.weights.folder import load_component, read_config, save_component, write_config


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts as the U-Net reads them.

    Attributes:
        states: (B, L, D), in the model's dtype and on its device.
        cut: for each prompt the end that did not fit into L tokens; "" if all of it did.
    """

    states: Tensor
    cut: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """A model that turns prompts into pictures.

    The three networks are in one dtype and on one device.

    Attributes:
        vae, text_encoder, unet: the networks.
        tokenizer: turns prompts into the ids the text encoder reads.
        schedule: the noise levels the U-Net was trained with, and what it predicts.
        defaults: the settings that suit the model.
        origin: the folder or name it was loaded from; None for one put together in memory.

    Raises:
        ToileError: the parts do not fit together.
    """

    vae: VAE
    text_encoder: CLIPTextModel
    tokenizer: Tokenizer
    unet: UNet
    schedule: NoiseSchedule
    defaults: GenerationSettings
    origin: str | None = None

    def __post_init__(self) -> None:
        unet, vae, text = self.unet.config, self.vae.config, self.text_encoder.config
        told = vae.latent_channels + 1 if self.repaints else 0  # a mask and a picture, besides the noisy latents
        pairs = (
            ("latent channels of the U-Net's input", unet.in_channels - told, "the autoencoder's", vae.latent_channels),
            ("latent channels of the U-Net's output", unet.out_channels, "the autoencoder's", vae.latent_channels),
            ("text width of the U-Net", unet.cross_attention_dim, "the text encoder's", text.hidden_size),
        )
        for one, first, other, second in pairs:
            if first != second:
                raise ToileError(f"{one} ({first}) must equal {other} ({second}): these parts belong to two models")
        if self.tokenizer.vocab_size > text.vocab_size or self.tokenizer.max_length > text.max_position_embeddings:
            raise ToileError(
                f"the tokenizer ({self.tokenizer.vocab_size} ids, rows of {self.tokenizer.max_length}) is larger than "
                f"the text encoder ({text.vocab_size} ids, rows of {text.max_position_embeddings})"
            )

    @classmethod
    def load(cls, model: str | Path, device: str = "auto", dtype: str = "auto") -> LatentDiffusion:
        """Loads a model folder in the layout of diffusers; no random weights are drawn and no code is run.

        Args:
            model: a folder, or the name of the bundled model, "fashion".
            device: see `choose_device`; the choice of "auto" stands in `self.device`.
            dtype: see `choose_dtype`; the choice of "auto" stands in `self.dtype`.

        Raises:
            ToileError: a part is missing, damaged or does not fit; the device is not there.
        """
        folder = find_model(model)
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(dtype, chosen_device)
        if chosen_device.type == "cpu":
            keep_freed_memory()
        unet = load_component(folder / "unet", UNet, UNetConfig, chosen_dtype)
        vae = load_component(folder / "vae", VAE, VAEConfig, chosen_dtype)
        text_encoder = load_component(folder / "text_encoder", CLIPTextModel, CLIPTextConfig, chosen_dtype)
        for network in (unet, vae, text_encoder):
            network.eval().requires_grad_(False)
            network.to(device=chosen_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            pack_weights(network)
        return cls(
            vae,
            text_encoder,
            Tokenizer.load(folder / "tokenizer"),
            unet,
            NoiseSchedule(read_config(folder / "scheduler" / SCHEDULE_NAME, ScheduleConfig)),
            read_settings(folder, unet.config, vae.config),
            str(model),
        )

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Writes a model folder that `load` and diffusers' StableDiffusionPipeline read.

        Args:
            folder: made if absent; files of the same names are replaced.
            dtype: of the weights in the files.

        Raises:
            ToileError: a weight is not finite in `dtype`, or the disk refuses.
        """
        folder = Path(folder)
        unet, vae, text = self.unet.config, self.vae.config, self.text_encoder.config
        save_component(folder / "unet", self.unet, unet, unet_constants(unet), dtype)
        save_component(folder / "vae", self.vae, vae, vae_constants(vae), dtype)
        constants = text_encoder_constants(text)
        save_component(folder / "text_encoder", self.text_encoder, text, constants, dtype, "model.safetensors")
        self.tokenizer.save(folder / "tokenizer")
        write_config(folder / "scheduler" / SCHEDULE_NAME, self.schedule.config, schedule_constants())
        write_json_atomically(folder / SETTINGS_NAME, asdict(self.defaults))
        write_model_index(folder)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return self.unet.conv_in.weight.dtype

    @cached_property
    def facts(self) -> ModelFacts | None:
        """Name and content hash of the folder it was loaded from, read once; None if it was put together in memory."""
        return read_model_facts(self.origin) if self.origin is not None else None

    def in_float32(self) -> LatentDiffusion:
        """The same model in float32: read anew from its folder, or converted if it has none."""
        if self.origin is not None:
            return LatentDiffusion.load(self.origin, str(self.device), "float32")
        vae, text_encoder, unet = copy.deepcopy((self.vae, self.text_encoder, self.unet))
        return replace(self, vae=vae.float(), text_encoder=text_encoder.float(), unet=unet.float())

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture.

        Raises:
            ToileError: width or height is no multiple of the autoencoder's downsampling.
        """
        factor = self.vae.config.downsampling
        for name, side in (("width", width), ("height", height)):
            if not 0 < side <= MAX_SIDE or side % factor:
                raise ToileError(f"{name} is {side}; allowed for this model: multiples of {factor} up to {MAX_SIDE}")
        return self.vae.config.latent_channels, height // factor, width // factor

    @property
    def repaints(self) -> bool:
        """Whether the U-Net is one for inpainting, which is told the mask and the picture around it."""
        return self.unet.config.in_channels == 2 * self.vae.config.latent_channels + 1

    def encode_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], H and W as `latent_shape` allows -> float32 latents (B, C, h, w)."""
        images = images.to(self.device, self.dtype, memory_format=torch.channels_last)
        return self.vae.encode_images(images).float()

    def encode_prompts(self, prompts: Sequence[str]) -> EncodedPrompts:
        """Encodes B prompts of any content and length; what does not fit is cut and reported.

        Args:
            prompts: B texts, in any writing; "" is the prompt that asks for nothing.
        """
        token_ids, cut = self.tokenizer.batch(prompts)
        return EncodedPrompts(self.text_encoder(token_ids.to(self.device)), cut)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> float32 images (B, 3, H, W) around [-1, 1], not clamped."""
        latents = latents.to(self.device, self.dtype, memory_format=torch.channels_last)
        return self.vae.decode_latents(latents).float()


def load(model: str | Path, device: str = "auto", dtype: str = "auto") -> LatentDiffusion:
    """Loads a model; see `LatentDiffusion.load`."""
    return LatentDiffusion.load(model, device, dtype)


def read_settings(folder: Path, unet: UNetConfig, vae: VAEConfig) -> GenerationSettings:
    """The settings in a model folder's toile.json; without one, those of Stable Diffusion at the U-Net's size."""
    path = folder / SETTINGS_NAME
    if path.is_file():
        return build_config(GenerationSettings, read_json(path), str(path))
    size = unet.sample_size
    height, width = (size, size) if isinstance(size, int) else (64, 64) if size is None else (size[0], size[-1])
    return GenerationSettings(width=width * vae.downsampling, height=height * vae.downsampling)
