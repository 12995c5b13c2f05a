"""Baselines that make a picture in one pass, from a recipe to a model folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from toile.device import CPU
from toile.errors import ToileError
from toile.model_folder import find_model
from toile.models.cvae import ConditionalVAE
from toile.models.text_autoencoder import TextAutoencoder
from toile.one_shot import OneShotModel, load_words
from toile.training.caption_words import CaptionWords
from toile.training.cvae_objective import CVAEObjective
from toile.training.gan_objective import GANObjective, Players
from toile.training.objective import Batch, Objective
from toile.training.pictures import PictureSet
from toile.training.recipes import CVAERecipe, GANRecipe, TextAutoencoderRecipe
from toile.training.text_autoencoder_objective import TextAutoencoderObjective
from toile.weights.files import file_sha256
from toile.weights.folder import find_weights


class OneShotObjective(Objective[Batch], Protocol[Batch]):
    """An objective, part of whose module makes pictures."""

    @property
    def generator(self) -> nn.Module:
        """Satisfies `toile.one_shot.Generator`."""


class OneShotTask:
    """Exports a whole model folder, which `OneShotModel` loads.

    Args:
        words: the model whose text encoder and tokenizer give the words, by name or folder.
        sample_size, words_dim: height and width of the generator's pictures, and width of the words it reads.
        build: makes the objective, with the generator, from the words of the pictures' captions.

    Raises:
        ToileError: sizes of pictures and generator, or widths of words, differ.
    """

    def __init__(
        self,
        words: str,
        pictures: PictureSet,
        seed: int,
        sample_size: tuple[int, int],
        words_dim: int,
        build: Callable[[CaptionWords], OneShotObjective[Any]],
    ) -> None:
        if sample_size != (pictures.height, pictures.width):
            raise ToileError(
                f"model.sample_size {list(sample_size)} must be the pictures' height and width, "
                f"{[pictures.height, pictures.width]}"
            )
        self.pictures = pictures
        self.text_encoder, self.tokenizer = load_words(words)  # on the CPU: each caption is read once
        folder = find_model(words)
        self.identity: Mapping[str, str] = {
            "text_encoder_weights": file_sha256(find_weights(folder / "text_encoder")),
            "vocabulary": file_sha256(folder / "tokenizer" / "vocab.json"),
        }
        if words_dim != self.text_encoder.config.hidden_size:
            raise ToileError(
                f"model.words_dim {words_dim} must be the width of the words of {words!r}, "
                f"{self.text_encoder.config.hidden_size}"
            )
        self.objective = build(CaptionWords(self.text_encoder, self.tokenizer, pictures, seed))

    def export(self, folder: Path) -> None:
        """Writes the present weights of the generator with what reads its words."""
        width, height = self.pictures.width, self.pictures.height
        OneShotModel(self.objective.generator, self.text_encoder, self.tokenizer, width, height).save(folder)


def build_cvae_task(recipe: CVAERecipe, pictures: PictureSet, device: torch.device = CPU) -> OneShotTask:
    """The conditional variational autoencoder of a recipe."""
    cvae = ConditionalVAE(recipe.model).to(device)
    cvae.narrow_posterior()

    def build(words: CaptionWords) -> CVAEObjective:
        return CVAEObjective(cvae, words, pictures, recipe.objective, recipe.seed)

    return OneShotTask(recipe.words, pictures, recipe.seed, recipe.model.sample_size, recipe.model.words_dim, build)


def build_text_autoencoder_task(
    recipe: TextAutoencoderRecipe, pictures: PictureSet, device: torch.device = CPU
) -> OneShotTask:
    """The autoencoder with a map from words of a recipe."""
    autoencoder = TextAutoencoder(recipe.model).to(device)

    def build(words: CaptionWords) -> TextAutoencoderObjective:
        return TextAutoencoderObjective(autoencoder, words, pictures, recipe.objective, recipe.seed)

    return OneShotTask(recipe.words, pictures, recipe.seed, recipe.model.sample_size, recipe.model.words_dim, build)


def build_gan_task(recipe: GANRecipe, pictures: PictureSet, device: torch.device = CPU) -> OneShotTask:
    """The generative adversarial network of a recipe."""
    players = Players(recipe.model).to(device)

    def build(words: CaptionWords) -> GANObjective:
        return GANObjective(players, words, pictures, recipe.objective, recipe.seed)

    return OneShotTask(recipe.words, pictures, recipe.seed, recipe.model.sample_size, recipe.model.words_dim, build)
