"""A model as its files hold it: configs, tensors in the dtypes of the files, tokenizer, noise schedule, settings.

Whatever the layout on disk, reading gives these parts and writing takes them; networks are built from them elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from toile.diffusion.schedule import ScheduleConfig
from toile.generation_settings import GenerationSettings, ModelSettings
from toile.models.autoencoders import AutoencoderConfig, build_autoencoder
from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.unet import UNet, UNetConfig
from toile.models.vae import VAEConfig
from toile.text.tokenizer import Tokenizer
from toile.weights.folder import build_empty, check_fit

FOLDER, SINGLE_FILE, FOUR_PARTS = "folder", "single file", "four parts"
CONFIG_CLASSES: Mapping[str, type] = {"unet": UNetConfig, "vae": VAEConfig, "text_encoder": CLIPTextConfig}


@dataclass(frozen=True, eq=False)
class ModelParts:
    """What a model is made of.

    Attributes:
        unet, vae, text_encoder: the sizes of the networks.
        tensors: component -> name of ours -> tensor, as the file has it or where reading was told to place it.
        schedule: the noise levels the U-Net was trained with, and what it predicts.
        tokenizer: None where the files have none.
        settings: the settings that suit the model; None where the files do not say.
        foreign: component -> entries of other programs' configs that change nothing for us.
        layout: of the files it comes from, `FOLDER`, `SINGLE_FILE` or `FOUR_PARTS`.
        left_out: what else the files hold, a phrase each.
        notes: what had to be told from something else than the files' own words, a sentence each.
    """

    unet: UNetConfig
    vae: AutoencoderConfig
    text_encoder: CLIPTextConfig
    tensors: Mapping[str, Mapping[str, Tensor]]
    schedule: ScheduleConfig
    tokenizer: Tokenizer | None
    settings: ModelSettings | None
    foreign: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layout: str = FOLDER
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def default_settings(self) -> ModelSettings:
        """The settings; without any, those of Stable Diffusion at the U-Net's size."""
        return self.settings or default_settings(self.unet, self.vae)

    def with_tokenizer(self, tokenizer: Tokenizer) -> ModelParts:
        """The same with this tokenizer."""
        return replace(self, tokenizer=tokenizer)


def default_settings(unet: UNetConfig, vae: AutoencoderConfig) -> ModelSettings:
    """The settings of Stable Diffusion at the U-Net's size."""
    size = unet.sample_size
    height, width = (size, size) if isinstance(size, int) else (64, 64) if size is None else (size[0], size[-1])
    return ModelSettings(GenerationSettings(width=width * vae.downsampling, height=height * vae.downsampling))


def expected_tensors(unet: UNetConfig, vae: AutoencoderConfig, text: CLIPTextConfig) -> dict[str, dict[str, Tensor]]:
    """Component -> name -> a tensor of the right shape and no memory."""
    return {
        "unet": build_empty(UNet, unet).state_dict(),
        "vae": build_empty(build_autoencoder, vae).state_dict(),
        "text_encoder": build_empty(CLIPTextModel, text).state_dict(),
    }


def check_parts(
    expected: Mapping[str, Mapping[str, Tensor]], tensors: Mapping[str, Mapping[str, Tensor]], what: str
) -> None:
    """Refuses tensors that the networks of their configs do not have, in the same words for every layout.

    Raises:
        WeightsError: names are missing or unexpected, or shapes differ; the first ten of a component are listed.
    """
    for component, network in expected.items():
        check_fit(network, tensors[component], what, f"the {component} of its config")
