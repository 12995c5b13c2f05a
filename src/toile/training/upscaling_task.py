"""An upscaler, from a recipe to the folder of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from toile.data.true_pictures import TruePictures
from toile.device import CPU
from toile.diffusion.schedule import NoiseSchedule
from toile.errors import ToileError
from toile.model_folder import UPSCALER_FOLDER, find_model, load_autoencoder
from toile.models.unet import UNet, UNetConfig
from toile.one_shot import load_words
from toile.training.adversarial_upscaling import AdversarialUpscalingObjective
from toile.training.known_text_states import KnownTextStates
from toile.training.picture_pairs import PicturePairs
from toile.training.pictures import PictureSet
from toile.training.recipes import UpscalingRecipe
from toile.training.upscaling_examples import UpscalingExamples
from toile.training.upscaling_objective import UpscalingObjective
from toile.upscaler import Upscaler, is_upscaler
from toile.weights.files import file_sha256
from toile.weights.folder import find_weights, load_component, load_weights


def upscaler_folder(start: Path) -> Path:
    """The folder of an upscaler, given that folder, or the name or folder of a model that has one.

    Raises:
        ToileError: there is none.
    """
    if is_upscaler(start):
        return start
    folder = find_model(start) / UPSCALER_FOLDER
    if not is_upscaler(folder):
        raise ToileError(f"start: {start} has no upscaler; give a model that has one, or the folder of an upscaler")
    return folder


class UpscalingTask:
    """Exports `upscaler/`, which belongs into the folder of the model whose pictures it enlarges.

    Raises:
        ToileError: sizes of pictures, words or crops do not fit together.
    """

    def __init__(self, recipe: UpscalingRecipe, pictures: PictureSet, device: torch.device = CPU) -> None:
        config = recipe.upscaler
        if (pictures.width, pictures.height) != (config.small_width, config.small_height):
            raise ToileError(
                f"data: pictures of {pictures.width}x{pictures.height}, and upscaler.small_width and small_height are "
                f"{config.small_width}x{config.small_height}: make them equal"
            )
        base = find_model(recipe.base)
        vae = load_autoencoder(base / "vae").eval().requires_grad_(False).to(device)
        text_encoder, tokenizer = load_words(recipe.base)
        text_encoder.to(device)
        if recipe.model.cross_attention_dim != text_encoder.config.hidden_size:
            raise ToileError(
                f"model.cross_attention_dim {recipe.model.cross_attention_dim} must be the width of the words of "
                f"{recipe.base!r}, {text_encoder.config.hidden_size}"
            )
        true_pictures = TruePictures(recipe.true_pictures)
        pairs = PicturePairs(pictures, true_pictures, vae, (config.left, config.right), config.width, config.height)
        self.identity: Mapping[str, str] = {
            "pairs": pairs.identity,
            **{f"{part}_weights": file_sha256(find_weights(base / part)) for part in ("vae", "text_encoder")},
            "vocabulary": file_sha256(base / "tokenizer" / "vocab.json"),
        }
        unet = UNet(recipe.model)
        if recipe.start is not None:
            start = upscaler_folder(recipe.start) / "unet"
            load_weights(unet, load_component(start, UNet, UNetConfig).state_dict(), str(start))
            self.identity = {**self.identity, "start_weights": file_sha256(find_weights(start))}
        else:
            for weights in unet.conv_out.parameters():
                nn.init.zeros_(weights)  # so that it begins with smooth enlargement
        upscaler = Upscaler(unet, NoiseSchedule(recipe.schedule), config)
        crop, factor = recipe.objective.crop, upscaler.side * 2 ** (len(recipe.model.block_out_channels) - 1)
        if crop % factor or crop > min(config.width, config.height):
            raise ToileError(f"objective.crop {crop}: a multiple of {factor}, up to {min(config.width, config.height)}")
        num_levels = recipe.model.num_class_embeds
        assert num_levels is not None  # which the upscaler refuses
        examples = UpscalingExamples(
            pairs, tokenizer, config, upscaler.side, crop, num_levels, recipe.objective.uncond_share, recipe.seed
        )
        upscaler = Upscaler(unet, upscaler.schedule, examples.config)
        kind = UpscalingObjective if recipe.objective.adversary is None else AdversarialUpscalingObjective
        self.objective = kind(upscaler, KnownTextStates(text_encoder), examples, recipe.objective)
        self.objective.module.to(device)  # the U-Net, and an adversary if there is one

    def export(self, folder: Path) -> None:
        """Writes the present weights of the U-Net with what using them needs."""
        self.objective.upscaler.save(folder / UPSCALER_FOLDER)
