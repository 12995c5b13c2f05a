"""Learning a word: vectors that the frozen text encoder reads as a new word (textual inversion, Gal et al. 2022).

Shapes: n vectors of the word, D width of the text encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor, nn

from toile.data.captions import CaptionWriter
from toile.device import CPU, dtype_name
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.lora import base_version
from toile.models.learned_words import with_words
from toile.nn.layers import pack_for_gradients
from toile.training.denoising_objective import with_trigger
from toile.training.fine_tuning import objective_of
from toile.training.pictures import PictureSet
from toile.training.placing import frozen_dtype
from toile.training.recipes import TextualInversionRecipe, WordConfig
from toile.weights.embedding_file import write_embedding


class LearningWord(nn.Module):
    """The vectors of a word that learns: `vectors` (n, D) float32."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors.float().clone())


class TextualInversionTask:
    """Exports the word as `<name>.safetensors`, which other programs read too."""

    def __init__(self, recipe: TextualInversionRecipe, pictures: PictureSet, device: torch.device = CPU) -> None:
        self.recipe = recipe
        dtype = frozen_dtype(recipe.loop.precision, device)
        model = LatentDiffusion.load(recipe.base, str(device), dtype_name(dtype))
        assert model.facts is not None
        self.identity: Mapping[str, str] = {"base": model.facts.hash}
        self.base_version = base_version(model)
        check_captions(recipe.word.name, pictures)
        for network in (model.unet, model.text_encoder):
            pack_for_gradients(network)
        self.word = LearningWord(start_vectors(model, recipe.word))
        model = replace(
            model,
            tokenizer=model.tokenizer.with_words({recipe.word.name: recipe.word.num_vectors}),
            text_encoder=with_words(model.text_encoder, self.word.vectors),
        )
        self.objective = objective_of(model, pictures, recipe.objective, recipe.seed, trained=self.word)

    def export(self, folder: Path) -> None:
        loop, word = self.recipe.loop, self.recipe.word
        header = {
            "ss_base_model_version": self.base_version,
            "ss_seed": str(self.recipe.seed),
            "ss_max_train_steps": str(loop.steps),
            "ss_learning_rate": str(loop.learning_rate),
            "toile_base": self.identity["base"],
            "toile_start": word.start,
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_embedding(folder / f"{file_stem(word.name)}.safetensors", word.name, self.word.vectors, header)


def start_vectors(model: LatentDiffusion, word: WordConfig) -> Tensor:
    """(n, D): those of the words it starts from, over and over until there are enough.

    Raises:
        ToileError: it starts from no words.
    """
    ids = model.tokenizer.encode(word.start).ids
    if not ids:
        raise ToileError(f'word: start {word.start!r} has no words; give some that are near, such as "painting"')
    table = model.text_encoder.text_model.embeddings.token_embedding.weight
    return table[list(islice(cycle(ids), word.num_vectors))].detach().float()


def check_captions(word: str, pictures: PictureSet) -> None:
    """Refuses pictures whose captions never say the word, which would learn nothing.

    Raises:
        ToileError: no caption says it.
    """
    writer = CaptionWriter()
    if not any(word.lower() in with_trigger(pictures.trigger, writer.full(r)).lower() for r in pictures.records):
        raise ToileError(
            f"no caption says {word}: set data.trigger to it, which puts it before every caption, or data.caption"
        )


def file_stem(word: str) -> str:
    """A word as the name of a file: "<monet>" is monet."""
    return re.sub(r"[^\w.-]+", "", word).strip(".") or "word"
